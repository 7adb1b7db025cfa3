"""Rows of every shape from every kind of file, what is recognised and what is equal, and one sentence for each fault."""

import json
import re

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import refused

from posttrain.data import files
from posttrain.data.formats import FORMATS
from posttrain.data.media import Store
from posttrain.data.recognition import recognise
from posttrain.data.rows import group, normalise, schema
from posttrain.runtime.errors import UserError
from posttrain.runtime.hashes import sha256


def user(content):
    return {"role": "user", "content": content}


def assistant(content):
    return {"role": "assistant", "content": content}


CHAT = [{"role": "system", "content": "Be brief."}, user("q"), assistant("a"), user("q2"), assistant("a2")]
PLAIN = {
    "text": ({"text": "a text"}, {"text": "a text"}),
    "prompt_completion": ({"prompt": "q", "completion": "a"}, {"messages": [user("q"), assistant("a")]}),
    "messages": ({"messages": CHAT}, {"messages": CHAT}),
    "preference": (
        {"prompt": "q", "chosen": "good", "rejected": "bad"},
        {"prompt": [user("q")], "chosen": [assistant("good")], "rejected": [assistant("bad")]},
    ),
    "unpaired_preference": (
        {"prompt": "q", "completion": "a", "label": True},
        {"prompt": [user("q")], "completion": [assistant("a")], "label": True},
    ),
}
TURNS = {
    "prompt_completion": ({"prompt": CHAT[:2], "completion": CHAT[2:3]}, {"messages": CHAT[:3]}),
    "preference": (
        {"prompt": CHAT[:4], "chosen": [assistant("good")], "rejected": [assistant("bad")]},
        {"prompt": CHAT[:4], "chosen": [assistant("good")], "rejected": [assistant("bad")]},
    ),
    "unpaired_preference": (
        {"prompt": CHAT[:2], "completion": CHAT[2:3], "label": 0},
        {"prompt": CHAT[:2], "completion": CHAT[2:3], "label": False},
    ),
}


def read_file(path, columns, format=None):
    """Format and rows of a file, or the first fault that is met."""
    rows = []
    for block in files.blocks(path):
        for place, row in block.parse():
            if isinstance(row, UserError):
                raise row
            if format is None and isinstance(row, dict):
                try:
                    format, columns, _ = recognise(row, columns)
                except UserError as error:
                    raise UserError(error.code, str(path), str(error)) from None
            rows.append(normalise(row, format or "text", columns, place))
    return format, rows


def write(path, rows):
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows, indent=1))
    elif path.suffix == ".csv":
        lines = [list(rows[0]), *(row.values() for row in rows)]
        path.write_text("".join(",".join(f'"{value}"' for value in line) + "\n" for line in lines))
    else:
        pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def content(row):
    return {key: value for key, value in row.items() if key not in ("id", "place")}


KINDS = [(format, suffix) for format in PLAIN for suffix in (".jsonl", ".json", ".csv", ".parquet")]
KINDS.remove(("messages", ".csv"))  # a CSV cell is a string


@pytest.mark.parametrize(("format", "suffix"), KINDS)
def test_plain_formats_are_recognised_and_read_from_every_kind_of_file(tmp_path, format, suffix):
    row, expected = PLAIN[format]
    found, rows = read_file(write(tmp_path / f"rows{suffix}", [row, row]), {})
    assert found == format
    assert [content(row) for row in rows] == [expected, expected]


@pytest.mark.parametrize("format", TURNS)
def test_prompts_and_answers_may_be_lists_of_messages(tmp_path, format):
    row, expected = TURNS[format]
    assert [content(row) for row in read_file(write(tmp_path / "rows.jsonl", [row]), {})[1]] == [expected]


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".csv", ".parquet"])
def test_columns_are_renamed_and_others_ignored(tmp_path, suffix):
    path = write(tmp_path / f"rows{suffix}", [{"question": "q", "answer": "a", "source": "x"}])
    format, rows = read_file(path, {"prompt": "question", "completion": "answer"})
    assert (format, content(rows[0])) == ("prompt_completion", {"messages": [user("q"), assistant("a")]})


