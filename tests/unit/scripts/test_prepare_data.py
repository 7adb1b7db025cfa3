"""Every format and every kind of file through the whole intake, and how rows are split, held out and left out."""

import gzip
import io
import json
import os
import subprocess
import sys
from argparse import Namespace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
from conftest import refused
from PIL import Image

import prepare_data
from posttrain.data import dataset_types, formats, rows
from posttrain.provenance import records
from posttrain.runtime.errors import UserError
from posttrain.runtime.hashes import sha256

SPEC = {
    "path": None,
    "hub": None,
    "revision": "main",
    "subset": None,
    "split": "train",
    "format": None,
    "columns": {},
    "validation": 0.0,
    "limit": None,
    "near_duplicates": None,
    "max_dropped": 0.01,
    "image_folder": None,
}
OUTPUT = Path("results/data/rows")


def prepare(path: str | None = "rows.jsonl", cores: int = 1, **keys) -> dict:
    """Run the script on a dataset named rows; returns data.json, whose counts agree with the files."""
    Path("spec.json").write_text(json.dumps(SPEC | {"path": path} | keys))
    prepare_data.main(Namespace(spec=Path("spec.json"), output=OUTPUT, cores=cores))
    data = json.loads((OUTPUT / "data.json").read_text(encoding="utf-8"))
    parts = len(read("train")), len(read("validation")), len(dropped())
    assert parts == (data["train"], data["validation"], sum(data["dropped"].values()))
    assert data["rows"] == sum(parts)
    assert not list(OUTPUT.glob(".*"))
    return data


def read(split: str = "train") -> list[dict]:
    return rows.read(OUTPUT / f"{split}.parquet")


def contents(split: str = "train") -> list[dict]:
    """The rows of a split without their id and their place; files by the names of those of the same content in this folder."""
    own = {
        sha256(file): str(file)
        for folder in (".", "images")
        for file in sorted(Path(folder).glob("*.*"))
        if file.is_file()
    }
    found = [{key: value for key, value in row.items() if key not in ("id", "place")} for row in read(split)]
    for row in found:
        for column in dataset_types.of(row).media:
            assert all(sha256(OUTPUT / name) == Path(name).stem for name in row[column])
            row[column] = [own[Path(name).stem] for name in row[column]]
    return found


def texts(split: str = "train") -> list[str]:
    return [row["text"] for row in read(split)]


def dropped() -> list[dict]:
    with (OUTPUT / "dropped.jsonl").open(encoding="utf-8") as file:
        return list(map(json.loads, file))


def write(name: str, content: bytes | str) -> Path:
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def lines(*values) -> str:
    """Rows as JSON lines."""
    return "".join(json.dumps(value) + "\n" for value in values)


def text_lines(*words: str) -> str:
    return lines(*({"text": word} for word in words))


def image(color: str = "red", kind: str = "PNG", size: tuple[int, int] = (32, 32)) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size, color).save(file, kind)
    return file.getvalue()


def system(content):
    return {"role": "system", "content": content}


def user(content):
    return {"role": "user", "content": content}


def assistant(content):
    return {"role": "assistant", "content": content}


def message(id, parent, role, text, rank=None, deleted=False):
    return {"message_id": id, "parent_id": parent, "role": role, "text": text, "rank": rank, "deleted": deleted}


# ---- formats: rows as they are found in the wild, and what becomes of them

