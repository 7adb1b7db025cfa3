"""The methods: from a run's spec to PEFT's configuration. Fine-tuning = objective x method.

Full fine-tuning trains all weights and has no configuration here. QLoRA (Dettmers et al. 2023) is LoRA on a parent held in
4 bits. Every other method adds parameters to a frozen parent, so that the parent is available as the reference.
"""

import math
import re
from pathlib import Path
from typing import Any

import peft
import torch
from safetensors.torch import load_file, save_file
from transformers import TrainerCallback
from transformers.pytorch_utils import Conv1D

from posttrain.compat.peft_internals import allocator_state, knows_ia3_targets, set_allocator_state
from posttrain.methods import METHODS
from posttrain.models import initial_weights, parts, target_modules, token_rows
from posttrain.models.bottleneck import BottleneckConfig
from posttrain.objectives import OBJECTIVES
from posttrain.runtime import processes
from posttrain.runtime.console import say
from posttrain.runtime.errors import UserError, nearest


def peft_config(spec: dict, model: Any, steps: int) -> Any:
    """The PEFT configuration of a spec's method for `model`, or None for full fine-tuning.

    Args:
        steps: optimiser steps of the whole training, which AdaLoRA plans with.

    Raises:
        UserError: a target that matches no module or cannot have an adapter, or a rank larger than a targeted matrix, VeRA's apart.
    """
    if METHODS[spec["method"]].full:
        return None
    spec = _named_targets(spec, model) if "target_modules" in spec else spec
    reward = OBJECTIVES[spec["objective"]].scores
    shared = {"task_type": "SEQ_CLS" if reward else "CAUSAL_LM"} | initial_weights.arguments(spec.get("peft_args", {}))
    shared |= token_rows.arguments(spec, model)
    if shared.get(token_rows.KEY):
        token_rows.check(model, shared[token_rows.KEY])
    if reward:
        shared["modules_to_save"] = ["score", *shared.get("modules_to_save", [])]
    return CONFIGS[spec["method"]](spec, shared, model, steps)


def _named_targets(spec: dict, model: Any) -> dict:
    """The spec with the names of modules where `target_modules` says `all-linear`, or nothing, of an architecture that needs it.

    Raises:
        UserError: see `peft_config`.
    """
    config = model.config.get_text_config().to_dict()
    why = target_modules.method_refusal(spec, config)
    why = why or target_modules.parameters_refusal(spec, [name for name, _ in model.named_parameters()])
    if why:
        raise UserError("unsupported-target", f"{spec['method']}", f"{why}")
    if spec["target_modules"] is None:
        return spec | {"target_modules": _of_ia3(model)}
    if spec["target_modules"] != "all-linear":
        found = _targets(model, spec["target_modules"], spec)
        if "rank" in spec and METHODS[spec["method"]].bounded_rank:
            _check_rank(spec, found)
        trained = [name for name, _ in found if parts.part_of(name) in parts.trained(spec)]
        return spec if len(trained) == len(found) else spec | {"target_modules": trained}
    return spec | {"target_modules": all_linear(model, spec)}


def all_linear(model: Any, spec: dict) -> str | list[str]:
    """The modules that `all-linear` means for `model`; the word itself where PEFT takes the same.

    Raises:
        UserError: the rank is larger than every matrix allows.
    """
    linear = {
        name: _shape(module)
        for name, module in model.named_modules()
        if isinstance(module, (torch.nn.Linear, Conv1D)) and not name.endswith(("lm_head", "embed_out", "score"))
    }
    config = model.config.get_text_config().to_dict()
    modules = {name for name, module in model.named_modules() if hasattr(module, "weight")}
    reasons = target_modules.left_out(spec, linear, modules, config)
    kept = [name for name in linear if name not in reasons]
    if not kept:
        _check_rank(spec, list(linear.items()))
    mixture = target_modules.is_mixture(config)
    fused = [name for name, _ in model.named_parameters() if mixture and "experts" in name.split(".")]
    if fused or reasons:
        say(f"target_modules: all-linear leaves out {target_modules.told(dict.fromkeys(fused, 'experts') | reasons)}")
    return kept if reasons or mixture else "all-linear"


def _of_ia3(model: Any) -> list[str] | None:
    """The places of IA3; None where PEFT knows them.

    Raises:
        UserError: the architecture has none that are known.
    """
    if knows_ia3_targets(model.config.model_type):
        return None
    linear = [name for name, module in model.named_modules() if isinstance(module, (torch.nn.Linear, Conv1D))]
    if found := target_modules.ia3(linear):
        return found
    raise UserError(
        "invalid-pattern",
        "ia3",
        f"the keys and values of {type(model).__name__} are not known",
        "write target_modules: [NAME, ...]",
    )


