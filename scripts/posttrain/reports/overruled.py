"""Preflight checks that were overruled (`allow:`), to be shown beside the verdicts that they affect."""

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from posttrain.runtime.atomic import read_json
from posttrain.workflow import paths

MAX_NAMES = 3  # runs that a sentence names
UNRELATED = ("licence", "memory")  # checks that concern neither what a model learns nor what it is measured on


class Overruled(NamedTuple):
    """A check that stopped a run and was overruled."""

    check: str
    run: str
    message: str


def of(*names: str) -> list[Overruled]:
    """What was overruled for models and for the runs that they start from, as the folders of their results say.

    A warning that was overruled is not among them: it would have stopped nothing.
    """
    found = {}
    for name in names:
        for run in _lineage(name):
            file = Path(paths.of(run, "preflight.json"))
            for check in read_json(file)["checks"] if file.exists() else ():
                if check["result"] == "allowed" and check["severity"] == "error" and check["name"] not in UNRELATED:
                    found[check["name"], run] = Overruled(check["name"], run, check["message"])
    return list(found.values())


def _lineage(name: str) -> Iterable[str]:
    """A model and the runs that it starts from, itself first; a base ends it."""
    while (file := Path(paths.of(name, "spec.json"))).exists():
        yield name
        name = read_json(file)["from"]["name"]


def named(found: Iterable[Overruled]) -> str:
    """The checks in words, each once: `overlap`, `overlap and truncation`; empty where there is none."""
    *first, last = dict.fromkeys(one.check for one in found) or [""]
    return f"{', '.join(first)} and {last}" if first else last


def sentences(found: Iterable[Overruled]) -> list[str]:
    """One sentence for each check and what it says, with the runs that it was overruled for."""
    runs: dict[tuple[str, str], list[str]] = {}
    for one in dict.fromkeys(found):
        runs.setdefault((one.check, one.message), []).append(one.run)
    lines = []
    for (check, message), names in runs.items():
        who = ", ".join(names[:MAX_NAMES]) + (f" and {len(names) - MAX_NAMES} more" if len(names) > MAX_NAMES else "")
        lines.append(f"The check {check} was overruled for {who}: {message}.")
    return lines
