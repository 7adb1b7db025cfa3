"""What a job takes in memory and on the disk."""

import json
from statistics import median
from typing import Any

from posttrain.exports import EXPORTS
from posttrain.methods import METHODS
from posttrain.models.machine import Memory
from posttrain.models.memory_sharing import Hardware
from posttrain.models.shapes import Model
from posttrain.objectives import OBJECTIVES
from posttrain.planning import work
from posttrain.planning.records import Measured
from posttrain.planning.sizes import Sizes
from posttrain.training.checkpoints import KEPT
from posttrain.workflow import paths

MB = 2**20
PROCESS = 250 * MB  # of a stage without a model, its libraries imported
WITH_TORCH = 480 * MB
# Copies of the model, in float32, that a stage holds at once: largest processes of the demo over its 538 MB, the libraries left out.
COPIES = {
    **dict.fromkeys(("base", "prune", "merge", "eval", "predict", "judge", "select", "export_reference"), 2.0),
    **{"logprobs": 2.5, "topk": 2.5, "export": 2.0, "prove_export": 3.0},
}
TOKEN_ON_DISK, TEXT_ON_DISK, SMALL = 3.0, 0.5, 1e5  # bytes of a token, of a character, of a stage's small files
TOP_ON_DISK = 6.0  # bytes of a token that a teacher finds likely and of its log-probability, compressed
MOMENTS = 3  # a checkpoint has the trained weights and AdamW's two moments


def memory(
    sizes: Sizes, rule: str, job: str, machine: Memory, hardware: Hardware, records: list[Measured]
) -> float | None:
    """Peak memory of a job's process in bytes; of a training on a GPU, the GPU's. None where the model is not known.

    Args:
        sizes: of the configuration.
        rule: the job's rule.
        job: what it is called in the records.
        machine: where it runs.
        hardware: on how many processes a training runs.
        records: what earlier jobs took.
    """
    name = sizes.asked(rule, job.partition("/")[2])
    if rule in OBJECTIVES:
        return _training(sizes, name, machine, hardware)
    copies = COPIES.get(rule, 0)
    if not copies:
        took = [row.mb * MB for row in records if row.rule == rule]
        return median(took) if took else WITH_TORCH if rule == "preflight" else PROCESS
    parameters = sizes.parameters(name)
    if parameters is None:
        return None
    beside = [
        row.mb * MB - 4 * copies * (sizes.parameters(sizes.asked(rule, row.job.partition("/")[2])) or 0)
        for row in records
        if row.rule == rule
    ]
    return 4 * copies * parameters + max(PROCESS, median(beside) if beside else WITH_TORCH)


def _training(sizes: Sizes, name: str, machine: Memory, hardware: Hardware) -> float | None:
    if sizes.model(sizes.base(name)) is None:
        return None
    spec, row = json.loads(sizes.project.spec(name)), OBJECTIVES[sizes.project.run(name).run.objective]
    bf16 = machine.bf16 if spec["precision"] == "auto" else spec["precision"] == "bf16"
    if row.on_policy:
        tokens = sizes.tokens_of(name, sizes.project.run(name).run.data, spec["max_length"])
        longest, share = min(spec["max_length"], tokens.longest / 2 + spec["max_new_tokens"]), 0.5
    else:
        tokens = sizes.of_run(name)
        longest = spec["max_length"] if spec.get("packing") else tokens.longest
        share = tokens.trained
    return sizes.memory(name, spec, int(longest), share, machine.device, bf16, hardware)


def disk(sizes: Sizes, rule: str, job: str) -> tuple[float, float] | None:
    """Bytes that a job leaves on the disk, and that it needs besides while it runs; None where the model is not known.

    A model's file that another result has as well is a link, which takes nothing.
    """
    name = job.partition("/")[2]
    kind = work.KINDS.get(rule, work.NOTHING)
    if kind == work.ROWS:
        return _of_rows(sizes, rule, name), 0
    if rule == "logprobs":
        return SMALL, 0
    if rule == "topk":
        model, rest = name.partition("/")[0], name.partition("/")[2]
        settings = dict(part.split("=") for part in rest.split(",")[1:] if "=" in part)
        tokens = sizes.tokens_of(model, rest.partition(",")[0], int(settings["max_length"]))
        stored = tokens.mean * tokens.trained * (tokens.train + tokens.validation)
        return SMALL + TOP_ON_DISK * int(settings["k"]) * stored, 0
    if rule in OBJECTIVES or kind == work.COPY:
        model = sizes.model(sizes.base(name.partition("/")[0]))
        return _of_model(sizes, rule, name, model) if model else None
    return SMALL, 0


def _of_rows(sizes: Sizes, rule: str, name: str) -> float:
    if rule == "tokens":
        base, _, rest = name.partition("/")
        dataset = rest.partition(",")[0]
        length = int(rest.split("max_length=")[1].split(",")[0])
        tokens = sizes.tokens(base, dataset, length, paths.of(f"tokens/{name}"))
        sequences = 2 if sizes.project.config.datasets[dataset].format == "preference" else 1
        return SMALL + TOKEN_ON_DISK * sequences * tokens.mean * (tokens.train + tokens.validation)
    rows = sizes.rows(name)
    text = TEXT_ON_DISK * rows.characters * (rows.train + rows.validation) if rule in ("data", "mix") else 0
    return SMALL + text


def _of_model(sizes: Sizes, rule: str, name: str, model: Model) -> tuple[float, float]:
    if rule in ("base", "prune"):
        linked = sizes.project.config.bases[name].source == "path"
        return (0 if linked else model.bytes), 0
    run = name.partition("/")[0]
    spec: dict[str, Any] = json.loads(sizes.project.spec(run))
    full = METHODS[spec["method"]].full
    if rule in OBJECTIVES:
        trained = 4 * (model.parameters if full else sizes.trained(run, spec))
        return trained, KEPT * MOMENTS * trained
    whole, stored = 4.0 * model.parameters, float(model.bytes)
    if rule == "merge":  # in float32 to train on, and in the base's own type to ship; of a full training links
        return (0 if full else whole) + (stored if stored < whole else 0), 0
    kind = name.rpartition("/")[2]
    row = EXPORTS[kind]
    return (4 * sizes.trained(run, spec) if row.is_adapter else row.bits / 8 * model.parameters), 0
