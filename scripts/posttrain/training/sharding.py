"""Weights, gradients and optimiser states that several processes share out: FSDP2 of torch, and ZeRO of DeepSpeed.

accelerate and transformers do the work. What is here is what they leave open: whether the weights are really shared out, the LM
head that is read and not called, and whole tensors for a file. A checkpoint has the same files and the same tensors as that of
one process, so training may go on from it with any strategy and any number of processes.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.distributed.tensor import DTensor, distribute_tensor
from transformers import TrainerCallback

from posttrain.compat import accelerate_state, trainer_internals, zero_states
from posttrain.runtime import processes
from posttrain.runtime.errors import UserError

STATES = ("exp_avg", "exp_avg_sq")  # of Adam and AdamW
ALIGNMENT = 64  # numbers by which a part of ZeRO may be larger than its share
OPTIMIZER, SCHEDULER = "optimizer.pt", "scheduler.pt"  # as transformers names them


# ---- arguments


def fsdp(offload: bool) -> dict[str, Any]:
    """Fields of TRL's configurations for FSDP2: each layer's weights are gathered when it computes, and dropped after it."""
    accelerate_state.shard_on_cpu()
    config = {"version": 2, "state_dict_type": "FULL_STATE_DICT", "cpu_offload": offload}
    return {"fsdp": True, "fsdp_config": config}


def zero(stage: int, offload: bool) -> dict[str, Any]:
    """Fields of TRL's configurations for ZeRO (Rajbhandari et al. 2020).

    Args:
        stage: 1 shares out the optimiser's states, 2 the gradients as well, 3 the weights as well.
        offload: keep what is shared out in the machine's memory.
    """
    accelerate_state.shard_on_cpu(deepspeed=True)
    optimization: dict[str, Any] = {"stage": stage, "stage3_param_persistence_threshold": "auto"}
    if offload:
        optimization["offload_optimizer"] = {"device": "cpu"}
    if offload and stage == 3:
        optimization["offload_param"] = {"device": "cpu"}
    by_trainer = ("train_micro_batch_size_per_gpu", "gradient_accumulation_steps", "gradient_clipping")
    config = dict.fromkeys(by_trainer, "auto") | {"bf16": {"enabled": "auto"}, "zero_optimization": optimization}
    # torch's optimiser in the place of DeepSpeed's own, which needs a compiler
    config |= {"zero_allow_untested_optimizer": True, "zero_force_ds_cpu_optimizer": False}
    return {"deepspeed": config, "use_cpu": False}  # with which DeepSpeed would be left out without a word


# ---- a training


def begin(trainer: Any, save: Callable[[Path], None], checkpoint: Path | None) -> None:
    """Prepare a trainer, which is complete but for the call of `train`, to share out its model.

    Args:
        save: writes what is trained to a folder; every process calls it.
        checkpoint: that training resumes from.

    Raises:
        UserError: the model has no layers that FSDP could gather one by one.
    """
    plugin = getattr(trainer.accelerator.state, "fsdp_plugin", None)
    if plugin is not None:
        kinds = {type(module).__name__ for module in trainer.model.modules()}
        plugin.transformer_cls_names_to_wrap = sorted(kinds & set(trainer.model._no_split_modules or ()))
        if not plugin.transformer_cls_names_to_wrap:
            problem = f"{trainer.model.config.model_type} does not say which of its modules are layers"
            raise UserError("unsupported-setting", "strategy fsdp", problem, "write strategy: zero3")
    if checkpoint:
        trainer_internals.load_weights(trainer, checkpoint)
    Sharded(trainer, save)


class Sharded(TrainerCallback):
    """A training whose model is shared out: its checkpoints, and what is done once the model is prepared."""

    def __init__(self, trainer: Any, save: Callable[[Path], None]) -> None:
        self.trainer, self.create_optimizer, self.given = trainer, trainer.create_optimizer, trainer.optimizer
        self.parameters: list[torch.Tensor] = []  # in the optimiser's order, before they are shared out
        self.sizes: list[int] = []  # of the optimiser's groups, of which DeepSpeed removes the empty ones
        self.exact: list[tuple[torch.Tensor, torch.Tensor]] = []
        trainer.create_optimizer = self._create_optimizer
        trainer_internals.own_checkpoints(trainer, save, self._save_optimizer, self._load_optimizer)
        trainer.add_callback(self)

    def _create_optimizer(self, *arguments: Any) -> Any:
        self.trainer.optimizer = self.trainer.optimizer or self.given  # which transformers throws away for DeepSpeed
        optimizer = self.create_optimizer(*arguments)
        self.sizes = [len(group["params"]) for group in optimizer.param_groups]
        self.parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        if (
            self.trainer.is_deepspeed_enabled and self.trainer.args.bf16
        ):  # it rounds the weights before it copies them in float32
            rounded = ((parameter, parameter.detach()) for parameter in self.parameters)
            self.exact = [(p, w.clone()) for p, w in rounded if not torch.equal(w, w.bfloat16().float())]
        return optimizer

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Go on where accelerate has prepared the model."""
        for parameter, weight in self.exact:
            zero_states.write(parameter, weight)
        self.exact = []
        _gather_head(self.trainer.model)

    def _save_optimizer(self, folder: Path) -> None:
        """Write the optimiser and the scheduler as those of one process."""
        optimizer = innermost(self.trainer.optimizer)
        saved = self._zero_state(optimizer) if self.trainer.is_deepspeed_enabled else _whole(optimizer.state_dict())
        if processes.is_main():
            torch.save(saved, folder / OPTIMIZER)
            scheduler = self.trainer.lr_scheduler.state_dict()
            torch.save({key: self._with_empty(value) for key, value in scheduler.items()}, folder / SCHEDULER)

    def _zero_state(self, optimizer: Any) -> dict[str, Any]:
        zero_states.link_states(self.trainer.optimizer.optimizer)
        step = next(iter(optimizer.state.values()))["step"]
        state = {}
        for i, parameter in enumerate(self.parameters):
            found = {key: zero_states.whole(parameter, key).cpu() for key in STATES}
            state[i] = {"step": step.clone(), **found} if processes.is_main() else {}
        groups = self._with_empty(
            [{k: v for k, v in group.items() if k != "params"} for group in optimizer.param_groups]
        )
        return {"state": state, "param_groups": _numbered(groups, self.sizes)}

    def _with_empty(self, value: Any) -> Any:
        """What there is one of for each group of the optimiser, with those of the groups that DeepSpeed has removed."""
        if not isinstance(value, list) or len(value) == len(self.sizes):
            return value
        left = iter(value)
        return [next(left) if size else value[0] for size in self.sizes]

    def _without_empty(self, value: Any) -> Any:
        if not isinstance(value, list) or len(value) != len(self.sizes) or not self.trainer.is_deepspeed_enabled:
            return value
        return [one for one, size in zip(value, self.sizes, strict=True) if size]

    def _load_optimizer(self, folder: Path) -> None:
        """Go on with the optimiser and the scheduler of a checkpoint, of whichever strategy.

        Raises:
            UserError: another kind of optimiser wrote it.
        """
        saved = torch.load(folder / OPTIMIZER, map_location="cpu", weights_only=True, mmap=True)
        if any(not set(STATES) <= set(state) for state in saved["state"].values()):
            problem = f"{folder.name} has the states of an optimiser in 8 bits, which cannot be shared out"
            raise UserError("wrong-strategy", "", problem, f"write strategy: ddp, or remove {folder.parent}")
        optimizer = innermost(self.trainer.optimizer)
        if self.trainer.is_deepspeed_enabled:
            self._load_zero(optimizer, saved)
        else:
            parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
            for i, states in saved["state"].items():
                for key in STATES:
                    states[key] = _shared_out(states[key], parameters[i])
            optimizer.load_state_dict(saved)
        scheduler = torch.load(folder / SCHEDULER, weights_only=True)
        self.trainer.lr_scheduler.load_state_dict({k: self._without_empty(v) for k, v in scheduler.items()})

    def _load_zero(self, optimizer: Any, saved: dict[str, Any]) -> None:
        for group, written in zip(optimizer.param_groups, self._without_empty(saved["param_groups"]), strict=True):
            group.update({key: value for key, value in written.items() if key != "params"})
        step = next(iter(saved["state"].values()))["step"]
        zero_states.make_states(self.trainer.optimizer.optimizer, STATES, float(step))
        for i, states in saved["state"].items():
            for key in STATES:
                zero_states.write(self.parameters[i], states[key], key)


