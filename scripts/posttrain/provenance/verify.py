"""Whether results are still what was built, and whether the configuration would build them again: `posttrain verify`.

Every result has a record with the SHA-256 of its files and of what it was made from. The files are hashed again here, along the
graph, at the speed of the disk; nothing is loaded, and nothing is changed.
"""

import functools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from posttrain.exports import EXPORTS
from posttrain.objectives import OBJECTIVES
from posttrain.provenance import records
from posttrain.provenance.changes import differences, told
from posttrain.runtime.atomic import read_json
from posttrain.runtime.errors import UserError
from posttrain.runtime.hashes import sha256, visible_files
from posttrain.workflow import paths
from posttrain.workflow.names import require
from posttrain.workflow.project import Project

RESULTS = Path(paths.RESULTS)
SCRIPTS = Path(__file__).resolve().parents[2]
NOT_BUILT = "not built"
DAMAGE = ("gone", "edited", "added")
UNSEALED = "built by older code, whose record has no seal"
UNMERGED = "trained, not merged yet"
_hashed: dict[tuple[int, ...], str] = {}


class Finding(NamedTuple):
    """What is to be said of one result."""

    name: str
    """its place under results/"""
    wrong: list[str]
    """what is not as it was built: files that were edited or are gone, inputs that are others now"""
    notes: list[str]
    """what is worth knowing of a result that is as built: older code, other versions, a configuration that differs"""

    def __str__(self) -> str:
        """One line."""
        unsure = self.wrong or {NOT_BUILT, UNSEALED, UNMERGED} & {*self.notes}
        as_built = [] if unsure else ["as built"]
        return f"{self.name}: {'; '.join([*self.wrong, *as_built, *self.notes])}"

    @property
    def is_damaged(self) -> bool:
        """Whether files of the result are gone or were edited, which Snakemake may not notice."""
        return any(said.rpartition(" is ")[2] in DAMAGE for said in self.wrong)


def verify(project: Project, targets: list[str]) -> Iterator[Finding]:
    """Findings of the targets' results and of all that they are made from, in the graph's order.

    Args:
        targets: names of runs, bases, datasets (`data/NAME`) and sweeps, or files under results/; all results where empty.

    Raises:
        UserError: a target that names nothing.
    """
    models, datasets = named(project, targets) if targets else everything(project)
    models = list(dict.fromkeys(found for name in models for found in closure(project, name)))
    known = [name for name in models if is_known(project, name)]
    for dataset in dict.fromkeys([*datasets, *(part for name in known for part in data_of(project, name))]):
        yield _data(project, dataset)
    for base in (name for name in known if name in project.config.bases):
        yield _base(project, base)
    for folder in dict.fromkeys(folder for name in known for folder in tokens_of(project, name)):
        yield _tokens(folder)
    for name in models:
        if name not in project.config.bases:
            yield _run(project, name)
        if (RESULTS / name / "eval.json").exists():
            yield _evaluation(project, name)
        for proof in sorted((RESULTS / name / "export").glob("*.json")):
            if proof.stem in EXPORTS:
                yield _export(project, name, proof)


# ---- what belongs to the targets


def named(project: Project, targets: list[str]) -> tuple[list[str], list[str]]:
    """The models and the datasets that the targets name.

    Raises:
        UserError: a target that names none.
    """
    models, datasets = [], []
    for target in targets:
        table, name, _ = paths.target(target)
        known = {"data": project.config.datasets, "bases": project.config.bases, "sweeps": project.config.sweeps}
        if not table:
            models.append(project.names.model(name))
        elif table not in known or not name:
            hint = "write a run, a base, data/NAME or sweeps/NAME, as results/sft_lora/eval.json"
            raise UserError("unknown-target", f"'{target}'", "this cannot be verified by name", hint)
        else:
            require(f"'{target}'", table.removesuffix("s"), name, known[table])
            datasets += [name] if table == "data" else []
            models += [name] if table == "bases" else project.sweep_runs(name) if table == "sweeps" else []
    return models, datasets


def everything(project: Project) -> tuple[list[str], list[str]]:
    """The configured models, and those that lie under results/ besides."""
    found = [file.parent.name for file in sorted(RESULTS.glob("*/provenance.json"))]
    others = [name for name in found if not is_known(project, name) or project.run(name).name == name]
    return list(dict.fromkeys([*project.config.bases, *project.reported_runs, *others])), list(project.config.datasets)


def is_known(project: Project, name: str) -> bool:
    """Whether a name means a model in the configuration as it is now."""
    if name in project.config.bases:
        return True
    try:
        project.run(name)
    except UserError:
        return False
    return True


