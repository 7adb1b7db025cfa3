"""Answers of one model to many requests at once: each token of all running answers is computed in one step.

A request joins the running answers at the next step and leaves when it ends or its client goes away. Rows are padded on the left, as
in `scoring.generate_batch`, so in float32 a greedy answer is the one that batch inference gives. Where a model's cache cannot be
joined (`shared_prefix.can_share`), requests are answered one after the other.
"""

import threading
from collections import deque
from collections.abc import Callable
from typing import Any

import torch
from torch.nn.functional import pad
from transformers import DynamicCache

from posttrain.inference import decoding, scoring
from posttrain.models import shared_prefix
from posttrain.serving.backends import Options

ROWS = 32  # answered at once
TOKENS = 2**16  # prompts and answers that are held at once, at most, padding included
PROMPT_TOKENS = 2**13  # of prompts that are computed in one step; running answers wait for it

Emit = Callable[[list[int], str | None], None]


class Request:
    """A prompt, how it is continued, and where its tokens go."""

    def __init__(self, prompt: list[int], options: Options, emit: Emit, adapter: str | None = None) -> None:
        """A request that has not begun.

        Args:
            emit: takes new token ids and why the answer ends (`stop`, `length`, or the sentence of an error), in the engine's thread.
            adapter: name of the one that answers, of a model with several.
        """
        self.prompt, self.options, self.emit, self.adapter = prompt, options, emit, adapter
        self.cancelled = False
        self.left = options.most
        self.length = len(prompt)
        self.generator = torch.Generator()
        if options.seed is None:
            self.generator.seed()
        else:
            self.generator.manual_seed(options.seed)

    @property
    def most(self) -> int:
        """Tokens of the prompt and the longest answer."""
        return len(self.prompt) + self.options.most

    def pick(self, logits: torch.Tensor) -> int:
        """The next token, from its logits (vocabulary,) in float32 on the CPU."""
        if self.options.temperature == 0:
            return int(logits.argmax())
        probabilities = (logits / self.options.temperature).softmax(-1)
        if self.options.top_p < 1:
            ordered, places = probabilities.sort(descending=True)
            ordered[ordered.cumsum(0) - ordered >= self.options.top_p] = 0
            probabilities = torch.zeros_like(probabilities).scatter(0, places, ordered)
        return int(torch.multinomial(probabilities, 1, generator=self.generator))

    def take(self, token: int, stops: list[int]) -> bool:
        """Give a token to the client; returns whether the answer goes on."""
        if token in stops:
            self.emit([], "stop")
            return False
        self.left -= 1
        self.length += 1
        self.emit([token], None if self.left else "length")
        return self.left > 0