def innermost(optimizer: Any) -> torch.optim.Optimizer:
    """torch's optimiser within accelerate's and DeepSpeed's."""
    while hasattr(optimizer, "optimizer"):
        optimizer = optimizer.optimizer
    return optimizer


def _gather_head(model: Any) -> None:
    """Gather an LM head that is an FSDP unit before each forward pass: a fused head reads its weight, and does not call it."""
    from torch.distributed.fsdp import FSDPModule

    head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    if isinstance(head, FSDPModule):
        model.register_forward_pre_hook(lambda *_: head.unshard() and None)


def _numbered(groups: list[dict], sizes: list[int]) -> list[dict]:
    """The optimiser's groups with the numbers of their parameters, as torch saves them."""
    starts = [sum(sizes[:i]) for i in range(len(sizes))]
    return [
        group | {"params": list(range(start, start + size))}
        for group, start, size in zip(groups, starts, sizes, strict=True)
    ]


def _whole(state: dict[str, Any]) -> dict[str, Any]:
    """An optimiser's state with whole tensors, in the first process."""
    found = {}
    for i, states in state["state"].items():
        tensors = {key: _gathered(value) for key, value in states.items()}
        found[i] = tensors if processes.is_main() else {}
    return state | {"state": found}


def _gathered(value: Any) -> Any:
    return value.full_tensor().cpu() if isinstance(value, DTensor) else value