WEATHER = {"type": "function", "function": {"name": "weather", "arguments": {"city": "Ulm"}}}
TOOLS = [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}]
TREE = [
    message("r", None, "prompter", "Hello?"),
    message("a", "r", "assistant", "Hi.", 0),
    message("b", "r", "assistant", "Go away.", 2),
    message("c", "r", "assistant", "Yes?", 1),
    message("q", "a", "prompter", "How are you?", 0),
    message("d", "q", "assistant", "Well.", 0),
    message("s", "", "prompter", "Another tree"),
    message("t", "s", "assistant", "Indeed."),
    message("gone", "s", "assistant", "Spam", 0, deleted=True),
]
FORMATS = {
    "text": ([{"text": " a text\n", "url": "x"}], [{"text": " a text\n"}]),
    "prompt_completion": (
        [
            {"prompt": "q", "completion": "a"},
            {"prompt": [system("s"), user("q")], "completion": [assistant("a")], "system": ""},
            {"prompt": "q", "completion": "a", "system": "Be brief."},
        ],
        [
            {"messages": [user("q"), assistant("a")]},
            {"messages": [system("s"), user("q"), assistant("a")]},
            {"messages": [system("Be brief."), user("q"), assistant("a")]},
        ],
    ),
    "alpaca": (
        [
            {"instruction": "Add.", "input": "2 and 3", "output": "5"},
            {"instruction": "Hello", "input": "", "output": "Hi", "history": [["q", "a"]], "system": "Be kind."},
            {"instruction": "Hello", "input": None, "output": "Ho", "history": []},
        ],
        [
            {"messages": [user("Add.\n2 and 3"), assistant("5")]},
            {"messages": [system("Be kind."), user("q"), assistant("a"), user("Hello"), assistant("Hi")]},
            {"messages": [user("Hello"), assistant("Ho")]},
        ],
    ),
    "sharegpt": (
        [
            {
                "conversations": [
                    {"from": "human", "value": "Is it raining in Ulm?"},
                    {"from": "function_call", "value": json.dumps(WEATHER["function"])},
                    {"from": "observation", "value": "rain"},
                    {"from": "gpt", "value": "Yes."},
                ],
                "system": "Look it up.",
                "tools": json.dumps(TOOLS),
            },
            {
                "conversations": [
                    {"from": "system", "value": "s"},
                    {"from": "human", "value": "q"},
                    {"from": "gpt", "value": "a"},
                ]
            },
        ],
        [
            {
                "messages": [
                    system("Look it up."),
                    user("Is it raining in Ulm?"),
                    assistant("") | {"tool_calls": json.dumps([WEATHER])},
                    {"role": "tool", "content": "rain"},
                    assistant("Yes."),
                ],
                "tools": json.dumps(TOOLS),
            },
            {"messages": [system("s"), user("q"), assistant("a")]},
        ],
    ),
    "messages": (
        [
            {
                "messages": [
                    user("Is it raining in Ulm?"),
                    assistant(None) | {"tool_calls": [WEATHER | {"id": "1"}]},
                    {"role": "tool", "content": "rain", "tool_call_id": "1", "name": "weather"},
                    assistant("Yes."),
                ],
                "tools": TOOLS,
            }
        ],
        [
            {
                "messages": [
                    user("Is it raining in Ulm?"),
                    assistant("") | {"tool_calls": json.dumps([WEATHER | {"id": "1"}])},
                    {"role": "tool", "content": "rain", "tool_call_id": "1", "name": "weather"},
                    assistant("Yes."),
                ],
                "tools": json.dumps(TOOLS),
            }
        ],
    ),
    "ultrachat": (
        [{"id": "0", "data": ["q", "a", "q2", "a2"]}],
        [{"messages": [user("q"), assistant("a"), user("q2"), assistant("a2")]}],
    ),
    "oasst": (
        TREE,
        [
            {"messages": [user("Hello?"), assistant("Hi."), user("How are you?"), assistant("Well.")]},
            {"messages": [user("Another tree"), assistant("Indeed.")]},
        ],
    ),
    "oasst_pairs": (
        TREE,
        [
            {"prompt": [user("Hello?")], "chosen": [assistant("Hi.")], "rejected": [assistant("Yes?")]},
            {"prompt": [user("Hello?")], "chosen": [assistant("Hi.")], "rejected": [assistant("Go away.")]},
        ],
    ),
    "hh_rlhf": (
        [
            {
                "chosen": "\n\nHuman: q\n\nAssistant: a\n\nHuman: q2\n\nAssistant: good",
                "rejected": "\n\nHuman: q\n\nAssistant: a\n\nHuman: q2\n\nAssistant: bad",
            },
            {
                "chosen": "\n\nHuman: q\n\nAssistant: a\n\nHuman: q2\n\nAssistant: good",
                "rejected": "\n\nHuman: q\n\nAssistant: bad",
            },
        ],
        [
            {
                "prompt": [user("q"), assistant("a"), user("q2")],
                "chosen": [assistant("good")],
                "rejected": [assistant("bad")],
            },
            {
                "prompt": [user("q")],
                "chosen": [assistant("a"), user("q2"), assistant("good")],
                "rejected": [assistant("bad")],
            },
        ],
    ),
    "preference": (
        [
            {"prompt": "q", "chosen": "good", "rejected": "bad"},
            {"prompt": "q", "chosen": "good", "rejected": "worse", "system": "s", "tools": TOOLS},
            # an implicit prompt
            {
                "chosen": [user("q"), assistant("a"), user("q2"), assistant("good")],
                "rejected": [user("q"), assistant("a"), user("q2"), assistant("bad")],
            },
            # ShareGPT
            {
                "conversations": [{"from": "human", "value": "q"}],
                "chosen": {"from": "gpt", "value": "good"},
                "rejected": {"from": "gpt", "value": "mad"},
            },
            # UltraFeedback
            {
                "prompt": "q3",
                "chosen": [user("q3"), assistant("good")],
                "rejected": [user("q3"), assistant("bad")],
                "messages": [user("q3"), assistant("good")],
                "score_chosen": 8.0,
            },
        ],
        [
            {"prompt": [user("q")], "chosen": [assistant("good")], "rejected": [assistant("bad")]},
            {
                "prompt": [system("s"), user("q")],
                "chosen": [assistant("good")],
                "rejected": [assistant("worse")],
                "tools": json.dumps(TOOLS),
            },
            {
                "prompt": [user("q"), assistant("a"), user("q2")],
                "chosen": [assistant("good")],
                "rejected": [assistant("bad")],
            },
            {"prompt": [user("q")], "chosen": [assistant("good")], "rejected": [assistant("mad")]},
            {"prompt": [user("q3")], "chosen": [assistant("good")], "rejected": [assistant("bad")]},
        ],
    ),
    "unpaired_preference": (
        [
            {"prompt": "q", "completion": "a", "label": True},
            {"prompt": [user("q")], "completion": [assistant("a")], "label": 0},
            {"messages": [user("q"), assistant("a"), user("q2"), assistant("a2")], "label": False},
            {"instruction": "q", "input": "x", "output": "a", "label": True},
        ],
        [
            {"prompt": [user("q")], "completion": [assistant("a")], "label": True},
            {"prompt": [user("q")], "completion": [assistant("a")], "label": False},
            {"prompt": [user("q"), assistant("a"), user("q2")], "completion": [assistant("a2")], "label": False},
            {"prompt": [user("q\nx")], "completion": [assistant("a")], "label": True},
        ],
    ),
    "segments": (
        [
            {
                "segments": [
                    {"label": False, "text": "Q: q\n"},
                    {"label": True, "text": "A: "},
                    {"label": True, "text": "a"},
                ]
            },
            {"segments": [{"label": True, "text": "all of it"}]},
        ],
        [{"text": "Q: q\nA: a", "trained": [[5, 9]]}, {"text": "all of it"}],
    ),
    "prompts": (
        [{"prompt": "q"}, {"prompt": [system("s"), user("q")], "tools": TOOLS}, {"instruction": "q", "input": "x"}],
        [
            {"prompt": [user("q")]},
            {"prompt": [system("s"), user("q")], "tools": json.dumps(TOOLS)},
            {"prompt": [user("q\nx")]},
        ],
    ),
    "llava": (
        [
            {
                "image": "images/red.png",
                "conversations": [
                    {"from": "human", "value": "<image>\nWhat colour?"},
                    {"from": "gpt", "value": "Red."},
                ],
            },
            {
                "images": ["images/red.png", "images/blue.jpg"],
                "messages": [user("<image><image> Are they equal?"), assistant("No.")],
            },
        ],
        [
            {"messages": [user("<image>\nWhat colour?"), assistant("Red.")], "images": ["images/red.png"]},
            {
                "messages": [user("<image><image> Are they equal?"), assistant("No.")],
                "images": ["images/red.png", "images/blue.jpg"],
            },
        ],
    ),
    "tasks": (
        [{"prompt": "q", "task": {"b": 1, "a": 2}}, {"messages": [user("q")], "task": "{}"}],
        [{"prompt": [user("q")], "task": '{"a": 2, "b": 1}'}, {"prompt": [user("q")], "task": "{}"}],
    ),
    "labelled_text": (
        [{"text": "a", "label": 1}, {"text": "b", "label": "no"}],
        [{"text": "a", "label": "1"}, {"text": "b", "label": "no"}],
    ),
    "image_preference": (
        [
            {"image": "images/red.png", "prompt": "<image>What colour?", "chosen": "Red.", "rejected": "Blue."},
            {
                "prompt": [
                    user([{"type": "image", "image": "images/red.png"}, {"type": "text", "text": "What colour is it?"}])
                ],
                "chosen": [assistant("Red.")],
                "rejected": [assistant("None.")],
            },
        ],
        [
            {
                "prompt": [user(f"<image>What colour{rest}?")],
                "chosen": [assistant("Red.")],
                "rejected": [assistant(wrong)],
                "images": ["images/red.png"],
            }
            for rest, wrong in (("", "Blue."), (" is it", "None."))
        ],
    ),
    "image_prompt_completion": (
        [
            {"images": ["images/red.png", "images/blue.jpg"], "prompt": "Equal?", "completion": "No."},
            {"image": "images/red.png", "prompt": "What colour is <image>?", "completion": "Red."},
        ],
        [
            {
                "messages": [user("<image><image>Equal?"), assistant("No.")],
                "images": ["images/red.png", "images/blue.jpg"],
            },
            {"messages": [user("What colour is <image>?"), assistant("Red.")], "images": ["images/red.png"]},
        ],
    ),
    "audio": (
        [
            {
                "audio": "one.wav",
                "conversations": [{"from": "human", "value": "<audio>"}, {"from": "gpt", "value": "One."}],
            },
            {"audios": ["one.wav", "two.flac"], "messages": [user("<audio><audio> Equal?"), assistant("No.")]},
        ],
        [
            {"messages": [user("<audio>"), assistant("One.")], "audios": ["one.wav"]},
            {"messages": [user("<audio><audio> Equal?"), assistant("No.")], "audios": ["one.wav", "two.flac"]},
        ],
    ),
}


