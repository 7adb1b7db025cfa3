"""What a model writes after a prompt: where it ends, and its text."""

from typing import Any, NamedTuple

from posttrain.data import thoughts


class Answer(NamedTuple):
    """What a model writes after a prompt."""

    text: str
    """without stop and other special tokens, thoughts included; they begin with their marker, also where the prompt has it"""
    ids: list[int]
    """its tokens, without the stop token"""
    ended: bool
    """whether it ends at a stop token; else it was cut, at its longest or at a stop text"""


class Decoder(NamedTuple):
    """What ends the answers to some prompts, and their text."""

    tokenizer: Any
    ends: list[int]
    stop: tuple[str, ...]
    openings: list[str]
    """the marker of thoughts that each prompt ends with"""

    def until_end(self, ids: list[int]) -> tuple[list[int], bool]:
        """Tokens before the first stop token, and whether there is one."""
        end = next((i for i, token in enumerate(ids) if token in self.ends), None)
        return ids[:end], end is not None

    def answer(self, row: int, ids: list[int], ended: bool) -> Answer:
        """An answer, cut before the stop texts, one after the other."""
        if self.has_stop(row, ids):
            ids = next(ids[:n] for n in range(1, len(ids) + 1) if self.has_stop(row, ids[:n]))
            ended = False
        text = self.openings[row] + thoughts.decode(self.tokenizer, ids)
        answer = thoughts.answer(text)
        thought = text[: len(text) - len(answer)]
        for end in self.stop:
            answer = answer.split(end)[0]
        return Answer(thought + answer, ids, ended)

    def has_stop(self, row: int, ids: list[int]) -> bool:
        """Whether an answer has come to a stop text after its thoughts, which may be that of a special token."""
        text = self.tokenizer.decode(ids, skip_special_tokens=False) if self.stop else ""
        return any(end in thoughts.answer(self.openings[row] + text) for end in self.stop)
