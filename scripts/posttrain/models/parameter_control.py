"""Train only the parameters that a run's keys `train_parts`, `freeze` and `train` leave, each at the rate that `learning_rates` says."""

from typing import Any

import torch

from posttrain.models.parameter_patterns import KEYS, Names, is_meant, is_trained, refusal
from posttrain.models.value_model import set_apart
from posttrain.runtime.errors import UserError


def control(trainer: Any, spec: dict) -> None:
    """Let a trainer train only what a run's keys say, each at its rate; without these keys nothing changes.

    A frozen parameter is left out of the optimiser. PEFT marks all of an adapter as trainable again whenever it was switched off, so
    its gradient is set to 0 as well.

    Raises:
        UserError: a pattern matches nothing or everything, two rates are meant for one parameter, or nothing is left to train.
    """
    parameters = _trained(trainer.model)
    if not any(spec.get(key) for key in (*KEYS, "train_parts")) and all(is_trained(spec, n) for n, _ in parameters):
        return
    why = refusal(spec, [names for names, _ in parameters])
    if why:
        raise UserError("invalid-pattern", "", why)
    frozen = [parameter for names, parameter in parameters if not is_trained(spec, names)]
    for parameter in frozen:
        parameter.register_hook(torch.zeros_like)
        parameter.requires_grad_(False)
    frozen_ids = {id(parameter) for parameter in frozen}
    if hasattr(trainer.model, "trained"):  # of PPO, which marks them as trainable again itself
        trainer.model.trained -= {name for name, p in trainer.model.named_parameters() if id(p) in frozen_ids}
    own_rates = [
        (
            rate / spec["learning_rate"],
            [p for names, p in parameters if id(p) not in frozen_ids and is_meant(pattern, names)],
        )
        for pattern, rate in (spec.get("learning_rates") or {}).items()
    ]
    _change_optimiser(trainer, frozen_ids, own_rates)


def _trained(model: Any) -> list[tuple[Names, Any]]:
    """What is trained of a model, each parameter once, with all its names; of PPO's, without the value."""
    value = {id(parameter) for parameter in getattr(model, "value_parameters", ())}
    found: dict[int, tuple[list[str], Any]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if parameter.requires_grad and id(parameter) not in value:
            found.setdefault(id(parameter), ([], parameter))[0].append(name)
    return [(tuple(names), parameter) for names, parameter in found.values()]


def _change_optimiser(trainer: Any, frozen_ids: set[int], own_rates: list[tuple[float, list]]) -> None:
    """Change the optimiser's groups once, when the trainer makes it or takes the one that it was given.

    Args:
        frozen_ids: the ids of the parameters that no group has.
        own_rates: parameters that get groups of their own, each with what their learning rate is multiplied by.
    """
    create, changed = trainer.create_optimizer, []

    def create_optimizer(*arguments: Any) -> Any:
        optimizer = create(*arguments)
        if not changed:
            changed.append(True)
            for group in optimizer.param_groups:
                group["params"] = [parameter for parameter in group["params"] if id(parameter) not in frozen_ids]
            optimizer.param_groups[:] = [group for group in optimizer.param_groups if group["params"]]
            for factor, parameters in own_rates:
                set_apart(optimizer, parameters, factor)
        return optimizer

    trainer.create_optimizer = create_optimizer
