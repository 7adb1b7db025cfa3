"""Answers that call tools or are JSON, beside a reference: real answers of models, and what is not a call."""

# ruff: noqa: RUF001  (DeepSeek writes its tokens with these characters)

import json

import pytest

from posttrain.metrics.text_metrics import score
from posttrain.metrics.tool_calls import Call, calls, is_error, message_text

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
    "Llama 3.2, LFM2 without its marks": "[GetWeather(city='Oslo', days=3)]",
    "LFM2": '<|tool_call_start|>[GetWeather(days=3, city="Oslo")]<|tool_call_end|>Checking.',
    "Gemma 3": "```tool_code\nGetWeather(city='Oslo', days=3)\n```",
    "Gemma 4": '<|tool_call>call:GetWeather{city:<|"|>Oslo<|"|>,days:3}<tool_call|>',
    "Qwen3-Coder": "I'll look.\n<tool_call>\n<function=GetWeather>\n<parameter=city>\nOslo\n</parameter>\n<parameter=days>\n3\n"
    "</parameter>\n</function>\n</tool_call>",
    "Qwen3-Coder without tags": "<function=GetWeather><parameter=city>Oslo</parameter><parameter=days>3</parameter></function>",
    "GLM-4": "<tool_call>GetWeather\n<arg_key>city</arg_key>\n<arg_value>Oslo</arg_value>\n<arg_key>days</arg_key>\n"
    "<arg_value>3</arg_value>\n</tool_call>",
    "Mistral": f"[TOOL_CALLS] [{CALL}]",
    "Mistral, later": '[TOOL_CALLS]GetWeather[CALL_ID]abc123def[ARGS]{"city": "Oslo", "days": 3}',
    "DeepSeek-V3": "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>GetWeather\n```json\n"
    '{"city": "Oslo", "days": 3}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>',
    "gpt-oss": '<|start|>assistant<|channel|>commentary to=functions.GetWeather <|constrain|>json<|message|>{"city":"Oslo","days":3}',
    "Muse": ' to=GetWeather<|message|><atem:function_calls>\n<atem:invoke name="GetWeather">\n<atem:parameter name="city">Oslo'
    '</atem:parameter>\n<atem:parameter name="days">3</atem:parameter>\n</atem:invoke>\n</atem:function_calls>',
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
    "Python without names": "[GetWeather('Oslo', 3)]",
    "Python that computes": "[GetWeather(city='Oslo', days=1 + f(2))]",
    "XML that is cut off": "<tool_call>\n<function=GetWeather>\n<parameter=city>\nOslo\n</parameter>\n",
    "XML with text in it": "<function=GetWeather>city<parameter=city>Oslo</parameter></function>",
    "Gemma's with JSON's quotes missing": "<|tool_call>call:GetWeather{city:Oslo,days:3}<tool_call|>",
    "Mistral's without a name": '[TOOL_CALLS][ARGS]{"city": "Oslo"}',
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


# ---- several calls, none, and after an error

OTHER = '{"name": "PlayMusic", "arguments": {"artist": "Miles Davis"}}'
BOTH = f"<tool_call>{CALL}</tool_call>\n<tool_call>{OTHER}</tool_call>"
WORDS = "None of my tools can do that."


def only(name: str, output: str, reference: str, prompt=None) -> float | None:
    (found,) = score([name], [output], [reference], None, [prompt] if prompt else ())
    return found.get(name)


def test_several_calls_are_right_in_any_order_and_only_together():
    turned = f"[{OTHER}, {CALL}]"
    assert [only("parallel_calls", said, BOTH) for said in (BOTH, turned, CALL, WORDS)] == [1, 1, 0, 0]
    assert only("parallel_calls", f"{BOTH}<tool_call>{CALL}</tool_call>", BOTH) == 0  # one too often
    assert only("parallel_calls", CALL, CALL) is None
    for form in ("[TOOL_CALLS][{}, {}]", "[TOOL_CALLS] [{},{}]"):
        assert only("parallel_calls", form.format(CALL, OTHER), BOTH) == 1
    later = (
        '[TOOL_CALLS]GetWeather[ARGS]{"city": "Oslo", "days": 3}[TOOL_CALLS]PlayMusic[ARGS]{"artist": "Miles Davis"}'
    )
    assert only("parallel_calls", later, BOTH) == 1


def test_no_call_counts_only_where_none_is_wanted():
    assert only("no_call", WORDS, CALL) is None
    assert [only("no_call", said, WORDS) for said in ("I cannot.", CALL, BOTH, "<tool_call>{")] == [1, 0, 0, 0]


def test_a_text_in_a_form_without_types_stays_a_text_where_the_reference_has_one():
    def written(value: str) -> str:
        return f"<function=Rate><parameter=points>{value}</parameter></function>"

    for value, reference in (
        ("3", '"3"'),
        ("3.0", "3"),
        ("true", "true"),
        ('["a"]', '["a"]'),
        ("two words", '"two words"'),
    ):
        assert value_of(written(value), f'{{"name": "Rate", "arguments": {{"points": {reference}}}}}') == 1
    assert value_of(written("3"), '{"name": "Rate", "arguments": {"points": 4}}') == 0
    assert (
        value_of('{"name": "Rate", "arguments": {"points": 3}}', '{"name": "Rate", "arguments": {"points": "3"}}') == 0
    )


def value_of(output: str, reference: str) -> float:
    return value("tool_arguments", output, reference)


RESULTS = [
    ('{"error": "no such city"}', True), ('{"error": null, "degrees": 3}', False), ('{"success": false}', True),
    ('{"status": "error", "message": "x"}', True), ("Error: no such city", True), ("ValueError: x", True), ('"Error: x"', True),
    ("Traceback (most recent call last):", True), ("3", False), ("[]", False), ("Errors are rare there.", False), ("Terror", False),
]  # fmt: skip


@pytest.mark.parametrize(("result", "failed"), RESULTS)
def test_a_result_that_is_an_error(result, failed):
    assert is_error(result) is failed


def test_recovery_is_measured_after_an_error_only():
    bad = '[{"name": "GetWeather", "arguments": {"town": "Oslo"}}]'
    turns = [{"role": "user", "content": "Oslo?"}, {"role": "assistant", "content": "", "tool_calls": bad}]
    failed = [*turns, {"role": "tool", "content": '{"error": "no argument town"}'}]
    assert only("error_recovery", CALL, CALL, failed) == 1
    assert only("error_recovery", bad, CALL, failed) == 0
    assert only("error_recovery", CALL, CALL, [*turns, {"role": "tool", "content": "3 degrees"}]) is None
    assert only("error_recovery", CALL, CALL, turns[:1]) is None
    # An answer in words is right as long as it does not repeat the call.
    assert [only("error_recovery", said, WORDS, failed) for said in (WORDS, CALL, bad, "{")] == [1, 1, 0, 0]
