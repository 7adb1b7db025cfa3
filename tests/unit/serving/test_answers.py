"""What is sent of a text that comes in pieces: nothing that a stop text or a call takes back, and nothing twice."""

import json

import pytest

from posttrain.serving.answers import Answer

CALL = '{"name": "play", "arguments": {"by": "Bach", "loud": 7, "rate": 0.5}}'
PLAYED = ("play", {"by": "Bach", "loud": 7, "rate": 0.5})


def sent(text: str, size: int, stops=(), tools=(), opening="") -> tuple[str, Answer]:
    """All that is sent of a text in pieces of `size` characters."""
    answer, parts = Answer(opening, stops, {name: frozenset({"by"}) for name in tools}), []
    for at in range(0, len(text), size):
        parts.append(answer.add(text[at : at + size]))
        if answer.stopped:
            break
    return "".join([*parts, answer.finish()]), answer


def calls(answer: Answer) -> list[tuple[str, dict]]:
    return [(call.name, json.loads(call.arguments)) for call in answer.calls]


@pytest.mark.parametrize("size", [1, 2, 3, 5, 100])
def test_a_stop_text_is_cut_across_pieces(size):
    text = "one, two ... STOP three"
    assert sent(text, size, ["STOP"])[0] == "one, two ... "
    assert sent(text, size, ["STOP", ", t"])[0] == "one"
    assert sent(text, size, ["STOPS", "xyz"])[0] == text


@pytest.mark.parametrize("size", [1, 4, 100])
def test_stop_texts_count_after_thoughts(size):
    text = "STOP? no.</think>yes STOP more"
    assert sent(text, size, ["STOP"], opening="<think>\n")[0] == "<think>\nSTOP? no.</think>yes "


def test_only_what_may_become_a_stop_text_is_held_back():
    answer = Answer("", ["END"], {})
    assert [answer.add(piece) for piece in ("a", "bE", "N", "x", "E")] == ["a", "b", "", "ENx", ""]
    assert answer.finish() == "E"


@pytest.mark.parametrize("size", [1, 7, 1000])
@pytest.mark.parametrize(
    ("text", "before"),
    [
        (CALL, ""),
        (f"```json\n{CALL}\n```", ""),
        (f"I play.\n<tool_call>\n{CALL}\n</tool_call>", "I play.\n"),
        (f"<think>hm</think><tool_call>{CALL}</tool_call>", "<think>hm</think>"),
        (f"Now: [TOOL_CALLS][{CALL}]", "Now: "),
        ("<|tool_call_start|>[play(by='Bach', loud=7, rate=0.5)]<|tool_call_end|>", ""),
        ('Yes.<|tool_call>call:play{by:<|"|>Bach<|"|>,loud:7,rate:0.5}<tool_call|>', "Yes."),
        ('<|channel|>commentary to=functions.play <|constrain|>json<|message|>{"by":"Bach","loud":7,"rate":0.5}', ""),
        (
            "<tool_call><function=play><parameter=by>Bach</parameter><parameter=loud>7</parameter><parameter=rate>0.5"
            "</parameter></function></tool_call>",
            "",
        ),
    ],
)
def test_a_call_is_told_from_text(text, before, size):
    text, answer = sent(text, size, tools=["play", "stop"])
    assert text == before
    assert calls(answer) == [PLAYED]


@pytest.mark.parametrize(
    "text", ['{"name": "other", "arguments": {}}', '{"name": "play", "argum', "[1, 2]", "plain <tool"]
)
def test_what_is_no_call_of_a_tool_is_text(text):
    assert sent(text, 3, tools=["play"])[0] == text
    assert sent(text, 3, tools=["play"])[1].calls == []


def test_a_value_without_a_type_has_the_type_that_the_tool_wants():
    text = "<function=play><parameter=by>7</parameter><parameter=loud>7</parameter></function>"
    assert calls(sent(text, 5, tools=["play"])[1]) == [("play", {"by": "7", "loud": 7})]


def test_without_tools_a_call_is_text():
    assert sent(CALL, 3)[0] == CALL


def test_a_number_that_json_has_not_is_text():
    text = '{"name": "play", "arguments": {"n": 1e999}}'
    assert sent(text, 9, tools=["play"])[0] == text