@pytest.fixture
def images(in_folder):
    """Two small images and two sounds to refer to."""
    for name, pitch in (("one.wav", 0.1), ("two.flac", 0.2)):
        soundfile.write(name, np.sin(pitch * np.arange(8000)) / 2, 16_000)
    write("images/red.png", image())
    write("images/blue.jpg", image("blue", "JPEG"))


@pytest.mark.parametrize("format", formats.FORMATS)
def test_every_format_is_read_and_recognised_where_its_fields_tell(images, format):
    raw, expected = FORMATS[format]
    write("rows.jsonl", lines(*raw))
    asked = format if format in ("oasst_pairs", "labelled_text") else None  # others have the same columns
    data = prepare(format=asked)
    assert contents() == expected
    assert (data["format"], data["shape"]) == (format, formats.FORMATS[format].dataset_type)
    assert (data["recognised"] is None) == (asked is not None)
    assert all(row["place"].startswith("rows.jsonl line ") for row in read())
    assert len({row["id"] for row in read()}) == len(expected)


@pytest.mark.parametrize("format", formats.FORMATS)
def test_a_given_format_reads_the_same_rows_from_parquet(images, format):
    raw, expected = FORMATS[format]
    for number, row in enumerate(raw if not formats.FORMATS[format].tree_of else ()):  # one schema a file
        pq.write_table(pa.Table.from_pylist([row]), f"rows_{number}.parquet")
    if formats.FORMATS[format].tree_of:
        pq.write_table(pa.Table.from_pylist(raw), "rows.parquet")
    prepare("*.parquet", format=format)
    assert [json.loads(json.dumps(row)) for row in contents()] == expected


