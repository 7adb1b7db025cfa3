"""Data of a stranger's: no file keeps us waiting, fills a memory or a disk, or starts a program."""

import gzip
import json
import os
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import prepare_data
from posttrain.data import files, licences, rows
from posttrain.data.readers import text as reader
from posttrain.runtime.errors import UserError
from security.hostile import STRINGS

ROW = {"prompt": "q", "completion": "a"}


def read(path: str) -> list:
    return [row for block in files.blocks(Path(path)) for _, row in block.parse()]


def refusal(path: str) -> str:
    with pytest.raises(UserError) as error:
        read(path)
    assert "\n" not in str(error.value)
    return str(error.value)


# ---- files that do not end


def test_a_pipe_and_a_device_are_no_files(in_folder):
    Path("data").mkdir()
    os.mkfifo("data/pipe.jsonl")
    Path("data/zero.jsonl").symlink_to("/dev/zero")
    Path("data/in.jsonl").symlink_to("/dev/stdin")
    Path("data/gone.jsonl").symlink_to("nowhere")
    Path("data/self.jsonl").symlink_to("self.jsonl")
    Path("data/rows.jsonl").write_text(json.dumps(ROW))
    assert (
        files.expand("data") == files.expand("data/*.jsonl") == files.expand("data/**/*") == [Path("data/rows.jsonl")]
    )
    for name in ("pipe", "zero", "in", "gone", "self"):
        assert files.expand(f"data/{name}.jsonl") == []
        assert "there is no such file" in refusal(f"data/{name}.jsonl")


def test_a_card_that_is_a_pipe_is_none(in_folder):
    Path("data").mkdir()
    os.mkfifo("data/README.md")
    Path("data/rows.jsonl").write_text(json.dumps(ROW))
    spec = {"hub": None, "path": "data", "split": "train", "subset": None}
    assert prepare_data.find(spec, "x") == (Path("data"), [Path("data/rows.jsonl")])
    assert licences.of_card(Path("data")) is None


def test_an_image_that_is_a_pipe_is_none(in_folder):
    os.mkfifo("pipe.png")
    assert "'pipe.png' is no file" in image_refusal("pipe.png")


def test_links_in_a_circle_end(in_folder):
    Path("data/a").mkdir(parents=True)
    Path("data/a/rows.jsonl").write_text(json.dumps(ROW))
    for name in "bcd":
        Path(f"data/a/{name}").symlink_to("..")
    begin = time.monotonic()
    assert files.expand("data") == files.expand("data/**/*.jsonl") == [Path("data/a/rows.jsonl")]
    assert len(files.expand("data/*/*/*/rows.jsonl")) <= 3
    assert time.monotonic() - begin < 1


def test_a_search_of_everything_is_refused(in_folder, monkeypatch):
    monkeypatch.setattr(files, "MAX_ENTRIES", 50)
    for i in range(60):
        Path(f"{i}.txt").touch()
    for pattern in (".", "*.jsonl", "**/*.jsonl", str(in_folder)):
        with pytest.raises(UserError, match="the search for rows stops after 50 files"):
            files.expand(pattern)


# ---- bombs


@pytest.fixture
def small(monkeypatch):
    """A quarter of a megabyte is much."""
    monkeypatch.setattr(reader, "MIN_LIMIT", 1 << 18)


