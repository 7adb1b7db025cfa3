"""LoRA's layer in one step of autograd, for a CPU: the frozen product and the low-rank one share input, output and casts.

PEFT's own layer is six steps, and four of them make a tensor as large as the layer's input or output, cast it, and keep it
for the backward pass. Where the processor multiplies bfloat16 quickly, that is a fifth of a training step.
"""

from typing import Any

import torch
from peft.tuners.lora.layer import Linear

from posttrain.compat.forward_patches import replace_forward
from posttrain.models.frozen_update import FrozenUpdate


class LowRank(torch.autograd.Function):
    """x W^T + bias + scaling dropped A^T B^T (Hu et al. 2021, equation 3), of a frozen W and bias.

    x (n, i), dropped (n, i) or None where it is x itself, weight (o, i), bias (o,) or None, a (r, i), b (o, r) -> (n, o).
    `update` are the matrices of a `FrozenUpdate`, with which x is multiplied one after the other and which are added.
    """

    @staticmethod
    @torch.amp.custom_fwd(device_type="cpu", cast_inputs=torch.bfloat16)
    def forward(
        ctx: Any, x: Any, dropped: Any, weight: Any, bias: Any, a: Any, b: Any, scaling: float, *update: Any
    ) -> Any:
        """Keep the input of A and its product with A."""
        low = (x if dropped is None else dropped) @ a.T
        ctx.save_for_backward(x if dropped is None else dropped, low, weight, a, b, *update)
        ctx.scaling, ctx.is_dropped = scaling, dropped is not None
        out = torch.nn.functional.linear(x, weight, bias).addmm_(low, b.T, alpha=scaling)
        if update:
            for matrix in update[:-1]:
                x = x @ matrix.T
            out.addmm_(x, update[-1].T)
        return out

    @staticmethod
    @torch.amp.custom_bwd(device_type="cpu")
    def backward(ctx: Any, grad: torch.Tensor) -> tuple:
        """Gradients of the inputs, of A and of B."""
        x, low, weight, a, b, *update = ctx.saved_tensors
        grad_low = (grad @ b).mul_(ctx.scaling)
        grad_a, grad_b = grad_low.T @ x, (grad.T @ low).mul_(ctx.scaling)
        grad_x = grad @ weight if ctx.needs_input_grad[0] else None
        if grad_x is not None and update:
            for matrix in update[:0:-1]:
                grad = grad @ matrix
            grad_x.addmm_(grad, update[0])
        rest = (None, *[None] * len(update))
        if ctx.is_dropped:
            grad_dropped = grad_low @ a if ctx.needs_input_grad[1] else None
            return grad_x, grad_dropped, None, None, grad_a, grad_b, *rest
        return grad_x if grad_x is None else grad_x.addmm_(grad_low, a), None, None, None, grad_a, grad_b, *rest


def add_low_rank(model: torch.nn.Module, frozen: torch.dtype | None) -> None:
    """Let each of PEFT's LoRA layers of `model` that is nothing but LoRA compute as `LowRank`, on a CPU.

    Args:
        frozen: a type to hold their frozen matrices in, the one in which they are multiplied; None leaves them as they are.
    """
    layers = [layer for layer in model.modules() if isinstance(layer, Linear) and _is_plain(layer)]
    for layer in layers:
        replace_forward(layer, _forward)
    if frozen and layers:
        for layer in layers:
            layer.base_layer.weight.data = layer.base_layer.weight.data.to(frozen)
        for parameter in model.parameters():  # a single one in the mapped file would keep all of its pages in memory
            parameter.data = parameter.data.clone()


def _is_plain(layer: Linear) -> bool:
    """No DoRA or the like, no trainable bias, one adapter, a matrix that is not quantised."""
    base = layer.base_layer
    is_trained = any(parameter.requires_grad for parameter in base.parameters())
    alone = len(layer.lora_A) == 1 and not layer.lora_variant and not any(layer.lora_bias.values())
    return (
        type(base) in (torch.nn.Linear, FrozenUpdate) and base.weight.device.type == "cpu" and alone and not is_trained
    )


def _forward(self: Linear, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
    [name] = self.lora_A
    base, a, b = self.base_layer, self.lora_A[name].weight, self.lora_B[name].weight
    one_type = torch.is_autocast_enabled("cpu") or x.dtype == base.weight.dtype == a.dtype
    if args or kwargs or self.disable_adapters or self.merged or name not in self.active_adapters or not one_type:
        return Linear.forward(self, x, *args, **kwargs)
    dropout, flat = self.lora_dropout[name], x.reshape(-1, x.shape[-1])
    dropped = dropout(flat) if self.training and isinstance(dropout, torch.nn.Dropout) else None
    update = base.update if isinstance(base, FrozenUpdate) else ()
    out = LowRank.apply(flat, dropped, base.weight, base.bias, a, b, self.scaling[name], *update)
    return out.view(*x.shape[:-1], -1)
