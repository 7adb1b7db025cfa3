"""Answers that call tools, compared with a reference that does.

A call is read in the forms in which models write it:

    {"name": "GetWeather", "arguments": {"city": "Oslo"}}                                    also with `parameters` (Llama 3.1)
    {"type": "function", "function": {"name": "GetWeather", "arguments": "{\\"city\\": ...}"}}    OpenAI; arguments are JSON text
    <tool_call>{"name": "GetWeather", "arguments": {...}}</tool_call>                        Hermes, Qwen; text may stand around it

The first two may be in a list, for several calls, in a code fence, and in an OpenAI message, `{"tool_calls": [...]}`; the whole
answer is then the call. Anything else that is attempted, such as a call that is cut off, is not a call.
"""

import json
import re
from collections import Counter
from collections.abc import Hashable
from typing import Any, NamedTuple

from posttrain.metrics.json_answers import canonical, parse

TAG, END = "<tool_call>", "</tool_call>"
TAGGED = re.compile(rf"{TAG}(.*?){END}", re.DOTALL)
ARGUMENTS = ("arguments", "parameters")
FIELDS = {"id", "index", "type"}  # of a call, beside its name and its arguments
MESSAGE = {"role", "content", "tool_calls"}


class Call(NamedTuple):
    """A tool and its arguments by name, each in a form that can be compared."""

    name: str
    arguments: frozenset[tuple[str, Hashable]]


def tool_name(output: str, reference: str) -> float:
    """1 where the output calls the reference's tools, each as often, in any order, else 0."""
    ours, theirs = calls(output), calls(reference)
    return float(ours is not None and _names(ours) == _names(theirs or []))


def tool_arguments(output: str, reference: str) -> float:
    """1 where the output's calls are the reference's: the same tools, each with exactly the same arguments, else 0."""
    ours, theirs = calls(output), calls(reference)
    return float(ours is not None and Counter(ours) == Counter(theirs or []))


def tool_arguments_f1(output: str, reference: str) -> float:
    """F-measure, 0 to 1, of the arguments: one matches where its tool, its name and its whole value are in the reference.

    Where neither side has an argument it is 1 if the tools are the same, else 0.
    """
    ours, theirs = calls(output), calls(reference) or []
    if ours is None:
        return 0.0
    given, wanted = _arguments(ours), _arguments(theirs)
    if not given and not wanted:
        return float(_names(ours) == _names(theirs))
    return 2 * (given & wanted).total() / (given.total() + wanted.total())


def calls(text: str) -> list[Call] | None:
    """The calls in an answer, none where it is plain text; None where it attempts a call, or JSON, and fails."""
    found = named_arguments(text)
    return found and [Call(name, _comparable(arguments)) for name, arguments in found]


def _comparable(arguments: dict[str, Any]) -> frozenset[tuple[str, Hashable]]:
    return frozenset((key, canonical(item)) for key, item in arguments.items())


def named_arguments(text: str) -> list[tuple[str, dict[str, Any]]] | None:
    """The same as each tool's name and its arguments, with numbers as `Decimal`."""
    tagged = TAG in text or END in text
    if not tagged and not text.lstrip().startswith(("{", "[", "```")):
        return []
    texts = TAGGED.findall(text) if tagged else [text]
    rest = TAGGED.sub("", text) if tagged else ""
    if TAG in rest or END in rest:
        return None
    try:
        return [call for one in texts for call in _calls(parse(one))]
    except (ValueError, RecursionError):
        return None


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


def _calls(value: Any) -> list[tuple[str, dict[str, Any]]]:
    """The calls of a JSON value.

    Raises:
        ValueError: it is something else.
    """
    if isinstance(value, dict) and "tool_calls" in value and value.keys() <= MESSAGE:
        value = value["tool_calls"]
    found = value if isinstance(value, list) else [value]
    if not found:
        raise ValueError("no call")
    return [_call(one) for one in found]


def _call(value: Any) -> tuple[str, dict[str, Any]]:
    if not isinstance(value, dict):
        raise ValueError("a call is an object")
    function = value.get("function", value)
    if function is not value and not (value.keys() <= {"function", *FIELDS} and isinstance(function, dict)):
        raise ValueError("a call has a function")
    given = [name for name in ARGUMENTS if name in function]
    if len(given) > 1 or not function.keys() <= {"name", *given, *FIELDS}:
        raise ValueError("a call has a name and arguments")
    name, arguments = function.get("name"), function[given[0]] if given else {}
    if isinstance(arguments, str):
        arguments = parse(arguments)
    if not isinstance(name, str) or not isinstance(arguments, dict):
        raise ValueError("a call has a name and an object of arguments")
    return name, arguments


def _names(found: list[Call]) -> Counter[str]:
    return Counter(call.name for call in found)


def _arguments(found: list[Call]) -> Counter[tuple[str, str, Hashable]]:
    return Counter((call.name, *argument) for call in found for argument in call.arguments)
