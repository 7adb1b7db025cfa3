"""Answers that call tools or are JSON, beside a reference: real answers of models, and what is not a call."""

import json

import pytest

from posttrain.metrics.text_metrics import score
from posttrain.metrics.tool_calls import Call, calls, message_text

CALL = '{"name": "GetWeather", "arguments": {"city": "Oslo", "days": 3}}'
# The same call, as models and their servers write it.
FORMS = {
    "plain": CALL,
    "keys in another order": '{"arguments": {"days": 3.0, "city": "Oslo"}, "name": "GetWeather"}',
    "Llama 3.1": '{"name": "GetWeather", "parameters": {"city": "Oslo", "days": 3}}',
    "a fence": f"```json\n{CALL}\n```",
    "a fence without a language": f"```\n{CALL}\n```\n",
    "a list": f"[{CALL}]",
    "Qwen": f"<tool_call>\n{CALL}\n</tool_call>",
    "Qwen with text": f"Let me look that up.\n<tool_call>\n{CALL}\n</tool_call>",
    "OpenAI": json.dumps(
        {
            "id": "call_1",
            "type": "function",
            "function": {"name": "GetWeather", "arguments": '{"city": "Oslo", "days": 3}'},
        }
    ),
    "OpenAI's message": json.dumps(
        {"role": "assistant", "content": None, "tool_calls": [{"function": json.loads(CALL)}]}
    ),
}
# What SmolLM2-135M-Instruct and its fine-tuned models answered, and what is almost a call.
NOT_CALLS = {
    "cut off": '{"name": "GetWeather", "arguments": {"city": "Oslo", "da',
    "a tag that is not closed": f"<tool_call>\n{CALL}",
    "a tag that is not opened": f"{CALL}\n</tool_call>",
    "a call and text": f"{CALL} Done!",
    "two calls that are not in a list": f"{CALL}\n{CALL}",
    "Python": "[GetWeather(city='Oslo', days=3)]",
    "single quotes": CALL.replace('"', "'"),
    "a key twice": '{"name": "GetWeather", "arguments": {"city": "Rome", "city": "Oslo", "days": 3}}',
    "a comma too many": CALL.replace("}}", ",}}"),
    "arguments in a list": '{"name": "GetWeather", "arguments": ["Oslo", 3]}',
    "both words for arguments": '{"name": "GetWeather", "arguments": {}, "parameters": {}}',
    "arguments beside the name": '{"name": "GetWeather", "city": "Oslo", "days": 3}',
    "no name": '{"arguments": {"city": "Oslo", "days": 3}}',
    "a name that is a number": '{"name": 7, "arguments": {}}',
    "arguments that are not JSON": '{"name": "GetWeather", "arguments": "city=Oslo"}',
    "no call in a list": "[]",
    "a number": "```\n7\n```",
    "nested too deeply": "[" * 100_000,
    "an infinite number": CALL.replace("3", "Infinity"),
    "a number that nothing reads": CALL.replace("3", "1e" + "9" * 30),
}


def value(name: str, output: str, reference: str) -> float:
    return score([name], [output], [reference], None)[0][name]


@pytest.mark.parametrize("output", FORMS.values(), ids=FORMS)
def test_a_call_is_read_in_each_form(output):
    assert [call.name for call in calls(output)] == ["GetWeather"]
    for reference in FORMS.values():
        for metric in ("tool_name", "tool_arguments", "tool_arguments_f1"):
            assert value(metric, output, reference) == 1


@pytest.mark.parametrize("output", NOT_CALLS.values(), ids=NOT_CALLS)
def test_what_only_resembles_a_call_is_wrong(output):
    assert calls(output) is None
    for reference in (CALL, "Which city?", output):
        for metric in ("tool_name", "tool_arguments", "tool_arguments_f1"):
            assert value(metric, output, reference) == 0


@pytest.mark.parametrize("output", ["Which city do you mean?", "", f"The call would be {CALL}."])
def test_an_answer_in_words_calls_nothing(output):
    assert calls(output) == []
    for metric in ("tool_name", "tool_arguments", "tool_arguments_f1"):
        assert value(metric, output, CALL) == 0
        assert value(metric, output, "Which city?") == 1
        assert value(metric, CALL, output) == 0


