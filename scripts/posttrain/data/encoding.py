"""Token ids of texts and conversations, and the labels of what is trained: only what the assistant says, stop token included.

A conversation is rendered by the model's own chat template, see `conversations`, and tokenised whole, without further special
tokens; which tokens are trained follows from the characters. So the ids are exactly those the model sees in a chat, and no
template needs generation marks. Without a chat template a text begins as the tokenizer begins every text, with its BOS.
"""

import functools
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from operator import itemgetter
from typing import Any, NamedTuple

from posttrain.data.conversations import Turns, answered, ending, passages, render, thoughts
from posttrain.data.media_text import Reader
from posttrain.data.messages import Row

IGNORED = -100
AT_ONCE = 16  # texts; an encoding has some hundred bytes a token


class Piece(NamedTuple):
    """A text on its way to tokens."""

    id: str | None
    text: str
    spans: list[tuple[int, int]] | None
    """first and last character of each answer in it; None where all of it is trained"""
    raw: bool = False
    """whether it is plain text, which no chat template made"""
    media: dict[str, list[str]] | None = None
    """names of the files that it is about, by column"""
    media_spans: Sequence[tuple[int, int]] = ()
    """first and last character of each of them in it"""


class TrainingRow(NamedTuple):
    """A row to train on."""

    id: str | None
    ids: list[int]
    labels: list[int]
    media: dict[str, list[str]] | None
    """names of the files that it is about, by column"""
    media_end: int
    """number of tokens up to the end of the last of them"""


class Endings:
    """The tokens that end an answer."""

    def __init__(self, tokenizer: Any, stops: Sequence[int]) -> None:
        self.stops = {tokenizer.eos_token_id, *stops}
        self.turn_end, self.missing = ending(tokenizer, sorted(self.stops))

    def end(self, ids: list[int], said: slice) -> slice:
        """The completion's tokens up to the stop token that ends them: what a template prints after it is never generated.

        If the template writes none after a turn, it is the one with which the next turn begins, or is added to the `ids`.
        """
        answer = ids[said]
        if self.turn_end in answer:
            return slice(said.start, said.stop - answer[::-1].index(self.turn_end))
        back = next((i for i, token in enumerate(reversed(answer)) if token in self.stops), None)
        if back is not None:
            return slice(said.start, said.stop - back)
        if self.missing and said.stop == len(ids):
            ids.append(self.turn_end)
        follows = ids[said.stop : said.stop + 1]
        return slice(said.start, said.stop + (follows != [] and follows[0] in self.stops))


def sft_tokens(
    tokenizer: Any,
    rows: list[Row],
    stops: Sequence[int] = (),
    assistant_turns: str = "all",
    train_thoughts: bool = True,
) -> Iterator[tuple[list[int], list[int]]]:
    """Token ids and labels, both (length,), of each training row; labels are -100 where nothing is trained.

    A row is one training row, or where the template rewrites earlier turns one for each trained turn of the assistant.

    Args:
        stops: the tokens that end an answer, beside EOS.
        assistant_turns: `all` or `last`.
        train_thoughts: whether labels cover what the assistant thinks, beside what it says.

    Raises:
        UserError: an answer cannot be told from what asks for it.
    """
    for row in training_rows(tokenizer, rows, stops, assistant_turns, train_thoughts):
        yield row.ids, row.labels


def training_rows(
    tokenizer: Any,
    rows: list[Row],
    stops: Sequence[int],
    assistant_turns: str,
    train_thoughts: bool,
    reader: Reader | None = None,
) -> Iterator[TrainingRow]:
    """Each training row; where a `reader` is given, with the media that rows are about."""
    endings = Endings(tokenizer, stops)
    for piece, encoding in _encoded(tokenizer, _pieces(tokenizer, rows, assistant_turns, reader)):
        ids = encoding.ids
        opening = _opening(tokenizer, ids, raw=piece.raw)
        if piece.raw:
            ids, labels = _raw(tokenizer, piece, encoding, endings)
            labels = (opening if piece.spans is None else [IGNORED] * len(opening)) + labels
            yield TrainingRow(piece.id, opening + ids, labels, None, 0)
            continue
        labels = [IGNORED] * len(ids)
        for span in piece.spans:
            said = endings.end(ids, _said(encoding, *span))
            labels += [IGNORED] * (len(ids) - len(labels))
            labels[said] = ids[said]
            if not train_thoughts:
                _mask(labels, encoding.offsets, span[0], thoughts(piece.text, *span))
        places = [_said(encoding, *span) for span in piece.media_spans]
        for place in places:
            labels[place] = [IGNORED] * (place.stop - place.start)
        end = len(opening) + places[-1].stop if places else 0
        yield TrainingRow(piece.id, opening + ids, [IGNORED] * len(opening) + labels, piece.media, end)


def _pieces(tokenizer: Any, rows: list[Row], assistant_turns: str, reader: Reader | None = None) -> Iterator[Piece]:
    for row in rows:
        name = row.get("id")
        if "text" in row:
            spans = row.get("trained")
            yield Piece(name, row["text"], spans and list(map(tuple, spans)), raw=True)
            continue
        turns = reader.turns(row["messages"]) if reader else row["messages"]
        found = passages(tokenizer, turns, row.get("tools"), assistant_turns)
        for k, (text, spans) in enumerate(found):
            part = name if len(found) == 1 else f"{name}.{k}"
            if reader is None:
                yield Piece(part, text, spans)
            else:
                made = reader.expanded(text, spans, row, is_whole=k + 1 == len(found))
                yield Piece(part, made.text, made.spans, media=made.media, media_spans=made.media_spans)


