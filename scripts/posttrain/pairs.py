"""Pairs of answers under the names that TRL's trainers without a reference (ORPO, CPO) pad them by."""

from posttrain.tokens import IGNORED


def columns(row: dict) -> dict:
    """A pair of token lists, `prompt_ids`, `chosen_ids` and `rejected_ids`, as those trainers' own `tokenize_row` returns it.

    Only an answer's tokens have a label; the prompt's are `IGNORED`.
    """
    prompt = row["prompt_ids"]
    columns = {"prompt_input_ids": prompt, "prompt_attention_mask": [1] * len(prompt)}
    for side in ("chosen", "rejected"):
        ids = prompt + row[f"{side}_ids"]
        columns |= {
            f"{side}_input_ids": ids,
            f"{side}_attention_mask": [1] * len(ids),
            f"{side}_labels": [IGNORED] * len(prompt) + row[f"{side}_ids"],
        }
    return columns
