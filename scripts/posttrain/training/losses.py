"""Losses by the names of their papers: the keys that belong to each, their defaults, and what cannot be together."""

from collections.abc import Iterator
from typing import Any

from posttrain.methods import METHODS
from posttrain.objectives import OBJECTIVES

# Meng et al. 2024, section 3 and appendix B: beta 2 to 2.5 (10 for Llama 3 Instruct), gamma / beta 0.3 to 0.8.
SIMPO = {"beta": 2.0, "cpo_alpha": 0.0}
SIMPO_MARGIN = 0.5  # gamma / beta

# Fields of TRL's GRPOConfig, and keys of a run. All four papers leave the KL penalty out.
VARIANTS: dict[str, dict[str, Any]] = {
    # Zheng et al. 2025, section 5.1: one ratio an answer, four minibatches of a rollout.
    "gspo": {"loss_type": "grpo", "importance_sampling_level": "sequence", "epsilon": 3e-4, "epsilon_high": 4e-4},
    # Yu et al. 2025, sections 3.1, 3.3 and 3.4: a mean over tokens, a higher upper clip, answers that were cut are left out.
    "dapo": {"loss_type": "dapo", "epsilon": 0.2, "epsilon_high": 0.28, "mask_truncated_completions": True},
    # MiniMax 2025: the ratio is a clipped weight that passes no gradient. Its bound is that of Khatri et al. 2025 (ScaleRL).
    "cispo": {"loss_type": "cispo", "epsilon_high": 5.0},
    # Liu et al. 2025: neither an answer's length nor the spread of a prompt's rewards divides.
    "dr_grpo": {"loss_type": "dr_grpo", "scale_rewards": "none"},
}
# Steps over answers that were sampled together. While there is one, every ratio is 1, and there is nothing to clip.
MINIBATCHES = {"gspo": 4, "dapo": 4, "cispo": 4}
CLIPPED = ("gspo", "cispo")  # they differ from other losses by what they do with a ratio, and by nothing else

# What somebody may write as an objective.
NAMES = {
    "simpo": "SimPO is a loss of cpo; write objective: cpo, loss_type: simpo",
    **{name: f"{name} is a variant of grpo; write objective: grpo, variant: {name}" for name in VARIANTS},
}


def defaults(run: Any) -> dict[str, Any]:
    """Defaults of a run's keys that depend on its loss; `run` is a `config.Run`."""
    found = {"minibatches": MINIBATCHES.get(run.variant, 1)}
    if run.variant:
        found |= {"loss_type": VARIANTS[run.variant]["loss_type"], "beta": 0.0}
    can_be_simpo = "simpo_gamma" in OBJECTIVES[run.objective].keys
    if can_be_simpo and run.loss_type != "simpo":
        found |= {"cpo_alpha": 1.0}
    elif can_be_simpo:
        found |= SIMPO | {"simpo_gamma": SIMPO_MARGIN * (run.beta or SIMPO["beta"])}
    return found


def without_idle(values: dict[str, Any]) -> dict[str, Any]:
    """A run's settings without the keys that its loss does not read, and without those that came later, at their defaults."""
    idle = {"simpo_gamma"} if values.get("simpo_gamma") is None else set()
    if OBJECTIVES[values["objective"]].groups and values["minibatches"] == 1:
        idle.add("minibatches")
    return {key: value for key, value in values.items() if key not in idle}


def trainer_fields(spec: dict[str, Any]) -> dict[str, Any]:
    """The fields of GRPOConfig that a spec's variant sets, those apart that the run's own keys set."""
    table = VARIANTS.get(spec.get("variant"), {})
    return {field: value for field, value in table.items() if field != "loss_type"}


def refusals(run: Any) -> Iterator[str]:
    """Why a run's loss cannot be had with its other keys; nothing where it can."""
    objective = OBJECTIVES[run.objective]
    if run.simpo_gamma is not None and run.loss_type != "simpo":
        yield "simpo_gamma has no effect here; it needs loss_type: simpo"
    if run.loss_type in objective.without_smoothing and run.trainer_args.get("label_smoothing"):
        yield f"trainer_args.label_smoothing has no effect on loss_type: {run.loss_type}; take it out, or write sigmoid"
    if "variant" in objective.keys and run.loss_type in ("gspo", "cispo"):
        yield f"loss_type: {run.loss_type} is more than a loss; write variant: {run.loss_type}"
    if run.variant and run.loss_type is not None:
        yield f"loss_type and variant are both set, and {run.variant} has its own loss; write one of them"
    if objective.on_policy:
        yield from _minibatches(run)
    yield from _first_weights(run)


def _first_weights(run: Any) -> Iterator[str]:
    """Why an adapter cannot have the first weights that are asked for, and settings of theirs that would do nothing."""
    first, place = str(run.peft_args.get("init_lora_weights")), "peft_args.init_lora_weights"
    objective, method = OBJECTIVES[run.objective], METHODS[run.method]
    if first in ("pissa", "olora") and (method.four_bit or objective.needs_parent):
        why = "the 4-bit weights cannot be changed" if method.four_bit else "the parent is needed as the reference"
        yield f"{place}: {first} moves a part of the parent's weights into the adapter, and {why}"
    if first.startswith("pissa_niter"):
        yield f"{place}: a fast PiSSA draws at random, so that what is loaded again is not what was trained; write pissa"
    if first.startswith(("corda", "lora_ga")):
        yield f"{place}: {first} needs a preparation that is not done here; write eva, or pissa"
    for name in ("eva", "loftq"):
        if f"{name}_config" in run.peft_args and first != name:
            yield f"peft_args.{name}_config has no effect here; it needs init_lora_weights: {name}"
    if first == "eva" and (objective.value_model or not method.low_rank):
        yield f"{place}: eva is the start of a LoRA that is the only adapter; it needs method: lora or qlora, and not objective: ppo"
    if first != "loftq":
        return
    if not method.four_bit:
        yield f"{place}: loftq makes up for what 4 bits lose; it needs method: qlora"
    if objective.reference != "none":
        yield (
            f"{place}: loftq starts at the parent before 4 bits, and the parent in 4 bits is the reference of {run.objective}; take "
            "it out"
        )
    if run.merge_into == "original":
        yield "merge_into: original would make up twice for what 4 bits lose, beside loftq; take it out"
    if run.peft_args.get("loftq_config", {"loftq_iter": 1}) != {"loftq_iter": 1}:
        yield "peft_args.loftq_config: one iteration in 4 bits is done, which leaves the 4-bit parent as it is; take it out"


def _minibatches(run: Any) -> Iterator[str]:
    steps = run.minibatches or defaults(run)["minibatches"]
    if run.batch_size % (steps * run.accumulation):
        yield f"minibatches {steps} x accumulation {run.accumulation} does not divide batch_size {run.batch_size}"
    if steps == 1 and run.variant in CLIPPED:
        yield (
            f"minibatches is 1: the model that learns from an answer is the one that wrote it, so that {run.variant} has nothing "
            "to clip; write 2 or more, or take variant out"
        )