def _shared_out(value: torch.Tensor, parameter: torch.Tensor) -> torch.Tensor:
    """A whole tensor as the parameter is shared out; each process has it and takes its part."""
    if not isinstance(parameter, DTensor):
        return value
    value = value.to(parameter.device, parameter.dtype)
    return distribute_tensor(value, parameter.device_mesh, parameter.placements, src_data_rank=None)


# ---- what is shared out


def is_sharded(parameter: torch.Tensor) -> bool:
    """Whether a process has only a part of a parameter, or of its float32 copy and its states."""
    return isinstance(parameter, DTensor) or zero_states.is_sharded(parameter)


def part(parameter: torch.Tensor) -> torch.Tensor:
    """What this process has of a parameter."""
    return parameter.to_local() if isinstance(parameter, DTensor) else zero_states.part(parameter)


def whole(parameter: torch.Tensor) -> torch.Tensor:
    """All of a parameter, in the machine's memory, and in float32 where it is trained; every process has to ask."""
    if isinstance(parameter, DTensor):
        return parameter.detach().full_tensor().cpu()
    if zero_states.is_sharded(parameter):
        return zero_states.whole(parameter).detach().cpu()
    return parameter.detach()


def whole_state(model: Any) -> dict[str, torch.Tensor] | None:
    """The weights to save of a model by name, in the first process; None where each process holds all of them.

    Of a PEFT model these are the adapter's, and of another all. Every process has to ask.
    """
    if not any(is_sharded(parameter) for parameter in model.parameters()):
        return None
    adapter = (
        model.base_model.prefix if hasattr(model, "peft_config") else ""
    )  # a part of the names of an adapter's weights
    gathered: dict[int, torch.Tensor] = {}
    saved = model.state_dict().keys()
    found = {name: buffer for name, buffer in model.named_buffers(remove_duplicate=False) if name in saved}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if not (parameter.requires_grad or adapter in name):
            continue
        if id(parameter) not in gathered:
            gathered[id(parameter)] = whole(parameter) if processes.is_main() else whole(parameter)[:0]
        found[name] = gathered[id(parameter)]
    return found


def what_is_wrong(trainer: Any, stage: int | None) -> str | None:
    """Why the model of a trainer is not shared out, though the libraries say so; None where it is.

    Args:
        stage: of ZeRO; None for FSDP.
    """
    count = processes.count()
    trained = [parameter for parameter in trainer.model.parameters() if parameter.requires_grad]
    sizes = [getattr(parameter, "ds_numel", parameter.numel()) for parameter in trained]
    if stage in (1, 2):
        own = sum(flat.numel() for flat in zero_states.flat_parts(trainer.optimizer.optimizer))
        share = -(-sum(sizes) // count) + ALIGNMENT
    else:
        own = sum(part(parameter).numel() for parameter in trained)
        rows = [
            parameter.shape[0] if stage is None and parameter.dim() else size
            for parameter, size in zip(trained, sizes, strict=True)
        ]
        share = sum(-(-n // count) * (size // n) for n, size in zip(rows, sizes, strict=True))
    if not processes.largest(own > share):
        return None
    return f"each of the {count} processes holds {own:,} of the {sum(sizes):,} numbers that are trained"
