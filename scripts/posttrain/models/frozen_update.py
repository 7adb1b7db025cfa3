"""What a parent has learnt, held beside the bfloat16 weights of its base.

A base in bfloat16 is trained in float32 and merged in float32. Rounding the merged weights to bfloat16 again erases most of a
small update, since the base's weights lie on bfloat16's grid and the update moves them by less than half a step. So where the
matrix products are made in bfloat16, a layer of such a parent is two terms: the base's own weight, and the update. The update is
low-rank where every stage since the base was plain LoRA (`update.safetensors` in the merged folder has its factors), otherwise
the difference of the merged weight from its rounded self.
"""

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

FILE = "update.safetensors"
EXACT = 2**-18  # of the largest weight: what float32 leaves of a weight on the grid; half a step of bfloat16 is 2**-9

Factors = tuple[torch.Tensor, torch.Tensor]
"""A (r, in) and B (out, r), scaled, in float32; the update is B A."""


class FrozenUpdate(nn.Linear):
    """x W^T + bias + x U^T: a frozen linear layer in bfloat16 and its frozen update.

    Args:
        linear: the layer that this one takes the place of.
        weight: W (out, in), in bfloat16.
        update: U as the matrices that are multiplied with x one after the other: A (r, in) and B (out, r), or U alone; none
            where nothing was learnt.
    """

    def __init__(self, linear: nn.Linear, weight: torch.Tensor, *update: torch.Tensor) -> None:
        super().__init__(linear.in_features, linear.out_features, bias=False, device="meta")
        self.weight, self.bias = nn.Parameter(weight, requires_grad=False), linear.bias
        self.depth = len(update)
        for i, matrix in enumerate(update):
            self.register_buffer(f"update_{i}", matrix.to(weight.dtype), persistent=False)

    @property
    def update(self) -> tuple[torch.Tensor, ...]:
        """The matrices of the update, in the order in which they are multiplied."""
        return tuple(getattr(self, f"update_{i}") for i in range(self.depth))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(..., in) -> (..., out), in x's type where no autocast chooses one."""
        if torch.is_autocast_enabled(x.device.type):
            return self._product(x)
        return self._product(x.to(self.weight.dtype)).to(x.dtype)

    def _product(self, x: torch.Tensor) -> torch.Tensor:
        bias = None if self.bias is None else self.bias.to(self.weight.dtype)
        out = nn.functional.linear(x, self.weight, bias)
        for matrix in self.update:
            x = nn.functional.linear(x, matrix)
        return out + x if self.depth else out


def hold_apart(model: Any, folder: Path) -> None:
    """Hold a merged model in bfloat16, with what it has learnt apart in every linear layer but the heads.

    Everything else (embeddings, norms, LM head) becomes bfloat16 where that loses nothing, and stays float32 otherwise.

    Args:
        model: the model in `folder`, in float32.
    """
    heads = {id(model.get_output_embeddings()), id(getattr(model, "score", None))}
    layers = [(n, m) for n, m in model.named_modules() if type(m) is nn.Linear and id(m) not in heads]
    own = {id(layer.weight) for _, layer in layers}
    own |= {
        id(parameter) for name, parameter in model.named_parameters() if name == "score.weight"
    }  # of a new reward model
    rest = [parameter for parameter in model.parameters() if id(parameter) not in own]
    one_type = all(torch.equal(parameter, parameter.bfloat16().float()) for parameter in rest)
    with safe_open(folder / FILE, "pt") as file:
        known = {key.rpartition(".")[0] for key in file.keys()}  # noqa: SIM118 (a file is no mapping)
        for name, layer in layers:
            factors = (file.get_tensor(f"{name}.A"), file.get_tensor(f"{name}.B")) if name in known else None
            model.set_submodule(name, _held(layer, factors, one_type))
    if one_type:
        for parameter in model.parameters():
            parameter.data = parameter.data.bfloat16()


def _held(layer: nn.Linear, factors: Factors | None, one_type: bool) -> nn.Linear:
    """Where the rest of the model is float32, also a layer that has learnt nothing takes its input as it comes."""
    merged = layer.weight.data
    if factors:
        return FrozenUpdate(layer, _base(merged, factors), *factors)
    rounded = merged.bfloat16()
    if not torch.equal(rounded.float(), merged):
        return FrozenUpdate(layer, rounded, merged - rounded)
    if not one_type:
        return FrozenUpdate(layer, rounded)
    layer.weight.data = rounded
    return layer


def _base(merged: torch.Tensor, factors: Factors) -> torch.Tensor:
    a, b = factors
    return (merged - b @ a).bfloat16()


# ---- at the merge


def learnt(model: Any) -> dict[str, Factors]:
    """The factors of every LoRA layer of a PEFT model with the adapter "default", before it is merged, by the layer's name."""
    from peft.tuners.lora.layer import Linear

    found = {}
    for name, layer in model.get_base_model().named_modules():
        if isinstance(layer, Linear) and "default" in layer.lora_A:
            a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
            found[name] = (a.detach().float().cpu(), (b.detach().float() * layer.scaling["default"]).cpu())
    return found


def save_update(folder: Path, model: Any, parent: Path, new: dict[str, Factors]) -> None:
    """Write the update of a merged model whose base is in bfloat16.

    A layer whose factors do not give the base's weight back (DoRA, PiSSA, a parent that was trained in full) is left out: the
    factors would not say all that it has learnt.

    Args:
        model: the merged model, in float32.
        parent: the folder of its parent, whose own update comes first.
        new: what `learnt` found.
    """
    tensors = {}
    with _opened(parent / FILE) as before:
        old = {key.rpartition(".")[0] for key in before.keys()} if before else set()  # noqa: SIM118
        existing = {name for name, _ in model.named_modules()}  # a reward model has no LM head
        for name in sorted((old | new.keys()) & existing):
            parts = [(before.get_tensor(f"{name}.A"), before.get_tensor(f"{name}.B"))] if name in old else []
            parts += [new[name]] if name in new else []
            a, b = torch.cat([a for a, _ in parts]), torch.cat([b for _, b in parts], 1)
            if _gives_the_base(model.get_submodule(name), (a, b)):
                tensors |= {f"{name}.A": a.contiguous(), f"{name}.B": b.contiguous()}
    save_file(tensors, folder / FILE, metadata={"base_dtype": "bfloat16"})


def _gives_the_base(layer: nn.Module, factors: Factors) -> bool:
    if type(layer) is not nn.Linear or sum(map(torch.numel, factors)) >= layer.weight.numel():
        return False
    merged = layer.weight.data.cpu()
    off = merged - factors[1] @ factors[0] - _base(merged, factors).float()
    return bool(off.abs().max() <= EXACT * merged.abs().max())


def _opened(file: Path) -> Any:
    return safe_open(file, "pt") if file.exists() else nullcontext()
