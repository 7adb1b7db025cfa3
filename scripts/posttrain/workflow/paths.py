"""Every path of the graph. Nothing else in the library knows where a result lies: scripts are given their files.

Where results are in a storage, POSTTRAIN_RESULTS says to a job where its copies of them are; the graph's own names stay.

The rules in rules/*.smk have the same patterns, since Snakemake needs them as literals.
"""

import glob
import os
from pathlib import Path
from typing import NamedTuple

from posttrain.config.plain_values import RESERVED

RESULTS = "results"
REPORT = f"{RESULTS}/report.html"
CONTEXT = f"{RESULTS}/context.json"
LOGS = f"{RESULTS}/logs"
PLAN = Path(RESULTS, "plan.json")  # what the jobs were estimated to take, for the report
PROBE = Path(RESULTS, "probe.json")  # how fast this machine computes
LAST_CONFIGURATION = Path(RESULTS, ".configuration")  # names the file that the last Snakemake command here read

# Every file of a run, and of a base by its own name, that a target may name.
RUN_FILES = (
    "spec.json context.json preflight.json preflight.txt trained train.json train.jsonl loss.png merged model merge.json "
    "provenance.json README.md eval.json eval/spec.json eval/examples.parquet"
).split()
EXPORT_FILES = ("export/spec.json", "export/reference.parquet", "export/table.html")  # of a run, besides each kind's
PREDICTIONS = "predictions/"  # of a run or a base: {dataset}.jsonl, and the spec of it
MODEL_FILES = ("eval.json", "eval/spec.json", "eval/examples.parquet")
JUDGED_FILES = ("eval/measured.json", "judge/spec.json", "judge/verdicts.jsonl")  # of both, where a suite has a judge


class Target(NamedTuple):
    """A file under results/ as a command line names it, taken apart."""

    table: str
    """`data`, `bases`, `tokens` or another reserved folder; the empty text for a run or an evaluated base"""
    name: str
    """of the run, the base, the dataset and so on; the empty text for a file of results/ itself"""
    file: str
    """its place within that folder"""


def target(text: str) -> Target:
    """Take a target apart; a bare name means a run or a base.

    >>> target("results/data/gsm8k/report.json")
    Target(table='data', name='gsm8k', file='report.json')
    >>> target("sft_lora,rank=4")
    Target(table='', name='sft_lora,rank=4', file='')
    """
    first, *rest = text.removeprefix(f"{RESULTS}/").rstrip("/").split("/")
    if first in RESERVED:
        return Target(first, rest[0] if rest else "", "/".join(rest[1:]))
    return Target("", first, "/".join(rest))


def is_target(text: str) -> bool:
    """Whether an argument of a command line names a file under results/."""
    return text.startswith(f"{RESULTS}/")


def of(result: str, file: str = "") -> str:
    """A file of a result, or its folder; `result` is a run, `data/NAME`, `bases/NAME`, `RUN/eval` and so on."""
    return f"{os.getenv('POSTTRAIN_RESULTS', RESULTS)}/{result}/{file}".rstrip("/")


def base(name: str, file: str = "") -> str:
    """A file of a base, or its folder."""
    return of(f"bases/{name}", file)


def data(dataset: str, file: str = "") -> str:
    """A file of a dataset, or its folder."""
    return of(f"data/{dataset}", file)


def tokens(base: str, dataset: str, max_length: int, trained: str = "", file: str = "") -> str:
    """The folder of a dataset's tokens for a base, or a file of it.

    Args:
        trained: which parts of a conversation are trained, as `,assistant_turns=last`, and `,long_rows=split`; empty for the default.
    """
    return of(f"tokens/{base}/{dataset},max_length={max_length}{trained}", file)


def logprobs(model: str, dataset: str, max_length: int, form: str) -> str:
    """The file of a reference's log-probabilities; `form` says how the reference is held, see `methods.reference_form`."""
    return of(model, f"logprobs/{dataset},max_length={max_length}{form}.parquet")