def _check_rank(spec: dict, targeted: list[tuple[str, tuple[int, int]]]) -> None:
    for name, (rows, columns) in targeted:
        largest = target_modules.largest_rank(spec["method"], (rows, columns))
        if spec["rank"] > largest:
            raise UserError(
                "unsupported-target",
                "",
                f"rank {spec['rank']} is larger than the matrix {name} ({rows} x {columns}) allows",
                f"write a rank up to {largest}",
            )


def _lora(spec: dict, shared: dict, *_: Any) -> Any:
    """Hu et al. 2021."""
    return peft.LoraConfig(r=spec["rank"], **_scaled(spec), **shared)


def _adalora(spec: dict, shared: dict, _: Any, steps: int) -> Any:
    """Zhang et al. 2023: starts at 1.5 x rank, and shares out a mean of `rank` by importance in the middle of training.

    Without the penalty that keeps the matrices orthogonal: PEFT adds it to a loss that TRL does not use.
    """
    if steps < 2:
        raise UserError(
            "unsupported-setting",
            "",
            "adalora shares out its ranks between the first step and the last",
            "write a larger max_steps or epochs",
        )
    plan = {"tinit": steps // 10, "tfinal": steps // 3, "deltaT": max(1, steps // 100), "total_step": steps}
    start = math.ceil(METHODS["adalora"].initial_rank * spec["rank"])
    return peft.AdaLoraConfig(target_r=spec["rank"], init_r=start, **_scaled(spec), **(plan | shared))


def _bottleneck(spec: dict, shared: dict, *_: Any) -> Any:
    """Houlsby et al. 2019, Pfeiffer et al. 2021."""
    return BottleneckConfig(placement=spec["placement"], reduction_factor=spec["reduction_factor"], **shared)


def _prefix(spec: dict, shared: dict, *_: Any) -> Any:
    """Li and Liang 2021."""
    return peft.PrefixTuningConfig(num_virtual_tokens=spec["virtual_tokens"], **shared)


def _p_tuning(spec: dict, shared: dict, model: Any, _: int) -> Any:
    """Liu et al. 2021: the virtual tokens come from a small network as wide as the model."""
    width = {"encoder_hidden_size": model.config.get_text_config().hidden_size}
    return peft.PromptEncoderConfig(num_virtual_tokens=spec["virtual_tokens"], **(width | shared))


def _prompt(spec: dict, shared: dict, *_: Any) -> Any:
    """Lester et al. 2021, who found virtual tokens that start as words better than random ones."""
    start = {"prompt_tuning_init": "SAMPLE_VOCAB"}
    return peft.PromptTuningConfig(num_virtual_tokens=spec["virtual_tokens"], **(start | shared))


def _ia3(spec: dict, shared: dict, *_: Any) -> Any:
    """Liu et al. 2022. What goes into the last matrix of a feed-forward block is scaled, and of the others what comes out."""
    requested = spec["target_modules"]
    if requested is not None:
        names = target_modules.LAST if isinstance(requested, str) else target_modules.feed_forward(requested)
        shared = {"feedforward_modules": list(names)} | shared
    return peft.IA3Config(target_modules=requested, **shared)


def _oft(spec: dict, shared: dict, *_: Any) -> Any:
    """Qiu et al. 2023."""
    return peft.OFTConfig(target_modules=spec["target_modules"], **shared)


def _vera(spec: dict, shared: dict, *_: Any) -> Any:
    """Kopiczko et al. 2024."""
    return peft.VeraConfig(r=spec["rank"], target_modules=spec["target_modules"], **shared)


CONFIGS = {
    "lora": _lora,
    "qlora": _lora,
    "adalora": _adalora,
    "adapter": _bottleneck,
    "prefix": _prefix,
    "p_tuning": _p_tuning,
    "prompt": _prompt,
    "ia3": _ia3,
    "oft": _oft,
    "vera": _vera,
}


def _scaled(spec: dict) -> dict[str, Any]:
    return {
        "lora_alpha": spec["alpha"],
        "lora_dropout": spec["dropout"],
        "target_modules": spec["target_modules"],
    }


def _targets(model: Any, requested: str | list[str], spec: dict) -> list[tuple[str, tuple[int, int]]]:
    """Names and shapes of the matrices that `target_modules` means, as PEFT reads it.

    Raises:
        UserError: a name that matches nothing, where PEFT itself is silent as long as another one does, or that cannot have an
            adapter.
    """
    kinds = (torch.nn.Linear, Conv1D, torch.nn.Embedding, torch.nn.Conv1d)
    modules = {name: module for name, module in model.named_modules() if hasattr(module, "weight")}
    matrices = [(name, _shape(module)) for name, module in modules.items() if isinstance(module, kinds)]
    body = [(name, shape) for name, shape in matrices if not name.endswith(("lm_head", "score"))]
    config, tied = model.config.get_text_config().to_dict(), is_tied(model)
    mixture = target_modules.is_mixture(config) and METHODS[spec["method"]].low_rank
    known = list(dict.fromkeys(name.split(".")[-1] for name, _ in body))
    found = []
    for target in [requested] if isinstance(requested, str) else requested:
        pattern = target if isinstance(requested, str) else rf"(.*\.)?{re.escape(target)}"
        try:
            matching = [(name, shape) for name, shape in matrices if re.fullmatch(pattern, name)]
        except re.error as error:
            raise UserError(
                "invalid-pattern", "target_modules", f"'{target}' is not a regular expression: {error}"
            ) from None
        why = target_modules.refusal(spec, target, [name for name, _ in matching], modules, config, tied)
        if why:
            raise UserError("unsupported-target", "target_modules", f"{why}")
        if not matching and mixture and target.rpartition(".")[2] in target_modules.EXPERTS | target_modules.ROUTERS:
            continue  # PEFT finds the fused matrices
        if not matching and requested in known:
            raise UserError(
                "invalid-pattern",
                "target_modules",
                f"'{requested}' is one name, and PEFT takes a list of them",
                f"write [{requested}]",
            )
        if not matching:
            raise UserError(
                "invalid-pattern", "target_modules", f"the model has no layer '{target}'", f"{nearest(target, known)}"
            )
        found += matching
    return found


def is_tied(model: Any) -> bool:
    """Whether the LM head is the embedding."""
    head = model.get_output_embeddings()
    return head is not None and head.weight is model.get_input_embeddings().weight


def _shape(module: Any) -> tuple[int, int]:
    """Rows and columns of a module's matrix, which is packed where it is held in 4 bits."""
    if isinstance(module, torch.nn.Linear):
        return module.out_features, module.in_features
    return tuple(module.weight.shape)


class AllocateRanks(TrainerCallback):
    """AdaLoRA's budget, which neither transformers nor TRL moves: what it has learnt goes into each checkpoint.

    PEFT would cut the matrices of a saved adapter to their ranks, which a resumed training could not load; the ranks are
    therefore kept here, and what they take away is zero in the adapter.
    """

    FILE = "ranks.pt"

    def __init__(self, model: Any, checkpoint: Path | None) -> None:
        self.tuner = model.base_model
        self.ranks: dict | None = None
        if checkpoint:
            saved = torch.load(checkpoint / self.FILE, weights_only=True)
            self.ranks = saved["ranks"]
            set_allocator_state(self.tuner, saved)

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """After the step and before the gradients are cleared; `state` still counts the steps before this one."""
        config = self.tuner.peft_config[self.tuner.trainable_adapter_name]
        config.rank_pattern = self.ranks
        self.tuner.update_and_allocate(state.global_step + 1)
        self.ranks, config.rank_pattern = config.rank_pattern, None

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Add the importance of each parameter, and the ranks so far, to the checkpoint that was just written."""
        if not processes.is_main():
            return
        saved = allocator_state(self.tuner)
        torch.save(saved | {"ranks": self.ranks}, Path(args.output_dir) / f"checkpoint-{state.global_step}" / self.FILE)


class KeepEncoder(TrainerCallback):
    """P-tuning's network, of which PEFT keeps only what comes out of it: enough to answer, not to go on training."""

    FILE = "encoder.safetensors"

    def __init__(self, model: Any, checkpoint: Path | None) -> None:
        self.model, self.checkpoint = model, checkpoint

    def _trainable(self) -> dict[str, torch.Tensor]:
        return {name: p for name, p in self.model.named_parameters() if p.requires_grad}

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """After the trainer has loaded what PEFT kept."""
        saved = load_file(self.checkpoint / self.FILE) if self.checkpoint else {}
        for name, parameter in self._trainable().items():
            parameter.data.copy_(saved.get(name, parameter.data))

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Add the network to the checkpoint that was just written."""
        if not processes.is_main():
            return
        tensors = {name: p.detach().contiguous() for name, p in self._trainable().items()}
        save_file(tensors, Path(args.output_dir) / f"checkpoint-{state.global_step}" / self.FILE)


# What a checkpoint of a method needs beside what transformers and PEFT write.
KEEPERS = {"adalora": AllocateRanks, "p_tuning": KeepEncoder}
