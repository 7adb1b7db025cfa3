"""What a proof asks of the program that runs a model: transformers, or llama.cpp for GGUF files."""

from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True)
class Scored:
    """What a model says of one answer, a number for each of its tokens."""

    log_probs: list[float]
    """natural logarithm of the probability of the answer's own token, given all tokens before it"""
    greedy: list[int]
    """the likeliest token at each of these places"""


class Program(Protocol):
    """A model that was loaded from disk by the program that its users will run. All ids are the model's own token ids."""

    name: str
    version: str
    load_seconds: float

    def encode(self, texts: list[str]) -> list[list[int]]:
        """The token ids of rendered prompts: special tokens in the text are read as such, and none is added."""

    def render(
        self, conversations: list[list[dict[str, Any]]], tools: list[list[dict] | None] | None = None
    ) -> list[str]:
        """Prompts by the program's own template engine, from the template in the export; the generation prompt is last.

        Args:
            conversations: messages with `role` and `content`, as for transformers' `apply_chat_template`.
            tools: for each conversation, the JSON schemas of the tools it may call, or None.
        """

    def score(self, sequences: list[tuple[list[int], list[int]]]) -> list[Scored]:
        """What the model says of the answers of pairs (prompt ids, answer ids); a prompt has at least one token."""

    def generate(self, prompts: list[list[int]], max_new_tokens: int, stop: list[int]) -> list[list[int]]:
        """Greedy continuations, without the prompt; the token of `stop` that ended one is its last."""

    def peak_memory(self) -> int:
        """Bytes that the program's process held at most."""

    def close(self) -> None:
        """Free what it holds; the program answers nothing afterwards."""
