"""What a job takes in work, in a unit that its time is proportional to: floating-point operations, parameters or rows.

A token takes 2 operations for each parameter in the forward pass, 2 in the backward pass, and 2 more for each parameter that is
trained; recomputed activations take the forward pass again (Kaplan et al. 2020, arXiv 2001.08361, section 2.1, whose 6 N is the
case in which all are trained). A forward pass of few tokens takes as long as one of STEP tokens: the weights have to be read.
"""

import json
import math
from pathlib import Path
from typing import Any, NamedTuple

from posttrain.evaluation import cases
from posttrain.models.shapes import Model
from posttrain.objectives import OBJECTIVES
from posttrain.planning.sizes import Sizes

# Tokens. Peak operations over the bandwidth of the memory: 989e12 / 3.35e12 = 295 for an H100 in bf16, of which about half is reached;
# a processor has to convert float32 weights besides (bench/plan.py measures it).
STEP = 150
GENERATED_AT_ONCE = 64  # completions
MEASURED_BY_SAFETY = 60  # prompts that the project ships
# What a rule's time is proportional to.
TRAIN, SCORE, COPY, ROWS, NOTHING = "train", "score", "copy", "rows", "nothing"
KINDS = dict.fromkeys(OBJECTIVES, TRAIN) | {
    **dict.fromkeys(
        ("logprobs", "topk", "select", "eval", "prove_export", "export_reference", "predict", "judge"), SCORE
    ),
    **dict.fromkeys(("base", "prune", "merge", "export"), COPY),
    **dict.fromkeys(("data", "mix", "generate", "overlap", "tokens", "data_report"), ROWS),
}


class Work(NamedTuple):
    """The work of a job."""

    kind: str
    amount: float | None
    """operations (train, score), parameters (copy) or rows; None where the model is not known"""
    known: bool = True
    """it rests on counted rows and tokens, not on a guess of them"""


def of(sizes: Sizes, rule: str, job: str, spec: dict[str, Any] | None = None) -> Work:
    """The work of a job of the configuration.

    Args:
        sizes: of the configuration.
        rule: its rule.
        job: what it is called in the records, such as `eval/sft_lora`.
        spec: of a run that has another one by now: that which it was trained with.
    """
    kind, name = KINDS.get(rule, NOTHING), job.partition("/")[2]
    if kind == TRAIN:
        return _training(sizes, name, spec or json.loads(sizes.project.spec(name)))
    if kind == SCORE:
        model = sizes.asked(rule, name)
        parameters = sizes.parameters(model)
        tokens, known = (
            _selected(sizes, model, name) if rule == "select" else _scored(sizes, rule, model, name.partition("/")[2])
        )
        return Work(SCORE, None if parameters is None else 2 * parameters * tokens, known)
    if kind == COPY:
        return Work(COPY, sizes.parameters(name.partition("/")[0]))
    if kind == ROWS:
        rows = sizes.rows(_dataset(rule, name))
        return Work(ROWS, rows.train + rows.validation, rows.known)
    return Work(NOTHING, 0.0)


def _dataset(rule: str, name: str) -> str:
    return name.partition("/")[2].partition(",")[0] if rule == "tokens" else name


# ---- training


def a_token(model: Model, spec: dict[str, Any], trained: float) -> float:
    """Operations that training takes for one token; `trained` parameters get a gradient."""
    trained = min(trained, model.parameters)
    again = 2 * model.parameters if spec["gradient_checkpointing"] else 0
    return 4 * model.parameters + 2 * trained + again


def steps(spec: dict[str, Any], rows: float) -> tuple[int, float]:
    """Steps of the optimiser, and rows that go through all of them."""
    batch = spec["batch_size"]
    planned = math.ceil(rows / batch * spec["epochs"]) if spec.get("epochs") else math.inf
    number = min(planned, spec["max_steps"] or math.inf)
    return int(number), number * batch


def _training(sizes: Sizes, name: str, spec: dict[str, Any]) -> Work:
    model = sizes.model(sizes.base(name))
    row = OBJECTIVES[spec["objective"]]
    if model is None:
        return Work(TRAIN, None)
    if row.on_policy:
        return _on_policy(sizes, name, spec, model)
    tokens = sizes.of_run(name)
    number, rows = steps(spec, tokens.train)
    passes = number * spec["accumulation"]
    seen = rows * row.sequences * tokens.mean
    if spec.get("packing"):
        passes = min(passes, math.ceil(seen / spec["max_length"] / spec["batch_size"]))
    reference = row.reference == "before training" or row.reference.startswith("resident")
    amount = (seen + STEP * passes) * (
        a_token(model, spec, sizes.trained(name, spec)) + (2 * model.parameters if reference else 0)
    )
    if row.teacher:
        amount += _taught(sizes, name, spec, model, seen + STEP * passes)
    return Work(TRAIN, amount, tokens.known)


def _taught(sizes: Sizes, name: str, spec: dict[str, Any], model: Model, seen: float) -> float:
    """What a teacher that is there reads, and the completions that the model samples on the way."""
    if spec.get("teacher_top_k"):
        return 0
    teacher = sizes.parameters(sizes.project.run(name).teacher) or model.parameters
    number, rows = steps(spec, sizes.of_run(name).train)
    new = spec.get("max_new_tokens", 0) * spec.get("on_policy_share", 0)
    return 2 * teacher * seen + 2 * model.parameters * (rows * new + STEP * new * number * spec["accumulation"])


