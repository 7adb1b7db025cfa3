"""From the jobs of several files to one configuration: names, parents, bases, datasets and runs."""

import os
from pathlib import Path
from typing import Any

from posttrain.config.plain_values import RESERVED
from posttrain.importing.carried import Job, name_of, prune
from posttrain.objectives import OBJECTIVES
from posttrain.runtime.errors import UserError


class Chain:
    """The configuration of some jobs, in their order."""

    def __init__(self, jobs: list[Job]) -> None:
        self.values: dict[str, dict[str, Any]] = {"bases": {}, "datasets": {}, "runs": {}}
        self.runs: dict[str, Job] = {}
        """the job of each run"""
        self.comments: dict[tuple[str, ...], str] = {}
        """where a key of ours stands: the key that it was carried from"""
        for job in jobs:
            self._add(job)
        hardware = [job for job in jobs if job.devices > 1]
        if hardware:
            self.values["hardware"] = {"processes": hardware[0].devices} | hardware[0].hardware
        if also := [name for job in jobs for name in job.tracking.get("also", [])]:
            self.values["tracking"] = {"also": list(dict.fromkeys(also))}

    def _add(self, job: Job) -> None:
        prune(job)
        _least_batch(job)
        name = self._free(f"{job.objective}_{job.method}", "runs", "bases")
        run = {"from": self._parent(job), "objective": job.objective, "method": job.method, "data": self._data(job)}
        self.values["runs"][name] = run | job.run
        self.runs[name] = job
        for ours, key in job.origins.items():
            self.comments["runs", name, ours.split(".")[0]] = key

    def _parent(self, job: Job) -> str:
        """The run whose result the job starts from, or else its base."""
        outputs = {_folder(folder): name for name, earlier in self.runs.items() for folder in earlier.outputs}
        found = [outputs[_folder(path)] for path in (*job.adapters, job.model) if _folder(path) in outputs]
        if job.adapters and not found:
            hint = "import the file that trained it as well, before this one"
            raise UserError(
                "cannot-import",
                job.file,
                f"it starts from the adapter {job.adapters[-1]}, which no earlier file writes",
                hint,
            )
        if found:
            self._keys_of_base(job, found[0])
            return found[0]
        base = _base(job.model, job) | job.base
        for name, known in self.values["bases"].items():
            if known == base:
                return name
        name = self._free(name_of(job.model), "bases", "runs")
        self.values["bases"][name] = base
        self.comments["bases", name, "model" if "model" in base else "path"] = "the model of " + Path(job.file).name
        return name

    def _keys_of_base(self, job: Job, parent: str) -> None:
        """Tell of keys of the base that a later job would change: a run has the template and the tokens of its base."""
        while parent in self.values["runs"]:
            parent = self.values["runs"][parent]["from"]
        base = self.values["bases"][parent]
        changed = [key for key, value in job.base.items() if base.get(key) != value]
        for kind in ("carried", "differs"):
            for entry in [entry for entry in job.lists[kind] if any(f"bases.{key}" in entry.ours for key in changed)]:
                job.lists[kind].remove(entry)
                note = "a run has the template and the tokens of its base, which an earlier file sets"
                job.lists["not_carried"].append(entry._replace(ours="", note=note))

    def _data(self, job: Job) -> str:
        """The dataset that a job trains on; several become a mix."""
        names = [self._dataset(name, table | job.dataset) for name, table in job.datasets.items()]
        if len(names) == 1:
            return names[0]
        weights = job.weights or [None] * len(names)
        mix = {name: {} if weight is None else {"weight": weight} for name, weight in zip(names, weights, strict=True)}
        return self._dataset(f"{job.objective}_data", {"mix": mix})

    def _dataset(self, name: str, table: dict[str, Any]) -> str:
        if self.values["datasets"].get(name) != table:
            name = self._free(name, "datasets")
            self.values["datasets"][name] = table
        return name

    def _free(self, name: str, *tables: str) -> str:
        """The name, with a number where a table has it already."""
        taken = {*RESERVED}.union(*(self.values[table] for table in tables))
        number, found = 1, name
        while found in taken:
            number, found = number + 1, f"{name}_{number + 1}"
        return found


def _folder(path: str) -> str:
    """A folder, as it is compared with others."""
    return os.path.normpath(Path(path).expanduser()) if path else path


def _base(model: str, job: Job) -> dict[str, Any]:
    """The table of a base: a folder that is there or can be nothing else, or a hub id."""
    beside = Path(job.file).parent / model
    if not Path(model).is_dir() and beside.is_dir():
        return {"source": "path", "path": os.path.relpath(beside)}
    if Path(model).expanduser().is_dir() or model.startswith(("/", ".", "~")) or model.count("/") > 1:
        return {"source": "path", "path": str(Path(model).expanduser())}
    return {"source": "hub", "model": model}


def _least_batch(job: Job) -> None:
    """Accumulate less where an objective needs several examples in a forward pass; the batch stays the same."""
    least, batch = OBJECTIVES[job.objective].least_batch, job.run.get("batch_size", 8)
    accumulated = int(job.run.get("gradient_accumulation_steps", 1))
    if batch // accumulated >= least:
        return
    most = min(accumulated, batch // least)
    fewer = next((n for n in range(most, 0, -1) if batch % n == 0), 1)
    job.set("gradient_accumulation_steps", fewer)
    if batch < least:
        job.set("batch_size", least)
    note = f"{job.objective} needs {least} examples in a forward pass: {fewer} forward passes instead of {accumulated}"
    moved = [entry for entry in job.lists["carried"] if entry.ours == "gradient_accumulation_steps"]
    job.lists["carried"] = [entry for entry in job.lists["carried"] if entry not in moved]
    job.lists["differs"] += [entry._replace(note=note) for entry in moved]
