"""From normalised rows to token ids and the mask of what is trained: only what the assistant says, stop token included.

A conversation is rendered once by the model's own chat template and tokenised whole, without further special tokens;
which tokens are trained is read off the characters. So the ids are exactly those the model sees in a chat, there is
never a second BOS, and no template needs generation marks.
"""

from collections.abc import Iterator
from os.path import commonprefix
from typing import Any

from posttrain.errors import UserError
from posttrain.rows import Row

IGNORED = -100

Turns = list[dict[str, str]]


def render(tokenizer: Any, turns: Turns, generate: bool = False) -> str:
    """The text of a conversation; with `generate`, up to where the assistant's next turn begins.

    A tokenizer without a chat template gets the contents one after the other, the assistant's closed by EOS.
    """
    if tokenizer.chat_template:
        return tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=generate)
    pieces = [turn["content"] + (tokenizer.eos_token if turn["role"] == "assistant" else "\n") for turn in turns]
    return "".join(pieces)


def sft_tokens(tokenizer: Any, row: Row) -> tuple[list[int], list[int]]:
    """Token ids and labels of one row, both (length,); labels are -100 where nothing is trained.

    Raises:
        UserError: the chat template does not render a conversation's beginning as the beginning of its whole.
    """
    if "text" in row:
        ids = tokenizer(row["text"])["input_ids"]
        ids = ids if ids[-1:] == [tokenizer.eos_token_id] else [*ids, tokenizer.eos_token_id]
        return ids, list(ids)
    turns = row["messages"]
    text, ids, offsets = _encode(tokenizer, turns)
    spans = [_span(tokenizer, turns, i, text) for i, turn in enumerate(turns) if turn["role"] == "assistant"]
    labels = [IGNORED] * len(ids)
    for start, end in spans:
        inside = [i for i, (left, right) in enumerate(offsets) if right > start and left < end]
        for i in _until_stop(tokenizer, ids, inside):
            labels[i] = ids[i]
    return ids, labels


def preference_tokens(tokenizer: Any, row: Row) -> tuple[list[int], list[int], list[int]]:
    """Token ids of the prompt, of the chosen and of the rejected answer; an answer ends with its stop token.

    Raises:
        UserError: as `sft_tokens`.
    """
    prompt, chosen = _answer(tokenizer, row["prompt"], row["chosen"])
    other, rejected = _answer(tokenizer, row["prompt"], row["rejected"])
    shared = 0
    while shared < min(len(prompt), len(other)) and prompt[shared] == other[shared]:
        shared += 1
    return prompt[:shared], prompt[shared:] + chosen, other[shared:] + rejected


def prompt_tokens(tokenizer: Any, turns: Turns) -> list[int]:
    """Token ids that ask for the assistant's next turn."""
    return tokenizer(render(tokenizer, turns, generate=True), add_special_tokens=False)["input_ids"]


def _answer(tokenizer: Any, prompt: Turns, answer: Turns) -> tuple[list[int], list[int]]:
    turns = prompt + answer
    text, ids, offsets = _encode(tokenizer, turns)
    start, _ = _span(tokenizer, turns, len(prompt), text)
    inside = [i for i, (_, right) in enumerate(offsets) if right > start]
    trained = _until_stop(tokenizer, ids, inside)
    return ids[: inside[0]], [ids[i] for i in trained]


def _encode(tokenizer: Any, turns: Turns) -> tuple[str, list[int], list[tuple[int, int]]]:
    text = render(tokenizer, turns)
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    return text, encoded["input_ids"], encoded["offset_mapping"]


