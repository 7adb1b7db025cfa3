"""The answers that a model has given, remembered: one more metric, or a killed evaluation, generates nothing again.

A JSON-lines file has a line an answer, `{"prompt": HASH, "output": TEXT, "ids": TOKENS, "ended": BOOLEAN}`. The hash is of
the prompt's tokens, the settings and the model, so another model or other settings find nothing; lines of an older version,
which had other settings, are never found either. Lines are added batch by batch. Where a job has several processes, each adds
to a file of its own, and the main one alone reads them and moves what the others have written into the first.
"""

import hashlib
import itertools
import json
import os
from pathlib import Path
from typing import Any

from posttrain.inference import media, scoring
from posttrain.inference.scoring import Answer
from posttrain.inference.sharing import shared
from posttrain.runtime import processes
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
    files: list[media.Files] | None = None,
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
        files: that each prompt is about; None where they are all text.
    """
    settings = [VERSION, key, penalty, max_new_tokens, stop]
    pairs = [*zip(map(tuple, prompts), files or [()] * len(prompts), strict=True)]
    unique = [(list(prompt), about) for prompt, about in dict.fromkeys(pairs)]
    batches = list(scoring.prompt_batches(_columns(unique)[0], max_new_tokens, _columns(unique)[1]))
    beside = {i: [[_named(*unique[j]) for j in batch]] for batch in batches for i in batch} if by_batch else {}
    order = [name_of(prompt, [*settings, *beside.get(i, [])], about) for i, (prompt, about) in enumerate(unique)]
    asked = dict(zip(order, unique, strict=True))
    known = processes.by_main(lambda: _read_all(file))
    missing = asked.keys() - known.keys()
    todo = [some for batch in batches if (some := [order[i] for i in batch if order[i] in missing])]
    done = dict(zip(map(tuple, todo), itertools.accumulate(map(len, todo)), strict=True))

    def of_batch(some: list[str]) -> list[Answer]:
        ids, about = _columns([asked[name] for name in some])
        given = scoring.generate_batch(model, tokenizer, ids, max_new_tokens, stop, penalty, about)
        _append(_own(file), dict(zip(some, given, strict=True)))
        progress(f"answers {done[tuple(some)]}/{len(missing)}", done[tuple(some)], len(missing))
        return given

    for some, given in zip(todo, shared(of_batch, todo), strict=True):
        known |= zip(some, given, strict=True)
    if processes.is_main():
        _move_others(file)
    names = dict(zip(dict.fromkeys(pairs), order, strict=True))
    return [known[names[pair]] for pair in pairs]


def _columns(asked: list[tuple[list[int], media.Files]]) -> tuple[list[list[int]], list[media.Files]]:
    """The prompts' token ids, and the files of each."""
    return [ids for ids, _ in asked], [about for _, about in asked]


def _named(prompt: list[int], files: media.Files) -> list[int | str]:
    """What stands for a prompt in a hash."""
    return [*prompt, *media.contents(files)]


def read(file: Path) -> dict[str, Answer]:
    """The answers in `file` by the hash of what was asked, without a last line that a kill has torn, or that is being written."""
    if not file.exists():
        return {}
    whole = file.read_bytes()
    rows = map(json.loads, whole[: whole.rfind(b"\n") + 1].splitlines())
    return {row["prompt"]: Answer(row["output"], row["ids"], row["ended"]) for row in rows if "ids" in row}


def _own(file: Path) -> Path:
    """The file that this process adds to."""
    return file if processes.is_main() else file.with_suffix(f".{processes.rank()}{file.suffix}")


def _read_all(file: Path) -> dict[str, Answer]:
    """The answers in `file`, and those that other processes of a killed job have left beside it."""
    if file.exists():
        os.truncate(file, file.read_bytes().rfind(b"\n") + 1)
    _move_others(file)
    return read(file)


def _move_others(file: Path) -> None:
    """Move the answers of other processes into `file`."""
    for other in sorted(file.parent.glob(f"{file.stem}.*{file.suffix}")):
        _append(file, read(other))
        other.unlink()


def _append(file: Path, answers: dict[str, Answer]) -> None:
    lines = [
        json.dumps({"prompt": name, "output": text, "ids": ids, "ended": ended}) + "\n"
        for name, (text, ids, ended) in answers.items()
    ]
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a") as out:
        out.writelines(lines)


def model_key(weights: str, precision: str, stops: list[int], context: int | None) -> str:
    """What a model is and how it computes, see `answers`.

    Args:
        weights: a hash of its weights.
        precision: of the arithmetic, fp32 or bf16.
        stops: the tokens that end its answers.
        context: the most tokens that it reads and writes.
    """
    return json.dumps([weights, precision, stops, context])


def name_of(prompt: list[int], settings: list[Any], files: media.Files = ()) -> str:
    """The hash of a prompt's tokens, of the content of its files and of all that its answer depends on besides."""
    return hashlib.sha256(json.dumps([*settings, _named(prompt, files)]).encode()).hexdigest()
