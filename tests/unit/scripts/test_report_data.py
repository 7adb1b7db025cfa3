"""The data report: every number of planted rows, the warnings, and a page that is whole, safe and always the same."""

import hashlib
import json
import re
from argparse import Namespace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from html_page import Page

import report_data
from posttrain.data import rows
from posttrain.data.contamination import overlap
from posttrain.runtime.atomic import read_json, write_json

QUESTION = "Natalia sold clips to forty-eight of her friends in April, and half as many in May; how many in all?"
SCRIPT = "<script>alert('x & y')</script>"


def chat(user: str, assistant: str) -> dict:
    return {"messages": [{"role": "user", "content": user}, {"role": "assistant", "content": assistant}]}


def write(name: str, train: list[dict], validation: list[dict], shape: str = "messages", **data) -> Path:
    """Leave what prepare_data leaves."""
    folder = Path("results/data") / name
    folder.mkdir(parents=True)
    numbers = iter(range(1, 10_000))
    for split, content in (("train", train), ("validation", validation)):
        named = [{"id": digest(row), "place": f"{name}.jsonl line {next(numbers)}"} | row for row in content]
        pq.write_table(pa.Table.from_pylist(named, schema=rows.schema(shape)), folder / f"{split}.parquet")
    values = {
        "format": "prompt_completion",
        "recognised": "its first row has the fields prompt, completion",
        "shape": shape,
        "rows": len(train) + len(validation),
        "train": len(train),
        "validation": len(validation),
        "dropped": {},
        "origin": f"{name}.jsonl",
        "licence": "mit",
        "files": {f"{name}.jsonl": "ab" * 32},
        "warnings": [],
    }
    write_json(folder / "data.json", values | data)
    (folder / "dropped.jsonl").write_text("")
    return folder


def digest(row: dict) -> str:
    return hashlib.sha256(json.dumps(row).encode()).hexdigest()


def report(folder: Path, evaluation=(), tokens=(), licences=None) -> dict:
    folders = dict.fromkeys([folder, *evaluation])
    found = {
        f"{other.name}/validation": overlap(folder / "train.parquet", other / "validation.parquet") for other in folders
    }
    (folder / "overlap.json").write_text(json.dumps(found))
    write_json(folder / "context.json", {"licences": licences or {f"datasets.{folder.name}": None}})
    options = {"overlap": folder / "overlap.json", "tokens": list(tokens), "context": folder / "context.json"}
    report_data.main(Namespace(data=folder, output=folder, **options))
    return read_json(folder / "report.json")


def token_counts(**changes) -> dict:
    lengths = {"p50": 100, "p90": 200, "p99": 300, "max": 400}
    counts = {"rows": 90, "tokens": 2000, "trained_tokens": 900, "cut": 0, "dropped": 0, "unknown": 0, "fallback": 0}
    return counts | {"lengths": lengths} | changes


@pytest.fixture
def planted(in_folder) -> tuple[Path, dict]:
    """A dataset with one of everything, and its report."""
    numbered = [
        chat(f"What is the number after {i}?", f"The number after {i} is the number {i + 1}.") for i in range(20)
    ]
    train = [
        *numbered,
        chat(QUESTION, "Seventy-two."),
        chat("Repeat: one two three four five", "one two three four five"),
    ]
    write(
        "test", [chat("a", "b")], [chat(QUESTION, "Seventy-two."), chat("Name the capital city of France.", "Paris.")]
    )
    folder = write("sums", train, [chat(f"Write some markup: {SCRIPT}", SCRIPT)], rows=27,
                   dropped={"fault": 3, "repeated": 0, "near duplicate": 1, "also held out": 0})  # fmt: skip
    dropped = [
        {"place": f"sums.jsonl line {i}", "kind": "fault", "reason": "the answer is null", "row": {}} for i in range(9)
    ]
    dropped.append({"place": "sums.jsonl line 99", "kind": "near duplicate", "reason": f"as {SCRIPT}", "row": {}})
    (folder / "dropped.jsonl").write_text("".join(json.dumps(line) + "\n" for line in dropped))
    tokens = Path("results/tokens/base/sums,max_length=64")
    train_counts = token_counts(rows=20, cut=11, dropped=2, unknown=40, fallback=1000)
    write_json(tokens / "report.json", {"shape": "messages", "max_length": 64, "train": train_counts,
                                        "validation": token_counts(rows=1)})  # fmt: skip
    return folder, report(folder, [folder, Path("results/data/test")], [tokens], {"datasets.sums": "cc-by-4.0"})


