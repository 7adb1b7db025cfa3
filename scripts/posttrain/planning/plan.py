"""The plan of targets: each job's time, memory, disk, energy and money before it runs, and the sums."""

import os
import shutil
import time
from pathlib import Path
from typing import Any, NamedTuple

from posttrain.models import machine
from posttrain.models.memory_sharing import Hardware
from posttrain.objectives import OBJECTIVES
from posttrain.planning import jobs, probe, records, space, timing, work
from posttrain.planning.sizes import Sizes
from posttrain.planning.timing import Estimate, Known, Machine
from posttrain.provenance import dry_run, explain
from posttrain.reports import cost, planned
from posttrain.runtime.atomic import read_json, write_json
from posttrain.workflow import paths
from posttrain.workflow.project import Project


class Planned(NamedTuple):
    """A job with its estimates."""

    job: str
    """what it is called in the records, such as `sft/sft_lora`"""
    rule: str
    result: str
    """what its files belong to"""
    time: Estimate
    memory: float | None
    """bytes"""
    disk: float | None
    """bytes that it leaves"""
    besides: float
    """bytes that it needs on the disk while it runs"""
    serves: int
    """end results that need it"""
    needs: list[str]
    """jobs that it waits for"""
    reads: list[str] = []
    """results that it reads and that are there already"""


class Plan(NamedTuple):
    """What targets take."""

    targets: list[str]
    jobs: list[Planned]
    there: list[str]
    """results that are read and are already there"""
    longest: float
    """seconds of the longest chain of jobs"""
    saved: float
    """seconds that sharing saves: what each end result alone would take, less what all take together"""
    machine: machine.Memory
    threads: int
    free: int
    """bytes of the disk"""
    watts: float
    measured_watts: bool
    """the configuration has them"""
    price: float | None
    currency: str

    @property
    def unknown(self) -> list[str]:
        """Jobs of whose model nothing is known yet."""
        return [job.job for job in self.jobs if job.time.seconds is None]

    def total(self) -> dict[str, Any]:
        """The sums: seconds with their range, bytes, kWh and money."""
        known = [job for job in self.jobs if job.time.seconds is not None]
        seconds = sum(job.time.seconds for job in known)
        disk = sum(job.disk or 0 for job in self.jobs)
        return {
            "jobs": len(self.jobs),
            "seconds": seconds,
            "low": sum(job.time.low for job in known),
            "high": sum(job.time.high for job in known),
            "longest": self.longest,
            "saved": self.saved,
            "memory": max((job.memory or 0 for job in self.jobs), default=0),
            "disk": disk,
            "disk_at_most": disk + max((job.besides for job in self.jobs), default=0),
            "kwh": cost.kwh(self.watts, seconds),
            "money": cost.money(self.price, seconds),
        }

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        rows = []
        for job in self.jobs:
            row = {"job": job.job, "rule": job.rule, "result": job.result, **job.time._asdict()}
            row |= {
                "memory": job.memory,
                "disk": job.disk,
                "serves": job.serves,
                "needs": job.needs,
                "reads": job.reads,
            }
            seconds = job.time.seconds or 0
            rows.append(row | {"kwh": cost.kwh(self.watts, seconds), "money": cost.money(self.price, seconds)})
        here = {"device": self.machine.device, "name": self.machine.name, "memory": self.machine.total}
        here |= {
            "threads": self.threads,
            "disk_free": self.free,
            "watts": self.watts,
            "watts_measured": self.measured_watts,
        }
        return {
            "targets": self.targets,
            "jobs": rows,
            "total": self.total(),
            "there": self.there,
            "unknown": self.unknown,
            "machine": here,
            "currency": self.currency,
            "earlier": planned.summary(planned.compared()),
        }