# ---- kinds of files

ROWS = [
    {"question": "How many?", "answer": 'Two,\n"or" three'},
    {"question": "Wo?", "answer": "Köln 😀"},
    {"question": "Why?", "answer": "x"},
]
COLUMNS = {"prompt": "question", "completion": "answer"}
EXPECTED = [{"messages": [user(row["question"]), assistant(row["answer"])]} for row in ROWS]


def table() -> pa.Table:
    return pa.Table.from_pylist(ROWS)


def parquet() -> bytes:
    pq.write_table(table(), file := io.BytesIO())
    return file.getvalue()


def arrow(new) -> bytes:
    with new(file := pa.BufferOutputStream(), table().schema) as writer:
        writer.write_table(table(), max_chunksize=2)
    return file.getvalue().to_pybytes()


def csv() -> str:
    quoted = [",".join('"' + value.replace('"', '""') + '"' for value in row.values()) for row in ROWS]
    return "\n".join(["question,answer", *quoted]) + "\n"


KINDS = {
    "rows.jsonl": (lines(*ROWS).encode(), [1, 2, 3]),
    "pretty.json": (json.dumps(ROWS, indent=2, ensure_ascii=False).encode(), [2, 6, 10]),
    "line.json": (json.dumps(ROWS).encode(), [1, 1, 1]),
    "rows.csv": (csv().encode(), [2, 4, 5]),
    "rows.parquet": (parquet(), [1, 2, 3]),
    "file.arrow": (arrow(pa.ipc.new_file), [1, 2, 3]),
    "stream.arrow": (arrow(pa.ipc.new_stream), [1, 2, 3]),
}
PACKED = {"": bytes, ".gz": gzip.compress, ".zst": lambda raw: pa.Codec("zstd").compress(raw).to_pybytes()}


@pytest.mark.parametrize("packing", PACKED)
@pytest.mark.parametrize("name", KINDS)
def test_every_kind_of_file_is_read_with_the_place_of_each_row(in_folder, name, packing):
    raw, numbers = KINDS[name]
    path = write(name + packing, PACKED[packing](raw))
    data = prepare(str(path), columns=COLUMNS)
    assert contents() == EXPECTED
    assert [row["place"] for row in read()] == [f"{path} line {number}" for number in numbers]
    assert data["files"] == {str(path): sha256(path)}
    assert (data["origin"], data["licence"]) == (str(path), None)


