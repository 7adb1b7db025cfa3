"""The keys `freeze`, `train` and `learning_rates`: which of a run's parameters move, and how fast, by patterns of their names.

A pattern is a regular expression that matches one or more whole parts of a parameter's name between its dots: `layers.[0-3]` means
`model.layers.2.mlp.up_proj.weight`, and not `model.layers.20.mlp.up_proj.weight`. Of an adapter the parameters are its own, named
for their layer: `model.layers.2.mlp.up_proj.lora_A.default.weight`.

Nothing here imports torch before a model is at hand, so that the preflight asks the same by the names alone.
"""

import re
from collections.abc import Iterator
from functools import cache
from typing import Any

from posttrain.methods import METHODS
from posttrain.objectives import OBJECTIVES
from posttrain.runtime.errors import UserError, nearest

KEYS = ("freeze", "train", "learning_rates")
ADVICE = {
    "freeze": "write the names of those that are not to move",
    "train": "take it out, or write the names of those that are to move",
    "learning_rates": "write learning_rate",
}
ANY = "zzz.zzz.zzz"  # a name that only a pattern matches which matches them all

Names = tuple[str, ...]
"""what a parameter is called; a tied LM head has the embedding's name and its own"""


def patterns(spec: dict, key: str) -> list[str]:
    """The patterns under a key of a run's spec; none where it is not set."""
    return list(spec.get(key) or [])


@cache
def _compiled(pattern: str) -> re.Pattern:
    return re.compile(rf"(^|\.)(?:{pattern})(\.|$)")


def is_meant(pattern: str, names: Names) -> bool:
    """Whether a pattern means the parameter of these names.

    >>> is_meant("layers.[0-3]", ("model.layers.2.mlp.up_proj.weight",))
    True
    >>> is_meant("layers.[0-3]", ("model.layers.20.mlp.up_proj.weight",))
    False
    """
    return any(_compiled(pattern).search(name) for name in names)


def moves(spec: dict, names: Names) -> bool:
    """Whether the parameter of these names is trained: `train` means it, where that is set, and `freeze` does not."""
    wanted = patterns(spec, "train")
    frozen = any(is_meant(pattern, names) for pattern in patterns(spec, "freeze"))
    return not frozen and (not wanted or any(is_meant(pattern, names) for pattern in wanted))


def refusals(values: dict) -> Iterator[str]:
    """What is wrong with a run's patterns, whatever the model; `values` are the run's keys."""
    for key in KEYS:
        for pattern in patterns(values, key):
            try:
                re.compile(pattern)
            except re.error as error:
                yield f"{key}: '{pattern}' is no regular expression: {error}"
                return
            if not pattern or is_meant(pattern, (ANY,)):
                yield f"{key}: '{pattern}' matches every parameter; {ADVICE[key]}"


def refusal(spec: dict, parameters: list[Names]) -> str | None:
    """Why the patterns of a run cannot be followed, by the names of the parameters that it would train without them."""
    for key in KEYS:
        for pattern in patterns(spec, key):
            meant = [is_meant(pattern, names) for names in parameters]
            if not any(meant):
                parts = {
                    part for names in parameters for name in names for part in name.split(".") if part.isidentifier()
                }
                return (
                    f"{key}: '{pattern}' matches no parameter that {spec['method']} trains; {nearest(pattern, parts)}"
                )
            if all(meant):
                return f"{key}: '{pattern}' matches every parameter that {spec['method']} trains; {ADVICE[key]}"
    moving = [names for names in parameters if moves(spec, names)]
    if not moving:
        return "freeze and train leave no parameter to train; write fewer patterns under freeze"
    rates = patterns(spec, "learning_rates")
    for pattern in rates:
        if not any(is_meant(pattern, names) for names in moving):
            return f"learning_rates: '{pattern}' matches only parameters that do not move; take it out"
    for names in moving:
        both = [pattern for pattern in rates if is_meant(pattern, names)]
        if len(both) > 1:
            return (
                f"learning_rates: '{both[0]}' and '{both[1]}' both match {names[0]}; write patterns that have no parameter in "
                "common"
            )
    return None