def _raw(tokenizer: Any, piece: Piece, encoding: Any, endings: Endings) -> tuple[list[int], list[int]]:
    """Token ids and labels of plain text, which EOS closes; it is trained where the text's end is."""
    ids = encoding.ids
    labels = ids if piece.spans is None else [IGNORED] * len(ids)
    for start, end in piece.spans or ():
        said = _said(encoding, start, end)
        labels[said] = ids[said]
    if ids and ids[-1] in endings.stops:
        return ids, labels
    closed = piece.spans is None or piece.spans[-1][1] == len(piece.text)
    return [*ids, tokenizer.eos_token_id], [*labels, tokenizer.eos_token_id if closed else IGNORED]


def _mask(labels: list[int], offsets: list[tuple[int, int]], start: int, end: int) -> None:
    """Take the labels from the tokens that lie inside some characters."""
    first = bisect_left(offsets, start, key=itemgetter(0))
    last = bisect_right(offsets, end, key=itemgetter(1))
    labels[first:last] = [IGNORED] * max(0, last - first)


def preference_tokens(
    tokenizer: Any, rows: list[Row], stops: Sequence[int] = (), reader: Reader | None = None
) -> Iterator[tuple[list[int], list[int], list[int]]]:
    """Token ids of each row's prompt, of the chosen and of the rejected answer; an answer ends with its stop token.

    Raises:
        UserError: as `sft_tokens`.
    """
    sides = (completion_tokens(tokenizer, rows, side, stops, reader) for side in ("chosen", "rejected"))
    for (prompt, chosen), (other, rejected) in zip(*sides, strict=True):
        shared = 0
        while shared < min(len(prompt), len(other)) and prompt[shared] == other[shared]:
            shared += 1
        yield prompt[:shared], prompt[shared:] + chosen, other[shared:] + rejected


def prompt_tokens(
    tokenizer: Any, turns: Turns, tools: str | None = None, reader: Reader | None = None, media: Row | None = None
) -> list[int]:
    """Token ids that ask for the assistant's next turn.

    Args:
        reader, media: what reads the files that the turns are about, and the row with their names.
    """
    text = render(tokenizer, reader.turns(turns) if reader else turns, tools, generate=True)
    if reader:
        text = reader.expanded(text, (), media or {}).text
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    return _opening(tokenizer, ids) + ids


def completion_tokens(
    tokenizer: Any, rows: list[Row], side: str, stops: Sequence[int], reader: Reader | None = None
) -> Iterator[tuple[list[int], list[int]]]:
    """Each row's prompt and one of its answers."""
    endings = Endings(tokenizer, stops)
    pieces = (_answered(tokenizer, row, side, reader) for row in rows)
    for piece, encoding in _encoded(tokenizer, pieces):
        ids = encoding.ids
        said = endings.end(ids, _said(encoding, *piece.spans[0]))
        yield _opening(tokenizer, ids) + ids[: said.start], ids[said]


def _answered(tokenizer: Any, row: Row, side: str, reader: Reader | None) -> Piece:
    if reader is None:
        return Piece(None, *answered(tokenizer, row["prompt"], row[side], row.get("tools")))
    prompt, answer = reader.turns(row["prompt"]), reader.turns(row[side])
    made = reader.expanded(*answered(tokenizer, prompt, answer, row.get("tools")), row)
    return Piece(None, made.text, made.spans)


def _encoded(tokenizer: Any, pieces: Iterable[Piece]) -> Iterator[tuple[Piece, Any]]:
    """Each text and its encoding, some at once: a call takes a third of the time that a text does."""
    pieces = iter(pieces)
    while some := list(islice(pieces, AT_ONCE)):
        texts = [piece.text for piece in some]
        encoded = tokenizer(texts, add_special_tokens=False, return_attention_mask=False)
        yield from zip(some, encoded.encodings, strict=True)


def _opening(tokenizer: Any, ids: list[int], raw: bool = False) -> list[int]:
    """The tokens, such as BOS, that the tokenizer puts before every text and that these do not begin with.

    A chat template prints its own, and whoever serves the model adds none; `raw` is text without one.
    """
    if tokenizer.chat_template and not raw:
        return []
    opening = _put_before(tokenizer)
    return [] if ids[: len(opening)] == opening else opening


@functools.cache
def _put_before(tokenizer: Any) -> list[int]:
    plain = tokenizer("a", add_special_tokens=False)["input_ids"]
    whole = tokenizer("a")["input_ids"]
    starts = range(len(whole) - len(plain) + 1)
    return whole[: next((i for i in starts if whole[i : i + len(plain)] == plain), 0)]


def _said(encoding: Any, start: int, end: int) -> slice:
    """Where the tokens of some characters stand.

    The encoding itself tells the token of a character in a tenth of the time that a list of all tokens' characters takes;
    it does not where a character belongs to no token, or two tokens begin at the same one.
    """
    ids = encoding.ids
    first, last = encoding.char_to_token(start), _begun(encoding, len(ids), end)
    if first is None:  # tokens stand in the order of their characters
        first = bisect_right(encoding.offsets, start, key=itemgetter(1))
    if last is None:
        last = bisect_left(encoding.offsets, end, key=itemgetter(0))
    return slice(first, last)


def _begun(encoding: Any, tokens: int, end: int) -> int | None:
    """Number of tokens that begin before character `end`, where the encoding can tell."""

    def begins_before(token: int) -> bool:
        return token < 0 or encoding.token_to_chars(token)[0] < end

    if begins_before(tokens - 1):
        return tokens
    after = encoding.char_to_token(end)
    return after if after is not None and begins_before(after - 1) and not begins_before(after) else None