# (arguments of the answer, arguments of the reference, F1): the tool is the same.
ARGUMENTS = [
    ({"city": "Oslo", "days": 3}, {"days": 3, "city": "Oslo"}, 1),
    ({"city": "Oslo"}, {"city": "Oslo", "days": 3}, 2 / 3),
    ({"city": "Oslo", "days": 4}, {"city": "Oslo", "days": 3}, 1 / 2),
    ({"town": "Oslo"}, {"city": "Oslo"}, 0),
    ({"city": "oslo"}, {"city": "Oslo"}, 0),
    ({"city": "Oslo "}, {"city": "Oslo"}, 0),
    ({"days": "3"}, {"days": 3}, 0),
    ({"days": True}, {"days": 1}, 0),
    ({"days": None}, {}, 0),
    ({"days": 9007199254740993}, {"days": 9007199254740992}, 0),
    ({"where": {"city": "Oslo", "at": [1, 2]}}, {"where": {"at": [1.0, 2], "city": "Oslo"}}, 1),
    ({"at": [2, 1]}, {"at": [1, 2]}, 0),
    ({}, {}, 1),
]


@pytest.mark.parametrize(("ours", "theirs", "f1"), ARGUMENTS)
def test_an_argument_is_its_name_and_its_whole_value(ours, theirs, f1):
    output, reference = (json.dumps({"name": "GetWeather", "arguments": one}) for one in (ours, theirs))
    assert value("tool_name", output, reference) == 1
    assert value("tool_arguments_f1", output, reference) == pytest.approx(f1)
    assert value("tool_arguments", output, reference) == float(f1 == 1)
    assert value("json_equal", output, reference) == float(f1 == 1)


def test_the_right_arguments_of_the_wrong_tool_are_wrong():
    output = CALL.replace("GetWeather", "BookRestaurant")
    for metric in ("tool_name", "tool_arguments", "tool_arguments_f1", "json_equal"):
        assert value(metric, output, CALL) == 0


def test_several_calls_are_compared_in_any_order_and_each_counts():
    oslo, rome = (CALL.replace("Oslo", city) for city in ("Oslo", "Rome"))
    both, again, other = (f"[{a}, {b}]" for a, b in ((oslo, rome), (rome, oslo), (oslo, oslo)))
    tagged = f"<tool_call>{rome}</tool_call>\n<tool_call>{oslo}</tool_call>"
    assert {value("tool_arguments", output, both) for output in (both, again, tagged)} == {1}
    assert value("json_equal", again, both) == 0  # the order of a list is part of it
    assert (value("tool_name", other, both), value("tool_arguments", other, both)) == (1, 0)
    assert value("tool_arguments_f1", other, both) == 3 / 4
    assert value("tool_name", oslo, both) == 0
    assert value("tool_arguments_f1", oslo, both) == 2 / 3


def test_a_call_without_arguments_needs_none():
    assert calls('{"name": "Ping"}') == calls('{"name": "Ping", "arguments": {}}') == [Call("Ping", frozenset())]
    assert value("tool_arguments_f1", '{"name": "Pong"}', '{"name": "Ping"}') == 0


@pytest.mark.parametrize(
    ("output", "reference", "equal"),
    [
        ('{"a": [1, {"b": null}]}', '```json\n{"a": [1.0, {"b": null}]}\n```', 1),
        ("1e2", "100", 1),
        ("1", "true", 0),
        ("null", "", 0),
        ("yes", "yes", 0),
        ("NaN", "NaN", 0),
        ('{"a": 1, "a": 1}', '{"a": 1}', 0),
        ("[1, 2]", "[2, 1]", 0),
        ("{}", "[]", 0),
    ],
)
def test_equal_json(output, reference, equal):
    assert value("json_equal", output, reference) == equal


def test_the_calls_of_a_message_are_part_of_its_text():
    functions = [{"type": "function", "function": {"name": "GetWeather", "arguments": '{"city": "Oslo", "days": 3}'}}]
    message = {"role": "assistant", "content": "", "tool_calls": json.dumps(functions)}
    assert message_text(message) == f"<tool_call>{CALL}</tool_call>"
    assert message_text(message | {"content": "Let me see."}) == f"Let me see.\n<tool_call>{CALL}</tool_call>"
    assert message_text({"role": "assistant", "content": "Hello"}) == "Hello"
    assert value("tool_arguments", message_text(message), CALL) == 1
