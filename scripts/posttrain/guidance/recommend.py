"""A recommended road for a GPU, a model, a purpose and rows, and its configuration."""

from typing import Any, NamedTuple

from posttrain.guidance import configuration, decisions, tables
from posttrain.guidance.facts import NAMES, Rows
from posttrain.guidance.stages import Decision, Question, Stage, evaluated_in
from posttrain.guidance.tables import PURPOSES, Claim, Purpose
from posttrain.runtime.errors import UserError, nearest
from posttrain.workflow import paths


class Recommendation(NamedTuple):
    """What is recommended, why, and the configuration that does it."""

    question: Question
    stages: list[Stage]
    decisions: list[Decision]
    claims: list[tuple[Claim, str]]
    """the guide's numbers about the method, each with what the estimate says of this model"""
    text: str
    """of the configuration"""

    @property
    def target(self) -> str:
        """What to build."""
        return paths.evaluation(self.stages[-1].name)

    def commands(self, snakemake: str) -> list[str]:
        """What to run: a dry run, and what builds it; where the GPU does not hold the whole model, evaluation is on the CPU.

        Args:
            snakemake: the command as far as the targets.
        """
        if evaluated_in(self.question, self.stages)[0]:
            return [f"{snakemake} -n {self.target}", f"{snakemake} {self.target}"]
        model = paths.of(self.stages[-1].name, "model")
        return [
            f"{snakemake} -n {self.target}",
            f"{snakemake} {model}",
            f"CUDA_VISIBLE_DEVICES= {snakemake} {self.target}",
        ]

    def values(self) -> dict[str, Any]:
        """For programs."""
        question = self.question
        ids = list(dict.fromkeys(id for one in self.decisions for id in one.rows))
        return {
            "runs": [stage.name for stage in self.stages],
            "target": self.target,
            "model": {
                "name": question.source.name,
                "parameters": question.source.model.parameters,
                **question.source.keys,
            },
            "memory": {
                "device": question.place.device,
                "gib": question.place.budget / 2**30,
                "gpus": question.place.gpus,
                "stages": {stage.name: stage.fit.gib for stage in self.stages},
            },
            "decisions": [one._asdict() for one in self.decisions],
            "guide": decisions.says(ids),
            "claims": [claim._asdict() | {"here": here} for claim, here in self.claims],
        }


def recommend(question: Question, files: dict[str, str]) -> Recommendation:
    """The road, with the settings that fit.

    Args:
        files: where the rows of `examples` and `preferences` are or will be.

    Raises:
        UserError: nothing fits, or there are no rows to train on.
    """
    if not question.examples and not question.preferences:
        raise UserError(
            "missing-answer", "--examples", "there is nothing to train on", "add --examples N or --data FILE"
        )
    road, objective = decisions.objectives(question)
    made, method = decisions.method(question, road)
    found = [objective, method, *decisions.settings(question, made)]
    text = configuration.text(question, made, found, files)
    return Recommendation(question, made, found, decisions.claims(question, made), text)


def purpose(words: str) -> Purpose:
    """The purpose that some words mean.

    >>> purpose("a customer-support assistant").name, purpose("legal documents").name
    ('chat', 'domain')

    Raises:
        UserError: they mean none, or several.
    """
    import re

    said = words.strip().lower()
    found = [row for row in PURPOSES if row.name == said]
    found = found or [row for row in PURPOSES if any(re.search(rf"\b{word}", said) for word in row.words)]
    if len(found) == 1:
        return found[0]
    names = [row.name for row in PURPOSES]
    if not found:
        raise UserError(
            "unknown-name", "--purpose", f"'{words}' is no purpose that the guide has", nearest(said, names)
        )
    said = " or ".join(row.name for row in found)
    raise UserError("unknown-name", "--purpose", f"'{words}' may mean {said}", f"write one of {', '.join(names)}")


def lines(found: Recommendation) -> list[str]:
    """The recommendation for people."""
    question = found.question
    said = [f"{question.source.name}: {question.source.billions:.3g}e9 parameters, {question.source.says}"]
    said += [question.place.says]
    for name, rows in zip(NAMES, (question.examples, question.preferences), strict=True):
        said += [f"{name}: {rows.says}"] if rows else []
    road = " → ".join([question.source.name, *(stage.name for stage in found.stages)])
    said += ["", f"Recommended: {road}", ""]
    for one in found.decisions:
        said.append(f"{one.about}: {one.choice}")
        said += [f"    {id}: {tables.ROWS[id]}" for id in one.rows]
        said += [f"    because: {line}" for line in one.why]
        said += [f"    against: {line}" for line in one.overruled]
        said += [f"    instead: {line}" for line in one.others]
    if found.claims:
        said += ["", "The guide's numbers, this model's by the estimate, and measured ones:"]
        for claim, here in found.claims:
            said.append(f"    {claim.id}: {claim.says}; {f'here {here}; ' if here else ''}measured: {claim.measured}")
    return said


def counted(count: int, type: str) -> Rows:
    """Rows of which only the number is known."""
    return Rows(None, type, count, None, f"{count:,} rows, as you said")
