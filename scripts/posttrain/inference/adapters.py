"""Answer requests to several LoRA adapters of one base, from many threads, in shared batches.

One thread computes. It takes the requests that wait and answers them in one call of `generate`, with the name of each row's
adapter (PEFT's `adapter_names`): the base's matrices are multiplied once for all rows, an adapter's for its own rows. A row's
adapter and its prompt come from the same `Stream`, and a name that was not loaded is refused before the request waits.

A batch is computed until its longest answer has ended; requests that come meanwhile form the next batch.
"""

import threading
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from queue import SimpleQueue
from typing import Any, NamedTuple

import torch
from transformers import (
    LogitsProcessor,
    StoppingCriteria,
    TemperatureLogitsWarper,
    TopPLogitsWarper,
)

from posttrain.inference import decoding, scoring
from posttrain.models import adapters as adapter_folders
from posttrain.models import loading
from posttrain.runtime.errors import UserError, nearest

GATHER = 0.01  # seconds that the first request of a batch waits for others
NO_ADAPTER = "__base__"  # PEFT's name for a row without one


class Sampling(NamedTuple):
    """How a request's tokens are chosen; greedily by default."""

    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None


class Stream:
    """The tokens of one answer as they come: iterate from one thread; `close` ends the computation of what is left.

    Args:
        name: of the adapter, as the request gave it.
        prompt: token ids.
        room: tokens that the answer may have, at most.
        stop: tokens that end it; they are not part of it.
    """

    def __init__(self, name: str, prompt: list[int], room: int, stop: frozenset[int], sampling: Sampling) -> None:
        self.name, self.prompt, self.room, self.stop, self.sampling = name, prompt, room, stop, sampling
        self.ended: str | None = None
        """ "stop" at a stop token, "length" where the room was used up; None before that"""
        self._tokens: SimpleQueue[int | Exception | None] = SimpleQueue()
        self._taken, self._closed = 0, False
        self._random = torch.Generator()
        if sampling.seed is not None:
            self._random.manual_seed(sampling.seed)
        elif sampling.temperature:
            self._random.seed()

    def __iter__(self) -> Iterator[int]:
        """Itself."""
        return self

    def __next__(self) -> int:
        """Wait for the next token; raises what the computation raised."""
        token = self._tokens.get()
        if isinstance(token, int):
            return token
        self._tokens.put(token)  # for whoever asks again
        if token is None:
            raise StopIteration
        raise token

    def close(self) -> None:
        """Have the engine drop the rest of the answer, also while the request still waits."""
        self._closed = True
        self._tokens.put(None)

    # ---- what the engine's thread calls

    @property
    def closed(self) -> bool:
        """Whether nobody waits for more."""
        return self._closed or self.ended is not None

    def take(self, token: int) -> bool:
        """Pass a token on; returns whether the answer has ended."""
        if self.closed:
            return True
        if token in self.stop:
            self.end("stop")
            return True
        self._taken += 1
        self._tokens.put(token)
        if self._taken == self.room:
            self.end("length")
        return self.closed

    def end(self, why: str) -> None:
        """Nothing more comes."""
        self.ended = why
        self._tokens.put(None)

    def fail(self, error: Exception) -> None:
        """Have whoever waits raise the error."""
        self.ended = "error"
        self._tokens.put(error)

    def choose(self, scores: torch.Tensor) -> torch.Tensor:
        """Scores (1, vocabulary) of which the largest is the token: a sample is the largest after Gumbel noise."""
        if not self.sampling.temperature:
            return scores
        scores = TemperatureLogitsWarper(self.sampling.temperature)(None, scores)
        if self.sampling.top_p < 1:
            scores = TopPLogitsWarper(self.sampling.top_p)(None, scores)
        uniform = torch.rand(scores.shape, generator=self._random).clamp(min=torch.finfo(torch.float32).tiny)
        return scores - torch.log(-torch.log(uniform)).to(scores.device)