def closure(project: Project, name: str) -> list[str]:
    """The model and all the models that it is made from, itself last."""
    return project.graph.parents_first([name]) if is_known(project, name) else [name]


def data_of(project: Project, name: str) -> list[str]:
    """The datasets that a model is trained on, each after those that it is made of."""
    if name in project.config.bases:
        base = project.config.bases[name]
        return [getattr(base, key) for key in ("text", "data") if getattr(base, key, None)]
    dataset = project.run(name).run.data
    table = project.config.datasets[dataset]
    return [*([table.from_] if table.from_ else table.mix or ()), dataset]


def tokens_of(project: Project, name: str) -> list[Path]:
    """The folders of tokens that a model was trained on and, where it is evaluated, measured on."""
    folders = []
    if name not in project.config.bases:
        folders.append(project.run_tokens(project.run(name)))
    if (RESULTS / name / "eval.json").exists():
        data = [*project.inputs.evaluation_data, *project.inputs.suite_data("perplexity", "preference")]
        folders += [project.tokens(name, dataset, project.config.evaluation.max_length) for dataset in data]
    return list(map(Path, folders))


# ---- one result each


def _base(project: Project, name: str) -> Finding:
    folder = RESULTS / "bases" / name
    record, wrong, notes = _record(folder / "base.json")
    if record:
        wrong += _folder(folder, "model", record["files"])
        notes += _would_be_built_otherwise(project, f"bases/{name}", _settings(folder / "spec.json"))
    return Finding(f"bases/{name}", wrong, notes)


def _data(project: Project, name: str) -> Finding:
    folder = RESULTS / "data" / name
    record, wrong, notes = _record(folder / "data.json")
    if record:
        wrong += _files(folder, record.get("written", {}))
        notes += _would_be_built_otherwise(project, f"data/{name}", _settings(folder / "spec.json"))
        sources = {file: record["files"][file] for file in project.inputs.sources(name) if file in record["files"]}
        notes += [f"its file {file} has changed, so it would be built again" for file in _changed(Path(), sources)]
    return Finding(f"data/{name}", wrong, notes)


def _tokens(folder: Path) -> Finding:
    record, wrong, notes = _record(folder / "report.json")
    if record:
        wrong += _files(folder, record.get("written", {}))
        rows = RESULTS / "data" / folder.name.split(",")[0]
        wrong += [f"made from another {rows / file}" for file in _changed(rows, record.get("made_from", {}))]
    return Finding(str(folder.relative_to(RESULTS)), wrong, notes)


def _run(project: Project, name: str) -> Finding:
    folder = RESULTS / name
    record, wrong, notes = _record(folder / "provenance.json")
    if record is None:
        notes = [UNMERGED] if (folder / "trained").exists() else notes
        return Finding(name, wrong, notes)
    for part in ("trained", "merged", "model"):
        if part in record:  # older code made no `merged`
            wrong += _folder(folder, part, record[part])
    wrong += _files(folder, record.get("steps", {}) | record.get("merge", {}))
    if (folder / "train.json").exists() and read_json(folder / "train.json") != record["training"]:
        wrong.append("train.json is edited")
    if is_known(project, name):
        wrong += [f"built from another {file}" for file in _other_inputs(project, name, record)]
        notes += _would_be_built_otherwise(project, name, record.get("settings"))
    else:
        notes.append("not in the configuration any more")
    return Finding(name, wrong, notes + built_with(record))


def _evaluation(project: Project, name: str) -> Finding:
    folder = RESULTS / name
    record, wrong, notes = _record(folder / "eval.json")
    wrong += _files(folder / "eval", record.get("written", {}))
    if not is_known(project, name):
        return Finding(f"{name}/eval", wrong, notes)
    manifest = Path(project.manifest(name))
    if "manifest" in record and manifest.exists() and sha256_of(manifest) != record["manifest"]:
        wrong.append(f"measured on another model than the one in {project.merged(name)}")
    wrong += _files(folder / "judge", record.get("judged", {}))
    for part, key in (("eval", "spec"), ("judge", "judge_spec")):
        if key in record and record[key] != project.spec_hash(f"{name}/{part}"):
            spec = folder / part / "spec.json"
            settings = _settings(spec) if spec.exists() and sha256(spec) == record[key] else None
            notes += _would_be_built_otherwise(project, f"{name}/{part}", settings)
    return Finding(f"{name}/eval", wrong, notes)