@pytest.mark.parametrize("packing", [".gz", ".zst"])
def test_packed_files_one_behind_the_other_are_one(in_folder, packing):
    parts = [PACKED[packing](lines(row).encode()) for row in ROWS]
    write(f"rows.jsonl{packing}", b"".join(parts))
    prepare(f"rows.jsonl{packing}", columns=COLUMNS)
    assert contents() == EXPECTED


@pytest.mark.parametrize("path", ["some/*.jsonl", "some/**/*.jsonl", "some"])
def test_a_glob_and_a_folder_stand_for_all_their_files_in_order(in_folder, path):
    for i, name in enumerate(("b.jsonl", "a.jsonl", "deep/c.jsonl")):
        write(f"some/{name}", text_lines(str(i)))
    for name in ("some/LICENSE", "some/.hidden.jsonl", "some/.cache/x.jsonl", "some/dataset_info.json"):
        write(name, "no rows")
    data = prepare(path)
    assert texts() == (["1", "0"] if path == "some/*.jsonl" else ["1", "0", "2"])
    assert next(iter(data["files"])) == "some/a.jsonl"


def test_a_folder_below_a_hidden_one_is_read_as_any_other(in_folder):
    write(".cache/mine/rows.jsonl", text_lines("a"))
    assert prepare(str(in_folder / ".cache/mine"))["rows"] == 1


# ---- the hub's layout

CARD = """---
license: cc-by-4.0
configs:
- config_name: main
  data_files:
  - {split: train, path: main/train-*}
  - {split: test, path: main/test-*}
- config_name: other
  data_files:
  - {split: train, path: other.csv}
---
# A dataset
"""


def text_table(*words: str) -> bytes:
    pq.write_table(pa.table({"text": words}), file := io.BytesIO())
    return file.getvalue()


def lay_out(folder: str, card: str = "# A dataset\n") -> None:
    """A folder as on the hub, with or without configurations."""
    write(f"{folder}/README.md", card)
    for name, word in {"train-00000-of-00002": "a", "train-00001-of-00002": "b", "test-00000-of-00001": "c"}.items():
        write(f"{folder}/{'main' if 'configs' in card else 'data'}/{name}.parquet", text_table(word))
    if "configs" in card:
        write(f"{folder}/other.csv", "text\nd\n")


def test_the_files_of_a_split_are_found_by_their_names(in_folder):
    lay_out("mine")
    data = prepare("mine")
    assert texts() == ["a", "b"]
    assert list(data["files"]) == [f"mine/data/train-0000{i}-of-00002.parquet" for i in range(2)]
    prepare("mine", split="test")
    assert texts() == ["c"]


def test_the_files_of_a_subset_are_found_by_the_card(in_folder):
    lay_out("mine", CARD)
    assert prepare("mine", subset="main")["licence"] == "cc-by-4.0"
    assert texts() == ["a", "b"]
    prepare("mine", subset="other")
    assert texts() == ["d"]


def test_a_folder_of_images_beside_its_rows_is_no_image_dataset(in_folder):
    write("mine/README.md", "# Images and what is said about them\n")
    write("mine/images/red.png", image())
    write("mine/images/blue.png", image("blue"))
    write("mine/rows.jsonl", lines(FORMATS["llava"][0][0]))
    prepare("mine")
    red = f"media/{sha256(Path('mine/images/red.png'))}.png"
    assert read()[0]["images"] == [red]
    write("mine/rows.jsonl", lines({"image": "red.png", "messages": [user("<image>"), assistant("a")]}))
    prepare("mine", image_folder="mine/images")
    assert read()[0]["images"] == [red]
    assert [file.name for file in (OUTPUT / "media").iterdir()] == [red.removeprefix("media/")]


def lay_out_cache(folder: Path, card: str = CARD) -> None:
    """A dataset as the hub's client keeps it: names that point to contents, by commit."""
    commit = "0123456789abcdef0123456789abcdef01234567"
    repository = folder / "datasets--team--rows"
    write(repository / "refs/main", commit)
    lay_out("plain", card)
    for number, path in enumerate(sorted(path for path in Path("plain").rglob("*") if path.is_file())):
        blob = write(repository / f"blobs/{number:040d}", path.read_bytes())
        link = repository / "snapshots" / commit / path.relative_to("plain")
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(os.path.relpath(blob, link.parent))


