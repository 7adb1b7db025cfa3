"""What of a request is accepted, and the sentence with which anything else is refused."""

import json

import pytest

from posttrain.serving.requests import Refused, conversation, parse

ASKED = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}


def refusal(values, system=None) -> Refused:
    with pytest.raises(Refused) as error:
        conversation(parse(values if isinstance(values, bytes) else json.dumps(values).encode()), system)
    assert "\n" not in error.value.message
    return error.value


def turns(*messages, system=None):
    return conversation(parse(json.dumps(ASKED | {"messages": messages}).encode()), system)


@pytest.mark.parametrize(
    ("options", "param", "words"),
    [
        ({"temprature": 1}, "temprature", "did you mean 'temperature'?"),
        ({"logprobs": True}, "logprobs", "should be False"),
        ({"n": 2}, "n", "should be 1"),
        ({"frequency_penalty": 0.5}, "frequency_penalty", "less than or equal to 0"),
        ({"logit_bias": {"7": 1}}, "logit_bias", "at most 0"),
        ({"temperature": 2.5}, "temperature", "less than or equal to 2"),
        ({"temperature": "hot"}, "temperature", "valid number"),
        ({"top_p": 0}, "top_p", "greater than 0"),
        ({"max_tokens": 0}, "max_tokens", "greater than or equal to 1"),
        ({"max_tokens": True}, "max_tokens", "valid integer"),
        ({"seed": -1}, "seed", "greater than or equal to 0"),
        ({"stop": [""]}, "stop", "at least 1 character"),
        ({"stop": ["a"] * 5}, "stop", "at most 4"),
        ({"tool_choice": "required"}, "tool_choice", "'auto' or 'none'"),
        ({"response_format": {"type": "xml"}}, "response_format", "'text', 'json_object' or 'json_schema'"),
        ({"stream_options": {"include_obfuscation": True}}, "stream_options", "stream_options.include_obfuscation"),
        ({"messages": []}, "messages", "at least 1 item"),
        ({"messages": "Hi"}, "messages", "valid list"),
        ({"messages": [{"content": "Hi"}]}, "messages", "role and content"),
        ({"messages": [{"role": "user"}]}, "messages", "role and content"),
        ({"messages": [{"role": "user", "content": 7}]}, "messages", "content of message 1"),
        ({"messages": [{"role": "wizard", "content": "Hi"}]}, "messages", "the role 'wizard'"),
        ({"messages": [{"role": "user", "content": "Hi", "name": "Jo"}]}, "messages", "'name', which is not read"),
        ({"messages": [{"role": "assistant", "content": "Hi"}]}, "messages", "ends with the assistant"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
            "messages",
            "image_url",
        ),
    ],
)
def test_an_option_that_would_be_ignored_is_refused(options, param, words):
    found = refusal(ASKED | options, "The run's system prompt.")  # which is not one of the messages that are counted
    assert (found.status, found.param) == (400, param)
    assert words in found.message


@pytest.mark.parametrize("body", [b"", b"{", b"[1]", b"7", b"\xff", b'{"temperature": NaN}', b"[" * 100_000])
def test_a_body_that_is_no_json_object(body):
    assert refusal(body).status == 400


@pytest.mark.parametrize("missing", ["model", "messages"])
def test_a_missing_field_is_named(missing):
    found = refusal({key: value for key, value in ASKED.items() if key != missing})
    assert found.message == f"'{missing}' is missing"


def test_neutral_values_and_nulls_are_accepted():
    neutral = {"n": 1, "logprobs": False, "frequency_penalty": 0.0, "logit_bias": {}, "stop": None, "user": "me"}
    assert parse(json.dumps(ASKED | neutral).encode()).stop == []
    assert parse(json.dumps(ASKED | {"stop": "END"}).encode()).stop == ["END"]


def test_the_error_has_openais_form():
    body = refusal(ASKED | {"n": 2}).body()["error"]
    assert body.keys() == {"message", "type", "param", "code"}
    assert body["type"] == "invalid_request_error"


def test_the_system_prompt_of_training_stands_where_the_client_has_none():
    user = {"role": "user", "content": "Hi"}
    trained = {"role": "system", "content": "Be brief."}
    own = {"role": "system", "content": "Be long."}
    assert turns(user, system="Be brief.") == [trained, user]
    assert turns(own, user, system="Be brief.") == [own, user]
    assert turns({"role": "system", "content": ""}, user, system="Be brief.") == [user]
    assert turns(user) == [user]


def test_an_answer_of_ours_can_be_sent_back():
    call = {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    said = {"role": "assistant", "content": None, "refusal": None, "tool_calls": [call]}
    answered = {"role": "tool", "tool_call_id": "call_1", "content": "7"}
    found = turns({"role": "user", "content": "Hi"}, said, answered)
    assert [turn["role"] for turn in found] == ["user", "assistant", "tool"]
    assert json.loads(found[1]["tool_calls"])[0]["function"]["name"] == "f"
