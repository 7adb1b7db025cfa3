"""Messages in the forms that people's files have: parts, other roles, JSON text, and which of them are trained."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import refused

from posttrain.data import files
from posttrain.data.rows import normalise
from posttrain.runtime.errors import UserError


def user(content, **more):
    return {"role": "user", "content": content, **more}


def assistant(content, **more):
    return {"role": "assistant", "content": content, **more}


def messages(*turns, format="messages", **fields):
    return normalise({"messages": list(turns), **fields}, format, {}, "x line 1")["messages"]


@pytest.mark.parametrize("no", [{"weight": 0}, {"weight": 0.0}, {"train": False}, {"loss": False}, {"weight": "0"}])
def test_a_message_that_is_not_to_be_trained_is_marked(no):
    turns = messages(user("q"), assistant("bad", **no), user("q2"), assistant("good", weight=1))
    assert turns == [user("q"), assistant("bad", train=False), user("q2"), assistant("good")]


def test_weights_of_one_change_nothing_and_others_do():
    def id(**more):
        row = {"messages": [user("q"), assistant("a", **more), user("q2"), assistant("a2")]}
        return normalise(row, "messages", {}, "x")["id"]

    assert id() == id(weight=1) == id(train=True, loss=None) == id(loss="true")
    assert id() != id(weight=0)


def test_what_comes_after_the_last_trained_message_is_left_out():
    turns = messages(user("q"), assistant("good"), user("q2"), assistant("bad", weight=0))
    assert turns == [user("q"), assistant("good")]


@pytest.mark.parametrize("weight", [0.5, 2, -1, "half", [0]])
def test_a_weight_between_is_refused(weight):
    with pytest.raises(
        UserError, match=r"the weight of message 2 of 'messages' is .*trained or it is not, write 1 or 0"
    ):
        messages(user("q"), assistant("a", weight=weight))


def test_a_conversation_of_which_nothing_is_trained_is_refused():
    with refused("invalid-row", "x line 1"):
        messages(user("q"), assistant("a", train=False))


def test_an_answer_that_is_compared_is_trained_whole_and_a_prompt_never():
    chosen, rejected = [assistant("a")], [assistant("b")]
    prompt = [user("q"), assistant("old", weight=0), user("q2")]
    row = normalise({"prompt": prompt, "chosen": chosen, "rejected": rejected}, "preference", {}, "x")
    assert row["prompt"] == [user("q"), assistant("old"), user("q2")]
    with refused("invalid-row", "x"):
        normalise({"prompt": "q", "chosen": [assistant("a", weight=0)], "rejected": "b"}, "preference", {}, "x")


def test_the_label_of_a_conversation_is_that_of_its_last_answer():
    turns = [user("q"), assistant("a"), user("q2"), assistant("a2")]
    row = normalise({"messages": turns, "label": False}, "unpaired_preference", {}, "x")
    assert (row["prompt"], row["completion"], row["label"]) == (turns[:3], turns[3:], False)
    with refused("invalid-row", "x"):
        normalise({"messages": turns[1:2], "label": True}, "unpaired_preference", {}, "x")


def test_text_parts_are_joined_and_a_developer_is_the_system():
    parts = [{"type": "text", "text": "one"}, {"type": "input_text", "text": "two"}, "three"]
    turns = messages({"role": "developer", "content": "s"}, user(parts), assistant([{"type": "text", "text": "a"}]))
    assert turns == [{"role": "system", "content": "s"}, user("one\ntwo\nthree"), assistant("a")]


def test_a_system_field_beside_messages_is_read_once():
    system = {"role": "system", "content": "s"}
    assert messages(user("q"), assistant("a"), system="s") == [system, user("q"), assistant("a")]
    assert messages(system, user("q"), assistant("a"), system="s") == [system, user("q"), assistant("a")]
    with pytest.raises(UserError, match="the field 'system' and the first message are two system prompts"):
        messages(system, user("q"), assistant("a"), system="another")


def test_messages_may_be_json_text():
    turns = [user("q"), assistant("a")]
    assert normalise({"messages": json.dumps(turns)}, "messages", {}, "x")["messages"] == turns
    pair = {"prompt": json.dumps(turns[:1]), "chosen": json.dumps(turns[1:]), "rejected": "[1] is a footnote"}
    row = normalise(pair, "preference", {}, "x")
    assert (row["prompt"], row["chosen"], row["rejected"]) == (turns[:1], turns[1:], [assistant("[1] is a footnote")])
    assert normalise({"prompt": "[]", "completion": "[{}]"}, "prompt_completion", {}, "x")["messages"] == [
        user("[]"), assistant("[{}]"),
    ]  # fmt: skip


def test_nulls_that_only_a_tables_schema_has_are_no_arguments(tmp_path):
    def call(name, arguments):
        return {"type": "function", "function": {"name": name, "arguments": arguments}}

    tools = [
        {"type": "function", "function": {"name": "f", "parameters": {"properties": {"a": {"type": "integer"}}}}},
        {"type": "function", "function": {"name": "g", "parameters": {"properties": {"city": {"type": "string"}}}}},
    ]
    rows = [
        {"messages": [user("q"), assistant("", tool_calls=[call("f", {"a": 0})])], "tools": tools},
        {"messages": [user("q"), assistant("", tool_calls=[call("g", {"city": "Ulm"})])], "tools": tools[:1]},
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "rows.parquet")
    read = [row for block in files.blocks(tmp_path / "rows.parquet") for _, row in block.parse()]
    found = [normalise(row, "messages", {}, "x") for row in read]
    assert [json.loads(row["messages"][1]["tool_calls"]) for row in found] == [
        [call("f", {"a": 0})],
        [call("g", {"city": "Ulm"})],
    ]
    assert [json.loads(row["tools"]) for row in found] == [tools, tools[:1]]
    as_json = {"messages": [user("q"), assistant("", tool_calls=[call("g", {"city": None})])]}
    assert "null" in normalise(as_json, "messages", {}, "x")["messages"][1]["tool_calls"]  # it is meant there


def test_a_call_in_openais_older_form_is_a_call():
    call = {"name": "f", "arguments": "{}"}
    older = messages(user("q"), {"role": "assistant", "content": None, "function_call": call})
    assert older == messages(user("q"), assistant("", tool_calls=[{"type": "function", "function": call}]))
    without_content = messages(user("q"), {"role": "assistant", "function_call": call})
    assert without_content == older


def test_messages_as_text_that_is_no_json_are_refused():
    with pytest.raises(
        UserError, match=r"x: 'messages' is text that is not JSON; write its messages as `json\.dumps` does"
    ):
        normalise({"messages": str([user("q"), assistant("a")])}, "messages", {}, "x")


# ---- segments


def segments(*parts):
    found = [{"label": label, "text": text} for label, text in parts]
    return normalise({"segments": found}, "segments", {}, "x")


def test_segments_are_one_text_with_what_is_trained_of_it():
    row = segments((False, "<s>q\n"), (True, "one "), (True, "two"), (False, "\n"), (True, "three"))
    assert (row["text"], row["trained"]) == ("<s>q\none two\nthree", [[5, 12], [13, 18]])
    assert "trained" not in segments((True, "all"), (True, " of it"))


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        ([], "the segments are a list of {label, text}, and this is an empty list"),
        ([{"text": "a"}], "segment 1 needs a text and a label, true where it is trained, or false"),
        ([{"label": True, "text": 3}], "the text of segment 1 is a number; write a string"),
        ([{"label": False, "text": "a"}], "no segment is trained; give one `label: true`, or take the row out"),
    ],
)
def test_a_faulty_segment_is_one_sentence(value, sentence):
    with pytest.raises(UserError) as error:
        normalise({"segments": value}, "segments", {}, "x")
    assert str(error.value) == f"x: {sentence}"