def run_offline(folder: str, **keys) -> subprocess.CompletedProcess:
    """The script by itself: the hub's client reads its settings when it is imported."""
    Path("spec.json").write_text(json.dumps(SPEC | keys))
    script = prepare_data.__file__
    command = [sys.executable, script, "--spec", "spec.json", "--cores", "1", "--output", str(OUTPUT)]
    environment = os.environ | {"HF_HOME": folder, "HF_HUB_OFFLINE": "1"}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def test_a_hub_dataset_is_read_from_the_cache_without_a_network(in_folder):
    lay_out_cache(in_folder / ".home/hub")
    result = run_offline(".home", hub="team/rows", subset="main")
    assert result.returncode == 0, result.stderr
    data = json.loads((OUTPUT / "data.json").read_text())
    assert texts() == ["a", "b"]
    assert (data["origin"], data["licence"]) == ("team/rows", "cc-by-4.0")


@pytest.fixture
def offline(in_folder, monkeypatch):
    """The hub's client without a network, and an empty cache."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(in_folder / "hub"))
    return in_folder / "hub"


def test_a_hub_dataset_without_a_card_has_its_splits_all_the_same(offline):
    lay_out_cache(offline, card="")
    for file in offline.rglob("README.md"):
        file.unlink()
    prepare(None, hub="team/rows")
    assert texts() == ["a", "b"]


@pytest.mark.parametrize("hub", ["team/none", "a b/c", "https://huggingface.co/datasets/team/rows"])
def test_a_hub_dataset_that_is_not_there_is_one_sentence(offline, hub):
    with pytest.raises(
        UserError, match="is neither on the hub nor in its cache; check the id, the network and HF_TOKEN"
    ):
        prepare(None, hub=hub)


CARDS = {
    "no subset is chosen": (CARD, {}, r"Config name is missing. Please pick one .*'main', 'other'.*`subset:`"),
    "another subset": (CARD, {"subset": "mian"}, "BuilderConfig 'mian' not found. Available: .*'main', 'other'"),
    "another split": (CARD, {"subset": "main", "split": "dev"}, "mine has no split 'dev'; its splits are train, test"),
    "no YAML": ("---\n{\n---\n", {}, "while parsing a flow node"),
    "a wrong type": ("---\nconfigs:\n- config_name: [a]\n---\n", {}, "check its files, README.md and `subset:`"),
    "no such files": ("---\nconfigs:\n- {config_name: a, data_files: x/*}\n---\n", {}, "No .* data files found in"),
}


@pytest.mark.parametrize("case", CARDS)
def test_a_card_that_does_not_fit_is_one_sentence(in_folder, case):
    card, keys, sentence = CARDS[case]
    lay_out("mine", card)
    with pytest.raises(UserError, match=sentence) as error:
        prepare("mine", **keys)
    assert str(error.value).startswith("dataset rows: mine")
    assert "\n" not in str(error.value)


# ---- limit, split and what is held out


def numbered(n: int, start: int = 0) -> str:
    return text_lines(*(f"text {i}" for i in range(start, start + n)))


def test_the_limit_keeps_the_first_rows(in_folder):
    write("some/a.jsonl", numbered(3))
    write("some/b.jsonl", numbered(3, 3))
    for limit in (2, 3, 4, 6, 9):
        assert prepare("some", limit=limit)["rows"] == min(limit, 6)
        assert texts() == [f"text {i}" for i in range(min(limit, 6))]


def test_few_rows_move_when_others_are_added_and_none_when_they_are_reordered(in_folder):
    write("rows.jsonl", numbered(200))
    prepare(validation=0.3)
    validation = set(texts("validation"))
    assert (len(texts()), len(validation)) == (140, 60)
    write("rows.jsonl", "".join(reversed(numbered(200).splitlines(keepends=True))))
    prepare(validation=0.3)
    assert set(texts("validation")) == validation
    write("rows.jsonl", numbered(220))
    prepare(validation=0.3)
    assert len(texts("validation")) == 66
    assert len(validation - set(texts("validation"))) <= 6


def test_a_larger_share_only_takes_rows_from_training(in_folder):
    write("rows.jsonl", numbered(2000))
    held_out = []
    for share in (0.0, 0.1, 0.4, 0.9):
        prepare(validation=share)
        held_out.append(set(texts("validation")))
        assert len(held_out[-1]) == 2000 * share
    assert held_out[0] == set()
    assert held_out == sorted(held_out, key=len)
    assert all(small <= large for small, large in pairwise(held_out))


@pytest.mark.parametrize("kind", ["prompt_completion", "preference", "unpaired_preference"])
def test_rows_that_share_a_first_prompt_stay_on_one_side(in_folder, kind):
    def row(i: int, answer: str) -> dict:
        prompt = [user(f"question {i}"), assistant(answer), user("and?")]
        end = {"chosen": "yes", "rejected": "no"} if kind == "preference" else {"completion": "yes"}
        return {"prompt": prompt, **end} | ({"label": True} if kind.startswith("unpaired") else {})

    write("rows.jsonl", lines(*(row(i, answer) for i in range(50) for answer in ("a", "b"))))
    assert prepare(validation=0.5)["format"] == kind
    key = "messages" if kind == "prompt_completion" else "prompt"
    sides = [{row[key][0]["content"] for row in read(split)} for split in ("train", "validation")]
    assert not sides[0] & sides[1]
    assert len(sides[0]) + len(sides[1]) == 50
    assert min(map(len, sides)) > 10


def test_repeats_are_left_out_and_told(in_folder):
    write("rows.jsonl", text_lines("a", "b", "a", "c", "b", "a"))
    data = prepare(validation=0.5)
    assert sorted(texts() + texts("validation")) == ["a", "b", "c"]
    assert data["dropped"] == {"fault": 0, "repeated": 3, "near duplicate": 0, "also held out": 0}
    assert dropped() == [
        {
            "place": f"rows.jsonl line {line}",
            "kind": "repeated",
            "reason": f"the same as rows.jsonl line {first}",
            "row": json.dumps({"text": text}),
        }
        for line, first, text in ((3, 1, "a"), (5, 2, "b"), (6, 1, "a"))
    ]


WORDS = (
    "the quick brown fox jumps over the lazy dog while all of its friends look on and count the hairs of their tails"
)


def test_near_repeats_are_left_out_where_they_are_not_kept_on_purpose(in_folder):
    write("rows.jsonl", text_lines(WORDS, "something else entirely, to train on", f"{WORDS}!"))
    data = prepare(near_duplicates=0.8)
    assert (data["train"], data["dropped"]["near duplicate"]) == (2, 1)
    assert dropped()[0]["reason"] == "99% like rows.jsonl line 1"
    assert prepare(near_duplicates=None)["train"] == 3


def test_a_file_of_held_out_rows_is_held_out_whole_and_never_trained_on(in_folder):
    write("rows.jsonl", text_lines("a", "b", "c", "a", WORDS.replace("fox", "hen")))
    write("held_out.jsonl", text_lines("c", "d", WORDS, "d"))
    data = prepare(validation="held_out.jsonl", near_duplicates=0.7)
    assert texts() == ["a", "b"]
    assert texts("validation") == ["c", "d", WORDS]
    assert data["rows"] == 9
    assert data["dropped"] == {"fault": 0, "repeated": 2, "near duplicate": 0, "also held out": 2}
    assert [(row["place"], row["kind"]) for row in dropped()] == [
        ("held_out.jsonl line 4", "repeated"),
        ("rows.jsonl line 3", "also held out"),
        ("rows.jsonl line 4", "repeated"),
        ("rows.jsonl line 5", "also held out"),
    ]
    assert dropped()[1]["reason"] == "the same as held_out.jsonl line 1"
    assert set(data["files"]) == {"rows.jsonl", "held_out.jsonl"}


def test_no_held_out_rows_leave_an_empty_file_with_the_same_columns(in_folder):
    write("rows.jsonl", text_lines("a"))
    prepare()
    schemas = [pq.read_schema(OUTPUT / f"{split}.parquet") for split in ("train", "validation")]
    assert schemas[0] == schemas[1] == rows.schema("text")
    assert read("validation") == []


def test_two_runs_and_two_processes_write_the_same_bytes(in_folder, monkeypatch):
    from posttrain.data.readers import text

    monkeypatch.setattr(text, "CHUNK_BYTES", 2000)
    write("rows.jsonl", numbered(200) + lines({"text": None}) + text_lines(WORDS, WORDS + " again", "text 7"))
    results = []
    for cores in (1, 1, 2):
        prepare(cores=cores, validation=0.2, near_duplicates=0.8)
        results.append({file.name: file.read_bytes() for file in OUTPUT.iterdir()})
    assert results[0] == results[1] == results[2]
    assert [row["kind"] for row in dropped()] == ["fault", "near duplicate", "repeated"]


def test_what_a_killed_process_left_is_removed(in_folder):
    write(str(OUTPUT / ".rows.abc/rows.arrow"), "half")
    write("rows.jsonl", text_lines("a"))
    prepare()


def test_data_json_and_the_terminal_say_what_became_of_the_rows(in_folder, monkeypatch):
    told = []
    monkeypatch.setattr(prepare_data, "say", lambda text, *_: told.append(text))
    write("rows.jsonl", text_lines("a", "a", "b") + lines({"text": ""}))
    report = prepare(max_dropped=0.5)
    assert report.pop("seal") == records.seal(report)
    assert report == {
        "format": "text",
        "recognised": "its first row has the fields text",
        "shape": "text",
        "rows": 4,
        "train": 2,
        "validation": 0,
        "dropped": {"fault": 1, "repeated": 1, "near duplicate": 0, "also held out": 0},
        "unknown": {},
        "origin": "rows.jsonl",
        "licence": None,
        "near": {"similarity": 0.8, "rows": 0, "same_answer": 0, "left_out": False, "examples": []},
        "held_out_prompts": 0,
        "detectable": None,
        "files": {"rows.jsonl": sha256(Path("rows.jsonl"))},
        "written": {file: sha256(OUTPUT / file) for file in ("train.parquet", "validation.parquet", "dropped.jsonl")},
    }
    assert told[0] == "rows: 2 rows to train on, 0 held out, text from text"
    assert told[1].startswith(
        "rows: left out: 1 fault, 1 repeated, see results/data/rows/dropped.jsonl; the first fault: rows.jsonl line 4: "
    )


# ---- other names, keys that are not read, folders of several splits


def test_what_is_read_under_another_name_and_what_is_not_read_is_told(in_folder, monkeypatch):
    told = []
    monkeypatch.setattr(prepare_data, "say", lambda text, *_: told.append(text))
    chat = [user("q"), assistant("a") | {"score": 3}]
    write("rows.jsonl", lines(*({"Question": f"q{i}", "Answer": "a", "url": "x", "tags": []} for i in range(3))))
    data = prepare()
    assert (data["train"], data["unknown"]) == (3, {"url": 3})
    assert data["recognised"].endswith("of which Question is read as prompt and Answer is read as completion")
    assert told[1:] == [f"rows: {data['recognised']}", "rows: not read, with the rows that have them: url (3)"]
    write(
        "rows.jsonl",
        lines({"messages": chat, "split": "a"}, {"messages": chat[:1]}, {"messages": [user("p"), *chat[1:]]}),
    )
    assert prepare(max_dropped=0.5)["unknown"] == {"messages[].score": 2, "split": 1}
    asked = {"query": "q", "response": "a"}
    write("rows.jsonl", lines(asked))
    assert "query is read as prompt" in prepare(format="prompt_completion")["recognised"]


def test_messages_of_trees_have_unknown_keys_as_well(in_folder):
    write("rows.jsonl", lines(*(message | {"lang": "en"} for message in TREE)))
    assert prepare()["unknown"] == {"lang": len(TREE)}


def test_a_saved_dataset_of_several_splits_has_the_one_that_is_asked_for(in_folder):
    from datasets import Dataset, DatasetDict

    splits = {"train": Dataset.from_list([{"text": "one"}]), "test": Dataset.from_list([{"text": "two"}])}
    DatasetDict(splits).save_to_disk("both")
    prepare("both")
    assert texts() == ["one"]
    prepare("both", split="test")
    assert texts() == ["two"]
    prepare("both", validation="both/test")
    assert (texts(), texts("validation")) == (["one"], ["two"])
    with refused("unknown-name", "dataset rows"):
        prepare("both", split="dev")
    with pytest.raises(
        UserError, match="both has several splits, train, test; name the folder of one, such as both/train"
    ):
        prepare("both", validation="both")


def test_pictures_in_the_table_of_datasets_are_brought_in_parts_of_it(in_folder, monkeypatch):
    """A file of many pictures is read some rows at a time, and its bytes are in no row."""
    from posttrain.data.readers import blocks

    monkeypatch.setattr(blocks, "BLOCK_BYTES", 1 << 12)
    colours = [(i, 2 * i, 3 * i) for i in range(60)]
    pictures = [{"bytes": image(colour), "path": f"{i}.png"} for i, colour in enumerate(colours)]
    table = pa.table({"image": pictures, "question": ["What?"] * 60, "answer": [f"{i}" for i in range(60)]})
    pq.write_table(table, "rows.parquet")
    data = prepare("rows.parquet", cores=2)
    assert (data["format"], data["train"]) == ("image_prompt_completion", 60)
    assert len(list((OUTPUT / "media").iterdir())) == 60
    found = {row["messages"][1]["content"]: OUTPUT / row["images"][0] for row in read()}
    assert all(found[str(i)].read_bytes() == picture["bytes"] for i, picture in enumerate(pictures))
    assert (OUTPUT / "train.parquet").stat().st_size < 30_000


def test_pictures_are_refused_in_a_remote_storage(images, monkeypatch):
    write("rows.jsonl", lines(*FORMATS["llava"][0]))
    monkeypatch.setenv("POSTTRAIN_RESULTS", "elsewhere")
    with pytest.raises(UserError, match="are not kept in a remote storage; build it without"):
        prepare()
