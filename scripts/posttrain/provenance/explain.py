"""What would be built for a target, and why, in the user's words: `posttrain why`.

Snakemake decides what is built; its dry run is asked for the jobs and their reasons. What it cannot say is which field of
a spec has changed: the spec on disk, or the settings in provenance.json, are those that the result was built with.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from posttrain.objectives import OBJECTIVES
from posttrain.provenance import dry_run
from posttrain.provenance.changes import differences, told
from posttrain.provenance.dry_run import Job
from posttrain.runtime.atomic import read_json
from posttrain.workflow import paths
from posttrain.workflow.project import Project

# What a rule does to a result. Every objective trains.
DONE = {
    "base": "built",
    "prune": "pruned",
    "data": "read",
    "mix": "mixed",
    "select": "selected",
    "overlap": "compared with the held-out rows",
    "tokens": "tokenised",
    "preflight": "checked",
    "logprobs": "scored as a reference",
    "topk": "scored by a teacher",
    "generate": "completed by a model",
    "merge": "merged",
    "eval": "evaluated",
    "export": "exported",
    "export_reference": "asked for the exports' proofs",
    "prove_export": "proved",
    "predict": "completed",
    "judge": "judged",
}
MADE = {"alias": "linked", "data_report": "written", "rating_page": "written", "report": "written", "loss": "drawn"}
MADE |= {"sweep": "compared", "ratings": "counted"}
# Snakemake's reasons: what it says before the colon.
MISSING, UPDATED, UPSTREAM = "Missing output files", "Updated input files", "Input files updated by another job"
REASONS = {
    "Incomplete output files": "it was not finished",
    "Forced execution": "it was not finished",
    "Code has changed since last execution": "this version of posttrain calls its script otherwise",
    "Params have changed since last execution": "posttrain's own version of this stage, or what it is asked, has changed",
    "Set of input files has changed since last execution": "it is made from other files than before",
}


MANIFESTS = ("merge.json", "base.json")  # what stands for a model
WRITTEN_DOWN = ("spec", "context")  # rules that only write down what the others do


class Change(NamedTuple):
    """A result that would be built, what would be done to it, and why."""

    result: str
    done: list[str]
    because: list[str]

    def __str__(self) -> str:
        """One line, and one for each cause."""
        done = ", ".join(self.done[:-1]) + (" and " if self.done[1:] else "") + self.done[-1]
        return "\n".join([f"{self.result} is {done}, because", *(f"    {cause}" for cause in self.because)])


def why(project: Project, target: str, configfile: Path | None) -> list[Change]:
    """What would be built for a target, parents first; nothing where it is up to date.

    Args:
        target: a file under results/, or a model's name, which stands for its evaluation.

    Raises:
        UserError: what Snakemake, or the configuration, refuses.
    """
    file = target if paths.is_target(target) else paths.evaluation(target)
    where = ["--configfile", configfile] if configfile else []
    return explain(project, dry_run.planned(*where, "--", file))


def explain(project: Project, found: list[Job]) -> list[Change]:
    """One change for each result; what is built only since another result is built says so."""
    results = sorted(dict.fromkeys(_result(job) for job in found), key=lambda result: _order(project, result))
    changes = []
    for result in results:
        own = [job for job in found if _result(job) == result]
        done = list(dict.fromkeys(_done(project, job) for job in own if job.rule not in WRITTEN_DOWN))
        because = dict.fromkeys(cause for job in own for cause in _causes(project, job, results))
        if done:
            changes.append(Change(result, done, list(because)))
    return changes


def _order(project: Project, result: str) -> tuple[int, str]:
    """A place in which what something is made from stands before it: data, bases, tokens, models by generation, the rest."""
    first, _, rest = result.partition("/")
    if first in (tables := ("data", "bases", "tokens")):
        return tables.index(first), rest
    if first in paths.RESERVED or first == paths.RESULTS:
        return 10**6, result
    return len(tables) + len(project.lineage(first)), result


def _result(job: Job) -> str:
    """What a job's files belong to: a model, its evaluation (`RUN/eval`), `data/NAME`, `bases/NAME` or a file."""
    return paths.owner(job.outputs[0])


