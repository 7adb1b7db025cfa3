"""Environments in which a model acts: a class whose public methods are the tools that the model may call.

    class Shop:
        def reset(self, stock, seed): ...    # with a row's task and a seed; may return a text that is added to the prompt
        def sell(self, item: str) -> str:    # a tool: type hints and a docstring in Google's style describe it to the model
            ...
        def get_reward(self, answer): ...    # a finite number, when the episode has ended; `answer` is the last message's text

This is the form of TRL's `environment_factory`; `seed` and `answer` are left out where the method has no such argument. One object
plays one episode. What a tool raises is told to the model as its result; what `reset` and `get_reward` raise stops the run.
"""

import contextlib
import inspect
import json
import math
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from decimal import Decimal
from types import FrameType, MethodType
from typing import Any, NamedTuple

from posttrain.inference.built_in_environments import Calculator, Sqlite
from posttrain.runtime import user_code
from posttrain.runtime.errors import UserError

BUILT_IN: dict[str, type] = {"calculator": Calculator, "sqlite": Sqlite}
OWN = ("reset", "get_reward")  # public methods that are no tools
MAX_TURNS, MAX_TOOL_TOKENS, TOOL_SECONDS = 8, 256, 5.0  # defaults


class Limits(NamedTuple):
    """How far an episode may go."""

    turns: int
    """answers of the model, with and without calls"""
    tool_tokens: int
    """of one result; a longer one is cut"""
    seconds: float
    """of one call"""


def limits(settings: Mapping[str, Any]) -> Limits:
    """The limits in a run's spec or a suite's, which leave defaults out."""
    return Limits(
        settings.get("max_turns", MAX_TURNS),
        settings.get("max_tool_tokens", MAX_TOOL_TOKENS),
        settings.get("tool_seconds", TOOL_SECONDS),
    )


class Environment:
    """An environment's class, checked, with the descriptions of its tools."""

    def __init__(self, name: str, place: str = "environment") -> None:
        """The environment of that name, or the class NAME in FILE.py for `FILE.py:NAME`.

        Args:
            place: the key that names it, for the sentences.

        Raises:
            UserError: the file cannot be run, or the class lacks a method or describes a tool badly.
        """
        self.name, self.place = name, place
        self.kind = BUILT_IN.get(name) or user_code.load_class(name, place)
        methods = dict(inspect.getmembers(self.kind, inspect.isfunction))
        for wanted in OWN:
            if wanted not in methods:
                self._refuse(f"has no method `{wanted}`", "see docs/agents.md for the methods of an environment")
        self.tools = {key: method for key, method in methods.items() if not key.startswith("_") and key not in OWN}
        if not self.tools:
            self._refuse("has no tool", "write a public method that the model may call")
        for key, method in methods.items():
            if (key in OWN or key in self.tools) and inspect.iscoroutinefunction(method):
                self._refuse(f"has the coroutine `{key}`", "write `def` instead of `async def`")
        self.schemas = json.dumps([self._schema(key) for key in self.tools], ensure_ascii=False)
        """the tools as JSON, as a row's column `tools` has them"""

    def _schema(self, tool: str) -> dict[str, Any]:
        from transformers.utils import chat_template_utils as schemas

        try:
            found = schemas.get_json_schema(MethodType(self.tools[tool], object()))  # bound, so that it has no `self`
        except (schemas.DocstringParsingException, schemas.TypeHintParsingException) as error:
            hint = "write type hints, and a docstring in Google's style with a line for each argument"
            self._refuse(f"has the tool `{tool}` that cannot be described: {' '.join(str(error).split())}", hint)
        found["function"].pop("return", None)
        return found

    def _refuse(self, problem: str, hint: str = "") -> None:
        raise UserError("invalid-environment", self.place, f"{self.name} {problem}", hint)

    def begin(self, task: str, seed: int) -> tuple[Any, str]:
        """A new object with a row's task (JSON) and what its `reset` returns, to be added to the prompt.

        Raises:
            UserError: it cannot be made, does not take the task, or returns something other than a text or None.
        """
        arguments = json.loads(task)
        if "seed" in inspect.signature(self.kind.reset).parameters:
            arguments = {"seed": seed} | arguments
        try:
            world = self.kind()
            seen = world.reset(**arguments)
        except MemoryError:
            raise
        except Exception as error:  # whatever the user's code raises
            self._refuse(f"failed in `reset` for the task {_short(task)}: {type(error).__name__}: {error}")
        if seen is not None and not isinstance(seen, str):
            self._refuse(f"returned {_short(repr(seen))} from `reset`", "return a text, or None")
        return world, seen or ""

    def call(self, world: Any, tool: str, arguments: dict[str, Any], seconds: float) -> tuple[str, bool]:
        """What a tool gives as text, and whether that is an error."""
        if tool not in self.tools:
            return f"error: there is no tool '{tool}'; there are {', '.join(self.tools)}", True
        method = getattr(world, tool)
        given = {key: plain(value) for key, value in arguments.items()}
        try:
            inspect.signature(method).bind(**given)
        except TypeError as error:
            return f"error: {tool}: {error}", True
        try:
            with _at_most(seconds):
                result = method(**given)
        except _TooLong:
            return f"error: {tool} took longer than {seconds:g} seconds", True
        except MemoryError:
            raise
        except Exception as error:  # whatever the user's code raises is told to the model
            return f"error: {' '.join(str(error).split()) or type(error).__name__}", True
        return (result if isinstance(result, str) else json.dumps(result, ensure_ascii=False, default=str)), False

    def reward(self, world: Any, answer: str) -> float:
        """The reward of an episode that has ended.

        Raises:
            UserError: `get_reward` fails, or returns no finite number.
        """
        arguments = {"answer": answer} if "answer" in inspect.signature(self.kind.get_reward).parameters else {}
        try:
            value = world.get_reward(**arguments)
        except MemoryError:
            raise
        except Exception as error:  # whatever the user's code raises
            self._refuse(f"failed in `get_reward` for the answer {_short(answer)}: {type(error).__name__}: {error}")
        try:
            number = math.nan if isinstance(value, str | bytes) else float(value)
        except (TypeError, ValueError, RuntimeError, OverflowError):  # RuntimeError: a tensor of several numbers
            number = math.nan
        if not math.isfinite(number):
            self._refuse(f"returned {_short(repr(value))} from `get_reward`", "return a finite number")
        return number


def plain(value: Any) -> Any:
    """A value of a call, with Python's own numbers.

    >>> plain({"a": [Decimal("3"), Decimal("0.5")]})
    {'a': [3, 0.5]}
    """
    if isinstance(value, Decimal):
        return int(value) if value == value.to_integral_value() and abs(value) < 10**18 else float(value)
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list) else value


class _TooLong(BaseException):
    """A call has used up its time; no Exception, so that the user's code does not catch it."""


@contextlib.contextmanager
def _at_most(seconds: float) -> Iterator[None]:
    """Interrupt what runs longer; in the main thread only, where signals arrive."""

    def stop(_: int, __: FrameType | None) -> None:
        raise _TooLong

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before: Callable | int | None = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _short(text: str) -> str:
    text = " ".join(text.split())
    return f"'{text if len(text) <= 60 else text[:59] + '…'}'"
