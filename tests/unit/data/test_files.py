"""Files in blocks: numbers of lines and columns wherever a piece ends, names, and no more memory than a few pieces."""

import json
import pickle
import tracemalloc
from pathlib import Path

import pyarrow as pa
import pytest
from conftest import refused

from posttrain.data import files
from posttrain.data.readers import blocks, text
from posttrain.runtime.errors import UserError
from unit.scripts.test_prepare_data import text_lines, write


def rows(name: str) -> list[tuple[int, dict]]:
    """Number and value of every row of a file."""
    found = [item for block in files.blocks(Path(name)) for item in block.parse()]
    for place, row in found:
        assert place.startswith(f"{name} line ")
        if isinstance(row, UserError):
            raise row
    return [(int(place.rsplit(" ", 1)[1]), row) for place, row in found]


def fault(name: str) -> str:
    with pytest.raises(UserError) as error:
        rows(name)
    return str(error.value)


@pytest.fixture(params=[64, 65, 66, 67, 1 << 20])
def pieces(request, in_folder, monkeypatch):
    """Files are read in pieces of so many bytes."""
    monkeypatch.setattr(text, "CHUNK_BYTES", request.param)


# ---- wherever a piece ends

VALUES = [{"text": "one"}, {"text": 'zwei\n"ä" 😀, [}'}, {"a": {"b": [1, 2.5, None, True]}}, {}, {"text": "[]"}]


def test_a_list_is_read_whatever_the_pieces(pieces):
    for written in (
        json.dumps(VALUES, indent=2, ensure_ascii=False),
        json.dumps(VALUES),
        "\ufeff\r\n " + json.dumps(VALUES) + " \r\n",
    ):
        write("rows.json", written)
        assert [row for _, row in rows("rows.json")] == VALUES
    write("rows.json", "[\n" + ",\n\n".join(map(json.dumps, VALUES)) + "\n]")
    assert rows("rows.json") == list(zip((2, 4, 6, 8, 10), VALUES, strict=True))


def test_lines_are_read_whatever_the_pieces(pieces):
    write("rows.jsonl", "\ufeff" + "\r\n\n \n".join(json.dumps(value, ensure_ascii=False) for value in VALUES))
    assert rows("rows.jsonl") == list(zip((1, 4, 7, 10, 13), VALUES, strict=True))


BROKEN = {
    '[{"a": 1},\n  {"b": 2}, {c: 3}]': "rows.json line 2: invalid JSON at column 14: Expecting property name",
    '[{"a": 1}, {"b": 2}, {"c": tru}]': "rows.json line 1: invalid JSON at column 28: Expecting value",
    '[{"a": 1},\n\n{"b":\n\n  2,}]': "rows.json line 5: invalid JSON at column 5: Expecting property name",
    '[{"a": 1}, {"b": "ü"}, ü]': "rows.json line 1: invalid JSON at column 24: Expecting value",
    '[{"a": 1},\n': "rows.json line 2: invalid JSON: the list does not end; is it cut?",
    '[{"a": 1}': "rows.json line 1: invalid JSON: the list does not end; is it cut?",
    '[{"a": 1}]\n\n{"b": 2}': "rows.json line 1: invalid JSON: there is more after the end of the list; write one list",
}


@pytest.mark.parametrize("text", BROKEN)
def test_the_line_and_the_column_of_broken_json_are_those_of_the_file(pieces, text):
    write("rows.json", text)
    assert fault("rows.json").startswith(BROKEN[text])


@pytest.mark.parametrize("row", ["[", '["ä😀", ', '[\n{"a": "ä"},\n', "[\n\n\n"])
def test_the_line_and_the_byte_of_what_is_no_utf_8_are_those_of_the_file(pieces, row):
    for times in range(1, 20):
        before = ("[" + row[1:] * times + '"').encode()
        line, byte = before.count(b"\n") + 1, len(before) - before.rfind(b"\n")
        for bad in (b"\xff", b"\xc3(", b"\xe2\x82"):  # the last one is cut
            write("rows.json", before + bad)
            assert fault("rows.json") == f"rows.json line {line}: not UTF-8 at byte {byte}; save the file as UTF-8"


