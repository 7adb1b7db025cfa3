"""What a model thinks before it answers: where the answer begins, and how ids become a text in which that can be seen."""

import functools
import re
from typing import Any

from posttrain.metrics import call_forms

# A block of thoughts opens with the first and closes with the second.
BLOCKS = {
    "<think>": "</think>",  # Qwen, DeepSeek-R1, SmolLM3, GLM, Nemotron, ...
    "[THINK]": "[/THINK]",  # Magistral
    "<seed:think>": "</seed:think>",  # Seed-OSS
    "<|START_THINKING|>": "<|END_THINKING|>",  # Command A Reasoning
    "<|channel>": "<channel|>",  # Gemma 4
}
# gpt-oss writes messages, each in a channel; the user reads the one in `final`.
CHANNEL, MESSAGE, END, START = "<|channel|>", "<|message|>", "<|end|>", "<|start|>"
FINAL = re.compile(rf"(?:{re.escape(START)}assistant)?{re.escape(CHANNEL)}final(?:(?!<\|).)*{re.escape(MESSAGE)}")
ANALYSIS = re.compile(rf"{re.escape(CHANNEL)}analysis(?:(?!<\|).)*{re.escape(MESSAGE)}")
MARKERS = (*BLOCKS, *BLOCKS.values(), CHANNEL, MESSAGE, END, START, *call_forms.MARKS)  # of thoughts and of calls
NEAR = 12  # tokens at the end of a prompt, among which an opening marker is


def answer(text: str) -> str:
    """What the model says once it has thought: nothing where it was cut while it thought."""
    return split(text)[1]


def split(text: str) -> tuple[str, str]:
    """The block of thoughts at the beginning of a text, markers included, and the answer after it.

    A closing marker without an opening one closes a block that the prompt has opened. A marker later in an answer is part of
    it, such as an answer about markers. Without a block the thoughts are empty, and the answer is the text as it is.
    """
    end = _end(text)
    return (text[:end], text[end:].lstrip()) if end else ("", text)


def _end(text: str) -> int:
    """Number of characters before the answer."""
    if text.startswith(CHANNEL):
        return _end_of_channels(text)
    end = 0
    while (opening := next((mark for mark in BLOCKS if text[end:].lstrip().startswith(mark)), None)) is not None:
        closed = text.find(BLOCKS[opening], end)
        if closed < 0:
            return len(text)
        end = closed + len(BLOCKS[opening])
    if end:
        return end
    closings = [(text.find(closing), closing) for closing in BLOCKS.values() if closing in text]
    at, closing = min(closings, default=(0, ""))
    return at + len(closing) if not any(mark in text[:at] for mark in BLOCKS) else 0


def _end_of_channels(text: str) -> int:
    finals = list(FINAL.finditer(text))
    if finals:
        return finals[0].end()
    end, thinks = 0, ANALYSIS.match(text)
    while thinks:
        closed = text.find(END, thinks.end())
        if closed < 0:
            return len(text)
        end = closed + len(END)
        thinks = ANALYSIS.match(text, end + len(f"{START}assistant") * text.startswith(f"{START}assistant", end))
    return end


def opened(tokenizer: Any, prompt: list[int]) -> str:
    """The opening marker, and the white space after it, with which a prompt (token ids) ends; empty where it ends otherwise.

    DeepSeek-R1's template writes it into the prompt, so that only the closing one is in the answer.
    """
    text = tokenizer.decode(prompt[-NEAR:], skip_special_tokens=False)
    found = next((mark for mark in BLOCKS if text.rstrip().endswith(mark)), None)
    return text[text.rindex(found) :] if found else ""


def decode(tokenizer: Any, ids: list[int]) -> str:
    """The text of an answer without its special tokens, except for the markers, which some tokenizers have as such."""
    special = _special(tokenizer)
    if not any(special.get(i) in MARKERS for i in ids):
        return tokenizer.decode(ids, skip_special_tokens=True)
    return tokenizer.decode(shown(tokenizer, ids), skip_special_tokens=False)


def shown(tokenizer: Any, ids: list[int]) -> list[int]:
    """The tokens of an answer that its text has: without special ones, except for the markers."""
    special = _special(tokenizer)
    return [i for i in ids if i not in special or special[i] in MARKERS]


@functools.cache
def _special(tokenizer: Any) -> dict[int, str]:
    """The special tokens by their ids; they are gathered anew whenever transformers is asked."""
    return {i: str(token) for i, token in tokenizer.added_tokens_decoder.items() if token.special}
