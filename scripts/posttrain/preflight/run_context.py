"""A run and everything that it will read, as the checks look at it."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from posttrain.data import dataset_types
from posttrain.data.conversations import answered, render
from posttrain.data.dataset_types import prompt_turns
from posttrain.data.encoding import prompt_tokens
from posttrain.data.messages import Row, Turns
from posttrain.models.machine import Memory
from posttrain.models.memory_sharing import ALONE, Hardware
from posttrain.models.shapes import Model
from posttrain.preflight.token_scan import Tokens, elided

RENDERED = 200  # rows whose whole text is looked at


@dataclass
class RunContext:
    """What the checks look at: a run and everything that it will read."""

    spec: dict[str, Any]
    model: Model
    tokenizer: Any
    stops: list[int]
    """ids of the tokens that end an answer"""
    data: dict[str, Any]
    """data.json"""
    overlap: dict[str, Any]
    """name of held-out rows: what `contamination.overlap` returns"""
    token_report: dict[str, Any] | None
    """the tokens' report.json; None where the objective is on-policy"""
    tokens: Tokens | None
    sample: list[Row]
    """normalised rows, evenly spaced"""
    memory: Memory
    licences: dict[str, str | None]
    """of each part, as configured or else as its card says"""
    chains: dict[str, list[str]]
    """of each part, what leads from there to the run"""
    use: str
    example: Callable[[int], str]
    """place and text of a row of tokens"""
    leaks: Callable[[], tuple[int, str | None]]
    """rows whose answer stands in their prompt, and the place of the first"""
    encoded: Callable[[set[str]], dict[str, list[Row]]] = lambda ids: {}
    """the rows of tokens of some normalised rows, by their id; none where the objective is on-policy"""
    hardware: Hardware = ALONE
    """the processes that will share the training"""
    evaluation: dict[str, Any] = field(default_factory=dict)
    """the spec of the run's evaluation"""
    judges: dict[str, Any] = field(default_factory=dict)
    """of each reward suite whose judge has another base: that base's tokenizer"""
    base: str = ""
    """the base that the run descends from; of a pruned one, the whole"""
    teachers: list[str] = field(default_factory=list)
    """bases of the models that the run and its parents learn from"""
    teacher: tuple[Any, Model] | None = None
    """tokenizer and shapes of the base of the run's own teacher"""
    measured: dict[str, dict[str, Any]] = field(default_factory=dict)
    """data.json of each dataset that is measured on, see measured_rows.read"""

    @cached_property
    def asked(self) -> list[tuple[Row, Turns]]:
        """The sample's prompts, each with its row; a conversation may open with the assistant."""
        prompts = [(row, prompt_turns(row)) for row in self.sample]
        return [(row, turns) for row, turns in prompts if turns]

    @cached_property
    def prompts(self) -> list[list[int]]:
        """Token ids of `asked`."""
        return [prompt_tokens(self.tokenizer, turns, row.get("tools")) for row, turns in self.asked]

    def asks(self, number: int) -> str:
        """Place and text of one of the prompts."""
        row, turns = self.asked[number]
        text = render(self.tokenizer, turns, row.get("tools"), generate=True)
        return f"{row['place']}:\n{elided(text)}"

    @cached_property
    def texts(self) -> list[tuple[Row, Turns, str]]:
        """The sample's conversations: row, turns, and the text that the chat template makes of them, where the last is trained."""
        rows = self.sample[:: max(1, len(self.sample) // RENDERED)]
        kinds = [dataset_types.of(row) for row in rows]
        said = [
            (row, kind.prompt(row), answer)
            for row, kind in zip(rows, kinds, strict=True)
            for answer in kind.answers(row)
        ]
        return [(row, prompt + answer, self._text(prompt, answer, row.get("tools"))) for row, prompt, answer in said]

    def _text(self, prompt: Turns, answer: Turns, tools: str | None) -> str:
        if self.tokens is None:  # none of these answers is trained
            return render(self.tokenizer, prompt + answer, tools)
        return answered(self.tokenizer, prompt, answer, tools)[0]

    @cached_property
    def longest(self) -> int:
        """Tokens of the longest row that is trained on; an answer of the run's own may be as long as it is allowed."""
        if self.tokens is not None:
            return int(self.tokens.lengths.max())
        room = self.spec["max_length"] - self.spec["max_new_tokens"]
        return max((len(ids) for ids in self.prompts if len(ids) <= room), default=room) + self.spec["max_new_tokens"]
