"""From normalised rows to token ids and the mask of what is trained: only what the assistant says, stop token included.

A conversation is rendered once by the model's own chat template and tokenised whole, without further special tokens;
which tokens are trained is read off the characters. So the ids are exactly those the model sees in a chat, there is
never a second BOS, and no template needs generation marks.
"""

import contextlib
import functools
import json
import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator
from itertools import chain, islice
from operator import itemgetter
from os.path import commonprefix
from typing import Any

import numpy as np

from posttrain.errors import UserError
from posttrain.limits import limited, memory_limited
from posttrain.rows import Row

IGNORED = -100
# Of one conversation's rendering: a template is a program of the base's author.
RENDER_SECONDS, RENDER_BYTES, RENDER_CHARACTERS = 10, 1 << 30, 16_000_000
ROWS_BYTES = 8 << 30  # of a block of rows, with their tokens
AT_ONCE = 16  # texts; an encoding has some hundred bytes a token

Turns = list[dict[str, Any]]


def render(tokenizer: Any, turns: Turns, tools: str | None = None, generate: bool = False) -> str:
    """The text of a conversation; with `generate`, up to where the assistant's next turn begins.

    A tokenizer without a chat template gets the contents one after the other, the assistant's closed by EOS.

    Args:
        tools: the functions that may be called, as JSON.

    Raises:
        UserError: the template fails, or goes beyond the limits of time, memory and size.
    """
    if tokenizer.chat_template:
        turns = [turn | {"tool_calls": _calls(turn["tool_calls"])} if "tool_calls" in turn else turn for turn in turns]
        with limited("the base's chat template", RENDER_SECONDS, RENDER_BYTES):
            try:
                text = tokenizer.apply_chat_template(
                    turns, tools=json.loads(tools) if tools else None, tokenize=False, add_generation_prompt=generate
                )
            except (TimeoutError, MemoryError):
                raise
            except Exception as error:  # whatever its author's program raises
                raise UserError(
                    f"the base's chat template refuses a conversation: {str(error) or type(error).__name__}; give the base "
                    "another template, or take out of the rows what it refuses"
                ) from None
        if len(text) > RENDER_CHARACTERS:
            raise UserError(
                f"the base's chat template makes {len(text):,} characters of a conversation; give it another"
            )
        return text
    pieces = [turn["content"] + (tokenizer.eos_token if turn["role"] == "assistant" else "\n") for turn in turns]
    return "".join(pieces)


def _calls(text: str) -> list[dict]:
    """Tool calls as templates want them: OpenAI writes their arguments as JSON in a string."""
    calls = json.loads(text)
    for call in calls:
        function = call.get("function", call)
        if isinstance(function.get("arguments"), str):
            with contextlib.suppress(ValueError):
                function["arguments"] = json.loads(function["arguments"])
    return calls


def sft_tokens(tokenizer: Any, rows: list[Row]) -> Iterator[tuple[list[int], list[int]]]:
    """Token ids and labels of each row, both (length,); labels are -100 where nothing is trained.

    Raises:
        UserError: the chat template does not render a conversation's beginning as the beginning of its whole.
    """
    if rows and "text" in rows[0]:
        for _, encoding in _encoded(tokenizer, (row["text"] for row in rows), add_special_tokens=True):
            ids = encoding.ids
            ids = ids if ids[-1:] == [tokenizer.eos_token_id] else [*ids, tokenizer.eos_token_id]
            yield ids, list(ids)
        return
    for turns, tools, text, encoding in _rendered(tokenizer, [(row["messages"], row.get("tools")) for row in rows]):
        spans = [_span(tokenizer, turns, tools, i, text) for i, turn in enumerate(turns) if turn["role"] == "assistant"]
        ids = encoding.ids
        labels = [IGNORED] * len(ids)
        for span in spans:
            said = _said(tokenizer, encoding, *span)
            labels[said] = ids[said]
        yield ids, labels


def preference_tokens(tokenizer: Any, rows: list[Row]) -> Iterator[tuple[list[int], list[int], list[int]]]:
    """Token ids of each row's prompt, of the chosen and of the rejected answer; an answer ends with its stop token.

    Raises:
        UserError: as `sft_tokens`.
    """
    sides = (_answers(tokenizer, rows, side) for side in ("chosen", "rejected"))
    for (prompt, chosen), (other, rejected) in zip(*sides, strict=True):
        shared = 0
        while shared < min(len(prompt), len(other)) and prompt[shared] == other[shared]:
            shared += 1
        yield prompt[:shared], prompt[shared:] + chosen, other[shared:] + rejected


