"""What a run and the models it comes from answered to the same prompts, side by side, word differences marked."""

import difflib
import re
from functools import lru_cache
from pathlib import Path
from typing import Any

from posttrain.data import thoughts
from posttrain.evaluation.example_scores import Examples, read_examples
from posttrain.metrics.statistics import metric
from posttrain.reports import thumbnails
from posttrain.workflow import paths

MAX_CHARACTERS = 700  # characters of a text
ALIKE = 0.2  # below, an answer has hardly a word in common with the other, and marks would only confuse

Key = tuple[str, str, str]
Words = list[tuple[str, str]]


def examples(run: dict[str, Any], others: list[str], most: int) -> list[dict[str, Any]]:
    """The first examples to look at of a run against others (its base first, its parent last), at most `most`.

    First those where a score changed whose metric has a verdict of better or worse, then those where any score changed,
    then other answers, then the rest; within these as the file has them.
    """
    ours, theirs = answers(run["name"]), [answers(other) for other in others]
    shared = [key for key in ours if all(key in rows for rows in theirs)]
    parent = theirs[-1]
    verdicts = run["eval"]["against"].get(others[-1], {})
    decided = {name for name, row in verdicts.items() if row["verdict"] != "no evidence"}
    names = list(run["eval"]["metrics"])
    changes = {key: changed(names, parent[key], ours[key]) for key in shared}

    def rank(key: Key) -> int:
        if changes[key]:
            return 0 if decided & {name for name, *_ in changes[key]} else 1
        return 2 if answer_of(ours[key]) != answer_of(parent[key]) else 3

    return [
        _example(key, changes[key], run["name"], others, [*theirs, ours]) for key in sorted(shared, key=rank)[:most]
    ]


@lru_cache(maxsize=32)  # parents are read once for their many children
def answers(name: str) -> Examples:
    """A model's examples with a generated answer: texts and the metrics' columns, by suite, dataset and id."""
    return {at: row for at, row in read_examples(Path(paths.examples(name))).items() if row["output"] is not None}


def changed(names: list[str], before: dict[str, Any], after: dict[str, Any]) -> list[tuple[str, float, float]]:
    """Metric, score before and after of an example, for the metrics that are the mean of one score and where it changed."""
    found = []
    for name in names:
        suite, _, measure = name.rpartition("/")
        columns = metric(measure).columns
        if suite != after["suite"] or len(columns) > 1:
            continue
        old, new = before.get(columns[0]), after.get(columns[0])
        if isinstance(old, float) and isinstance(new, float) and old != new:
            found.append((name, old, new))
    return found


def _example(key: Key, changes: list, name: str, others: list[str], rows: list[dict]) -> dict[str, Any]:
    texts = [thoughts.split(side[key]["output"]) for side in rows]
    columns = [
        {
            "name": who,
            "same": old == text,
            "thought": beginning(thought.strip()),
            "words": differences(beginning(old or ""), beginning(text)),
        }
        for who, (_, old), (thought, text) in zip([*others, name], [("", None), *texts], texts, strict=False)
    ]
    ours = rows[-1][key]
    return {
        "where": " ".join(part for part in (ours["suite"], ours["dataset"]) if part),
        "id": key[2][:12],
        "prompt": beginning(ours["prompt"] or ""),
        "pictures": thumbnails.of(ours.get("images"), Path(paths.data(ours["dataset"]))),
        "reference": beginning(ours["reference"] or ""),
        "changes": changes,
        "columns": columns,
    }


def answer_of(example: dict[str, Any]) -> str:
    """An example's answer without the thoughts before it."""
    return thoughts.answer(example["output"])


def beginning(text: str, most: int = MAX_CHARACTERS) -> str:
    """The first code points of a text, at most `most`, and … where there are more.

    No character that people see as one is cut in half, such as an emoji or a Korean syllable of several code points.
    """
    import regex

    if len(text) <= most:
        return text
    end = 0
    for character in regex.finditer(r"\X", text):
        if character.end() > most:
            break
        end = character.end()
    return f"{text[: end or most]}…"


def differences(before: str, after: str) -> Words:
    """The words of `after`, in pieces: `same`, `ins` where they are new, and `del` where words of `before` are gone.

    One piece without marks where there is nothing to compare with, or hardly a word is the same.
    """
    old, new = (re.findall(r"\S+\s*", text) for text in (before, after))
    matcher = difflib.SequenceMatcher(None, *([word.strip() for word in words] for words in (old, new)), autojunk=False)
    if not old or matcher.ratio() < ALIKE:
        return [("same", after)]
    pieces: Words = []
    for kind, start, end, first, last in matcher.get_opcodes():
        if kind in ("delete", "replace"):
            pieces.append(("del", "".join(old[start:end])))
        if kind != "delete":
            pieces.append(("same" if kind == "equal" else "ins", "".join(new[first:last])))
    return pieces