def _span(tokenizer: Any, turns: Turns, i: int, text: str) -> tuple[int, int]:
    """First and last character of what the assistant says in turn `i`."""
    if i:
        before = render(tokenizer, turns[:i], generate=True)
    else:  # no template renders an empty conversation
        before = commonprefix([render(tokenizer, [turns[0] | {"content": word}]) for word in "AB"])  # noqa: RUF071  (characters are meant)
    through = render(tokenizer, turns[: i + 1])
    if not (text.startswith(before) and text.startswith(through)):
        raise UserError(
            "the base's chat template renders the beginning of a conversation otherwise than the whole, so the trained "
            "tokens cannot be told from the others; give the base a template that only appends"
        )
    return len(before), len(through)


def _until_stop(tokenizer: Any, ids: list[int], inside: list[int]) -> list[int]:
    """Positions up to the last stop token: what a template prints after it is never generated."""
    stops = [i for i in inside if ids[i] == tokenizer.eos_token_id]
    return [i for i in inside if not stops or i <= stops[-1]]


def tokenise(tokenizer: Any, rows: list[Row], shape: str, max_length: int) -> tuple[list[Row], dict[str, int]]:
    """Tokenise rows, cut them to `max_length` and leave out those with no trained token left.

    Returns:
        The rows (`input_ids`, `labels`, or `prompt_ids` with `chosen_ids` and `rejected_ids`, or with `completion_ids`
        and `label`; always `id` and `length`), and
        the counts of rows, of trained and all tokens, of cut and of dropped rows.
    """
    encode = {"preference": _preference, "unpaired_preference": _unpaired}.get(shape, _sft)
    counts = {"rows": 0, "tokens": 0, "trained_tokens": 0, "cut": 0, "dropped": 0}
    kept = []
    for encoded, trained, cut in encode(tokenizer, rows, max_length):
        counts["cut"] += cut
        if not trained:
            counts["dropped"] += 1
            continue
        counts["rows"] += 1
        counts["tokens"] += encoded["length"]
        counts["trained_tokens"] += trained
        kept.append(encoded)
    return kept, counts


def _sft(tokenizer: Any, rows: list[Row], limit: int) -> Iterator[tuple[Row, int, bool]]:
    for row in rows:
        ids, labels = sft_tokens(tokenizer, row)
        cut = len(ids) > limit
        ids, labels = ids[:limit], labels[:limit]
        trained = sum(label != IGNORED for label in labels[1:])
        yield {"id": row["id"], "length": len(ids), "input_ids": ids, "labels": labels}, trained, cut


def _preference(tokenizer: Any, rows: list[Row], limit: int) -> Iterator[tuple[Row, int, bool]]:
    for row in rows:
        prompt, chosen, rejected = preference_tokens(tokenizer, row)
        longest = max(len(chosen), len(rejected))
        room = max(0, limit - len(prompt))
        answers = {"chosen_ids": chosen[:room], "rejected_ids": rejected[:room]}
        differ = answers["chosen_ids"] != answers["rejected_ids"]
        trained = sum(map(len, answers.values())) if differ else 0
        length = len(prompt) + min(longest, room)
        yield {"id": row["id"], "length": length, "prompt_ids": prompt, **answers}, trained, longest > room


def _unpaired(tokenizer: Any, rows: list[Row], limit: int) -> Iterator[tuple[Row, int, bool]]:
    for row in rows:
        prompt, completion = _answer(tokenizer, row["prompt"], row["completion"])
        kept = completion[: max(0, limit - len(prompt))]
        encoded = {"prompt_ids": prompt, "completion_ids": kept, "label": row["label"]}
        yield {"id": row["id"], "length": len(prompt) + len(kept), **encoded}, len(kept), len(kept) < len(completion)


def questions(tokenizer: Any, rows: list[Row]) -> list[Row]:
    """What a model is asked, from rows that end in an answer: `prompt_ids` and `reference` (text)."""
    asked = []
    for row in rows:
        turns = row["messages"][:-1] if "messages" in row else row["prompt"]
        reference = (row["messages"] if "messages" in row else row["chosen"])[-1]["content"]
        if turns:  # a conversation may open with the assistant
            asked.append({"prompt_ids": prompt_tokens(tokenizer, turns), "reference": reference})
    return asked
