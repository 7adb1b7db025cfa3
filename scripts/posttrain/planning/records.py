"""What earlier jobs of this folder took: the measurements that estimates rest on."""

import json
from pathlib import Path
from typing import NamedTuple

from posttrain.objectives import OBJECTIVES
from posttrain.planning import work
from posttrain.planning.sizes import Sizes
from posttrain.planning.work import Work
from posttrain.provenance.explain import settings_of
from posttrain.runtime.atomic import read_json
from posttrain.runtime.errors import UserError
from posttrain.workflow import paths, resources

BY_METHOD = (*OBJECTIVES, "merge")
WITHOUT_MODEL = ("data", "mix", "overlap", "data_report", "tokens", "base")  # or whose model is its own


class Measured(NamedTuple):
    """A job that has ended."""

    job: str
    """such as `sft/sft_lora`"""
    rule: str
    seconds: float
    mb: float
    """peak of the process, MiB"""
    work: Work
    base: str
    method: str
    """of a training or merge; else empty"""

    @property
    def run(self) -> str:
        """The run, dataset or base that it is about, without overrides."""
        return self.job.partition("/")[2].partition(",")[0]


def read(sizes: Sizes) -> list[Measured]:
    """The records of this folder whose jobs belong to the configuration, as it is now."""
    found = []
    for job in paths.recorded_jobs():
        try:
            found.append(_measured(sizes, job))
        except (UserError, KeyError):  # of a run or dataset that the configuration no longer has
            continue
    return found


def seconds(job: str) -> float:
    """What a job took, all of its attempts together."""
    rule, _, name = job.partition("/")
    took = resources.read_record(paths.record(job)).seconds
    summary = Path(paths.of(name, "train.json"))
    if (
        rule in OBJECTIVES and summary.exists()
    ):  # a resumed training's last job took less; a finished one's was only linked
        took = max(took, read_json(summary)["seconds"])
    return took


def about(sizes: Sizes, rule: str, name: str) -> tuple[str, str]:
    """The base that a job's model descends from, and the method of a training or merge; empty where there is none."""
    project = sizes.project
    model = sizes.asked(rule, name) if name else ""
    if rule in WITHOUT_MODEL or model.partition(",")[0] not in project.config.bases | project.config.runs:
        return "", ""
    return sizes.base(model), project.run(model).run.method if rule in BY_METHOD else ""


def _measured(sizes: Sizes, job: str) -> Measured:
    rule, _, name = job.partition("/")
    base, method = about(sizes, rule, name)
    trained = None
    if rule in OBJECTIVES:
        trained = settings_of(name) or json.loads(sizes.project.spec(name))
        method = trained["method"]
    mb = resources.read_record(paths.record(job)).mb
    return Measured(job, rule, seconds(job), mb, work.of(sizes, rule, job, trained), base, method)
