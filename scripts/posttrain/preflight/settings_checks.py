"""Checks of a run's settings: the method, the model, memory."""

import re
from typing import TYPE_CHECKING

from posttrain.compat.transformers_source import has_classifier, masks_packed_rows
from posttrain.methods import METHODS
from posttrain.models.memory_estimate import GIB
from posttrain.models.memory_sharing import SHARDING
from posttrain.objectives import OBJECTIVES
from posttrain.preflight.findings import Finding
from posttrain.runtime import slurm
from posttrain.runtime.errors import nearest

if TYPE_CHECKING:
    from posttrain.preflight.run_context import RunContext

FACTOR = 5  # a usual learning rate is within this factor of the default, where a method names no range


def packing(run: "RunContext") -> Finding | None:
    """Packed rows do not see each other.

    Transformers tells the rows apart by their position ids, whatever the attention; models that have no such masks cannot. What is
    read off the source here is measured on the model itself when training begins, see `packing.check`.
    """
    if not run.spec.get("packing"):
        return Finding("skipped", "no rows are packed")
    kind = run.model.config.get("model_type", "")
    if not masks_packed_rows(kind):
        text = (
            f"models of the type {kind} have no attention for packed rows, which would see each other; take packing out"
        )
        return Finding("error", text)
    return None


def architecture(run: "RunContext") -> Finding | None:
    """The architecture has what the objective and the method need."""
    from posttrain.models import target_modules

    kind = run.model.config.get("model_type", "")
    if OBJECTIVES[run.spec["objective"]].scores and not has_classifier(kind):
        return Finding(
            "error",
            f"transformers has no model of the type {kind} that gives a sequence one score, as a reward model does; write "
            "objective: dpo, or take a base of another type",
        )
    if why := target_modules.method_refusal(run.spec, run.model.config):
        return Finding("error", why)
    method = METHODS[run.spec["method"]]
    unnamed = "target_modules" in method.keys and not (method.target_modules or run.spec["target_modules"])
    if unnamed and not target_modules.ia3(run.model.matrices):
        return Finding(
            "error",
            f"where models of the type {kind} have keys and values is not known; write target_modules: [NAME, ...]",
        )
    return None


def target_modules(run: "RunContext") -> Finding | None:
    """The names of modules in a run are names of the model's."""
    from posttrain.models import target_modules
    from posttrain.models.memory_estimate import targeted

    if why := target_modules.parameters_refusal(run.spec, run.model.shapes):
        return Finding("error", why)
    arguments, requested = run.spec.get("peft_args", {}), run.spec.get("target_modules")
    modules = [name.removesuffix(".weight") for name, shape in run.model.shapes.items() if len(shape) > 1]
    modules += ["lm_head"] * ("lm_head" not in modules)  # a tied one is in no file
    ends = list(dict.fromkeys(name.split(".")[-1] for name in modules))
    for target in requested if isinstance(requested, list) else [requested] if requested else []:
        try:
            matching = targeted(run.spec, modules, target if isinstance(requested, list) else None)
        except re.error as error:
            return Finding("error", f"'{target}' is not a regular expression: {error}")
        if not matching:
            advice = f"PEFT takes a list of names, write [{requested}]" if requested in ends else nearest(target, ends)
            return Finding("error", f"'{target}' matches no module of the model; {advice}")
        why = target_modules.refusal(run.spec, target, matching, modules, run.model.config, run.model.tied)
        if why and requested != "all-linear":  # which leaves out what cannot be had
            return Finding("error", why)
    named = {prefix for name in run.model.shapes for prefix in _prefixes(name)} | {"score", "lm_head"}
    for part in arguments.get("modules_to_save") or []:
        if not any(name.endswith(part) for name in named):
            return Finding(
                "error", f"peft_args.modules_to_save: the model has no module '{part}'; {nearest(part, ends)}"
            )
    layers = arguments.get("layers_to_transform")
    beyond = [n for n in ([layers] if isinstance(layers, int) else layers or []) if n >= run.model.layers]
    if beyond:
        last = run.model.layers - 1
        return Finding("error", f"peft_args.layers_to_transform: there is no layer {beyond[0]}; the last one is {last}")
    return None if requested else Finding("skipped", f"{run.spec['method']} has places of its own")


def _prefixes(parameter: str) -> list[str]:
    """The modules that a parameter is in: `model`, `model.layers`, ..."""
    parts = parameter.split(".")
    return [".".join(parts[:i]) for i in range(1, len(parts))]


def learning_rate(run: "RunContext") -> Finding | None:
    """The learning rate is one with which the method usually learns."""
    method, given = run.spec["method"], run.spec["learning_rate"]
    answers = OBJECTIVES[run.spec["objective"]].from_demonstrations
    default = METHODS[method].learning_rates[not answers]
    usual = METHODS[method].usual_learning_rates if answers else None
    low, high = usual or (default / FACTOR, default * FACTOR)
    if low * 0.999 <= given <= high * 1.001:  # a fifth of a default is not exact
        return None
    what = "so high that the loss may jump" if given > high else "so low that little is learnt"
    usual = f"{run.spec['objective']} by {method} usually has {low:.3g} to {high:.3g}, by default {default:.3g}"
    return Finding("warning", f"learning_rate {given:.3g} is {what}; {usual}")


