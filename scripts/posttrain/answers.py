"""The answers that a model has given, remembered: one more metric, or a killed evaluation, generates nothing again.

A JSON-lines file has a line an answer, `{"prompt": HASH, "output": TEXT}`. The hash is of the prompt's tokens, the settings
and the model, so another model or other settings find nothing. Lines are added batch by batch.
"""

import hashlib
import json
import os
import time
from pathlib import Path
from typing import Any

from posttrain import scoring
from posttrain.stage import progress


def answers(
    model: Any,
    tokenizer: Any,
    prompts: list[list[int]],
    max_new_tokens: int,
    stop: tuple[str, ...],
    file: Path,
    key: str,
) -> list[str]:
    """The greedy answer to each prompt (token ids), from `file` where it is there; equal prompts are answered once.

    The batches are those of all prompts, also of the remembered ones, so that a killed evaluation goes on with the same
    batches and ends with the same answers.

    Args:
        stop: texts before the first of which an answer is cut.
        file: the answers given so far; it is made, and grows, as answers come.
        key: what the model is, such as a hash of its files.
    """
    names = [_name(prompt, max_new_tokens, stop, key) for prompt in prompts]
    asked = dict(zip(names, prompts, strict=True))
    known = read(file)
    missing = asked.keys() - known.keys()
    if missing:
        file.parent.mkdir(parents=True, exist_ok=True)
        begun, order, done = time.monotonic(), list(asked), 0
        for batch in scoring.prompt_batches(list(asked.values()), max_new_tokens):
            some = [order[i] for i in batch if order[i] in missing]
            if not some:
                continue
            texts = scoring.generate_batch(model, tokenizer, [asked[name] for name in some], max_new_tokens, stop)
            known |= zip(some, texts, strict=True)
            _append(file, {name: known[name] for name in some})
            done += len(some)
            left = (time.monotonic() - begun) / done * (len(missing) - done)
            progress(f"answers {done}/{len(missing)}", left)
    return [known[name] for name in names]


def read(file: Path) -> dict[str, str]:
    """The answers in `file` by the hash of what was asked; the last line, where a kill has torn it, is taken off."""
    if not file.exists():
        return {}
    whole = file.read_bytes()
    end = whole.rfind(b"\n") + 1
    if end < len(whole):
        os.truncate(file, end)
    rows = map(json.loads, whole[:end].splitlines())
    return {row["prompt"]: row["output"] for row in rows}


def _append(file: Path, outputs: dict[str, str]) -> None:
    lines = [json.dumps({"prompt": name, "output": output}) + "\n" for name, output in outputs.items()]
    with file.open("a") as out:
        out.writelines(lines)


def _name(prompt: list[int], max_new_tokens: int, stop: tuple[str, ...], key: str) -> str:
    return hashlib.sha256(json.dumps([key, max_new_tokens, stop, prompt]).encode()).hexdigest()