def prompt_tokens(tokenizer: Any, turns: Turns, tools: str | None = None) -> list[int]:
    """Token ids that ask for the assistant's next turn."""
    return tokenizer(render(tokenizer, turns, tools, generate=True), add_special_tokens=False)["input_ids"]


def _answers(tokenizer: Any, rows: list[Row], side: str) -> Iterator[tuple[list[int], list[int]]]:
    rendered = _rendered(tokenizer, [(row["prompt"] + row[side], row.get("tools")) for row in rows])
    for row, (turns, tools, text, encoding) in zip(rows, rendered, strict=True):
        start, _ = _span(tokenizer, turns, tools, len(row["prompt"]), text)
        said, ids = _said(tokenizer, encoding, start, len(text)), encoding.ids
        yield ids[: said.start], ids[said]


def _rendered(
    tokenizer: Any, conversations: list[tuple[Turns, str | None]]
) -> Iterator[tuple[Turns, str | None, str, Any]]:
    """Each conversation and its tools, with its text and that text's encoding."""
    texts = (render(tokenizer, turns, tools) for turns, tools in conversations)
    for conversation, encoded in zip(conversations, _encoded(tokenizer, texts, add_special_tokens=False), strict=True):
        yield *conversation, *encoded


def _encoded(tokenizer: Any, texts: Iterable[str], add_special_tokens: bool) -> Iterator[tuple[str, Any]]:
    """Each text and its encoding, some at once: a call takes a third of the time that a text does."""
    texts = iter(texts)
    while some := list(islice(texts, AT_ONCE)):
        encoded = tokenizer(some, add_special_tokens=add_special_tokens, return_attention_mask=False)
        yield from zip(some, encoded.encodings, strict=True)


def _span(tokenizer: Any, turns: Turns, tools: str | None, i: int, text: str) -> tuple[int, int]:
    """First and last character of what the assistant says in turn `i`."""
    if i:
        before = render(tokenizer, turns[:i], tools, generate=True)
    else:  # no template renders an empty conversation
        before = commonprefix([render(tokenizer, [turns[0] | {"content": word}], tools) for word in "AB"])  # noqa: RUF071  (characters are meant)
    through = render(tokenizer, turns[: i + 1], tools) if i + 1 < len(turns) else text
    if not (text.startswith(before) and text.startswith(through)):
        raise UserError(
            "the base's chat template renders the beginning of a conversation otherwise than the whole, so the trained "
            "tokens cannot be told from the others; give the base a template that only appends"
        )
    return len(before), len(through)


def _said(tokenizer: Any, encoding: Any, start: int, end: int) -> slice:
    """Where the tokens of some characters stand, up to the last stop token: what a template prints after it is never generated.

    The encoding itself tells the token of a character in a tenth of the time that a list of all tokens' characters takes;
    it does not where a character belongs to no token, or two tokens begin at the same one.
    """
    ids = encoding.ids
    first, last = encoding.char_to_token(start), _begun(encoding, len(ids), end)
    if first is None:  # tokens stand in the order of their characters
        first = bisect_right(encoding.offsets, start, key=itemgetter(1))
    if last is None:
        last = bisect_left(encoding.offsets, end, key=itemgetter(0))
    stop = tokenizer.eos_token_id
    inside = ids[first:last]
    return slice(first, last - inside[::-1].index(stop) if stop in inside else last)


def _begun(encoding: Any, tokens: int, end: int) -> int | None:
    """Number of tokens that begin before character `end`, where the encoding can tell."""

    def begins_before(token: int) -> bool:
        return token < 0 or encoding.token_to_chars(token)[0] < end

    if begins_before(tokens - 1):
        return tokens
    after = encoding.char_to_token(end)
    return after if after is not None and begins_before(after - 1) and not begins_before(after) else None


def tokenise(tokenizer: Any, rows: list[Row], shape: str, max_length: int) -> tuple[list[Row], dict[str, Any]]:
    """Tokenise rows, cut them to `max_length` and leave out those with no trained token left.

    Returns:
        The rows (`input_ids`, `labels`, or `prompt_ids` with `chosen_ids` and `rejected_ids`, or with `completion_ids`
        and `label`; always `id` and `length`), and the counts of rows, of trained and all tokens, of cut and of dropped rows, of
        unknown tokens and of those that hold less than a character, with the `lengths` of all rows before they were cut.
    """
    encode = {"preference": _preference, "unpaired_preference": _unpaired}.get(shape, _sft)
    counts = {"rows": 0, "tokens": 0, "trained_tokens": 0, "cut": 0, "dropped": 0, "unknown": 0, "fallback": 0}
    kept, lengths = [], []
    with memory_limited(ROWS_BYTES):
        encodings = list(encode(tokenizer, rows, max_length))
    for encoded, trained, length in encodings:
        lengths.append(length)
        counts["cut"] += length > max_length
        if not trained:
            counts["dropped"] += 1
            continue
        counts["rows"] += 1
        counts["tokens"] += encoded["length"]
        counts["trained_tokens"] += trained
        kept.append(encoded)
    ids = np.fromiter(chain.from_iterable(row[key] for row in kept for key in row if key.endswith("_ids")), np.int32)
    counts["unknown"] = int((ids == tokenizer.unk_token_id).sum()) if tokenizer.unk_token_id is not None else 0
    counts["fallback"] = int(fallback(tokenizer)[ids].sum())
    return kept, counts | {"lengths": lengths}