def teacher(run: "RunContext") -> Finding | None:
    """The teacher's tokens mean what the model's do, and it is another model."""
    from posttrain.data.vocabularies import HINT, difference

    if run.teacher is None:
        return Finding("skipped", "the run learns from no other model's distributions")
    said, name = run.spec["teacher"], run.spec["teacher"]["name"]
    if why := difference(run.tokenizer, run.teacher[0], [text for _, _, text in run.texts]):
        return Finding("error", f"{name} cannot teach {run.spec['from']['name']}: {why}; {HINT}")
    if said == run.spec["from"]:
        text = f"{name} is both the teacher and the model that training starts from, which has nothing to learn from itself"
        return Finding("warning", f"{text}; write another teacher, or a smaller model under from")
    if run.teacher[1].parameters < run.model.parameters:
        sizes = f"{run.teacher[1].parameters:,} parameters, and the model {run.model.parameters:,}"
        return Finding("warning", f"the teacher is the smaller model: {name} has {sizes}")
    return None


def patterns(run: "RunContext") -> Finding | None:
    """The patterns of `freeze`, `train` and `learning_rates` match parameters, and leave some to train."""
    from posttrain.models import foreseen_parameters, parameter_patterns

    if not any(run.spec.get(key) for key in ("train_parts", *parameter_patterns.KEYS)):
        return Finding("skipped", "no parameter is named")
    why = parameter_patterns.refusal(run.spec, foreseen_parameters.foreseen(run.spec, run.model))
    return Finding("error", why) if why else None


def rank(run: "RunContext") -> Finding | None:
    """The rank is one that the method usually has."""
    low, high = METHODS[run.spec["method"]].usual_ranks
    given = run.spec.get("rank")
    if not high or low <= given <= high:
        return None if high else Finding("skipped", f"{run.spec['method']} has no rank")
    what = "more parameters than usual, and memory" if given > high else "few parameters to learn with"
    return Finding("warning", f"rank {given} means {what}; {run.spec['method']} usually has {low} to {high}")


def memory(run: "RunContext") -> Finding | None:
    """The training fits into memory."""
    if slurm.is_job():
        return Finding("skipped", "the training is another job, which may run on another kind of node")
    machine = run.memory
    need = needed(run, run.spec)
    if need["total"] <= machine.free:
        return None
    error = need["least"] > machine.total
    now = f"of {machine.total / GIB:.1f} GiB, {machine.free / GIB:.1f} GiB are free on {machine.name}"
    what = (
        f"weights, gradients and optimiser states alone take {need['least'] / GIB:.1f} GiB"
        if error
        else f"training takes about {need['total'] / GIB:.1f} GiB, {need['activations'] / GIB:.1f} GiB of them activations"
    )
    return Finding("error" if error else "warning", f"{what}, and {now}; {_what_fits(run)}")


def needed(run: "RunContext", spec: dict, strategy: str | None = None) -> dict[str, float]:
    """The estimate of a run's memory with the settings of `spec`, and with another strategy than the configured one."""
    from posttrain.models.memory_estimate import estimate

    bf16 = run.memory.bf16 if spec["precision"] == "auto" else spec["precision"] == "bf16"
    share = (
        run.spec["max_new_tokens"] / run.longest
        if run.token_report is None
        else _trainedshare(run.token_report["train"])
    )
    hardware = run.hardware._replace(strategy=strategy or run.hardware.strategy)
    longest = spec["max_length"] if spec.get("packing") else min(run.longest, spec["max_length"])
    teacher = run.teacher and run.teacher[1]
    return estimate(spec, run.model, longest, share, run.memory.device, bf16, hardware, teacher=teacher)


def _what_fits(run: "RunContext") -> str:
    """The first change of the settings with which the training would fit."""
    from posttrain.models.memory_estimate import remedies

    for strategy in SHARDING if run.hardware.processes > 1 else ():
        need = needed(run, run.spec, strategy)
        if need["total"] <= run.memory.free:
            return (
                f"with `hardware: {{strategy: {strategy}}}` it would take {need['total'] / GIB:.1f} GiB in each process"
            )
    for text, changes in remedies(run.spec, run.longest):
        need = needed(run, run.spec | changes)
        if need["total"] <= run.memory.free:
            return f"with {text} it would take {need['total'] / GIB:.1f} GiB"
    return "no setting of this run makes it fit; take a smaller base or a larger machine"


def _trainedshare(counts: dict[str, int]) -> float:
    return min(1.0, counts["trained_tokens"] / max(1, counts["tokens"]))
