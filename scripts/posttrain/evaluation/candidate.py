"""The model that is measured, and its greedy answers, each of which is generated once."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from posttrain.data import tokens
from posttrain.data.conversations import render
from posttrain.data.left_out import advice, left_out
from posttrain.evaluation import generation_cache
from posttrain.inference import decoding, media, scoring
from posttrain.runtime.console import say
from posttrain.runtime.errors import UserError

Row = dict[str, Any]


class Candidate(NamedTuple):
    """The model that is measured, and where its things lie."""

    name: str
    model: Any
    tokenizer: Any
    tokens: Path
    """the folder of its base's tokens"""
    answers: Path
    """the file that remembers what it generated"""
    key: str
    """a hash of its weights"""
    spec: dict
    data: Mapping[str, Path]
    """the folders of the datasets, by name"""
    reward_models: Mapping[str, Path]
    """the folders of the reward models that score its answers, by name"""

    @property
    def stops(self) -> list[int]:
        """The tokens that end its answers."""
        return scoring.stop_tokens(self.model, self.tokenizer)

    def generate(
        self,
        prompts: list[list[int]],
        max_new_tokens: int,
        stop: tuple[str, ...] = (),
        files: list[media.Files] | None = None,
    ) -> list[scoring.Answer]:
        """Its greedy answer to each prompt (token ids); one that was given before is not generated again.

        Args:
            files: that each prompt is about; None where they are all text.
        """
        check_known(self, prompts)
        longest = decoding.context(self.model)
        full = sum(not room for room in decoding.rooms(prompts, max_new_tokens, longest))
        if full:
            say(
                f"{self.name}: {full} of {len(prompts)} prompts have as many tokens as the model's context of {longest}, or "
                "more, and no answer; take them out of what is held out, or write a smaller `num_fewshot`"
            )
        precision = self.spec.get("precision", "fp32")
        key = generation_cache.model_key(self.key, precision, self.stops, longest)
        return generation_cache.answers(
            self.model,
            self.tokenizer,
            prompts,
            max_new_tokens,
            stop,
            self.answers,
            key,
            penalty=self.spec.get("repetition_penalty", 1.0),
            by_batch=precision != "fp32",
            files=files,
        )

    def prompt(self, asked: "Asked") -> list[int]:
        """The tokens of a prompt, with the placeholders of its files."""
        return media.prompt_tokens(self.model, self.tokenizer, *asked)

    def ask(self, asked: list["Asked"], max_new_tokens: int) -> list[scoring.Answer]:
        """Its greedy answer to each prompt."""
        return self.generate([self.prompt(one) for one in asked], max_new_tokens, files=[one.files for one in asked])

    def asked(self, row: Row, dataset: str) -> "Asked":
        """What a row of a dataset asks."""
        return Asked(tokens.prompt_turns(row), row.get("tools"), media.of(row, self.data[dataset]))


class Asked(NamedTuple):
    """What comes before an answer."""

    turns: list[Row]
    tools: str | None = None
    """the functions that may be called, as JSON"""
    files: media.Files = ()


def check_known(candidate: Candidate, rows: Iterable[Sequence[int]]) -> None:
    """Refuse tokens that the model has no embedding for, such as special tokens of another model's chat template.

    Raises:
        UserError: naming the token, its id, and how many there are.
    """
    embeddings = candidate.model.get_input_embeddings().num_embeddings
    last = max((max(ids) for ids in rows if ids), default=0)
    if last >= embeddings:
        token = candidate.tokenizer.convert_ids_to_tokens(last)
        raise UserError(
            "token-without-embedding",
            candidate.name,
            f"the token {token} has id {last}, but the model has embeddings for {embeddings} tokens only",
            f"write new_tokens: ['{token}'] under the base, or remove the token from the chat template",
        )


def ask(candidate: Candidate, prompts: list[Asked], settings: dict) -> list[str]:
    """The text of the answer to each prompt; thoughts are in it."""
    _tell_lost(candidate, prompts)
    return [answer.text for answer in candidate.ask(prompts, settings["max_new_tokens"])]


def _tell_lost(candidate: Candidate, prompts: list[Asked]) -> None:
    """Say what of the prompts with tools the chat template leaves out, so that no answer can be right."""
    of_tools = [asked for asked in prompts if asked.tools or any("tool_calls" in turn for turn in asked.turns)]
    lost = []
    for asked in of_tools:
        text = render(candidate.tokenizer, asked.turns, asked.tools, generate=True)
        lost += [found] if (found := left_out(asked.turns, asked.tools, text)) else []
    if lost:
        say(
            f"WARNING: {candidate.name}: the base's chat template leaves out {lost[0][0]} in {len(lost)} of {len(prompts)} prompts; "
            f"{advice(lost[0])}"
        )