@functools.cache
def fallback(tokenizer: Any) -> np.ndarray:
    """(vocabulary,) which tokens hold less than a whole character: what a tokenizer resorts to for text it does not know."""
    tokens = tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
    if "ByteLevel" not in str(tokenizer.backend_tokenizer.decoder):
        return np.array([re.fullmatch(r"<0x[0-9A-F]{2}>", token or "") is not None for token in tokens])
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    byte = {character: value for value, character in bytes_to_unicode().items()}

    def is_part(token: str) -> bool:
        try:
            return not bytes(map(byte.__getitem__, token)).decode()
        except KeyError:  # a special token, which is text as it is
            return False
        except UnicodeDecodeError:
            return True

    return np.array([is_part(token) for token in tokens])


# Each gives a row, how many of its tokens are trained, and its length before it was cut.


def _sft(tokenizer: Any, rows: list[Row], limit: int) -> Iterator[tuple[Row, int, int]]:
    for row, (ids, labels) in zip(rows, sft_tokens(tokenizer, rows), strict=True):
        length = len(ids)
        ids, labels = ids[:limit], labels[:limit]
        trained = len(labels[1:]) - labels[1:].count(IGNORED)
        yield {"id": row["id"], "length": len(ids), "input_ids": ids, "labels": labels}, trained, length


def _preference(tokenizer: Any, rows: list[Row], limit: int) -> Iterator[tuple[Row, int, int]]:
    for row, (prompt, chosen, rejected) in zip(rows, preference_tokens(tokenizer, rows), strict=True):
        longest = max(len(chosen), len(rejected))
        room = max(0, limit - len(prompt))
        answers = {"chosen_ids": chosen[:room], "rejected_ids": rejected[:room]}
        differ = answers["chosen_ids"] != answers["rejected_ids"]
        trained = sum(map(len, answers.values())) if differ else 0
        length = len(prompt) + min(longest, room)
        yield {"id": row["id"], "length": length, "prompt_ids": prompt, **answers}, trained, len(prompt) + longest


def _unpaired(tokenizer: Any, rows: list[Row], limit: int) -> Iterator[tuple[Row, int, int]]:
    for row, (prompt, completion) in zip(rows, _answers(tokenizer, rows, "completion"), strict=True):
        kept = completion[: max(0, limit - len(prompt))]
        encoded = {"prompt_ids": prompt, "completion_ids": kept, "label": row["label"]}
        yield {"id": row["id"], "length": len(prompt) + len(kept), **encoded}, len(kept), len(prompt) + len(completion)


def turn_end(tokenizer: Any, stops: list[int]) -> int:
    """The stop token with which the chat template closes an assistant's turn: where a reward model is trained to be read."""
    if not tokenizer.chat_template:
        return tokenizer.eos_token_id
    said = "answer"
    text = render(tokenizer, [{"role": "user", "content": "question"}, {"role": "assistant", "content": said}])
    after = tokenizer(text[text.rindex(said) :], add_special_tokens=False)["input_ids"]
    return next((token for token in after if token in stops), tokenizer.eos_token_id)


def prompt_turns(row: Row) -> Turns:
    """What comes before a row's answer; nothing where a conversation opens with the assistant."""
    return row["messages"][:-1] if "messages" in row else row["prompt"]


def questions(tokenizer: Any, rows: list[Row]) -> list[Row]:
    """What a model is asked, from rows that end in an answer: `id`, `prompt_ids` and `reference` (text)."""
    asked = []
    for row in rows:
        turns = prompt_turns(row)
        reference = (row["messages"] if "messages" in row else row["chosen"])[-1]["content"]
        if turns:  # a conversation may open with the assistant
            ids = prompt_tokens(tokenizer, turns, row.get("tools"))
            asked.append({"id": row.get("id"), "prompt_ids": ids, "reference": reference})
    return asked