# ---- blocks


def test_blocks_of_a_table_are_of_the_same_size_and_take_nothing_else_along(in_folder):
    table = pa.table({"text": ["x" * 100] * 50_000})
    with pa.ipc.new_file("rows.arrow", table.schema) as writer:
        writer.write_table(table)  # one batch
    found = list(files.blocks(Path("rows.arrow")))
    assert [len(block) for block in found] == [blocks.BLOCK_ROWS] * 25
    assert [block.numbers[0] for block in found] == list(range(1, 50_001, blocks.BLOCK_ROWS))
    assert max(len(pickle.dumps(block)) for block in found) < 110 * blocks.BLOCK_ROWS + 20_000


def test_a_column_that_python_has_no_values_for_is_null_and_the_others_are_read(in_folder):
    import pyarrow.parquet as pq

    dates = pa.array([10**12, 0], pa.timestamp("s"))
    pq.write_table(
        pa.table({"text": ["a", "b"], "date": dates, "time": pa.array([1, 2], pa.time64("us"))}), "rows.parquet"
    )
    found = [row for _, row in rows("rows.parquet")]
    assert [row["text"] for row in found] == ["a", "b"]
    assert [row["date"] for row in found] == [None, None]
    assert None not in [row["time"] for row in found]


# ---- names


def test_what_a_pattern_stands_for_is_relative_to_its_folder(in_folder):
    for name in (
        "some/b.csv",
        "some/a.jsonl.gz",
        "some/deep/c.parquet",
        "some/README.md",
        "some/state.json",
        "some/.git/x.json",
    ):
        write(name, "x")
    everything = [Path("some/a.jsonl.gz"), Path("some/b.csv"), Path("some/deep/c.parquet")]
    assert files.expand("some") == files.expand("some/") == everything
    assert files.expand("some", in_folder) == files.expand("some", Path("some/..")) == everything
    assert files.expand("*", Path("some")) == [Path("README.md"), Path("a.jsonl.gz"), Path("b.csv"), Path("state.json")]
    assert files.expand("some/b.csv") == [Path("some/b.csv")]
    assert files.expand(str(in_folder / "some/*.csv")) == [in_folder / "some/b.csv"]
    assert files.expand("none") == files.expand("none/*") == files.expand("some/*.arrow") == []


def test_a_file_with_the_signs_of_a_pattern_in_its_name_is_that_file(in_folder):
    write("a[1]*.jsonl", "x")
    assert files.expand("a[1]*.jsonl") == [Path("a[1]*.jsonl")]


@pytest.mark.parametrize("name", ["a.jsonl", "a.b.jsonl", "a.jsonl.gz", "a.jsonl.zst", ".jsonl.jsonl"])
def test_the_kind_of_a_file_is_its_suffix_under_the_packing(name):
    assert files.suffix(Path(name)) == ".jsonl"
    assert files.is_data(Path(name))


@pytest.mark.parametrize("name", ["a.gz", "a.txt", "a.jsonl.bz2", "jsonl", "a.JSONL", "a.jsonl.gz.gz"])
def test_another_kind_is_refused(name):
    assert not files.is_data(Path(name))
    with refused("unknown-file-kind", name):
        files.suffix(Path(name))


# ---- memory


def test_a_long_list_with_an_error_in_its_middle_is_read_no_further_than_a_few_pieces(in_folder, monkeypatch):
    monkeypatch.setattr(text, "CHUNK_BYTES", 1 << 14)
    monkeypatch.setattr(blocks, "BLOCK_ROWS", 20)
    row = json.dumps({"text": "x" * 1000})
    write("rows.json", "[" + ",\n".join([row] * 3000) + ",\n{text: 1},\n" + ",\n".join([row] * 3000) + "]")
    tracemalloc.start()
    try:
        found = 0
        with refused("invalid-json", "rows.json line 3001"):
            for block in files.blocks(Path("rows.json")):
                found += len(block)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert found == 3000
    assert peak < 3_000_000  # of 6 MB