def _done(project: Project, job: Job) -> str:
    if job.rule not in OBJECTIVES:
        return (DONE | MADE)[job.rule]
    return "linked" if is_finished(project, job) else "trained"


def is_finished(project: Project, job: Job) -> bool:
    """Whether a training has a finished copy with this spec and from these inputs, which is only linked."""
    result = _result(job)
    changed = {part.partition(": ")[0] for part in _parts(job)} & {UPDATED, UPSTREAM}
    finished = any(Path(paths.of(result, "checkpoints")).glob("*/finished"))
    return finished and not changed and settings_of(result) == json.loads(project.spec(result))


def _parts(job: Job) -> list[str]:
    """Snakemake's reasons for a job, each `KIND: FILES`."""
    return re.split(r"; (?=[A-Z])", job.reason)


def _causes(project: Project, job: Job, planned: list[str]) -> Iterator[str]:
    """Why a job would run, as far as it is not for another job of the same result."""
    for part in _parts(job):
        kind, _, rest = part.partition(": ")
        files = rest.split(", ") if rest else []
        if job.rule == "context":
            yield from ["its context has changed: licences, allowed checks or points"] if kind != MISSING else []
        elif kind == MISSING and job.rule != "spec":
            yield from _missing(job, files)
        elif kind == UPDATED:
            yield from (_updated(project, job, file, planned) for file in files)
        elif kind == UPSTREAM:
            made = [
                file for file in files if Path(file).name not in ("spec.json", "context.json")
            ]  # another's settings are written, not built
            others = dict.fromkeys(paths.owner(file) for file in made if paths.owner(file) != _result(job))
            yield from (
                f"{other} is built {'again' if _stands(other) else 'first'}" for other in others if other in planned
            )
        elif job.rule == "spec" and kind != MISSING:
            yield from _own(_settings_changed(project, _result(job)), planned)
        elif job.rule != "spec":
            yield REASONS.get(kind, part)


def _missing(job: Job, files: list[str]) -> Iterator[str]:
    if not _stands(_result(job)):
        yield "it is not built yet"
        return
    yield from (f"{file} is not there" for file in files)


def _stands(result: str) -> bool:
    """Whether a result has been built: its spec, or the file itself, is there."""
    place = Path(paths.of(result))
    return (place / "spec.json").exists() or place.is_file()


def _updated(project: Project, job: Job, file: str, planned: list[str]) -> str:
    if file != paths.of(_result(job), "spec.json"):
        owner = paths.owner(file)
        return f"{owner} was built again after it" if Path(file).name in MANIFESTS else f"{file} is newer"
    said = _own(_settings_changed(project, _result(job)), planned)
    return ", ".join(said) or "its settings were changed, and it was not built since"


def _own(said: list[str], planned: list[str]) -> list[str]:
    """The changes of a result's own fields, and of what is not built along with it; what else is upstream says its own."""
    names = {result.rpartition("/")[2] for result in planned}
    upstream = {change: change.removesuffix(" changes") for change in said if change.endswith(" changes")}
    others = [f"{name} was built again after it" for name in upstream.values() if name not in names]
    return [*(change for change in said if change not in upstream), *others]


def _settings_changed(project: Project, result: str) -> list[str]:
    """The fields in which what built a result differs from the configuration's now."""
    before = settings_of(result)
    return told(differences(before, json.loads(project.spec(result)))) if before else []


def settings_of(result: str) -> dict[str, Any] | None:
    """The settings that a result was built with, where it is known.

    A run's own record has them; a spec on disk may be newer, where something went wrong before the run was built again.
    """
    folder = Path(paths.of(result))
    if (folder / "provenance.json").exists():
        settings = read_json(folder / "provenance.json").get("settings")
        if settings:
            return settings
    return read_json(folder / "spec.json") if (folder / "spec.json").exists() else None