def _export(project: Project, name: str, proof: Path) -> Finding:
    """An export and its proof."""
    folder, kind = proof.parent, proof.stem
    record, wrong, notes = _record(proof)
    if record is None:  # another command began to prove it again a moment ago
        return Finding(f"{name}/export/{kind}", wrong, notes)
    if "seal" not in record:  # every version sealed its proofs
        return Finding(f"{name}/export/{kind}", [f"{proof.name} is edited"], [])
    wrong += _folder(folder, kind, record["files"])
    made_from = {"reference.parquet": record["reference"], "../merge.json": record["manifest"]}
    wrong += [f"proved against another {(folder / file).resolve().name}" for file in _changed(folder, made_from)]
    if is_known(project, name) and record["spec"] != project.spec_hash(f"{name}/export"):
        spec = folder / "spec.json"
        before = _settings(spec) if spec.exists() and sha256(spec) == record["spec"] else None
        notes += _would_be_built_otherwise(project, f"{name}/export", before)
    return Finding(f"{name}/export/{kind}", wrong, notes)


def _other_inputs(project: Project, name: str, record: dict[str, Any]) -> Iterator[str]:
    """The inputs that are not those any more which a run's record names; each as the user finds it under results/."""
    node = project.run(name)
    manifest = Path(project.manifest(record["parent"]["name"]))
    if manifest.exists() and read_json(manifest)["files"] != record["parent"]["files"]:
        yield project.merged(record["parent"]["name"])
    tokens = Path(project.run_tokens(node))
    if not OBJECTIVES[node.run.objective].on_policy:  # it only tries its merge on them
        recorded = {f"{split}.parquet": digest for split, digest in record["tokens"].items()}
        yield from (str(tokens / file) for file in _changed(tokens, recorded))
    for folder, key in ((RESULTS / "data" / node.run.data, "rows"), (RESULTS, "judges")):
        yield from (str(folder / file) for file in _changed(folder, record.get(key, {})))
    logprobs = manifest.parent / "logprobs"
    yield from (str(logprobs / file) for file in _changed(logprobs, record.get("logprobs", {})))


def _would_be_built_otherwise(project: Project, target: str, before: dict[str, Any] | None) -> list[str]:
    """What of a result's spec differs from what the configuration says now."""
    if before is None:
        return []
    said = told(differences(before, json.loads(project.spec(target))))
    return [f"would be built again: {', '.join(said)}"] if said else []


def built_with(record: dict[str, Any]) -> list[str]:
    """Other versions of packages, and other code, than there are now."""
    now, notes = records.versions(), []
    others = [f"{name} {was} (now {now.get(name)})" for name, was in record["versions"].items() if now.get(name) != was]
    if others:
        notes.append(f"built with {', '.join(others)}")
    if record["code"]["scripts"] != code_hash():
        commit = record["code"]["commit"]
        notes.append(f"built by other code{f' (commit {commit[:10]})' if commit else ''}")
    return notes


# ---- records and hashes


def _record(file: Path) -> tuple[dict[str, Any] | None, list[str], list[str]]:
    """A record, what is wrong with it and what is to be noted; None and a note where there is none."""
    if not file.exists():
        return None, [], [NOT_BUILT]
    values = read_json(file)
    if "seal" not in values:
        return values, [], [UNSEALED]
    return values, ([f"{file.name} is edited"] if values["seal"] != records.seal(values) else []), []


def _settings(spec: Path) -> dict[str, Any] | None:
    return read_json(spec) if spec.exists() else None


def _folder(folder: Path, name: str, recorded: dict[str, str]) -> list[str]:
    """What is wrong with a folder that has the recorded files and no others."""
    if recorded and not (folder / name).exists():
        return [f"{name}/ is gone"]
    files = {str(path.relative_to(folder / name)) for path in visible_files(folder / name)}
    more = sorted(files - recorded.keys())
    wrong = _files(folder, {f"{name}/{file}": digest for file, digest in recorded.items()})
    return wrong + [f"{name}/{file} is added" for file in more]


def _files(folder: Path, recorded: dict[str, str]) -> list[str]:
    return [
        f"{file} is {'edited' if (folder / file).exists() else 'gone'}"
        for file, digest in recorded.items()
        if not (folder / file).exists() or sha256_of(folder / file) != digest
    ]


def _changed(folder: Path, recorded: dict[str, str | None]) -> list[str]:
    """Those of the recorded files that are there with another content."""
    there = [file for file in recorded if (folder / file).exists()]
    return [file for file in there if sha256_of(folder / file) != recorded[file]]


def sha256_of(path: Path) -> str:
    """SHA-256 of a file; one that has several names, by links, is read once."""
    status = path.stat()
    key = status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns
    if key not in _hashed:
        _hashed[key] = sha256(path)
    return _hashed[key]


@functools.cache
def code_hash() -> str:
    """The hash of the code that is here now, as provenance.json has it."""
    return records.code_hash(SCRIPTS)