def topk(model: str, dataset: str, max_length: int, trained: str, count: int, form: str) -> str:
    """The folder of a teacher's most likely tokens; `trained` as for `tokens`, `form` a precision and a temperature not at default."""
    return of(model, f"topk/{dataset},max_length={max_length}{trained},k={count}{form}")


def evaluation(model: str) -> str:
    """The metrics of a base or a run."""
    return of(model, "eval.json")


def examples(model: str) -> str:
    """Each example of a model's evaluation, with its scores."""
    return of(model, "eval/examples.parquet")


def export(run: str, kind: str) -> str:
    """The folder of an export of a run."""
    return of(run, f"export/{kind}")


def proof(run: str, kind: str) -> str:
    """What was measured of an export, re-loaded by the program that runs it."""
    return of(run, f"export/{kind}.json")


def predictions(model: str, dataset: str) -> str:
    """A model's completions of the rows of a dataset."""
    return of(model, f"{PREDICTIONS}{dataset}.jsonl")


def measured(model: str) -> str:
    """The metrics of a base or a run before a judge adds to them; only where a suite has one."""
    return of(model, "eval/measured.json")


def verdicts(model: str) -> str:
    """Each pair of answers that a judge has compared, with its verdicts; only where a suite has one."""
    return of(model, "judge/verdicts.jsonl")


def sweep(name: str, file: str = "") -> str:
    """A file of a sweep, or its folder."""
    return of(f"sweeps/{name}", file)


def ratings(pair: str, file: str = "") -> str:
    """A file of the ratings of two models `a~b`, or their folder."""
    return of(f"ratings/{pair}", file)


def records(rule: str, name: str) -> list[Path]:
    """What the jobs of a rule wrote of their time and memory, for a run, dataset or base `name` and for its overrides."""
    folder = Path(RESULTS, "logs", rule)
    first, _, _ = name.partition(",")
    files = [folder / f"{first}.tsv", *folder.glob(f"{glob.escape(first)},*.tsv")]
    return [file for file in files if file.exists()]


def log(rule: str, name: str) -> Path:
    """What a job of a rule told last, of the run, dataset or base `name`."""
    return Path(LOGS, rule, f"{name}.log")


def job(log: str) -> str:
    """What a job is called in the records: its log's place.

    >>> job("results/logs/eval/sft_lora.log")
    'eval/sft_lora'
    """
    return log.removeprefix(f"{LOGS}/").removesuffix(".log")


def record(job: str) -> Path:
    """What a job wrote of its time and memory, see `runtime.script`; `job` is as `job` has it."""
    return Path(LOGS, f"{job}.tsv")


def recorded_jobs() -> list[str]:
    """The jobs of this folder that have a record."""
    return sorted(job(str(file.with_suffix(".log"))) for file in Path(LOGS).rglob("*.tsv"))


def owner(file: str) -> str:
    """The result that a file belongs to: a run, `RUN/eval`, `RUN/export`, `RUN/predictions/DATASET`, `data/NAME`, `bases/NAME`,
    `tokens/BASE/...`, or the file itself."""
    parts = file.removeprefix(f"{RESULTS}/").split("/")
    if parts[0] in ("data", "bases"):
        return "/".join(parts[:2])
    if parts[0] == "tokens":
        return "/".join(parts[:3])
    if parts[1:2] == ["logprobs"]:
        return "/".join(parts)
    if parts[1:2] == ["topk"]:
        return "/".join(parts[:3])
    if parts[1:2] in (["eval"], ["eval.json"]):
        return f"{parts[0]}/eval"
    if parts[1:2] == ["export"]:
        return f"{parts[0]}/export"
    if parts[1:2] == ["predictions"]:
        return f"{parts[0]}/predictions/{parts[2].removesuffix('.jsonl')}"
    if parts[1:2] == ["judge"]:
        return f"{parts[0]}/judge"
    return file if parts[0] in RESERVED or len(parts) == 1 else parts[0]
