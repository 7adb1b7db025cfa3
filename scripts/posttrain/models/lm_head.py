"""From hidden states to log-probabilities of labels, without the logits of masked positions: in training, scoring and PPO.

TRL's own fused head projects every position when there is no Triton, and computes an entropy that is not needed.
Half of a chat's tokens are prompt and the vocabulary is a fifth of a small model's work, so this is most of what a plain
TRL step on a CPU can be relieved of.

What a model does after its LM head (a scale, a soft cap) is measured on the model itself: see `find`.
"""

import itertools
import re
import weakref
from typing import Any, NamedTuple

import torch

from posttrain.compat.forward_patches import replace_forward
from posttrain.compat.trl_fused_head import fused_output
from posttrain.models import shared_prefix

MAX_LOGITS = 2**28  # logits of a batch, 1 GiB in float32 for a trainable base; a larger batch keeps TRL's tiled head
PIECE = 2**24  # logits that are there at once where the base is frozen


class LogProbs(torch.autograd.Function):
    """log softmax(f(hidden W^T + bias))[labels] in float32, and whether each label is the most likely token.

    f(z) = scale z, or cap tanh(scale z / cap) where there is a cap.

    hidden (n, d), weight (v, d), labels (n,), bias (v,) or None -> log_probs (n,), is_top1 (n,). A log-probability's gradient
    with respect to its hidden state, scale (onehot(label) - softmax) f' W, is computed while its logits are at hand, so that only
    a piece of them is ever in memory; what comes from above scales it. A trainable weight needs all of them again, so they
    are one piece.
    """

    @staticmethod
    @torch.amp.custom_fwd(device_type="cpu", cast_inputs=torch.bfloat16)
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        labels: torch.Tensor,
        bias: torch.Tensor | None,
        scale: float,
        cap: float | None,
    ) -> tuple:
        """Keep the gradients of the hidden states, (n, d)."""
        n, differentiable = len(labels), any(ctx.needs_input_grad)
        is_trained = ctx.needs_input_grad[1] or ctx.needs_input_grad[3]
        log_probs, is_top1 = hidden.new_empty(n, dtype=torch.float32), hidden.new_empty(n, dtype=torch.bool)
        directions, ctx.errors = torch.empty_like(hidden) if differentiable else None, hidden.new_empty(0, len(weight))
        size = max(1, PIECE // len(weight) if differentiable and not is_trained else n)
        for piece in (slice(start, start + size) for start in range(0, n, size)):
            logits = _shaped(hidden[piece], weight, bias, scale, cap)
            slope = 1 - (logits / cap).square_() if cap and differentiable else None
            chosen, top = logits.gather(1, labels[piece, None])[:, 0], logits.amax(1)
            logits.sub_(top[:, None]).exp_()
            total = logits.sum(1)
            log_probs[piece], is_top1[piece] = chosen - top - total.log(), chosen == top
            if differentiable:
                logits.div_(-total[:, None])
                logits[torch.arange(len(chosen), device=logits.device), labels[piece]] += 1
                logits = logits if slope is None else logits.mul_(slope)
                logits = logits if scale == 1 else logits.mul_(scale)
                directions[piece] = logits.to(weight.dtype) @ weight
            if is_trained:
                ctx.errors = logits
        ctx.save_for_backward(hidden, directions)
        ctx.mark_non_differentiable(is_top1)
        return log_probs, is_top1

    @staticmethod
    @torch.amp.custom_bwd(device_type="cpu")
    def backward(ctx: Any, grad: torch.Tensor, _: torch.Tensor) -> tuple:
        """Gradients of the hidden states, and of the weight and the bias where they are trained."""
        hidden, directions = ctx.saved_tensors
        grad_hidden = (grad[:, None] * directions) if ctx.needs_input_grad[0] else None
        grad_weight = grad_bias = None
        if ctx.needs_input_grad[1] or ctx.needs_input_grad[3]:
            errors = ctx.errors.mul_(grad[:, None]).to(hidden.dtype)
            grad_weight = errors.T @ hidden if ctx.needs_input_grad[1] else None
            grad_bias = errors.sum(0) if ctx.needs_input_grad[3] else None
            ctx.errors = None
        return grad_hidden, grad_weight, None, grad_bias, None, None


def _shaped(
    hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, scale: float, cap: float | None
) -> torch.Tensor:
    """Logits (n, v) in float32."""
    logits = hidden @ weight.T
    logits = (logits if bias is None else logits + bias).float()
    logits = logits if scale == 1 else logits.mul_(scale)
    return logits if cap is None else logits.div_(cap).tanh_().mul_(cap)


# ---- what a model does after its head


class Head(NamedTuple):
    """How a model gets from its backbone's last hidden states to its logits."""

    weight: torch.Tensor
    """(v, d)"""
    bias: torch.Tensor | None
    """(v,)"""
    scale: float
    """what the products are multiplied by"""
    cap: float | None
    """what tanh holds them below, after that"""

    def heated(self, temperature: float) -> "Head":
        """The head whose logits are divided by the temperature."""
        return self._replace(scale=self.scale / temperature, cap=self.cap and self.cap / temperature)

    def log_probs(self, hidden: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Log-probabilities (n,) in float32 of labels (n,), from hidden states (n, d); whether each is the likeliest."""
        hidden, labels = hidden.to(self.weight.device), labels.to(self.weight.device)  # a model may lie on several GPUs
        if hidden.device.type == "cpu":
            return LogProbs.apply(hidden, self.weight, labels, self.bias, self.scale, self.cap)
        logits = torch.nn.functional.linear(hidden, self.weight, self.bias).float() * self.scale
        logits = logits if self.cap is None else self.cap * (logits / self.cap).tanh()
        is_top1 = logits.gather(1, labels[:, None])[:, 0] == logits.amax(1)
        return -torch.nn.functional.cross_entropy(logits, labels, reduction="none"), is_top1


_found: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()  # model: (scale, cap), or None


def find(model: Any) -> Head | None:
    """The head of a causal language model without an adapter around it; None where its logits are made in another way.

    No list of names could tell what a model does between its head and its logits, so it is asked: known numbers are put in
    the head's place, and the logits must be those of one of the scales and caps that its configuration has. The
    backbone's last hidden states must be what the head is given. The answer is kept for each model.
    """
    if model not in _found:
        _found[model] = _measure(model)
    if _found[model] is None:
        return None
    head = model.get_output_embeddings()
    return Head(head.weight, getattr(head, "bias", None), *_found[model])


def plain(model: Any) -> bool:
    """Whether the logits are a known function of the backbone's last hidden states."""
    return find(model) is not None


@torch.no_grad()
def _measure(model: Any) -> tuple[float, float | None] | None:
    head = model.get_output_embeddings()
    if head is None or getattr(head, "weight", None) is None or model.base_model is model:
        return None
    ids = torch.arange(1, 4, device=model.device)[None]
    seen: list[torch.Tensor] = []

    def replaced(module: Any, given: tuple, products: torch.Tensor) -> torch.Tensor:
        seen.extend((given[0], products))
        return torch.linspace(-200, 200, products.shape[-1], device=products.device).expand(products.shape).clone()

    modes = [(module, module.training) for module in model.modules()]
    mixed = (
        len({p.dtype for p in model.parameters() if p.is_floating_point()}) > 1
    )  # which may only work under autocast
    model.eval()
    try:
        with torch.autocast(model.device.type, torch.bfloat16, enabled=mixed):
            hidden = model.base_model(input_ids=ids, use_cache=False).last_hidden_state
            with head.register_forward_hook(replaced):
                logits = model(input_ids=ids, use_cache=False).logits
            products = _products(head, hidden)
    finally:
        for module, training in modes:
            module.training = training
    if len(seen) != 2 or not _close(seen[0], hidden) or not _close(seen[1], products):
        return None
    numbers = torch.linspace(-200, 200, logits.shape[-1], device=logits.device).expand(logits.shape)
    for cap, scale in itertools.product(*_candidates(model.config.get_text_config())):
        shaped = numbers * scale if cap is None else cap * (numbers * scale / cap).tanh()
        if _close(logits, shaped):
            return scale, cap
    return None


def _products(head: Any, hidden: torch.Tensor) -> torch.Tensor | None:
    """What a head of one matrix makes of hidden states; None where its weight has another shape, as a packed one has."""
    if head.weight.dim() != 2 or head.weight.shape[1] != hidden.shape[-1]:
        return None
    return torch.nn.functional.linear(hidden.to(head.weight.device), head.weight, getattr(head, "bias", None))


def _close(ours: torch.Tensor, theirs: torch.Tensor | None) -> bool:
    """Equal up to the rounding of the coarser type, in proportion to the largest number."""
    if theirs is None or ours.shape != theirs.shape:
        return False
    tolerance = 1e-4 if ours.dtype == theirs.dtype == torch.float32 else 1e-2
    ours, theirs = ours.float(), theirs.float()
    return bool((ours - theirs).abs().max() <= tolerance * theirs.abs().max())


def _candidates(config: Any) -> tuple[list[float | None], list[float]]:
    """The caps and scales that a configuration may mean, the plain ones first."""
    numbers = {
        name: float(value)
        for name, value in config.to_dict().items()
        if isinstance(value, (int, float)) and not isinstance(value, bool) and value > 0
    }
    caps = [value for name, value in numbers.items() if "cap" in name]
    scales = [value for name, value in numbers.items() if re.search("scal|multiplier", name)]
    return [None, *dict.fromkeys(caps)], [1.0, *dict.fromkeys(itertools.chain(scales, (1 / one for one in scales)))]


# ---- TRL's calls


def add_compact_head(model: Any) -> None:
    """On a CPU, answer TRL's `fused_lm_head=True` calls from trained positions only.

    `model` is the causal language model (not its PEFT wrapper), after TRL has patched it. Entropy and the mean
    logit, which only feed TRL's log, are not computed. A mixture of experts that adds its router's loss keeps TRL's head.
    """
    config = model.config.get_text_config()
    router = getattr(config, "output_router_logits", False)
    if next(model.parameters()).device.type != "cpu" or router or not plain(model):
        return
    trl_forward = model.forward

    def forward(
        self: Any, *args: Any, labels: torch.Tensor | None = None, fused_lm_head: bool = False, **kwargs: Any
    ) -> Any:
        trained = labels[:, 1:] != -100 if labels is not None else None
        router = kwargs.get("output_router_logits")
        if not fused_lm_head or router or trained.sum() * config.vocab_size > MAX_LOGITS:
            return trl_forward(*args, labels=labels, fused_lm_head=fused_lm_head, **kwargs)
        hidden = _hidden(self, labels, *args, **kwargs)
        log_probs, is_top1 = find(self).log_probs(hidden, labels[:, 1:][trained])
        return fused_output(log_probs, is_top1, trained)

    replace_forward(model, forward)


def _hidden(
    model: Any, labels: torch.Tensor, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None, **kwargs: Any
) -> torch.Tensor:
    """Hidden states (n, d) that predict the n labels; rows that begin alike, as a DPO pair's, share their beginning."""
    can_share = attention_mask is not None and shared_prefix.can_share(model)  # packed rows have none
    if can_share and not (model.training and getattr(model, "is_noisy", False)):
        lengths = attention_mask.sum(1).tolist()
        rows = [tuple(row[:length]) for row, length in zip(input_ids.tolist(), lengths, strict=True)]
        groups = shared_prefix.pair(rows)
        if shared_prefix.saving(rows, groups) > shared_prefix.MIN_SAVING:
            packed = shared_prefix.pack(rows, groups, pad=0)
            hidden = shared_prefix.hidden_states(model.base_model, packed, input_ids.device)
            return hidden[shared_prefix.predicting(packed.where, labels)]
    kwargs["use_cache"] = False
    hidden = model.base_model(input_ids=input_ids, attention_mask=attention_mask, **kwargs).last_hidden_state
    return hidden[:, :-1][labels[:, 1:] != -100]
