"""Columns under the names that people use: all of them decide, the sentence names them, and what may mean two things is refused."""

import pytest

from posttrain.data.recognition import complete, recognise
from posttrain.data.rows import normalise
from posttrain.runtime.errors import UserError

CHAT = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
ASKED, SAID = CHAT[:1], CHAT[1:]
CHATS = {"messages": CHAT}
PAIR = {"prompt": ASKED, "chosen": SAID, "rejected": [{"role": "assistant", "content": "b"}]}


def read(row, columns=None, format=None):
    """A row as it is recognised, and what it becomes."""
    found = complete(row, format, columns or {}) if format else recognise(row, columns or {})
    content = normalise(row, found.format, found.columns, "x")
    return found, {key: value for key, value in content.items() if key not in ("id", "place")}


SEEN = [
    ({"question": "q", "answer": "a"}, "prompt_completion", CHATS),
    ({"Question": "q", "Answer": "a", "No.": 1}, "prompt_completion", CHATS),
    ({"input": "q", "output": "a"}, "prompt_completion", CHATS),
    ({"query": "q", "response": "a", "type": "GSM_Rephrased"}, "prompt_completion", CHATS),
    ({"instruction": "q", "response": "a"}, "prompt_completion", CHATS),
    ({"prompt": "q", "response": "a"}, "prompt_completion", CHATS),
    ({"problem": "q", "solution": "a", "level": "1"}, "prompt_completion", CHATS),
    ({"질문": "q", "답변": "a"}, "prompt_completion", CHATS),
    ({"text": "q", "label": "a"}, "prompt_completion", CHATS),
    ({"document": "q", "summary": "a"}, "prompt_completion", CHATS),
    ({"source": "q", "target": "a"}, "prompt_completion", CHATS),
    ({"question": "q", "answer": "a", "text": "all of it"}, "prompt_completion", CHATS),
    ({"user": "bob", "question": "q", "answer": "a"}, "prompt_completion", CHATS),
    ({"user": "bob", "text": "q", "label": "a"}, "prompt_completion", CHATS),
    (
        {"instruction": "q", "context": "x", "response": "a", "category": "qa"},  # Dolly
        "alpaca",
        {"messages": [{"role": "user", "content": "q\nx"}, *SAID]},
    ),
    (
        {"system_prompt": "s", "question": "q", "response": "a"},  # OpenOrca
        "prompt_completion",
        {"messages": [{"role": "system", "content": "s"}, *CHAT]},
    ),
    ({"dialogue": CHAT, "text": "all of it"}, "messages", CHATS),
    ({"messages": CHAT, "label": True}, "unpaired_preference", {"prompt": ASKED, "completion": SAID, "label": True}),
    ({"conversations": CHAT, "label": "false"}, "unpaired_preference", {"prompt": ASKED, "completion": SAID, "label": False}),
    ({"messages": CHAT, "label": 1}, "messages", CHATS),  # a class
    ({"messages": CHAT, "label": "1"}, "messages", CHATS),  # the same in a CSV file
    ({"question": "q", "answer": "a", "label": "0"}, "prompt_completion", CHATS),
    ({"messages": CHAT, "label": "geography"}, "messages", CHATS),
    (
        {"instruction": "q", "output": "a", "kto_tag": False},
        "unpaired_preference",
        {"prompt": ASKED, "completion": SAID, "label": False},
    ),
    ({"question": "q", "answer": "a", "label": True}, "unpaired_preference", {"prompt": ASKED, "completion": SAID, "label": True}),
    ({"question": "q", "chosen": "a", "rejected": "b", "system": ""}, "preference", PAIR),
    ({"instruction": "q", "chosen_response": "a", "rejected_response": "b"}, "preference", PAIR),
    ({"messages": ASKED, "chosen": SAID[0], "rejected": {"role": "assistant", "content": "b"}}, "preference", PAIR),
    (
        {"input": {"messages": ASKED, "tools": [{"x": 1}]}, "preferred_output": SAID, "non_preferred_output": PAIR["rejected"]},
        "preference",
        PAIR | {"tools": '[{"x": 1}]'},
    ),
    ({"text": "q", "label": 1}, "text", {"text": "q"}),
    ({"text": "q", "label": "1"}, "text", {"text": "q"}),
    ({"text": "q", "label": "true"}, "prompt_completion", {"messages": [*ASKED, {"role": "assistant", "content": "true"}]}),
    ({"text": "q", "question": "x"}, "text", {"text": "q"}),
    ({"prompt": "q"}, "prompts", {"prompt": ASKED}),
    ({"prompt": ASKED, "ability": "maths"}, "prompts", {"prompt": ASKED}),
    ({"question": "q", "level": 3}, "prompts", {"prompt": ASKED}),
]  # fmt: skip


@pytest.mark.parametrize(("row", "format", "content"), SEEN, ids=[f"{row[1]} {list(row[0])}" for row in SEEN])
def test_columns_that_people_use_are_read_as_what_they_mean(row, format, content):
    found, read_as = read(row)
    assert (found.format, read_as) == (format, content)


def test_the_sentence_says_which_column_is_read_as_which():
    found, _ = read({"id": 1, "system_prompt": "s", "question": "q", "response": "a"})
    assert found.columns == {"prompt": "question", "completion": "response", "system": "system_prompt"}
    assert found.why == (
        "its first row has the fields question, response, of which question is read as prompt and response is read as completion; "
        "system_prompt is read as system"
    )
    assert read({"prompt": "q", "completion": "a"})[0].why == "its first row has the fields prompt, completion"


def test_the_configurations_columns_win():
    row = {"question": "no", "ask": "q", "answer": "a", "solution": "no"}
    found, content = read(row, {"prompt": "ask", "completion": "answer"})
    assert (found.format, content) == ("prompt_completion", CHATS)
    assert read({"question": "q", "answer": "a", "solution": "no"}, {"completion": "answer"})[1] == CHATS


@pytest.mark.parametrize(
    ("asked", "fields"),
    [("question", ("answer", "solution")), ("question", ("response", "output")), ("text", ("label", "summary"))],
)
def test_two_columns_that_may_be_the_answer_are_refused(asked, fields):
    row = {asked: "q"} | dict.fromkeys(fields, "a")
    with pytest.raises(UserError) as error:
        recognise(row, {})
    assert f"its columns {' and '.join(fields)} may each be the completion" in str(error.value)
    assert f"`columns:`, such as {{completion: {fields[0]}}}" in str(error.value)


def test_a_column_that_only_a_tables_schema_has_is_no_candidate():
    assert read({"question": "q", "answer": "a", "response": None})[1] == CHATS


@pytest.mark.parametrize(
    ("format", "row", "content"),
    [
        ("prompt_completion", {"question": "q", "response": "a", "text": "x"}, CHATS),
        ("alpaca", {"question": "q", "output": "a"}, CHATS),
        ("preference", {"question": "q", "chosen": "a", "rejected": "b"}, PAIR),
        ("unpaired_preference", {"query": "q", "reply": "a", "label": 1}, {"prompt": ASKED, "completion": SAID, "label": True}),
        ("prompts", {"problem": "q", "answer": "a"}, {"prompt": ASKED}),
        ("prompts", {"messages": ASKED}, {"prompt": ASKED}),
    ],
)  # fmt: skip
def test_a_format_that_is_asked_for_finds_its_columns(format, row, content):
    assert read(row, format=format)[1] == content
