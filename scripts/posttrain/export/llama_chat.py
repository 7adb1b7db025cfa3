"""A conversation with a GGUF file, which llama.cpp runs."""

import signal
from pathlib import Path
from typing import Any

from posttrain.data import conversations, thoughts, tokens
from posttrain.export.llama_cpp import LlamaCpp
from posttrain.inference.chat import Reply, Show, Turns, cut, left, shown
from posttrain.inference.scoring import Decoder, as_list
from posttrain.models import loading
from posttrain.models.context import max_positions
from posttrain.runtime.atomic import read_json

STEP = 8  # tokens that are shown at once


class LlamaPartner:
    """A GGUF file to talk with, as `inference.chat.Partner`. Prompts are rendered and read by the run's own tokenizer."""

    def __init__(self, program: LlamaCpp, model: Path, temperature: float, max_new_tokens: int) -> None:
        """`model`: the folder that the GGUF file was made from."""
        self.program, self.tokenizer = program, loading.tokenizer(model)
        self.temperature, self.max_new_tokens = temperature, max_new_tokens
        self.ends = conversations.stops(model, self.tokenizer)
        config = read_json(model / "config.json")
        self.context = max_positions(config.get("text_config") or config)
        generation = model / "generation_config.json"
        self.stop_texts = as_list(read_json(generation).get("stop_strings")) if generation.exists() else []

    def reply(self, turns: Turns, show: Show, tools: str | None = None) -> Reply:
        """See `inference.chat.Partner.reply`."""
        prompt = tokens.prompt_tokens(self.tokenizer, turns, tools)
        room = left(len(prompt), self.max_new_tokens, self.context)
        opening = thoughts.opened(self.tokenizer, prompt)
        decoder = Decoder(self.tokenizer, self.ends, tuple(self.stop_texts), [opening])
        stopped: list[Any] = []
        before = signal.signal(signal.SIGINT, lambda *_: stopped.append(True))
        ids: list[int] = []
        text, ended = "", False
        try:
            while len(ids) < room and not ended and not stopped:
                most = min(STEP, room - len(ids))
                new = self.program.extend(prompt + ids, most, len(prompt) + room, self.ends, self.temperature)
                more, ended = decoder.until_end(new)
                ids += more
                text = decoder.answer(0, ids, ended).text
                ended |= decoder.has_stop(0, ids)
                show(shown(text))
        finally:
            signal.signal(signal.SIGINT, before)
        return Reply(text, "" if ended else "stopped" if stopped else cut(room, self.max_new_tokens, self.context))