def _on_policy(sizes: Sizes, name: str, spec: dict[str, Any], model: Model) -> Work:
    """Completions are sampled, scored by the policy, its reference and the reward model, and learnt from `ppo_epochs` times."""
    data = sizes.rows(sizes.project.run(name).run.data)
    tokens = sizes.tokens_of(name, sizes.project.run(name).run.data, spec["max_length"])
    number, rows = steps(spec, data.train)
    new, prompt = spec["max_new_tokens"], min(spec["max_length"] - spec["max_new_tokens"], tokens.mean / 2)
    samples = rows * spec.get("generations", 1) if "generations" not in spec else rows
    forward = 2 * model.parameters
    sampled = forward * (samples * new + STEP * new * number)
    models = 2 + len([key for key in ("from", "sequence") if key in spec.get("reward", {})])
    scored = forward * samples * (prompt + new) * models
    learnt = (
        a_token(model, spec, sizes.trained(name, spec))
        * (samples * (prompt + new) + STEP * number)
        * spec.get("ppo_epochs", 1)
    )
    return Work(TRAIN, sampled + scored + learnt, data.known)


# ---- scoring and answering


def generated(prompts: float, prompt: float, new: float) -> float:
    """Tokens of a forward pass that completing prompts is worth.

    Args:
        prompts: their number.
        prompt: tokens of each.
        new: tokens of each completion, at most.
    """
    batches = math.ceil(prompts / GENERATED_AT_ONCE)
    return prompts * (prompt + new) + STEP * new * batches


def _scored(sizes: Sizes, rule: str, model: str, rest: str) -> tuple[float, bool]:
    """Tokens that a job's model goes through, and whether they are counted and not guessed."""
    project = sizes.project
    table = project.config.evaluation
    if rule == "logprobs":
        length = int(rest.split("max_length=")[1].split(",")[0].removesuffix(".parquet"))
        tokens = sizes.tokens_of(model, rest.partition(",")[0], length)
        return 2 * tokens.mean * tokens.train, tokens.known
    if rule == "topk":
        length = int(rest.split("max_length=")[1].split(",")[0])
        tokens = sizes.tokens_of(model, rest.partition(",")[0], length)
        return tokens.mean * (tokens.train + tokens.validation), tokens.known
    if rule == "predict":
        tokens = sizes.tokens_of(model, rest, table.max_length)
        asked = project.config.predictions
        rows = min(asked.limit or math.inf, tokens.train + tokens.validation)
        return generated(rows, tokens.mean / 2, asked.max_new_tokens or table.max_new_tokens), tokens.known
    if rule in ("prove_export", "export_reference"):
        return _proved(sizes, model)
    return _evaluated(sizes, model)


def _selected(sizes: Sizes, model: str, dataset: str) -> tuple[float, bool]:
    """Both completions of every row are scored."""
    rows = sizes.rows(sizes.project.config.datasets[dataset].from_)
    tokens = sizes.tokens_of(model, sizes.project.run(model).run.data, sizes.project.run(model).run.max_length)
    return 2 * tokens.mean * (rows.train + rows.validation), rows.known and tokens.known


def _proved(sizes: Sizes, model: str) -> tuple[float, bool]:
    """One completion at a time, so that batches change no bits."""
    table = sizes.project.config.evaluation
    tokens = sizes.tokens_of(model, sizes.project.run(model).run.data, table.max_length)
    rows = sizes.project.config.export.rows
    return rows * (2 * tokens.mean + (1 + STEP) * table.max_new_tokens), tokens.known


def _evaluated(sizes: Sizes, model: str) -> tuple[float, bool]:
    """The likelihood of held-out rows, answers to read, and the suites."""
    project, table = sizes.project, sizes.project.config.evaluation
    total, known = 0.0, True
    for dataset in project.inputs.evaluation_data:
        tokens = sizes.tokens_of(model, dataset, table.max_length)
        known &= tokens.known
        total += 2 * tokens.mean * min(table.limit, tokens.validation)
        if table.answers:
            total += generated(min(table.answers, tokens.validation), tokens.mean / 2, table.max_new_tokens)
    if project.is_reward(model) if model not in project.config.bases else False:
        return total, known
    for suite in table.suites.values():
        if suite.kind == "cases":
            asked = cases.read(Path(suite.path))
            new = sum(case.max_new_tokens or suite.max_new_tokens or table.max_new_tokens for case in asked) / len(
                asked
            )
            total += generated(len(asked), ASKED_PROMPT, new)
            continue
        limit, new = suite.limit or table.limit, getattr(suite, "max_new_tokens", None) or table.max_new_tokens
        if hasattr(suite, "data"):
            tokens = sizes.tokens_of(model, suite.data, table.max_length)
            rows, mean = min(limit, tokens.validation), tokens.mean
        else:
            rows, mean = min(limit, MEASURED_BY_SAFETY), float(ASKED_PROMPT)
        total += rows * mean if suite.kind in LIKELIHOOD else generated(rows, mean, new)
    return total, known


ASKED_PROMPT = 50  # tokens
LIKELIHOOD = ("perplexity", "preference", "tasks")