def test_the_report_is_what_was_prepared_and_what_was_measured(planted):
    _, found = planted
    assert (found["rows"], found["train"], found["validation"], found["shape"]) == (27, 22, 1, "messages")
    assert (found["licence"], found["card_licence"]) == ("cc-by-4.0", "mit")
    assert found["files"] == {"sums.jsonl": "ab" * 32}
    assert found["lengths"]["characters"]["user"]["n"] == 23
    assert found["languages"]["sampled"] == 23
    assert found["extremes"]["longest"][0]["place"] == "sums.jsonl line 21"
    assert found["answer_in_prompt"]["rows"] == 2  # the markup's answer stands in its prompt, and has five words
    assert found["answer_in_prompt"]["first"] == "sums.jsonl line 22"


def test_the_first_five_dropped_rows_of_a_kind_are_shown(planted):
    examples = planted[1]["dropped_examples"]
    assert [example["place"] for example in examples["fault"]] == [f"sums.jsonl line {i}" for i in range(5)]
    assert examples["near duplicate"] == [{"place": "sums.jsonl line 99", "reason": f"as {SCRIPT}"}]


def test_rows_that_are_held_out_elsewhere_are_found_and_stand_side_by_side(planted):
    found = planted[1]["overlap"]
    assert {name: (result["rows"], result["shared"]) for name, result in found.items()} == {
        "sums/validation": (1, 0),
        "test/validation": (2, 1),
    }
    (example,) = found["test/validation"]["examples"]
    assert (example["place"], example["train_place"]) == ("test.jsonl line 2", "sums.jsonl line 21")
    assert example["text"] == example["train_text"] == f"{QUESTION}\nSeventy-two."


def test_its_own_held_out_rows_are_compared_unasked_and_where_there_are_none_nothing_is(in_folder):
    own, empty = write("own", FINE[1:], FINE[:1]), write("empty", FINE, [])
    assert list(report(own, [empty])["overlap"]) == ["own/validation"]
    assert report(empty)["overlap"] == {}
    assert "There are no held-out rows." in page_of(empty).text


def test_what_a_tokenizer_does_has_its_shares(planted):
    tokens = planted[1]["tokenizers"]["base/sums,max_length=64"]
    assert (tokens["base"], tokens["max_length"], tokens["train"]["of"]) == ("base", 64, 22)
    assert tokens["train"]["shares"] == {"cut": 0.5, "dropped": 0.09091, "unknown": 0.02, "fallback": 0.5}


def test_the_warnings_say_what_to_look_at_the_worst_first(planted):
    beginnings = [
        "1 of the 2 rows of test/validation are also in the training rows, 1 of them identical.",
        "In 2 rows the prompt contains the answer word for word, first in sums.jsonl line 22",
        "Left out: 4 of 27 rows (3 fault, 1 near duplicate)",
        "Base base: max_length 64 truncates 11 of 22 rows and leaves out 2 without trained tokens; the longest has 400 tokens",
        "Base base: 2% of the tokens are unknown",
        "Base base: 50% of the tokens are pieces of characters",
        "The configuration gives the licence cc-by-4.0, the dataset card mit",
    ]  # fmt: skip
    warnings = planted[1]["warnings"]
    assert len(warnings) == len(beginnings)
    for warning, beginning in zip(warnings, beginnings, strict=True):
        assert warning.startswith(beginning)


FINE = [chat(f"What comes after the number {i}?", f"It is {i + 1}, I think.") for i in range(9)]
GREETED, ASKED = (
    {"prompt": [{"role": "user", "content": prompt}], "completion": [{"role": "assistant", "content": "Fine"}]}
    for prompt in ("Good morning", "How are you")
)
ALONE = {"messages": [{"role": "assistant", "content": "I say this to nobody in particular"}]}
WARNED = [
    ({}, None),
    ({"licence": None}, "The licence is unknown"),
    ({"licence": "my own"}, "The terms of the licence “my own” are unknown"),
    ({"validation": []}, "No rows are held out"),
    ({"rows": 10, "dropped": {"repeated": 1}}, "Left out: 1 of 10 rows (1 repeated)"),
    ({"rows": 11, "dropped": {"repeated": 1}}, None),
    ({"warnings": ["So it is."]}, "So it is."),
    ({"unknown": {"url": 3}}, None),
    ({"unknown": {"label": 3}}, "The column label is not read; if it says whether an answer is wanted"),
    ({"train": [ALONE], "validation": [ALONE | {"messages": ALONE["messages"] * 2}]}, "There is no user turn"),
    ({"shape": "unpaired_preference", "train": [GREETED | {"label": True}], "validation": [ASKED | {"label": True}]},
     "All completions are desired"),
    ({"shape": "unpaired_preference", "train": [GREETED | {"label": False}], "validation": [ASKED | {"label": False}]},
     "All completions are undesired"),
    ({"shape": "unpaired_preference", "train": [GREETED | {"label": True}], "validation": [ASKED | {"label": False}]},
     None),
    ({"shape": "text", "train": [{"text": "There was a king."}], "validation": [{"text": "And a queen."}]}, None),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "warning"), WARNED)