def test_a_given_format_wins_over_the_recognised_one(tmp_path):
    path = write(tmp_path / "rows.jsonl", [{"text": "t", "prompt": "q", "completion": "a"}])
    assert read_file(path, {})[0] == "prompt_completion"
    assert read_file(path, {}, "text")[0] == "text"


@pytest.mark.parametrize(
    ("name", "raw"),
    [
        ("bom.jsonl", b'\xef\xbb\xbf{"text": "one"}\n{"text": "two"}\n'),
        ("bom.json", b'\xef\xbb\xbf[{"text": "one"},{"text": "two"}]'),
        ("bom.csv", b"\xef\xbb\xbftext\none\ntwo\n"),
        ("crlf.jsonl", b'{"text": "one"}\r\n{"text": "two"}\r\n'),
        ("crlf.json", b'[\r\n{"text": "one"},\r\n{"text": "two"}]\r\n'),
        ("crlf.csv", b"text\r\none\r\ntwo\r\n"),
        ("blank_lines.jsonl", b'\n{"text": "one"}\n  \n{"text": "two"}'),
        ("blank_lines.csv", b"text\none\n\ntwo\n"),
        ("quoted.csv", b'text\n"one"\n"two"\n'),
    ],
)
def test_marks_of_editors_do_no_harm(tmp_path, name, raw):
    (tmp_path / name).write_bytes(raw)
    assert [row["text"] for row in read_file(tmp_path / name, {})[1]] == ["one", "two"]


@pytest.mark.parametrize(
    ("written", "label"),
    [("true", True), ("True", True), ("TRUE", True), ("1", True), ("false", False), ("False", False), ("0", False)],
)
def test_a_label_in_csv_is_a_word_or_a_digit(tmp_path, written, label):
    (tmp_path / "rows.csv").write_text(f"prompt,completion,label\nq,a,{written}\n")
    format, rows = read_file(tmp_path / "rows.csv", {})
    assert (format, rows[0]["label"]) == ("unpaired_preference", label)


@pytest.mark.parametrize(
    ("written", "label"), [("true", True), ("false", False), ("1", True), ("0", False), ("1.0", True)]
)
def test_a_label_in_json_is_a_boolean_or_a_number(tmp_path, written, label):
    (tmp_path / "rows.jsonl").write_text(f'{{"prompt": "q", "completion": "a", "good": {written}}}\n')
    format, rows = read_file(tmp_path / "rows.jsonl", {"label": "good"})
    assert (format, rows[0]["label"]) == ("unpaired_preference", label)


def test_a_label_in_parquet_keeps_its_type(tmp_path):
    for column in (pa.array([True, False]), pa.array([1, 0], pa.int8()), pa.array([1.0, 0.0])):
        pq.write_table(
            pa.table({"prompt": ["q", "q"], "completion": ["a", "b"], "label": column}), tmp_path / "rows.parquet"
        )
        assert [row["label"] for row in read_file(tmp_path / "rows.parquet", {})[1]] == [True, False]


def test_labels_do_not_disturb_where_another_format_is_asked_for(tmp_path):
    path = write(tmp_path / "rows.jsonl", [{"prompt": "q", "completion": "a", "label": "geography"}])
    format, rows = read_file(path, {}, "prompt_completion")
    assert (format, content(rows[0])) == ("prompt_completion", {"messages": [user("q"), assistant("a")]})


def test_text_is_kept_as_it_is(tmp_path):
    text = '  two\n\n lines, "quoted", ünïcödé 😀 \u2028 \t'
    for suffix in (".jsonl", ".json", ".parquet"):
        assert read_file(write(tmp_path / f"rows{suffix}", [{"text": text}]), {})[1][0]["text"] == text


