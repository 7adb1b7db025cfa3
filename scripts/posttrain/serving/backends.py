"""What a server of ours asks of the program that computes: it continues a prompt's tokens with text, piece by piece."""

from collections.abc import AsyncIterator
from typing import Any, NamedTuple, Protocol


class Options(NamedTuple):
    """How a prompt is continued."""

    most: int
    """tokens of the answer"""
    temperature: float
    """0 is greedy"""
    top_p: float
    seed: int | None
    schema: dict[str, Any] | None
    """the JSON schema of the answer, where there is one"""


class Piece(NamedTuple):
    """A part of an answer."""

    text: str
    tokens: int
    end: str | None = None
    """why the answer ends with this piece: `stop`, at a stop token, or `length`"""


class Ended(Exception):
    """The program that computes has ended or failed; the message is a sentence."""


class Backend(Protocol):
    """A program that computes answers, for all models that are served."""

    context: int
    """the most tokens of a prompt and its answer"""
    follows_schemas: bool
    """whether it can keep an answer within a JSON schema"""

    async def ready(self) -> None:
        """Wait until prompts can be continued.

        Raises:
            UserError: the program ended instead.
        """
        ...

    def complete(self, model: str, prompt: list[int], options: Options) -> AsyncIterator[Piece]:
        """Continue a prompt; an iterator that is closed ends the work.

        Raises:
            Ended: the program is not there any more.
        """
        ...

    async def ended(self) -> str:
        """Wait until the program ends by itself; returns what happened, as a sentence."""
        ...

    async def close(self) -> None:
        """End the program."""
        ...