def test_one_thing_that_is_wrong_is_one_warning(in_folder, changes, warning):
    changes = {"train": FINE[1:], "validation": FINE[:1], **changes}
    counts = {split: len(changes[split]) for split in ("train", "validation")}
    folder = write("rows", changes.pop("train"), changes.pop("validation"), **changes)
    write_json(folder / "data.json", read_json(folder / "data.json") | counts)
    warnings = report(folder)["warnings"]
    assert [found[: len(warning or "")] for found in warnings] == ([warning] if warning else [])
    assert ("Nothing to look at first" in page_of(folder).text) == (not read_json(folder / "report.json")["warnings"])


def test_keys_that_are_not_read_stand_on_the_page_the_most_frequent_first(in_folder):
    folder = write("rows", FINE[1:], FINE[:1], unknown={"messages[].score": 2, "<url>": 9})
    assert report(folder)["unknown"] == {"messages[].score": 2, "<url>": 9}
    text = page_of(folder).text
    assert text.index("<url>") < text.index("messages[].score")
    assert "9 rows" in text


def test_a_licence_that_is_spelt_otherwise_is_the_same(in_folder):
    folder = write("rows", FINE[1:], FINE[:1], licence="apache-2.0")
    assert report(folder, licences={"datasets.rows": "Apache 2.0"})["warnings"] == []


# ---- the page


def page_of(folder: Path) -> Page:
    return Page((folder / "report.html").read_text(encoding="utf-8"))


def test_the_page_is_well_formed_and_a_row_with_markup_stays_text(planted):
    found = page_of(planted[0])
    assert "script" not in found.tags
    assert SCRIPT in found.text
    assert found.tags.count("h1") == found.tags.count("main") == 1


def test_the_page_needs_no_network_and_no_other_file(planted):
    attributes = page_of(planted[0]).attributes
    links = [value for name, value in attributes if name in ("href", "src", "srcset", "action", "poster", "data")]
    assert sorted(links) == ["data:,", "dropped.jsonl", "report.json"]
    html = (planted[0] / "report.html").read_text()
    assert not re.search(r"https?:|url\(|@import", html)
    assert len(html) < 40_000


def test_labels_and_headings_of_the_page_are_there_once(planted):
    attributes = page_of(planted[0]).attributes
    ids = [value for name, value in attributes if name == "id"]
    assert len(ids) == len(set(ids))
    assert {value for name, value in attributes if name == "aria-labelledby"} <= set(ids)


def test_every_number_of_the_page_is_in_the_json(planted):
    folder, found = planted
    text = re.sub(r"SHA-256|ISO 639|p(50|90|99)\b", "", page_of(folder).text)
    written = {float(number) for number in re.findall(r"\d+(?:\.\d+)?", text.replace(",", ""))}
    known = {float(number) for number in re.findall(r"\d+(?:\.\d+)?", json.dumps(found).replace(",", " "))}
    shares = {round(100 * number, 1) for number in known if number <= 1}
    ends = {bin["below"] - 1 for lengths in found["lengths"]["characters"].values() for bin in lengths["bins"]}
    assert written - known - shares - ends == set()


def test_the_same_dataset_gives_the_same_bytes(planted):
    folder, _ = planted
    files = [folder / name for name in ("report.json", "report.html")]
    before = [file.read_bytes() for file in files]
    tokens = Path("results/tokens/base/sums,max_length=64")
    report(folder, [folder, Path("results/data/test")], [tokens], {"datasets.sums": "cc-by-4.0"})
    assert [file.read_bytes() for file in files] == before