GOOD = '{"text": "one"}\n'
MESSAGES = '{"messages": %s}'
UNPAIRED = '{"prompt": "q", "completion": "a", "label": %s}'
FAULTS = [
    ("empty.jsonl", "", "empty.jsonl: the file is empty; write at least one row"),
    ("empty.csv", "", "the file is empty"),
    ("kind.txt", "x", "kind.txt: unknown kind of file '.txt'; valid are .arrow, .csv, .json, .jsonl, .parquet, .tsv, and .gz or .zst"),
    ("kind.jsnl", "x", "unknown kind of file '.jsnl'; did you mean '.jsonl'?"),
    ("kind", "x", "unknown kind of file ''"),
    # fields
    ("missing.jsonl", GOOD + '{"txt": "b"}', "missing.jsonl line 2: there is no field 'text' for the text; did you mean 'txt'?"),
    ("null.jsonl", GOOD + '{"text": null}', "null.jsonl line 2: the field 'text' is null; give it a value or take the row out"),
    ("null.json", '[{"text": "a"},\n\n{"text": null}]', "null.json line 3: the field 'text' is null"),
    ("null.csv", "prompt,completion\nq,a\nq\n", "null.csv line 3: the field 'completion' is null"),
    ("void.jsonl", GOOD + '{"text": " \\n"}', "void.jsonl line 2: the text is empty; give it text or take the row out"),
    ("void.csv", 'prompt,completion\nq,""\n', "void.csv line 2: the completion is empty"),
    ("number.jsonl", '{"text": 3}', "line 1: the text is a number; write a string"),
    ("nan.jsonl", '{"text": NaN}', "line 1: the text is a number"),
    ("list.jsonl", '{"text": ["a"]}', "line 1: the text is a list; write a string"),
    ("shape.jsonl", '{"q": "q", "a": "a"}', "its columns q, a fit no known format; say which is which with `columns:`, such as {prompt: q, "
     "completion: a}, {text: q} for plain text, or {prompt: q} with `format: prompts`"),
    ("two.jsonl", '{"question": "q", "answer": "a", "solution": "s"}',
     "its columns answer and solution may each be the completion; say which is meant with `columns:`, such as {completion: answer}"),
    ("pair.jsonl", '{"chosen": "a", "rejected": "b", "ask": "q"}',
     "chosen and rejected need what they answer: write a column prompt, or say which one it is with `columns:`, such as {prompt: ask}"),
    ("turn.jsonl", '{"role": "user", "content": "q"}',
     "they are those of one message: write a row a conversation, {messages: [{role: user, content: ...}, ...]}"),
    ("shape.csv", "chosen,rejected\na,b\n", "its columns chosen, rejected fit no known format"),
    ("row.jsonl", GOOD + "[1, 2]", "row.jsonl line 2: a row is an object with named fields, and this is a list"),
    ("row.json", '[{"text": "a"},\n"b"]', "row.json line 2: a row is an object with named fields, and this is a string"),
    ("row.jsonl", "null", "a row is an object with named fields, and this is null"),
    ("half.jsonl", '{"text": "a\\ud800b"}', "line 1: the text holds half of a surrogate pair; write the whole character"),
    # JSON
    ("broken.jsonl", GOOD + "{text: 1}\n" + GOOD, "broken.jsonl line 2: invalid JSON at column 2"),
    ("two.jsonl", GOOD + '{"text": "a"} {"text": "b"}', "two.jsonl line 2: invalid JSON at column 15: Extra data"),
    ("cut.jsonl", GOOD + '{"text": "b', "cut.jsonl line 2: invalid JSON"),
    ("broken.json", '[{"text": "a"},\n{"text": "b",}]', "broken.json line 2: invalid JSON at column 1"),
    ("cut.json", '[{"text": "a"},\n', "cut.json line 2: invalid JSON"),
    ("row.json", '{"messages": [{"role": "user", "content": "q"}]}',
     "a .json file is one list of rows, or an object with the list under one key, and this is an object; write a list"),
    ("columns.json", '{"question": ["q"], "answer": ["a"]}', "and this is an object"),
    ("two.json", '{"train": [{"text": "a"}], "test": [{"text": "b"}]}',
     "two.json: rows stand under more than one key, such as 'test'; write a file for each"),
    ("cut.json", '{"rows": [{"text": "a"}]', "cut.json line 1: invalid JSON: the object does not end after its list of rows; is it cut?"),
    ("deep.jsonl", GOOD + "[" * 100_000, "deep.jsonl line 2: invalid JSON: nested too deeply"),
    ("deep.json", "[" * 100_000, "invalid JSON: nested too deeply"),
    # UTF-8
    ("latin.jsonl", GOOD.encode() + '{"text": "ä"}'.encode("latin-1"), "latin.jsonl line 2: not UTF-8 at byte 11; save the file as UTF-8"),
    ("latin.json", '[{"text": "a"},\n{"text": "ä"}]'.encode("latin-1"), "latin.json line 2: not UTF-8 at byte 11"),
    ("latin.csv", "text\none\nä\n".encode("latin-1"), "latin.csv line 3: not UTF-8 at byte 1"),
    ("utf16.jsonl", GOOD.encode("utf-16"), "utf16.jsonl line 1: not UTF-8 at byte 1"),
    # CSV
    ("wide.csv", "prompt,completion\nq,a\nq,a, and more\n", "wide.csv line 3: more fields than the header has; quote the commas"),
    ("open.csv", 'text\none\n"two\n', "invalid CSV: unexpected end of data"),
    ("cell.csv", 'messages\n"[]"\n', "cell.csv line 2: 'messages' is a list of messages, and this is an empty list"),
    # messages
    ("m.jsonl", MESSAGES % "[]", "'messages' is a list of messages, and this is an empty list"),
    ("m.jsonl", MESSAGES % '{"role": "user"}', "'messages' is a list of messages, and this is an object"),
    ("m.jsonl", MESSAGES % "[3]", "message 1 of 'messages' needs the fields role and content"),
    ("m.jsonl", MESSAGES % '[{"role": "user", "text": "q"}]', "message 1 of 'messages' needs the fields role and content"),
    ("m.jsonl", MESSAGES % json.dumps([user("q"), {"role": "asistant", "content": "a"}]),
     "message 2 of 'messages' has the role 'asistant'; did you mean 'assistant'?"),
    ("m.jsonl", MESSAGES % '[{"role": ["user"], "content": "q"}]', "the role of message 1 of 'messages' is a list; valid are"),
    ("m.jsonl", MESSAGES % json.dumps([user("q"), assistant("a"), user("q")]),
     "'messages' ends with the user; the last message must be the assistant's"),
    ("m.jsonl", MESSAGES % json.dumps([user(None), assistant("a")]), "the content of message 1 is null; write a string"),
    ("m.jsonl", MESSAGES % json.dumps([user([{"type": "text"}]), assistant("a")]),
     "part 1 of the content of message 1 of the type text has no text"),
    ("m.jsonl", MESSAGES % json.dumps([user("q"), assistant("")]), "the content of message 2 is empty"),
    ("p.jsonl", json.dumps({"prompt": [assistant("a")], "completion": "a"}),
     "'prompt' ends with the assistant; the last message must be the user's"),
    ("p.jsonl", json.dumps({"prompt": "q", "completion": [user("a")]}), "'completion' ends with the user"),
    # preference
    ("same.jsonl", '{"prompt": "q", "chosen": "a", "rejected": "a"}',
     "chosen and rejected are the same; a preference needs two different answers"),
    ("same.jsonl", json.dumps({"prompt": "q", "chosen": "a", "rejected": [assistant("a")]}), "chosen and rejected are the same"),
    ("pair.jsonl", '{"prompt": "q", "chosen": "a", "rejected": null}', "the field 'rejected' is null"),
    ("pair.jsonl", '{"prompt": "q", "chosen": "a", "rejected": ""}', "the rejected is empty"),
    # unpaired preference
    ("label.jsonl", UNPAIRED % '"good"', "line 1: the label is a string; write true for a wanted answer, false for an unwanted one"),
    ("label.jsonl", UNPAIRED % "2", "line 1: the label is a number; write true"),
    ("label.jsonl", UNPAIRED % "0.5", "the label is a number; write true"),
    ("label.jsonl", UNPAIRED % "-1", "the label is a number; write true"),
    ("label.jsonl", UNPAIRED % "[true]", "the label is a list; write true"),
    ("label.jsonl", UNPAIRED % "null", "the field 'label' is null"),
    ("label.jsonl", UNPAIRED % "true" + "\n" + UNPAIRED.replace("label", "lable") % "true",
     "line 2: there is no field 'label' for the label; did you mean 'lable'?"),
    ("label.csv", "prompt,completion,label\nq,a,yes\n", "label.csv line 2: the label is a string; write true"),
    ("label.csv", "prompt,completion,label\nq,a,\n", "label.csv line 2: the label is a string"),
    ("void.jsonl", UNPAIRED.replace('"a"', '""') % "true", "the completion is empty"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "raw", "sentence"), FAULTS, ids=[f"{name}: {sentence}" for name, _, sentence in FAULTS]
)
def test_a_fault_is_one_sentence_with_file_and_line(tmp_path, name, raw, sentence):
    path = tmp_path / name
    path.write_bytes(raw if isinstance(raw, bytes) else raw.encode())
    with pytest.raises(UserError) as error:
        read_file(path, {})
    assert str(path) in str(error.value)
    assert sentence in str(error.value)
    assert "\n" not in str(error.value)


