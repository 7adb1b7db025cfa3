"""Keys that depend on a run's loss: their defaults, and what cannot be combined."""

from collections.abc import Iterator
from typing import Any

from posttrain.config.fields import Mistake
from posttrain.objectives import OBJECTIVES
from posttrain.runtime.errors import nearest
from posttrain.training import losses

# What somebody may write as an objective.
OTHER_OBJECTIVES = {
    "simpo": "SimPO is a loss of cpo; write objective: cpo, loss_type: simpo",
    **{name: f"{name} is a variant of grpo; write objective: grpo, variant: {name}" for name in losses.VARIANTS},
}


def defaults(run: Any) -> dict[str, Any]:
    """Defaults of a run's keys that depend on its loss."""
    found: dict[str, Any] = {"num_mini_batches": losses.MINIBATCHES.get(run.variant, 1)}
    if run.variant:
        found |= {"loss_type": losses.VARIANTS[run.variant]["loss_type"], "beta": 0.0}
    if run.loss_type == "simpo":
        margin = losses.SIMPO_MARGIN * (run.beta or losses.SIMPO["beta"])
        return found | losses.SIMPO | {"simpo_gamma": margin}
    return found | {"cpo_alpha": 1.0}


def without_idle(values: dict[str, Any]) -> dict[str, Any]:
    """A run's settings without those that its loss does not read."""
    objective, idle = OBJECTIVES[values["objective"]], set()
    if objective.groups and values["num_mini_batches"] == 1:
        idle.add("num_mini_batches")
    if objective.teacher and "on_policy_share" not in values:
        idle.add("max_new_tokens")
    return {key: value for key, value in values.items() if key not in idle}


def mistakes(run: Any) -> Iterator[Mistake]:
    """Why a run's loss cannot be combined with its other keys."""
    yield from _loss_types(run)
    objective = OBJECTIVES[run.objective]
    if run.simpo_gamma is not None and run.loss_type != "simpo":
        yield Mistake("key-without-effect", "simpo_gamma", "it has no effect here", "it needs loss_type: simpo")
    if run.loss_type in objective.without_smoothing and run.trainer_args.get("label_smoothing"):
        yield Mistake(
            "key-without-effect",
            "trainer_args.label_smoothing",
            f"it has no effect with loss_type: {run.loss_type}",
            "remove it, or write loss_type: sigmoid",
        )
    if run.variant and run.loss_type is not None:
        yield Mistake(
            "conflicting-keys", "loss_type", f"variant: {run.variant} has its own loss", "remove loss_type or variant"
        )
    if objective.teacher:
        yield from _distillation(run)
    if "num_mini_batches" in objective.keys:
        yield from _mini_batches(run)


def _loss_types(run: Any) -> Iterator[Mistake]:
    given = run.loss_type if isinstance(run.loss_type, list) else [run.loss_type] if run.loss_type is not None else []
    objective = OBJECTIVES[run.objective]
    for name in given:
        if name in losses.VARIANTS and name not in objective.loss_types and "variant" in objective.keys:
            yield Mistake("invalid-value", "loss_type", f"{name} is more than a loss", f"write variant: {name}")
        elif name not in objective.loss_types:
            hint = nearest(name, objective.loss_types)
            yield Mistake("invalid-value", "loss_type", f"{run.objective} has no loss type '{name}'", hint)
    if isinstance(run.loss_type, list) and not (objective.several_losses and run.loss_type):
        several = [name for name, row in OBJECTIVES.items() if row.several_losses]
        yield Mistake(
            "invalid-value", "loss_type", f"only {' and '.join(several)} can combine several", "write the name of one"
        )
    if run.loss_weights is not None and len(run.loss_weights) != len(given):
        yield Mistake(
            "invalid-value",
            "loss_weights",
            f"it has {len(run.loss_weights)} numbers for {len(given)} loss types",
            "write one number for each loss type",
        )
    if objective.preference_loss and run.beta == 0:
        yield Mistake("invalid-value", "beta", "it is 0", "write a number above 0")


def _distillation(run: Any) -> Iterator[Mistake]:
    if run.teacher is None:
        yield Mistake("missing-key", "teacher", "distill learns from another model", "write `teacher: RUN` or a base")
    if run.beta is not None and run.beta > 1:
        yield Mistake(
            "invalid-value", "beta", f"{run.beta:g} is not from 0 to 1", "write 0, 1 or a number between them"
        )
    if run.on_policy_share and run.teacher_top_k:
        problem = "what the teacher says of sampled completions is not stored"
        yield Mistake("conflicting-keys", "on_policy_share", problem, "remove teacher_top_k or on_policy_share")
    if not run.on_policy_share and "max_new_tokens" in run.model_fields_set:
        yield Mistake("key-without-effect", "max_new_tokens", "it has no effect here", "it needs on_policy_share")
    if run.on_policy_share and run.max_length <= run.max_new_tokens:
        problem = f"{run.max_length} is the length of a prompt with its completion, so max_new_tokens {run.max_new_tokens} leaves no room"
        yield Mistake("conflicting-keys", "max_length", problem, f"write at least {2 * run.max_new_tokens}")


def _mini_batches(run: Any) -> Iterator[Mistake]:
    steps = run.num_mini_batches or defaults(run)["num_mini_batches"]
    if run.batch_size % (steps * run.gradient_accumulation_steps):
        yield Mistake(
            "conflicting-keys",
            "num_mini_batches",
            f"num_mini_batches {steps} x gradient_accumulation_steps {run.gradient_accumulation_steps} does not divide batch_size "
            f"{run.batch_size}",
            f"write a batch_size that is a multiple of {steps * run.gradient_accumulation_steps}",
        )
    if steps == 1 and run.variant in losses.CLIPPED:
        yield Mistake(
            "conflicting-keys",
            "num_mini_batches",
            f"with a single step per rollout every probability ratio is 1, so {run.variant} has nothing to clip",
            "write 2 or more, or remove variant",
        )
