"""Completions of the rows of a whole dataset: what each row asks, and the answers, of which none is generated twice.

Rows are completed in windows: what is in memory does not grow with the dataset, and batches are formed within a window.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from posttrain.data import left_out, tokens
from posttrain.data.conversations import render
from posttrain.data.dataset_types import MEDIA
from posttrain.data.messages import Row, Turns
from posttrain.inference import decoding, media, scoring
from posttrain.inference.answer_store import AnswerStore, Stored
from posttrain.inference.sharing import shared
from posttrain.models.out_of_memory import is_out_of_memory
from posttrain.runtime import processes
from posttrain.runtime.errors import UserError
from posttrain.runtime.resource_limits import memory_limited

WINDOW = 8192  # rows
TOO_LARGE = "the prompt and its completion take more memory than there is"


class Question(NamedTuple):
    """What a row asks a model."""

    said: dict[str, Any]
    """`id`, `place` and `prompt`, as the row's line has them"""
    ids: list[int]
    """the prompt's tokens"""
    name: str = ""
    """hash of the prompt's tokens and of all that the answer depends on besides"""
    error: str | None = None
    """why it cannot be answered"""
    files: media.Files = ()
    """that it is about"""

    @property
    def asked(self) -> "Prompt":
        """What the model is given."""
        return Prompt(self.ids, self.files)


class Prompt(NamedTuple):
    """What a model is given."""

    ids: list[int]
    files: media.Files


class Window(NamedTuple):
    """Rows that were completed."""

    lines: list[dict[str, Any]]
    """`id`, `place`, `prompt`, `completion` and `finish` of each row, or an `error`"""
    generated: int
    """number of answers that were not there before"""


class Asking(NamedTuple):
    """A model that completes rows, and how."""

    model: Any
    tokenizer: Any
    max_new_tokens: int
    penalty: float
    """on tokens that have occurred, prompt included; 1 is none"""
    name: Callable[[list[int], media.Files], str]
    """the name of the answer to a prompt, see `Question.name`"""
    folder: Path
    """the dataset's, with the files that its rows name"""

    def questions(self, rows: Iterable[Row]) -> list[Question]:
        """What rows of a `WholeDataset` ask."""
        with memory_limited(tokens.ROWS_BYTES):
            return list(map(self._question, rows))

    def _question(self, row: Row) -> Question:
        said = {"id": row.get("id"), "place": row["place"]}
        if "fault" in row:
            return Question(said, [], error=row["fault"])
        turns = tokens.prompt_turns(row)
        if not turns:
            return Question(said, [], error="the row has no prompt, as it opens with the assistant")
        said["prompt"] = turns[-1]["content"]
        said |= {name: row[name] for name in MEDIA if row.get(name)}
        files = media.of(row, self.folder)
        try:
            ids = media.prompt_tokens(self.model, self.tokenizer, turns, row.get("tools"), files)
            lost = self._lost(turns, row.get("tools"))
        except UserError as error:
            return Question(said, [], error=str(error))
        if lost:
            return Question(said, [], error=f"the chat template leaves out {lost[0]}; {left_out.advice(lost)}")
        return Question(said, ids, self.name(ids, files), self._refusal(ids), files)

    def _lost(self, turns: Turns, tools: str | None) -> list[str]:
        """What of a row with tools the chat template would leave out."""
        if not tools and not any("tool_calls" in turn for turn in turns):
            return []
        return left_out.left_out(turns, tools, render(self.tokenizer, turns, tools, generate=True))

    def _refusal(self, ids: list[int]) -> str | None:
        """Why the model cannot go on from a prompt."""
        embeddings = self.model.get_input_embeddings().num_embeddings
        if not ids:
            return "the prompt has no tokens"
        if max(ids) >= embeddings:
            token = self.tokenizer.convert_ids_to_tokens(max(ids))
            return f"the token {token} has id {max(ids)}, but the model has embeddings for {embeddings} tokens only"
        if not self._room(ids):
            longest = decoding.context(self.model)
            return (
                f"the prompt has {len(ids)} tokens, and the model's context of {longest} leaves no room for an answer"
            )
        return None

    def _room(self, ids: list[int]) -> int:
        """How many tokens the answer to a prompt may have."""
        return decoding.rooms([ids], self.max_new_tokens, decoding.context(self.model))[0]

    def generate(self, prompts: list[Prompt]) -> list[scoring.Answer | None]:
        """The answer to each prompt; None where even alone it takes more memory than there is."""
        try:
            return self._generate(prompts)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
        if len(prompts) == 1:
            return [None]
        half = len(prompts) // 2
        return self.generate(prompts[:half]) + self.generate(prompts[half:])

    def _generate(self, prompts: list[Prompt]) -> list[scoring.Answer]:
        ids, files = [one.ids for one in prompts], [one.files for one in prompts]
        return scoring.generate_batch(
            self.model, self.tokenizer, ids, self.max_new_tokens, penalty=self.penalty, files=files
        )

    def line(self, question: Question, answer: Stored | None) -> dict[str, Any]:
        """What is written of a row; no answer to a question that can be answered is one that took too much memory."""
        if question.error or answer is None:
            return question.said | {"error": question.error or TOO_LARGE}
        stopped = answer.ended or answer.tokens < self._room(question.ids)  # it may be a text that stops an answer
        return question.said | {"completion": answer.text, "finish": "stop" if stopped else "length"}


def complete(asking: Asking, rows: Iterable[Row], store: AnswerStore, tell: Callable[[int], None]) -> Iterator[Window]:
    """Complete rows of a `WholeDataset`, in their order; equal prompts are answered once.

    Args:
        store: the answers given so far, to which those are added that it does not have.
        tell: called with the number of rows that are done.
    """
    rows, before = iter(rows), 0
    while questions := asking.questions(itertools.islice(rows, WINDOW)):
        prompts = {one.name: one.asked for one in questions if not one.error}
        others = before + len(questions) - len(prompts)
        generated = _answer(asking, prompts, store, lambda done, others=others: tell(others + done))
        answers = store.find(prompts)
        yield Window([asking.line(one, answers.get(one.name)) for one in questions], generated)
        before += len(questions)


def _answer(asking: Asking, prompts: dict[str, Prompt], store: AnswerStore, tell: Callable[[int], None]) -> int:
    """Add the answers that `store` does not have, batch by batch; returns how many.

    The processes of a job share the batches. A batch has neighbours in length.

    Args:
        prompts: by the name of the answer; the same in each process.
        tell: called with the number of prompts that are done.
    """
    missing = processes.by_main(lambda: sorted(prompts.keys() - store.find(prompts).keys()))
    ids, files = [prompts[name].ids for name in missing], [prompts[name].files for name in missing]
    order = scoring.prompt_batches(ids, asking.max_new_tokens, files)
    batches = [tuple(missing[i] for i in batch) for batch in order]
    known = len(prompts) - len(missing)
    done = dict(zip(batches, itertools.accumulate(map(len, batches), initial=known), strict=False))
    tell(known)

    def of_batch(batch: tuple[str, ...]) -> int:
        given = dict(zip(batch, asking.generate([prompts[name] for name in batch]), strict=True))
        found = {name: answer for name, answer in given.items() if answer is not None}
        store.add(found)
        tell(done[batch] + len(batch))
        return len(found)

    return sum(shared(of_batch, batches))
