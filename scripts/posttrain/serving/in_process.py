"""The models that transformers runs, in this process."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import torch
from tokenizers.decoders import DecodeStream

from posttrain.data import thoughts
from posttrain.export.with_transformers import Transformers
from posttrain.inference import decoding
from posttrain.models import loading
from posttrain.models.adapters import load_several
from posttrain.serving.backends import Ended, Options, Piece
from posttrain.serving.engine import Engine, Request

CONTEXT = 8192  # tokens, of a model that names none


class InProcess:
    """The backend of a model in this process, perhaps with several adapters."""

    follows_schemas = False

    def __init__(self, model: Any, tokenizer: Any, context: int, adapters: dict[str, str] | None = None) -> None:
        """Start the engine.

        Args:
            adapters: the model's name of the adapter that each served name stands for; None for a model without.
        """
        self.tokenizer, self.context, self._adapters = tokenizer, context, adapters
        self._engine = Engine(model, tokenizer, frozenset(adapters.values()) if adapters else None)
        self._engine.start()

    async def ready(self) -> None:
        """See `Backend.ready`: the model was loaded before."""

    async def complete(self, model: str, prompt: list[int], options: Options) -> AsyncIterator[Piece]:
        """See `Backend.complete`."""
        loop, found = asyncio.get_running_loop(), asyncio.Queue[tuple[list[int], str | None]]()

        def emit(ids: list[int], end: str | None) -> None:
            loop.call_soon_threadsafe(found.put_nowait, (ids, end))

        request = Request(prompt, options, emit, self._adapters[model] if self._adapters else None)
        text = _Text(self.tokenizer)
        self._engine.submit(request)
        try:
            end = None
            while end is None:
                ids, end = await found.get()
                if end not in (None, "stop", "length"):
                    raise Ended(end)
                yield Piece(text.add(ids) if end is None else text.add(ids) + text.rest(), len(ids), end)
        finally:
            request.cancelled = True

    async def ended(self) -> str:
        """See `Backend.ended`: the engine ends with this process."""
        await asyncio.Event().wait()
        raise AssertionError

    async def close(self) -> None:
        """End the engine after the token that it computes."""
        self._engine.stop()


class _Text:
    """The text of tokens, as they come; as `thoughts.decode` has it."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer, self._ids, self._given = tokenizer, list[int](), ""
        self._stream = DecodeStream(skip_special_tokens=False)

    def add(self, ids: list[int]) -> str:
        """The whole characters that these tokens complete."""
        self._ids += ids
        kept = thoughts.shown(self.tokenizer, ids)
        piece = "".join(self._stream.step(self.tokenizer.backend_tokenizer, i) or "" for i in kept)
        self._given += piece
        return piece

    def rest(self) -> str:
        """What of the text is not given at the end: a character that is cut."""
        whole = thoughts.decode(self.tokenizer, self._ids)
        return whole[len(self._given) :] if whole.startswith(self._given) else ""


def load(folder: Path, context: int | None) -> InProcess:
    """The model in `folder` as a backend: on a CPU in float32, as evaluation does, on a GPU in its own type.

    Args:
        context: the most tokens of a prompt and its answer; by default the model's.
    """
    model = loading.load(folder, _dtype(), arithmetic="fp32")
    return InProcess(model, loading.tokenizer(folder), context or decoding.context(model) or CONTEXT)


def load_export(folder: Path, context: int | None) -> InProcess:
    """An export in safetensors as a backend, loaded as its proof did."""
    program = Transformers(folder)
    return InProcess(program.model, program.tokenizer, context or decoding.context(program.model) or CONTEXT)


def load_adapters(base: Path, adapters: dict[str, Path], base_name: str | None, context: int | None) -> InProcess:
    """One base with several adapters, each of which is a model to clients.

    Args:
        adapters: folders of exported adapters, by the names of the models.
        base_name: the name under which the base answers without an adapter; None where it does not.
        context: as for `load`.

    Raises:
        UserError: see `adapters.load_several`.
    """
    dtype = torch.float32 if _dtype() == torch.float32 else torch.bfloat16
    model, names = load_several(base, adapters, dtype, base_name)
    return InProcess(model, loading.tokenizer(base), context or decoding.context(model) or CONTEXT, names)


def _dtype() -> Any:
    return torch.float32 if loading.DEVICE == "cpu" else "auto"