class _Choice(LogitsProcessor):
    """Each row's own way to choose its token."""

    def __init__(self, streams: list[Stream]) -> None:
        self.streams = streams

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Scores (n, vocabulary) after `input_ids` (n, length)."""
        return torch.cat([stream.choose(row[None]) for stream, row in zip(self.streams, scores, strict=True)])


class _Delivery(StoppingCriteria):
    """Passes each row's newest token on, and says which rows have ended."""

    def __init__(self, streams: list[Stream]) -> None:
        self.streams = streams

    def __call__(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        """`input_ids` (n, length), prompts included; returns (n,)."""
        tokens = input_ids[:, -1].tolist()
        ended = [stream.take(token) for stream, token in zip(self.streams, tokens, strict=True)]
        return torch.tensor(ended, device=input_ids.device)


class AdapterEngine:
    """A base and its adapters in one process; `answer` and `stream` may be called from any thread.

    Args:
        base: the folder of the model that all adapters belong to.
        adapters: by the name that a request asks for, the folders of adapter exports.
        base_name: the name under which the base itself answers; by default it does not.
        dtype: of the base's weights.
        rows: requests that are answered at once, at most.
        hashes: of the base's files, where a manifest has them; see `models.adapters.check_base`.

    Raises:
        UserError: an adapter that belongs to another base, is more than plain LoRA, or has the name of the base.
    """

    def __init__(
        self,
        base: Path,
        adapters: dict[str, Path],
        base_name: str | None = None,
        dtype: torch.dtype = torch.float32,
        rows: int = scoring.PROMPTS,
        hashes: dict[str, str] | None = None,
    ) -> None:
        if base_name in adapters:
            raise UserError("unsupported-adapter", base_name, "the base and an adapter have the same name")
        self.model, internal = adapter_folders.load_several(base, adapters, dtype, hashes)
        self.tokenizer = loading.tokenizer(base)
        self._internal = internal | ({base_name: NO_ADAPTER} if base_name else {})
        self._rows, self._stop = rows, frozenset(scoring.stop_tokens(self.model, self.tokenizer))
        self._waiting: deque[Stream] = deque()
        self._news, self._open = threading.Condition(), True
        self._thread = threading.Thread(target=self._work, name="adapters", daemon=True)
        self._thread.start()

    @property
    def names(self) -> list[str]:
        """What a request may ask for."""
        return sorted(self._internal)

    def stream(
        self,
        name: str,
        prompt_ids: list[int],
        max_new_tokens: int,
        stop: tuple[int, ...] = (),
        sampling: Sampling = Sampling(),  # noqa: B008 (a tuple)
    ) -> Stream:
        """The tokens of an answer as they come; `Stream.ended` says why it ended, and closing the stream frees its place.

        Args:
            name: of an adapter, or of the base.
            stop: tokens that end the answer, besides those of the model; they are not part of it.

        Raises:
            UserError: an unknown name, or a prompt that is empty or leaves no room for an answer.
        """
        if name not in self._internal:
            raise UserError("unknown-name", name, "no adapter of this name is loaded", nearest(name, self._internal))
        room = decoding.rooms([prompt_ids], max_new_tokens, decoding.context(self.model))[0] if prompt_ids else 0
        if not room:
            raise UserError(
                "too-long",
                name,
                f"a prompt of {len(prompt_ids)} tokens and an answer of at most {max_new_tokens} have no room in a context of "
                f"{decoding.context(self.model)} tokens",
            )
        stream = Stream(name, prompt_ids, room, self._stop | frozenset(stop), sampling)
        with self._news:
            if not self._open:
                raise RuntimeError("the engine is closed")
            self._waiting.append(stream)
            self._news.notify()
        return stream

    def answer(self, name: str, prompt_ids: list[int], max_new_tokens: int, *options: Any, **more: Any) -> list[int]:
        """The whole answer, without the token that ended it; waits for it. Arguments and errors as `stream`."""
        return list(self.stream(name, prompt_ids, max_new_tokens, *options, **more))

    def close(self) -> None:
        """Finish the batch at hand and end the thread; requests that still wait raise an error."""
        with self._news:
            self._open = False
            self._news.notify()
        self._thread.join()
        for stream in self._waiting:
            stream.fail(RuntimeError("the engine is closed"))

    # ---- the thread

    def _work(self) -> None:
        while batch := self._next():
            try:
                self._compute(batch)
            except Exception as error:  # whatever a model's code raises; the next batch may well be answered
                for stream in batch:
                    if not stream.closed:
                        stream.fail(error)

    def _next(self) -> list[Stream]:
        """The requests to answer together: the one that has waited longest and those that there is room for."""
        with self._news:
            self._news.wait_for(lambda: self._waiting or not self._open)
            if self._open and len(self._waiting) < self._rows:
                self._news.wait_for(lambda: len(self._waiting) >= self._rows or not self._open, GATHER)
            if not self._open:
                return []
            batch: list[Stream] = []
            left: deque[Stream] = deque()
            for stream in self._waiting:
                if not stream.closed:
                    (batch if self._fits(stream, batch) else left).append(stream)
            self._waiting = left
            return batch or self._next()

    def _fits(self, stream: Stream, batch: list[Stream]) -> bool:
        if not batch:
            return True
        group = [*batch, stream]
        longest = max(len(one.prompt) for one in group) + max(one.room for one in group)
        return len(group) <= self._rows and len(group) * longest <= scoring.TOKENS

    def _compute(self, batch: list[Stream]) -> None:
        options = decoding.greedy(self.model) | {
            "max_new_tokens": max(stream.room for stream in batch),
            "stopping_criteria": [_Delivery(batch)],
        }
        if any(stream.sampling.temperature for stream in batch):
            options["logits_processor"] = [_Choice(batch)]
        options["adapter_names"] = [self._internal[stream.name] for stream in batch]
        with torch.no_grad(), scoring.autocast(self.model):
            prompts = [stream.prompt for stream in batch]
            scoring.continue_prompts(self.model, self.tokenizer, prompts, sorted(self._stop), **options)