@pytest.mark.parametrize("content", [b"\n", b" ", json.dumps(ROW).encode() + b"\n"], ids=["lines", "one line", "rows"])
@pytest.mark.parametrize("packed", [".gz", ".zst"])
@pytest.mark.parametrize("kind", [".jsonl", ".json", ".csv"])
def test_what_unpacks_to_much_more_is_refused(in_folder, small, kind, packed, content):
    raw = (b"[" if kind == ".json" else b"") + content * ((1 << 19) // len(content))
    Path(f"x{kind}{packed}").write_bytes(
        gzip.compress(raw) if packed == ".gz" else pa.compress(raw, "zstd", asbytes=True)
    )
    assert "it unpacks to more than 100 times its size" in refusal(f"x{kind}{packed}")


def test_a_parquet_file_that_unpacks_to_much_more_is_refused(in_folder, small):
    pq.write_table(pa.table({"text": ["x" * (1 << 23)]}), "x.parquet", compression="zstd", use_dictionary=False)
    assert "it unpacks to more than 100 times its size" in refusal("x.parquet")


def test_what_is_in_proportion_is_read(in_folder):
    lines = "".join(json.dumps({"text": f"row {i}"}) + "\n" for i in range(50_000)).encode()
    Path("x.jsonl.gz").write_bytes(gzip.compress(lines))
    assert len(read("x.jsonl.gz")) == 50_000


@pytest.mark.parametrize("kind", [".jsonl", ".csv"])
def test_a_line_without_an_end_is_refused(in_folder, kind, monkeypatch):
    monkeypatch.setattr(reader, "MAX_LINE_BYTES", 1 << 20)
    Path(f"x{kind}").write_bytes(b"text\n" + b"x" * (3 << 20))
    assert "line 2: it is longer than 1 MiB" in refusal(f"x{kind}")


# ---- programs


def image_refusal(name: str) -> str:
    row = {
        "images": [name],
        "messages": [{"role": "user", "content": "<image>"}, {"role": "assistant", "content": "a"}],
    }
    with pytest.raises(UserError) as error:
        rows.normalise(row, "llava", {}, "x line 1")
    return str(error.value)


@pytest.mark.parametrize("path", ["../secret.png", "/etc/passwd", "a/../../secret.png", "file:///etc/passwd"])
def test_a_path_does_not_leave_the_folder(in_folder, path):
    assert "is outside of the folder" in image_refusal(path)


def test_an_image_starts_no_ghostscript(in_folder, monkeypatch):
    """For EPS pillow starts `gs`, here one of ours that leaves a trace."""
    Path("gs").write_text("#!/bin/sh\ntouch CANARY\n")
    Path("gs").chmod(0o755)
    monkeypatch.setenv("PATH", f"{in_folder}:{os.environ['PATH']}")
    Path("x.png").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n%%EOF\n")
    assert "cannot be read as an image" in image_refusal("x.png")
    assert not Path("CANARY").exists()


def test_a_datasets_own_script_is_not_run(in_folder):
    Path("data").mkdir()
    Path("data/README.md").write_text("---\nlicense: mit\nconfigs:\n- config_name: x\n  data_files: rows.jsonl\n---\n")
    Path("data/rows.jsonl").write_text(json.dumps(ROW))
    for name in ("data", "script", "dataset", "loading"):
        Path(f"data/{name}.py").write_text('import pathlib; pathlib.Path("CANARY").touch()\n')
    with pytest.raises(UserError, match="scripts are no longer supported"):
        prepare_data.find({"hub": None, "path": "data", "split": "train", "subset": None}, "x")
    assert not list(in_folder.rglob("CANARY"))


@pytest.mark.parametrize(
    "pattern", ["/etc/passwd", "../../*", "https://evil.example/x.jsonl", "hf://datasets/x/y.jsonl"]
)
def test_a_card_names_no_file_elsewhere(in_folder, pattern):
    Path("data").mkdir()
    Path("data/README.md").write_text(f"---\nconfigs:\n- config_name: x\n  data_files: {json.dumps(pattern)}\n---\n")
    Path("data/rows.jsonl").write_text(json.dumps(ROW))
    try:
        found = prepare_data.find({"hub": None, "path": "data", "split": "train", "subset": None}, "x")[1]
    except UserError:
        return
    assert all(file.resolve().is_relative_to(in_folder / "data") for file in found)


def test_a_hostile_card_is_a_sentence_or_nothing(in_folder):
    Path("data").mkdir()
    for text in (
        *(text for text in STRINGS if len(text) < 3000),
        "[" * 5000,
        "a: &a [*a]",
        "license: [[]]",
        "license: 2024-13-45",
    ):
        Path("data/README.md").write_text(f"---\n{text}\n---\n", encoding="utf-8", errors="replace")
        assert isinstance(licences.of_card(Path("data")), str | None)


# ---- rows


def test_a_hostile_row_stays_the_text_that_it_is():
    for text in STRINGS:
        row = {"prompt": text, "completion": text}
        try:
            turns = rows.normalise(row, "prompt_completion", {}, "x line 1")["messages"]
        except UserError as error:
            assert "\n" not in str(error)
        else:
            assert [turn["content"] for turn in turns] == [text, text]