def foreseen(spec: dict, model: Any) -> list[Names]:
    """The names of the parameters that a run would train, as the preflight knows them.

    Args:
        model: a memory.Model, of what lies in the parent's folder.
    """
    from posttrain.models.memory_estimate import adapted
    from posttrain.models.token_rows import KEY

    arguments = spec.get("peft_args", {})
    head = [("score.weight",)] if OBJECTIVES[spec["objective"]].reward_model else []
    outside = [name for name in model.shapes if not re.search(r"\.\d+\.", name)]
    if METHODS[spec["method"]].full:
        embedding = next((name for name in outside if model.shapes[name][0] == model.vocabulary), None)
        also = {embedding: ("lm_head.weight",)} if model.tied and not head else {}
        return head + [(name, *also.get(name, ())) for name in model.shapes]
    names = [(f"{module}.{side}.default.weight",) for module in adapted(spec, model) for side in ("lora_A", "lora_B")]
    saved = arguments.get("modules_to_save") or []
    names += [(name,) for name in model.shapes if any(is_meant(re.escape(part), (name,)) for part in saved)]
    rows = model.config.get("new_tokens") or arguments.get(KEY)
    return head + names + ([(name,) for name in outside] if rows else [])


# ---- on a model


def control(trainer: Any, spec: dict) -> None:
    """Let a trainer move only what a run's keys say, each at its rate; nothing where they are not set.

    A frozen parameter is left out of the optimiser. PEFT lets all of an adapter move again whenever it was switched off, so its
    gradient is made 0 as well, where there is one.

    Raises:
        UserError: a pattern matches nothing or everything, two rates are meant for one parameter, or nothing is left to train.
    """
    import torch

    if not any(spec.get(key) for key in KEYS):
        return
    parameters = _trained(trainer.model)
    why = refusal(spec, [names for names, _ in parameters])
    if why:
        raise UserError(why)
    frozen = [parameter for names, parameter in parameters if not moves(spec, names)]
    for parameter in frozen:
        parameter.register_hook(torch.zeros_like)
        parameter.requires_grad_(False)
    still = {id(parameter) for parameter in frozen}
    if hasattr(trainer.model, "trainable"):  # of PPO, which marks them as trainable again itself
        trainer.model.trainable = [p for p in trainer.model.trainable if id(p) not in still]
    apart = [
        (
            rate / spec["learning_rate"],
            [p for names, p in parameters if id(p) not in still and is_meant(pattern, names)],
        )
        for pattern, rate in (spec.get("learning_rates") or {}).items()
    ]
    _follow(trainer, still, apart)


def _trained(model: Any) -> list[tuple[Names, Any]]:
    """What is trained of a model, each parameter once, with all its names; of PPO's, without the value."""
    value = {id(parameter) for parameter in getattr(model, "value_parameters", ())}
    found: dict[int, tuple[list[str], Any]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if parameter.requires_grad and id(parameter) not in value:
            found.setdefault(id(parameter), ([], parameter))[0].append(name)
    return [(tuple(names), parameter) for names, parameter in found.values()]


def _follow(trainer: Any, still: set[int], apart: list[tuple[float, list]]) -> None:
    """Change the optimiser's groups once, when the trainer makes it or takes the one that it was given.

    Args:
        still: the ids of the parameters that no group has.
        apart: parameters that get groups of their own, each with what their learning rate is multiplied by.
    """
    from posttrain.models.value_model import set_apart

    create, changed = trainer.create_optimizer, []

    def create_optimizer(*arguments: Any) -> Any:
        optimizer = create(*arguments)
        if not changed:
            changed.append(True)
            for group in optimizer.param_groups:
                group["params"] = [parameter for parameter in group["params"] if id(parameter) not in still]
            optimizer.param_groups[:] = [group for group in optimizer.param_groups if group["params"]]
            for factor, parameters in apart:
                set_apart(optimizer, parameters, factor)
        return optimizer

    trainer.create_optimizer = create_optimizer
