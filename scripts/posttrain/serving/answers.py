"""What of a model's text goes to the client, as the text comes: cut at stop texts, with tool calls told from plain text."""

import json
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any, NamedTuple

from posttrain.data import thoughts
from posttrain.metrics import call_forms

# What opens a call within an answer; gpt-oss and Muse say before it where the message goes.
MARKS = (*(form.marks[0] for form in call_forms.FORMS), "<|channel|>commentary", "<atem:function_calls>")


class Called(NamedTuple):
    """A call of a tool."""

    name: str
    arguments: str
    """as JSON"""


def offered(tools: list[dict[str, Any]]) -> dict[str, frozenset[str]]:
    """The functions of a list of tools: name to the names of the arguments that are texts.

    Raises:
        ValueError: a tool is no function with a name.
    """
    found = {}
    if not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in tools):
        raise ValueError("no list of objects")
    for tool in tools:
        function = tool.get("function")
        named = isinstance(function, dict) and isinstance(function.get("name"), str)
        if tool.get("type") != "function" or not named:
            raise ValueError("no function with a name")
        parameters = function.get("parameters")
        properties = parameters.get("properties") if isinstance(parameters, dict) else None
        known = properties if isinstance(properties, dict) else {}
        texts = (key for key, value in known.items() if isinstance(value, dict) and value.get("type") == "string")
        found[function["name"]] = frozenset(texts)
    return found


class Answer:
    """One answer while it is written."""

    def __init__(self, opening: str, stops: Sequence[str], tools: Mapping[str, frozenset[str]]) -> None:
        """An answer of which nothing is written yet.

        Args:
            opening: the marker of thoughts that the prompt ends with; it belongs to the answer.
            stops: texts before the first of which what comes after the thoughts is cut.
            tools: those that may be called, name to the names of the arguments that are texts.
        """
        self.text, self.stopped, self.calls = opening, False, list[Called]()
        self._stops, self._tools, self._sent = stops, tools, 0

    def add(self, piece: str) -> str:
        """Take the model's next piece of text; returns what can be sent now, which nothing that follows takes back."""
        self.text += piece
        begin = len(self.text) - len(thoughts.answer(self.text))
        found = [at for at in (self.text.find(stop, begin) for stop in self._stops) if at >= 0]
        if found:
            self.text, self.stopped = self.text[: min(found)], True
            return ""  # `finish` sends the rest
        return self._send(min(self._open_stop(begin), self._open_call(begin)))

    def finish(self) -> str:
        """End the answer, of which the model writes no more; returns the rest of the text. `calls` are then complete."""
        if self._tools:
            self.calls = self._called()
            if self.calls:
                return ""
        return self._send(len(self.text))

    def _send(self, end: int) -> str:
        begin, self._sent = self._sent, max(self._sent, end)
        return self.text[begin : self._sent]

    def _open_stop(self, begin: int) -> int:
        """Where the text ends with what may become a stop text; its end where it does not."""
        return min((_partial(self.text, stop, begin) for stop in self._stops), default=len(self.text))

    def _open_call(self, begin: int) -> int:
        """Where a call of a tool may begin; the text's end where none does."""
        if not self._tools:
            return len(self.text)
        start = self.text[begin:].lstrip()
        if any(start.startswith(mark[: len(start)]) for mark in call_forms.WHOLE):
            return begin
        found = [at for at in (self.text.find(mark, begin) for mark in MARKS) if at >= 0]
        return min(found, default=min(_partial(self.text, mark, begin) for mark in MARKS))

    def _called(self) -> list[Called]:
        """The calls in the answer, if all of them are of tools that there are; what stands before a tag was sent as text."""
        found = call_forms.named_arguments(thoughts.answer(self.text)) or []
        if not all(name in self._tools for name, _ in found):
            return []
        try:
            return [Called(name, _json(arguments, self._tools[name])) for name, arguments in found]
        except ValueError:  # a number that JSON does not have, or of more digits than Python writes
            return []


def _json(arguments: dict[str, Any], texts: frozenset[str]) -> str:
    typed = {
        key: value.typed(key in texts) if isinstance(value, call_forms.Written) else value
        for key, value in arguments.items()
    }
    return json.dumps(typed, ensure_ascii=False, allow_nan=False, default=_number)


def _number(value: Decimal) -> float | int:
    return int(value) if value.as_tuple().exponent == 0 else float(value)


def _partial(text: str, mark: str, begin: int) -> int:
    """Where `text` ends with the beginning of `mark`, at its longest; its end where it does not."""
    most = min(len(mark) - 1, len(text) - begin)
    return next((len(text) - n for n in range(most, 0, -1) if text.endswith(mark[:n])), len(text))