def test_an_object_of_several_megabytes_is_not_read_to_its_end(in_folder):
    write("rows.json", '{"data": [' + "1," * 3_000_000 + "1]}")
    tracemalloc.start()
    try:
        with refused("unreadable-file", "rows.json"):
            list(files.blocks(Path("rows.json")))
        assert tracemalloc.get_traced_memory()[1] < 5_000_000
    finally:
        tracemalloc.stop()


def test_a_quote_that_is_never_closed_takes_in_no_more_than_a_few_pieces(in_folder, monkeypatch):
    monkeypatch.setattr(text, "CHUNK_BYTES", 1 << 14)
    write("rows.csv", 'text\nfirst\n"second\n' + "third\n" * 1_000_000)
    tracemalloc.start()
    try:
        assert fault("rows.csv") == "rows.csv line 3: invalid CSV: field larger than field limit (262144)"
        assert tracemalloc.get_traced_memory()[1] < 3_000_000  # of 6 MB
    finally:
        tracemalloc.stop()


def test_blank_lines_are_no_rows(in_folder):
    write("rows.jsonl", "\n" * 3_000_000 + text_lines("a"))
    assert rows("rows.jsonl") == [(3_000_001, {"text": "a"})]


def test_lines_named_json_are_read_as_lines(in_folder):
    write("rows.json", "".join(json.dumps({"text": text}) + "\n" for text in ("one", "two")))
    assert rows("rows.json") == [(1, {"text": "one"}), (2, {"text": "two"})]
    write("object.json", json.dumps({"messages": [{"role": "user", "content": "one"}]}, indent=1))
    assert "and this is an object" in fault("object.json")


# ---- what Excel, `datasets` and exports write

TWO = [{"question": "How, then?", "answer": "a;b"}, {"question": "Why?", "answer": "x"}]


@pytest.mark.parametrize(
    ("name", "content", "lines"),
    [
        ("rows.csv", 'question,answer\n"How, then?",a;b\nWhy?,x\n', [2, 3]),
        ("excel.csv", 'question;answer\nHow, then?;"a;b"\nWhy?;x\n', [2, 3]),
        ("declared.csv", 'sep=;\nquestion;answer\nHow, then?;"a;b"\nWhy?;x\n', [3, 4]),
        ("tabs.csv", "question\tanswer\nHow, then?\ta;b\nWhy?\tx\n", [2, 3]),
        ("rows.tsv", "question\tanswer\nHow, then?\ta;b\nWhy?\tx\n", [2, 3]),
        ("object.json", json.dumps({"version": "1.0", "rows": TWO, "info": {"a": 1}}, indent=1), [4, 8]),
        ("first.json", json.dumps({"examples": TWO}), [1, 1]),
    ],
)
def test_tables_of_other_delimiters_and_rows_under_a_key_are_read(in_folder, name, content, lines):
    write(name, content)
    assert rows(name) == list(zip(lines, TWO, strict=True))


def test_a_file_of_one_column_is_not_taken_apart(in_folder):
    write("rows.csv", "text\none; two\nthree; four\n")
    assert [row for _, row in rows("rows.csv")] == [{"text": "one; two"}, {"text": "three; four"}]


@pytest.mark.parametrize("size", [40, 1 << 20])
def test_rows_under_a_key_may_be_many_blocks(in_folder, monkeypatch, size):
    monkeypatch.setattr(text, "CHUNK_BYTES", size)
    some = [{"text": f"row {i}"} for i in range(50)]
    write("rows.json", json.dumps({"data": some, "n": 50}, indent=1))
    assert [row for _, row in rows("rows.json")] == some


def test_a_saved_dataset_has_the_files_that_its_state_names(in_folder):
    from datasets import Dataset, DatasetDict

    splits = {"train": Dataset.from_list([{"text": "one"}]), "test": Dataset.from_list([{"text": "two"}])}
    DatasetDict(splits).save_to_disk("both")
    write("both/train/cache-1234.arrow", b"what map has left")
    found = files.expand("both/train")
    assert [path.name for path in found] == ["data-00000-of-00001.arrow"]
    assert rows(str(found[0])) == [(1, {"text": "one"})]
    assert all(path.suffix == ".arrow" for path in files.expand("both"))
