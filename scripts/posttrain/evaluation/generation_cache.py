"""The answers that a model has given, remembered: one more metric, or a killed evaluation, generates nothing again.

A JSON-lines file has a line an answer, `{"prompt": HASH, "output": TEXT, "ids": TOKENS, "ended": BOOLEAN}`. The hash is of
the prompt's tokens, the settings and the model, so another model or other settings find nothing; lines of an older version,
which had other settings, are never found either. Lines are added batch by batch.
"""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from posttrain.inference import scoring
from posttrain.inference.scoring import Answer
from posttrain.runtime.console import progress

VERSION = 2  # of what an answer is: raise it where another answer would be given to the same prompt


def answers(
    model: Any,
    tokenizer: Any,
    prompts: list[list[int]],
    max_new_tokens: int,
    stop: tuple[str, ...],
    file: Path,
    key: str,
    penalty: float = 1.0,
    by_batch: bool = False,
) -> list[Answer]:
    """The greedy answer to each prompt (token ids), from `file` where it is there; equal prompts are answered once.

    The batches are those of all prompts, also of the remembered ones, so that a killed evaluation goes on with the same
    batches and ends with the same answers.

    Args:
        stop: texts before the first of which an answer is cut.
        file: the answers given so far; it is made, and grows, as answers come.
        key: what the model is and how it computes, such as a hash of its files, its stop tokens and its arithmetic.
        penalty: on tokens that have occurred; 1 is none.
        by_batch: whether an answer counts for the batch that it was given in only, as in bf16, where other prompts beside it
            change it; so none is taken over from a smaller sample.
    """
    settings = [VERSION, key, penalty, max_new_tokens, stop]
    unique = [list(prompt) for prompt in dict.fromkeys(map(tuple, prompts))]
    batches = list(scoring.prompt_batches(unique, max_new_tokens))
    beside = {i: [[unique[j] for j in batch]] for batch in batches for i in batch} if by_batch else {}
    order = [_name(prompt, [*settings, *beside.get(i, [])]) for i, prompt in enumerate(unique)]
    asked = dict(zip(order, unique, strict=True))
    known = read(file)
    missing = asked.keys() - known.keys()
    if missing:
        file.parent.mkdir(parents=True, exist_ok=True)
        done = 0
        for batch in batches:
            some = [order[i] for i in batch if order[i] in missing]
            if not some:
                continue
            ids = [asked[name] for name in some]
            given = scoring.generate_batch(model, tokenizer, ids, max_new_tokens, stop, penalty)
            known |= zip(some, given, strict=True)
            _append(file, {name: known[name] for name in some})
            done += len(some)
            progress(f"answers {done}/{len(missing)}", done, len(missing))
    names = {tuple(prompt): name for name, prompt in asked.items()}
    return [known[names[tuple(prompt)]] for prompt in prompts]


def read(file: Path) -> dict[str, Answer]:
    """The answers in `file` by the hash of what was asked; the last line, where a kill has torn it, is taken off."""
    if not file.exists():
        return {}
    whole = file.read_bytes()
    end = whole.rfind(b"\n") + 1
    if end < len(whole):
        os.truncate(file, end)
    rows = map(json.loads, whole[:end].splitlines())
    return {row["prompt"]: Answer(row["output"], row["ids"], row["ended"]) for row in rows if "ids" in row}


def _append(file: Path, answers: dict[str, Answer]) -> None:
    lines = [
        json.dumps({"prompt": name, "output": text, "ids": ids, "ended": ended}) + "\n"
        for name, (text, ids, ended) in answers.items()
    ]
    with file.open("a") as out:
        out.writelines(lines)


def _name(prompt: list[int], settings: list[Any]) -> str:
    return hashlib.sha256(json.dumps([*settings, prompt]).encode()).hexdigest()