def test_a_mixture_has_the_licences_of_all_its_datasets(in_folder):
    folder = write("both", FINE, FINE[:1], licence=None)
    found = report(folder, licences={"datasets.one": "mit", "datasets.two": "apache-2.0"})
    assert found["licence"] == "apache-2.0 AND mit"
    assert report(folder, licences={"datasets.one": "mit", "datasets.two": None})["licence"] is None


def test_near_rows_and_what_held_out_rows_show_are_on_the_page(in_folder):
    examples = [{"place": "rows.jsonl line 9", "like": "rows.jsonl line 2", "similarity": 0.91}]
    near = {"similarity": 0.8, "rows": 3, "same_answer": 2, "left_out": False, "examples": examples}
    rows_ = [chat(f"What is {i} and {i}?", f"It is {2 * i}.") for i in range(12)]
    folder = write("rows", rows_[:6], rows_[6:], near=near, detectable=0.964)
    found = report(folder)
    assert found["near"] == near
    assert [warning for warning in found["warnings"] if "near_duplicates: 0.8" in warning] == [
        "2 of 12 rows are 80% like an earlier one and have its answer; near_duplicates: 0.8 under the dataset leaves them out."
    ]
    text = " ".join(page_of(folder).text.split())
    assert (
        "6 held out for validation, which show a difference in accuracy of 96.4 points or more between two models."
        in text
    )
    assert (
        "3 rows at least 80% like an earlier one, not counting words that many rows share; 2 of them have its answer"
        in text
    )
    assert "91% rows.jsonl line 9" in text
    assert "like rows.jsonl line 2" in text
    few = write("few", rows_[:6], rows_[6:8], detectable=None)
    assert "Held out: 2 rows, too few to show any difference between two models." in report(few)["warnings"]


def test_sound_files_are_described_and_the_small_ones_can_be_heard(in_folder):
    soundfile = pytest.importorskip("soundfile")
    names = ["media/a.wav", "media/b.flac", "media/c.wav"]
    said = [
        chat("<audio>What is said?", f"{word}") | {"audios": [name]} for word, name in zip("123", names, strict=True)
    ]
    folder = write("speech", said[:2], [*said[2:], chat("Say one.", "one") | {"audios": []}], "audio_messages")
    (folder / "media").mkdir()
    noise = np.random.default_rng(0).normal(0, 0.1, 16_000)
    soundfile.write(folder / names[0], noise, 16_000)
    soundfile.write(folder / names[1], np.stack([noise, noise], axis=1)[:4_000], 8_000)
    soundfile.write(folder / names[2], np.tile(noise, 4), 16_000)  # larger than a page may contain

    found = report(folder)["sounds"]
    assert (found["files"], found["seconds"], found["shortest"], found["longest"]) == (3, 5.5, 0.5, 4.0)
    assert found["rates"] == {"8000": 1, "16000": 2} and found["channels"] == {"1": 2, "2": 1}
    assert [file["player"] is not None for row in found["first"] for file in row["files"]] == [True, True, False]

    page = (folder / "report.html").read_text()
    assert page.count("<audio controls") == 2 and "media-src data:" in page
    assert "0.50 s, 8,000 samples a second, 2 channels" in page
    assert "3 files of 0.50 to 4.00 s" in page


def test_text_has_no_sounds(in_folder):
    assert "sounds" not in report(write("plain", [chat("a", "b")], [chat("c", "d")]))


def test_pictures_are_counted_and_shown_in_small(in_folder):
    from PIL import Image

    names = ["media/a.png", "media/b.jpg"]
    said = [chat("<image>What?", name) | {"images": [name]} for name in names]
    folder = write("seen", [*said, chat("And?", "x") | {"images": []}], [said[0]], "image_messages")
    (folder / "media").mkdir()
    Image.new("L", (40, 30)).save(folder / names[0])
    Image.effect_noise((900, 600), 50).convert("RGB").save(folder / names[1])

    found = report(folder)["pictures"]
    assert (found["pictures"], found["files"], found["rows_without"]) == (3, 2, 1)
    assert (found["sizes"], found["modes"], found["kinds"]) == (
        [[40, 30], [900, 600]],
        {"L": 1, "RGB": 1},
        {"PNG": 1, "JPEG": 1},
    )
    page = (folder / "report.html").read_text()
    assert page.count('<img src="data:image/jpeg;base64,') == 3 and "picture 1 of the row, 900 x 600, RGB" in page
    assert max(len(picture) for row in found["first"] for picture in row["thumbnails"]) < 30_000
    assert "pictures" not in report(write("plain", [chat("a", "b")], [chat("c", "d")]))