def test_the_field_that_a_column_points_to_is_named(tmp_path):
    path = write(tmp_path / "rows.jsonl", [{"question": "q", "completion": "a"}, {"questoin": "q", "completion": "a"}])
    with refused("missing-field", f"{path} line 2"):
        read_file(path, {"prompt": "question"})


def parquet(column):
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"text": column}), sink)
    return sink.getvalue().to_pybytes()


WHOLE = parquet([f"row {i}" for i in range(1000)])
TABLES = {
    "no Parquet": (b"text", "not a Parquet file; check that it is whole"),
    "cut": (WHOLE[: len(WHOLE) // 2], "not a Parquet file; check that it is whole"),
    "null": (parquet(["a", None]), "line 2: the field 'text' is null"),
    "number": (parquet([1.5]), "line 1: the text is a number; write a string"),
}


@pytest.mark.parametrize("case", TABLES)
def test_a_bad_parquet_file_is_one_sentence(tmp_path, case):
    raw, sentence = TABLES[case]
    path = tmp_path / "rows.parquet"
    path.write_bytes(raw)
    with pytest.raises(UserError, match=re.escape(sentence)):
        read_file(path, {})


NOT_UTF8 = pa.StringArray.from_buffers(1, pa.array([0, 1], pa.int32()).buffers()[1], pa.py_buffer(b"\xff"))
TRACEBACKS = {
    "footer.parquet": (WHOLE[:-60] + b"\xff" * 50 + WHOLE[-10:], "not a Parquet file"),
    "page.parquet": (WHOLE[:100] + bytes(500) + WHOLE[600:], "not a Parquet file"),
    "latin.parquet": (parquet(NOT_UTF8), "not UTF-8"),
    "digits.jsonl": (b'{"text": ' + b"1" * 5000 + b"}", "line 1: "),
}


@pytest.mark.parametrize("name", TRACEBACKS)
def test_a_file_that_a_library_chokes_on_is_one_sentence(tmp_path, name):
    raw, sentence = TRACEBACKS[name]
    (tmp_path / name).write_bytes(raw)
    with pytest.raises(UserError, match=sentence):
        read_file(tmp_path / name, {})


def test_a_line_that_ends_too_early_is_named_and_not_the_next_one(tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"text": "one"\n{"text": "two"}\n')
    with refused("invalid-json", f"{tmp_path}/rows.jsonl line 1"):
        read_file(tmp_path / "rows.jsonl", {})


def test_bytes_are_not_called_null(tmp_path):
    (tmp_path / "rows.parquet").write_bytes(parquet(pa.array([b"a"])))
    with pytest.raises(UserError, match=r"the text is (?!null)"):
        read_file(tmp_path / "rows.parquet", {})


# ---- identity


def row(**fields):
    return normalise(fields, recognise(fields, {})[0], {}, "row")


def test_equal_content_has_an_equal_id_however_it_was_written():
    assert row(prompt="q", completion="a")["id"] == row(messages=[user("q"), assistant("a")])["id"]
    assert row(prompt="q", completion="a")["id"] != row(prompt="q", completion="b")["id"]
    assert row(text="q")["id"] != row(text="q ")["id"]


def test_the_same_answer_with_another_label_is_another_row_of_the_same_group():
    wanted, unwanted = (row(prompt="q", completion="a", label=label) for label in (True, False))
    assert wanted["id"] != unwanted["id"]
    assert (
        row(prompt="q", completion="a", label=1)["id"]
        == row(prompt="q", completion="a", label="true")["id"]
        == wanted["id"]
    )
    assert group(wanted) == group(unwanted) == group(row(prompt="q", chosen="a", rejected="b"))


def test_rows_with_one_prompt_are_one_group():
    assert group(row(prompt="q", completion="a")) == group(row(prompt="q", completion="b"))
    assert group(row(prompt="q", chosen="a", rejected="b")) == group(row(prompt="q", chosen="c", rejected="d"))
    assert group(row(prompt="q", completion="a")) == group(row(prompt="q", chosen="a", rejected="b"))
    assert group(row(prompt="q", completion="a")) != group(row(prompt="p", completion="a"))
    assert group(row(text="a")) != group(row(text="b"))


def test_a_conversation_in_which_only_the_assistant_speaks_has_a_group():
    assert group(row(messages=[assistant("a")])) != group(row(messages=[assistant("b")]))


def test_the_content_of_an_image_makes_the_row_and_not_its_folder(tmp_path):
    from PIL import Image

    ids = []
    for folder, colour in ((tmp_path / "a", "red"), (tmp_path / "b", "red"), (tmp_path / "c", "blue")):
        folder.mkdir()
        Image.new("RGB", (8, 8), colour).save(folder / "x.png")
        fields = {"images": ["x.png"], "messages": [user("<image>"), assistant("a")]}
        row = normalise(fields, "llava", {}, "row", Store(folder))
        assert fields["images"] == ["x.png"]  # dropped.jsonl shows it as it was
        assert row["images"] == [f"media/{sha256(folder / 'x.png')}.png"]
        ids.append(row["id"])
    assert ids[0] == ids[1] != ids[2]


# ---- recognise

SEEN = [
    ({"text": "t", "prompt": "q", "completion": "a"}, "prompt_completion"),
    ({"instruction": "q", "output": "a", "text": "all of it"}, "alpaca"),
    ({"prompt": "q", "completion": "a", "label": None}, "unpaired_preference"),
    ({"prompt": None, "chosen": "a", "rejected": "b"}, "preference"),
    ({"prompt": "q", "chosen": [assistant("a")], "rejected": [assistant("b")], "messages": []}, "preference"),
    ({"chosen": [user("q"), assistant("a")], "rejected": [user("q"), assistant("b")]}, "preference"),
    ({"chosen": "\n\nHuman: q\n\nAssistant: a", "rejected": "", "prompt": "q"}, "hh_rlhf"),
    ({"conversations": [], "image": "x.png"}, "llava"),
    ({"conversations": [], "images": ["x.png"], "messages": []}, "llava"),
    ({"message_id": "1", "parent_id": None, "text": "q", "role": "prompter"}, "oasst"),
    ({"chosen": "a", "rejected": "b"}, None),
    ({"chosen": [assistant("a")], "rejected": [assistant("b")]}, None),
    ({"data": "q"}, None),
    ({"data": ["q", 3]}, None),
    ({"image": "x.png"}, None),
    ({}, None),
]


@pytest.mark.parametrize(("fields", "format"), SEEN, ids=[f"{row[1]} {list(row[0])}" for row in SEEN])
def test_the_fields_tell_the_format(fields, format):
    if format is None:
        with refused("unknown-format"):
            recognise(fields, {})
    else:
        assert recognise(fields, {})[0] == format


def test_columns_tell_the_format_as_well():
    columns = {"prompt": "a", "completion": "b", "label": "c"}
    assert recognise({"a": "q", "b": "x", "c": 1}, columns) == (
        "unpaired_preference",
        columns,
        "its first row has the fields a, c, b",
    )


@pytest.mark.parametrize("format", FORMATS)
def test_every_shape_has_a_schema_of_all_its_fields(format):
    assert {"id", "place"} < set(schema(FORMATS[format].dataset_type).names)


def test_a_transcript_of_many_blank_lines_takes_no_time():
    chosen = "\n\nHuman: q" + "\n" * 200_000 + "q\n \n\tAssistant: a"
    row = normalise({"chosen": chosen, "rejected": chosen + "b"}, "hh_rlhf", {}, "row")
    assert [row["chosen"][0]["content"], row["rejected"][0]["content"]] == ["a", "ab"]


def test_answers_that_begin_alike_are_whole_answers():
    begin = [user("q"), assistant("Hello."), user("q2")]
    chosen, rejected = ([*begin[:2], user(word), assistant(word)] for word in ("good", "bad"))
    row = normalise({"chosen": chosen, "rejected": rejected}, "preference", {}, "row")
    assert (row["prompt"], row["chosen"], row["rejected"]) == (begin[:1], chosen[1:], rejected[1:])
    chosen, rejected = ([*begin, assistant("Well."), user(word), assistant(word)] for word in ("good", "bad"))
    assert normalise({"chosen": chosen, "rejected": rejected}, "preference", {}, "row")["prompt"] == begin


# ---- thoughts


@pytest.mark.parametrize("name", ["reasoning_content", "thinking", "reasoning"])
def test_what_the_assistant_thought_is_kept_under_one_name(name):
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    messages = [
        {"role": "user", "content": "q", name: "not the assistant's"},
        {"role": "assistant", "content": "", "tool_calls": [call], name: "Call it."},
        {"role": "tool", "content": "1"},
        {"role": "assistant", "content": "a", name: "It is one."},
    ]
    turns = normalise({"messages": messages}, "messages", {}, "x")["messages"]
    assert [turn.get("reasoning_content") for turn in turns] == [None, "Call it.", None, "It is one."]
    assert {key for turn in turns for key in turn} == {"role", "content", "tool_calls", "reasoning_content"}


def test_rows_without_thoughts_have_the_ids_that_they_had():
    plain = {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}
    empty = {"messages": [plain["messages"][0], plain["messages"][1] | {"reasoning_content": ""}]}
    ids = {normalise(row, "messages", {}, "x")["id"] for row in (plain, empty)}
    assert ids == {"6894846e1294c992fdb1d91718591ed88b5a3708061022f71245b5ec3e40d5cd"}
    with refused("invalid-row", "x"):
        wrong = {"messages": [plain["messages"][0], plain["messages"][1] | {"reasoning_content": 3}]}
        normalise(wrong, "messages", {}, "x")
