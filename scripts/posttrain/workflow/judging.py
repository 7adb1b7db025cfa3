"""Suites with a judge: which models' answers are compared, by whom, and what is wrong with that."""

from pathlib import Path
from typing import NamedTuple

from posttrain.config.evaluation import JudgeSuite
from posttrain.config.project_file import Config
from posttrain.data.files import is_file
from posttrain.runtime.errors import UserError
from posttrain.workflow.lineage import Lineage
from posttrain.workflow.names import Names, require

# Keys of a suite that say who judges and how: no answer depends on them, so they are in the judge's spec only.
KEYS = ("against", "by", "endpoint", "instruction", "allow_self")
MAX_INSTRUCTION = 20_000  # bytes of the file; it is a part of every prompt


class Pair(NamedTuple):
    """The answers of a model and of another, which a suite has judged."""

    name: str
    """of the suite"""
    suite: JudgeSuite
    other: str
    judge: str | None
    """the base or run that judges; None for an endpoint"""
    related: list[str]
    """those of the two models that the judge comes from the same base as"""


def suites(config: Config) -> dict[str, JudgeSuite]:
    """The suites with a judge, by name."""
    return {name: suite for name, suite in config.evaluation.suites.items() if suite.kind == "judge"}


def files(config: Config) -> list[str]:
    """The files with instructions for judges."""
    return [suite.instruction for suite in suites(config).values() if suite.instruction]


def only_endpoints(config: Config) -> bool:
    """Whether no judge is a model of the configuration, so that judging needs the network and no GPU."""
    return all(suite.endpoint for suite in suites(config).values())


def models(names: Names) -> list[str]:
    """The bases and runs that suites name as judges, or to compare with."""
    found = [name for suite in suites(names.config).values() for name in (suite.by, suite.against) if name]
    return list(dict.fromkeys(map(names.model, found)))


def pairs(lineage: Lineage, name: str) -> list[Pair]:
    """What is judged of a model; nothing against itself, of a model that judges, of a base without `against`, of a reward model.

    Raises:
        UserError: the judge is the model that `name` is compared with, and may not be.
    """
    names, found = lineage.names, []
    if names.is_reward(name):
        return []
    line = lineage.line(name)
    for key, suite in suites(names.config).items():
        other = names.model(suite.against) if suite.against else line[-2] if len(line) > 1 else None
        judge = names.model(suite.by) if suite.by else None
        if other in (None, name) or (judge == name and not suite.allow_self):
            continue
        if judge == other and not suite.allow_self:
            raise UserError(
                "wrong-judge",
                f"evaluation.suites.{key}.by",
                f"{judge} would judge its own answers, which {name} is compared with",
                "name another judge, or another model under against; allow_self: true overrules this",
            )
        related = [one for one in (name, other) if judge and lineage.line(one)[0] == lineage.line(judge)[0]]
        found.append(Pair(key, suite, other, judge, related))
    return found


def check(lineage: Lineage, folder: Path) -> None:
    """Refuse judges that are not there, generate no text or would judge their own answers, and instructions that are no text.

    Raises:
        UserError: for the first of them.
    """
    names, config = lineage.names, lineage.config
    for name, suite in suites(config).items():
        for key in ("by", "against"):
            if model := getattr(suite, key):
                _check_model(names, f"evaluation.suites.{name}.{key}", model)
        if suite.instruction:
            _check_instruction(folder / suite.instruction, f"evaluation.suites.{name}.instruction")
    for model in [*config.bases, *config.runs]:
        pairs(lineage, model)


def _check_model(names: Names, place: str, model: str) -> None:
    require(place, "base or run", model.split(",")[0], [*names.config.bases, *names.config.runs])
    if names.is_reward(model):
        problem = f"{model} is a reward model, which generates no text"
        raise UserError(
            "wrong-judge", place, problem, "name a base or run that does, or write a suite with kind: reward"
        )


def _check_instruction(file: Path, place: str) -> None:
    if not is_file(file):
        raise UserError("missing-file", place, f"there is no file '{file}'", "write one that exists")
    if file.stat().st_size > MAX_INSTRUCTION:
        problem = f"the file has more than {MAX_INSTRUCTION:,} bytes"
        raise UserError("invalid-value", place, problem, "shorten it: it is a part of every prompt")
    try:
        text = file.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise UserError("not-utf8", place, "the file is not UTF-8", "save it as UTF-8") from None
    if not text.strip():
        raise UserError("invalid-value", place, "the file is empty", "write what makes an answer better")
