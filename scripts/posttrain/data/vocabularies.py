"""Whether the tokens of two tokenizers are the same, so that the distributions of their models can be compared."""

from typing import Any

HINT = (
    "take a teacher of the same family, or let it write the data: datasets: {NAME: {from: DATASET, generated: {by: TEACHER}}} with "
    "objective: sft"
)


def difference(ours: Any, theirs: Any, texts: list[str]) -> str | None:
    """How the vocabularies of two tokenizers differ, or how they read one of the texts; None where they are the same."""
    mine, other = ours.get_vocab(), theirs.get_vocab()
    if mine != other:
        apart = sorted(mine.items() ^ other.items(), key=lambda item: (item[1], item[0]))
        token, place = apart[0]
        sizes = f"{len(other):,} tokens and the model's {len(mine):,}"
        return f"its vocabulary is another: {sizes}, first different at token {place}, {token!r}"
    for text in texts:
        if ours.encode(text, add_special_tokens=False) != theirs.encode(text, add_special_tokens=False):
            return f"its tokenizer has the same vocabulary and cuts a text of the data into other tokens: {text[:60]!r}"
    return None