def plan(project: Project, targets: list[str], configfile: Path | None, probed: bool = False) -> Plan:
    """The plan of targets, which is also written down for the report.

    Args:
        project: the configuration.
        targets: files under results/, or names of models, which stand for their evaluation; none for every run.
        configfile: the configuration's file.
        probed: measure first how fast this machine computes.

    Raises:
        UserError: what Snakemake, or the configuration, refuses.
    """
    asked = [target if paths.is_target(target) else paths.evaluation(target) for target in targets] or ["all"]
    where = ["--configfile", configfile] if configfile else []
    graph = jobs.graph(dry_run.planned(*where, "--", *asked))
    sizes, here = Sizes(project), machine.available()
    computes = computing(here)
    if probed:
        probe.measure(_largest(sizes, graph), computes)
    known = Known(records.read(sizes), computes, probe.read(computes))
    rows = _rows(sizes, graph, known, here)
    seconds = [row.time.seconds or 0.0 for row in rows]
    saved = sum((row.serves - 1) * own for row, own in zip(rows, seconds, strict=True))
    said = project.config.cost
    found = Plan(
        targets=asked,
        jobs=rows,
        there=graph.there,
        longest=graph.longest(seconds),
        saved=saved,
        machine=here,
        threads=computes.threads,
        free=shutil.disk_usage(Path()).free,
        watts=said.watts or cost.watts(computes.threads, computes.gpu),
        measured_watts=bool(said.watts),
        price=said.price_per_hour,
        currency=said.currency,
    )
    write(found)
    return found


def computing(here: machine.Memory) -> Machine:
    """What a stage computes with on this machine."""
    threads = int(os.environ.get("OMP_NUM_THREADS", len(os.sched_getaffinity(0))))
    return Machine(here.name if here.device == "gpu" else None, threads, here.bf16)


def _largest(sizes: Sizes, graph: jobs.Graph) -> Any:
    """The largest model that the jobs train or ask."""
    models = {
        job.partition("/")[2].split("/")[0]
        for job, own in zip(graph.names, graph.jobs, strict=True)
        if own.rule in work.KINDS
    }
    names = [
        name for name in models if name.partition(",")[0] in sizes.project.config.bases | sizes.project.config.runs
    ]
    found = [model for name in names if (model := sizes.model(sizes.base(name)))]
    return max(found, key=lambda model: model.parameters, default=None)


def _rows(sizes: Sizes, graph: jobs.Graph, known: Known, here: machine.Memory) -> list[Planned]:
    said = sizes.project.config.hardware
    hardware = Hardware(said.processes, said.name, said.offload)
    each = machine.of_one_process(here, hardware.processes)
    serves, results, rows = graph.sharing(), graph.results, []
    for place, (job, name) in enumerate(zip(graph.jobs, graph.names, strict=True)):
        rule, _, subject = name.partition(
            "/"
        )  # a rule that needs the internet has the records of the one that does not
        own = work.of(sizes, rule, name)
        base, method = records.about(sizes, rule, subject)
        kept = space.disk(sizes, rule, name)
        took = timing.estimate(rule, subject.partition(",")[0], own, base, method, known)
        if job.rule in OBJECTIVES and explain.is_finished(sizes.project, job):
            took, kept = timing.LINKED, (0, 0)
        rows.append(
            Planned(
                job=name,
                rule=job.rule,
                result=results[place],
                time=took,
                memory=space.memory(sizes, rule, name, each, hardware, known.records),
                disk=kept and kept[0],
                besides=kept[1] if kept else 0,
                serves=serves[place],
                needs=[graph.names[need] for need in graph.needs[place]],
                reads=graph.reads[place],
            )
        )
    return rows


def write(plan: Plan) -> None:
    """Write the estimates down, beside those of other jobs, so that the report can show what came of them."""
    before = read_json(paths.PLAN) if paths.PLAN.exists() else {"jobs": {}}
    now = time.time()
    for job in plan.jobs:
        if job.time.seconds is not None:
            row = job.time._asdict() | {"memory": job.memory, "disk": job.disk, "planned": now}
            before["jobs"][job.job] = row
    paths.PLAN.parent.mkdir(exist_ok=True)
    write_json(paths.PLAN, before)
