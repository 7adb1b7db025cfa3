"""The jobs of a plan as a graph: who needs whom, what is there already, and what several runs share."""

from pathlib import Path
from typing import NamedTuple

from posttrain.provenance.dry_run import Job
from posttrain.provenance.explain import WRITTEN_DOWN
from posttrain.workflow import paths

UNCOUNTED = (*WRITTEN_DOWN, "all", "alias")  # rules that only write down, or link, what others make


class Graph(NamedTuple):
    """Jobs in an order in which they can run."""

    jobs: list[Job]
    names: list[str]
    """what each is called in the records, such as `eval/sft_lora`"""
    needs: list[list[int]]
    """of each job, the places of those that make its inputs"""
    reads: list[list[str]]
    """of each job, the results that it reads and that are already there"""

    @property
    def there(self) -> list[str]:
        """Results that the jobs read and that are already there."""
        return sorted({result for reads in self.reads for result in reads})

    @property
    def results(self) -> list[str]:
        """What each job's files belong to."""
        return [paths.owner(job.outputs[0]) for job in self.jobs]

    def ends(self) -> list[int]:
        """The evaluations that no other run's is made after; where nothing is evaluated, the jobs that no other needs."""
        needed = {place for needs in self.needs for place in needs}
        evaluated = [place for place, job in enumerate(self.jobs) if job.rule == "eval"]
        by_evaluation = {place for needer in evaluated for place in self.needs[needer]}
        runs = [place for place in evaluated if place not in by_evaluation]
        return runs or [place for place in range(len(self.jobs)) if place not in needed]

    def sharing(self) -> list[int]:
        """How many of the ends each job is needed for, at least 1."""
        bits = [0] * len(self.jobs)
        for number, end in enumerate(self.ends()):
            bits[end] |= 1 << number
        for place in reversed(range(len(self.jobs))):
            for need in self.needs[place]:
                bits[need] |= bits[place]
        return [max(1, own.bit_count()) for own in bits]

    def longest(self, seconds: list[float]) -> float:
        """Seconds of the longest chain of jobs, which no number of machines makes shorter."""
        until: list[float] = []
        for place, own in enumerate(seconds):
            until.append(own + max((until[need] for need in self.needs[place]), default=0.0))
        return max(until, default=0.0)


def graph(planned: list[Job]) -> Graph:
    """The graph of a dry run's jobs; those that take no time to speak of are left out."""
    jobs = [job for job in planned if job.rule not in UNCOUNTED and job.outputs]
    written = {output for job in planned for output in job.outputs}
    maker = {output: place for place, job in enumerate(jobs) for output in job.outputs}
    needs = [sorted({maker[file] for file in job.inputs if file in maker}) for job in jobs]
    made = {paths.owner(output) for job in jobs for output in job.outputs}
    reads = [_there(job, written, made) for job in jobs]
    order = _order(needs)
    place = {old: new for new, old in enumerate(order)}
    return Graph(
        [jobs[old] for old in order],
        [_name(jobs[old]) for old in order],
        [sorted(place[need] for need in needs[old]) for old in order],
        [reads[old] for old in order],
    )


def _there(job: Job, written: set[str], made: set[str]) -> list[str]:
    """The results that a job reads, that no job makes, and that are there."""
    files = (file for file in job.inputs if paths.is_target(file) and file not in written)
    return sorted({paths.owner(file) for file in files if Path(file).exists()} - made)


def _name(job: Job) -> str:
    return paths.job(job.log) if job.log else f"{job.rule}/{paths.owner(job.outputs[0])}"


def _order(needs: list[list[int]]) -> list[int]:
    """Places so that each stands after those it needs, and what a result takes stands together."""
    needed = {need for own in needs for need in own}
    order: dict[int, None] = {}
    for start in (place for place in range(len(needs)) if place not in needed):
        pending = [start]
        while pending:
            place = pending[-1]
            waiting = [need for need in needs[place] if need not in order]
            if waiting:
                pending += reversed(waiting)
            else:
                order[pending.pop()] = None
    return list(order)