class Engine(threading.Thread):
    """The thread that computes."""

    def __init__(self, model: Any, tokenizer: Any, adapters: frozenset[str] | None = None) -> None:
        """An engine that has not started.

        Args:
            adapters: the names that requests may have, of a model with several.
        """
        super().__init__(name="engine", daemon=True)
        self._adapters = adapters or {None}
        self.model, self.tokenizer = model.eval(), tokenizer
        self._stops = scoring.stop_tokens(model, tokenizer)
        plain = getattr(model, "get_base_model", lambda: model)()
        # Adapters of one model alone may put something before the prompt.
        self._joins = shared_prefix.can_share(plain) and (adapters is not None or not hasattr(model, "peft_config"))
        self._waiting: deque[Request] = deque()
        self._changed = threading.Condition()
        self._ended = False

    def submit(self, request: Request) -> None:
        """Answer a request as soon as there is room for it.

        Raises:
            ValueError: its adapter is not one of the model's; without a name, whichever was loaded last would answer.
        """
        if request.adapter not in self._adapters:
            raise ValueError(f"no adapter {request.adapter}")
        with self._changed:
            self._waiting.append(request)
            self._changed.notify()

    def stop(self) -> None:
        """End the thread after its current step."""
        with self._changed:
            self._ended = True
            self._changed.notify()

    def run(self) -> None:
        """Answer requests until the engine is stopped; an error ends the answers that it meets, and no others."""
        batch = _Batch(self.model)
        while new := self._admitted(batch):
            try:
                with torch.no_grad(), scoring.autocast(self.model):
                    if self._joins:
                        batch.step(new[0], self._stops)
                    else:
                        self._alone(new[0][0])
            except Exception as error:  # whatever a model's arithmetic raises: no memory, a kernel that is not there
                for request in {*batch.rows, *new[0]}:
                    request.emit([], f"the model failed: {(str(error) or type(error).__name__).splitlines()[0]}")
                batch = _Batch(self.model)

    def _admitted(self, batch: "_Batch") -> tuple[list[Request]] | None:
        """The requests that begin now, which waits until there is something to do; None at the end."""
        batch.drop_cancelled()
        with self._changed:
            while not self._ended:
                new: list[Request] = []
                while self._waiting and batch.has_room([*new, self._waiting[0]], ROWS if self._joins else 1):
                    request = self._waiting.popleft()
                    if not request.cancelled:
                        new.append(request)
                if new or batch.rows:
                    return (new,)
                self._changed.wait()
        return None

    def _alone(self, request: Request) -> None:
        """Answer one request by transformers' own `generate`."""
        going = True

        def gone(ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
            return torch.full((len(ids),), not going or request.cancelled, device=ids.device)

        def pick(ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
            nonlocal going
            token = request.pick(scores[0].float().cpu())
            going = request.take(token, self._stops)
            return torch.full_like(scores, -torch.inf).index_fill(1, torch.tensor([token], device=scores.device), 0)

        options = decoding.greedy(self.model) | {"max_new_tokens": request.options.most}
        options |= {"logits_processor": [pick], "stopping_criteria": [gone]} | _named([request])
        scoring.continue_prompts(self.model, self.tokenizer, [request.prompt], self._stops, **options)


def _named(rows: list[Request]) -> dict[str, list[str]]:
    """What tells a model with several adapters which one each row has; nothing for another model."""
    names = [row.adapter for row in rows if row.adapter is not None]
    return {"adapter_names": names} if names else {}


class _Batch:
    """The answers that are running, the keys and values of their tokens, and the last token of each."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.rows: list[Request] = []
        self._cache = DynamicCache()  # keys and values of each layer, (rows, heads, width, size)
        self._last: list[int] = []  # of each row; it is not in the cache yet

    def has_room(self, new: list[Request], most: int) -> bool:
        """Whether these can run beside those that do; one always can."""
        every = [*self.rows, *new]
        return len(every) == 1 or (len(every) <= most and len(every) * max(row.most for row in every) <= TOKENS)

    def drop_cancelled(self) -> None:
        """Take out the answers that nobody waits for."""
        self._keep([not row.cancelled for row in self.rows])

    def step(self, new: list[Request], stops: list[int]) -> None:
        """Write one token of each answer, the first one of new ones."""
        if self.rows:
            self._go_on([[token] for token in self._last], stops)
        new = sorted(new, key=lambda row: len(row.prompt))
        while new:
            count = max(1, PROMPT_TOKENS // len(new[-1].prompt))
            begun = _Batch(self.model)
            begun.rows, new = new[-count:], new[:-count]
            begun._go_on([row.prompt for row in begun.rows], stops)
            self._join(begun)

    def _go_on(self, inputs: list[list[int]], stops: list[int]) -> None:
        """Compute after the inputs of each row, padded on the left, and keep the answers that go on."""
        width, device = max(map(len, inputs)), self.model.device
        past = self._cache.get_seq_length()
        ids = torch.tensor([[0] * (width - len(some)) + some for some in inputs], device=device)
        lengths = torch.tensor([row.length for row in self.rows], device=device)[:, None]
        places = torch.arange(past + width, device=device) - (
            past + width - lengths
        )  # of each token in its row, from 0
        output = self.model(
            input_ids=ids,
            attention_mask=(places >= 0).long(),
            position_ids=places[:, past:].clamp(min=0),
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep=1,
            **_named(self.rows),
        )
        logits = output.logits[:, -1].float().cpu()
        self._last = [row.pick(some) for row, some in zip(self.rows, logits, strict=True)]
        self._keep([row.take(token, stops) for row, token in zip(self.rows, self._last, strict=True)])

    def _keep(self, going: list[bool]) -> None:
        """Keep some of the rows, and of the width what their longest has."""
        if all(going):
            return
        kept = [i for i, stays in enumerate(going) if stays]
        self.rows, self._last = [self.rows[i] for i in kept], [self._last[i] for i in kept]
        if not kept:
            self._cache = DynamicCache()
            return
        width = max(row.length for row in self.rows) - 1
        for layer in self._cache.layers:
            layer.keys, layer.values = (part[kept, :, -width:] for part in (layer.keys, layer.values))

    def _join(self, other: "_Batch") -> None:
        """Let the rows of another run with these."""
        if not self.rows:
            self._cache = other._cache
        elif other.rows:
            mine, theirs = self._cache.get_seq_length(), other._cache.get_seq_length()
            width = max(mine, theirs)

            def joined(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
                return torch.cat([pad(a, (0, 0, width - mine, 0)), pad(b, (0, 0, width - theirs, 0))])

            for layer, more in zip(self._cache.layers, other._cache.layers, strict=True):
                layer.keys, layer.values = joined(layer.keys, more.keys), joined(layer.values, more.values)
        self.rows, self._last = [*self.rows, *other.rows], [*self._last, *other._last]
