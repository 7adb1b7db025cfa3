"""Answers that call tools, compared with a reference that does or does not; `call_forms` has the forms in which calls are read.

Values are equal as JSON: keys in any order, `1` and `1.0` the same. In a form without types (XML) a value is a text where the
reference has a text, else the JSON that it is.
"""

import json
import re
from collections import Counter
from collections.abc import Hashable
from typing import Any, NamedTuple

from posttrain.metrics.call_forms import END, TAG, Written, named_arguments
from posttrain.metrics.json_answers import canonical

# How a tool's result begins that is an error and no JSON: `Error: ...`, `ValueError: ...`, a traceback.
ERROR = re.compile(r"\s*(error\b|traceback\b|\w*(Error|Exception)\s*:)", re.IGNORECASE)
ERROR_KEYS = ("error", "errors", "exception", "is_error", "isError")


class Call(NamedTuple):
    """A tool and its arguments by name, each in a form that can be compared."""

    name: str
    arguments: frozenset[tuple[str, Hashable]]


def tool_name(output: str, reference: str) -> float:
    """1 where the output calls the reference's tools, each as often, in any order, else 0."""
    ours, theirs = _both(output, reference)
    return float(ours is not None and _names(ours) == _names(theirs))


def tool_arguments(output: str, reference: str) -> float:
    """1 where the output's calls are the reference's: the same tools, each with exactly the same arguments, else 0."""
    ours, theirs = _both(output, reference)
    return float(ours is not None and Counter(ours) == Counter(theirs))


def tool_arguments_f1(output: str, reference: str) -> float:
    """F-measure, 0 to 1, of the arguments: one matches where its tool, its name and its whole value are in the reference.

    Where neither side has an argument it is 1 if the tools are the same, else 0.
    """
    ours, theirs = _both(output, reference)
    if ours is None:
        return 0.0
    given, wanted = _arguments(ours), _arguments(theirs)
    if not given and not wanted:
        return float(_names(ours) == _names(theirs))
    return 2 * (given & wanted).total() / (given.total() + wanted.total())


def no_call(output: str, reference: str) -> float | None:
    """1 where the output neither calls nor tries to call a tool, else 0; None where the reference calls one.

    One minus its mean is the rate of false calls.
    """
    return None if calls(reference) else float(calls(output) == [])


def parallel_calls(output: str, reference: str) -> float | None:
    """`tool_arguments` of an answer with several calls; None where the reference has fewer than two."""
    return tool_arguments(output, reference) if len(calls(reference) or []) > 1 else None


def error_recovery(output: str, reference: str, prompt: list[dict[str, Any]]) -> float | None:
    """1 where the turn after a tool's error is right, else 0; None where the prompt does not end with a tool's error.

    Right are the reference's calls, or, where the reference answers in words, no call that the tool has refused already.

    Args:
        prompt: the turns before the output, as normalised rows have them.
    """
    if not (prompt and prompt[-1]["role"] == "tool" and is_error(prompt[-1]["content"])):
        return None
    if calls(reference):
        return tool_arguments(output, reference)
    asked = next(turn for turn in reversed(prompt) if turn["role"] == "assistant")
    again = calls(output)
    return float(again is not None and set(again).isdisjoint(calls(message_text(asked)) or []))


def is_error(result: str) -> bool:
    """Whether a tool's result says that the call failed: a JSON object with an error, or a text that begins with one."""
    try:
        value = json.loads(result)
    except (ValueError, RecursionError):
        return ERROR.match(result) is not None
    if isinstance(value, dict):
        failed = value.get("success") is False or value.get("ok") is False or value.get("status") == "error"
        return failed or any(value.get(key) for key in ERROR_KEYS)
    return isinstance(value, str) and ERROR.match(value) is not None


# ---- calls


def calls(text: str) -> list[Call] | None:
    """The calls in an answer, none where it is plain text; None where it attempts a call, or JSON, and fails."""
    return _comparable(named_arguments(text), set())


def _both(output: str, reference: str) -> tuple[list[Call] | None, list[Call]]:
    """The calls of an output and of its reference; where one side says that a value is a text, it is one on both."""
    ours, theirs = named_arguments(output), named_arguments(reference) or []
    texts = {
        (name, key)
        for name, given in [*(ours or []), *theirs]
        for key, value in given.items()
        if isinstance(value, str) and not isinstance(value, Written)
    }
    return _comparable(ours, texts), _comparable(theirs, texts)


def _comparable(found: list[tuple[str, dict[str, Any]]] | None, texts: set[tuple[str, str]]) -> list[Call] | None:
    """`texts`: the tools and arguments whose values are texts, where the form does not say it."""
    return found and [
        Call(
            name,
            frozenset(
                (key, canonical(value.typed((name, key) in texts) if isinstance(value, Written) else value))
                for key, value in given.items()
            ),
        )
        for name, given in found
    ]


def message_text(message: dict[str, Any]) -> str:
    """What a message of the assistant says, and below it its `tool_calls` (JSON) between tags, as `calls` reads them."""
    called = [call.get("function", call) for call in json.loads(message.get("tool_calls") or "[]")]
    bodies = [{"name": call["name"], "arguments": _read(call.get("arguments", {}))} for call in called]
    lines = [f"{TAG}{json.dumps(body, ensure_ascii=False)}{END}" for body in bodies]
    return "\n".join([message["content"]] * bool(message["content"] or not lines) + lines)


def _read(arguments: Any) -> Any:
    """Arguments as an object, where they are JSON text."""
    try:
        return json.loads(arguments) if isinstance(arguments, str) else arguments
    except (ValueError, RecursionError):
        return arguments


def _names(found: list[Call]) -> Counter[str]:
    return Counter(call.name for call in found)


def _arguments(found: list[Call]) -> Counter[tuple[str, str, Hashable]]:
    return Counter((call.name, *argument) for call in found for argument in call.arguments)
