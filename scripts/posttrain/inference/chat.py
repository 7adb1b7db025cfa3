"""A conversation with a model, turn by turn: the template, the stop tokens and the decoding are those of its evaluation."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from transformers import StoppingCriteria

from posttrain.data import thoughts, tokens
from posttrain.inference import decoding, scoring
from posttrain.runtime.errors import UserError

Turns = list[dict[str, Any]]
Show = Callable[[str], None]
"""What is called with the answer so far whenever there is more of it"""


class Reply(NamedTuple):
    """An answer."""

    text: str
    """thoughts included, see `thoughts.split`"""
    note: str
    """why it ended before the model ended it; empty where the model did"""


class Partner:
    """A model that transformers runs, to talk with."""

    def __init__(self, model: Any, tokenizer: Any, temperature: float, max_new_tokens: int) -> None:
        """`temperature`: 0 takes the likeliest token each time, as evaluation does; else a token is drawn at random."""
        self.model, self.tokenizer = model, tokenizer
        self.max_new_tokens = max_new_tokens
        self.options = decoding.greedy(model)
        if temperature:
            self.options |= {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": 1.0}

    def reply(self, turns: Turns, show: Show, tools: str | None = None) -> Reply:
        """The answer to a conversation, in which `tools` (JSON) may be called.

        Ctrl-C ends it early: what was said until then is the answer.

        Raises:
            UserError: the conversation leaves no room in the model's context, or the template refuses it.
        """
        prompt = tokens.prompt_tokens(self.tokenizer, turns, tools)
        context = decoding.context(self.model)
        room = left(len(prompt), self.max_new_tokens, context)
        stops = tuple(scoring.as_list(self.model.generation_config.stop_strings))
        opening = thoughts.opened(self.tokenizer, prompt)
        ends = scoring.stop_tokens(self.model, self.tokenizer)
        decoder = scoring.Decoder(self.tokenizer, ends, stops, [opening])
        width = 0 if scoring.virtual_tokens(self.model, 1) is not None else len(prompt)
        said = _Said(decoder, width, show)
        options = self.options | {"max_new_tokens": room, "stopping_criteria": [said]}
        try:
            with torch.no_grad(), scoring.autocast(self.model):
                scoring.continue_prompts(self.model, self.tokenizer, [prompt], ends, **options)
        except KeyboardInterrupt:
            return Reply(said.text, "stopped")
        return Reply(said.text, "" if said.ended else cut(room, self.max_new_tokens, context))


class _Said(StoppingCriteria):
    """Shows an answer token by token, and ends it at a stop text."""

    def __init__(self, decoder: scoring.Decoder, width: int, show: Show) -> None:
        self.decoder, self.width, self.show = decoder, width, show
        self.text, self.ended = "", False

    def __call__(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        """Called by `generate` after each token, with all ids so far (1, length)."""
        ids, self.ended = self.decoder.until_end(input_ids[0, self.width :].tolist())
        at_stop_text = self.decoder.has_stop(0, ids)
        self.text = self.decoder.answer(0, ids, self.ended).text
        self.ended |= at_stop_text
        self.show(shown(self.text))
        return torch.tensor([at_stop_text], device=input_ids.device)


def shown(text: str) -> str:
    """An answer so far, without the first bytes of a character that is not whole yet."""
    return text.removesuffix("\N{REPLACEMENT CHARACTER}")


def left(prompt: int, max_new_tokens: int, context: int | None) -> int:
    """How many tokens an answer may have after a prompt of that many.

    Raises:
        UserError: there is no room for any.
    """
    room = max_new_tokens if context is None else min(max_new_tokens, context - prompt)
    if room <= 0:
        problem = f"the conversation has {prompt:,} tokens, and the model reads and writes {context:,} at most"
        raise UserError("context-full", "", problem, "begin a new one with /reset, or write less")
    return room


def cut(room: int, max_new_tokens: int, context: int | None) -> str:
    """Why an answer of `room` tokens was cut."""
    if room < max_new_tokens:
        return f"cut: the model's context of {context:,} tokens is full"
    return f"cut after {max_new_tokens:,} tokens; --max-new-tokens allows more"
