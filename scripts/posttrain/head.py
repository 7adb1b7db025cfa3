"""Log-probabilities of labels without the logits of masked positions: the LM head for a CPU, in training and scoring.

TRL's own fused head projects every position when there is no Triton, and computes an entropy that nobody asked for.
Half of a chat's tokens are prompt and the vocabulary is a fifth of a small model's work, so this is most of what a plain
TRL step on a CPU can be relieved of.
"""

import types
from typing import Any

import torch

from posttrain import prefix

# An architecture that does more than one matrix product between hidden states and logits keeps TRL's head.
SCALED = ("final_logit_softcapping", "logit_scale", "output_multiplier", "lm_head_multiplier", "logits_scaling")
LARGEST = 2**28  # logits of a batch, 1 GiB in float32 for a base that moves; a larger batch keeps TRL's tiled head
PIECE = 2**24  # logits that are there at once where the base is frozen


class LogProbs(torch.autograd.Function):
    """log softmax(hidden W^T)[labels] in float32, and whether each label is the most likely token.

    hidden (n, d), weight (v, d), labels (n,) -> log_probs (n,), is_top1 (n,). A log-probability's gradient with respect
    to its hidden state, (onehot(label) - softmax) W, is computed while its logits are at hand, so that only a piece of
    them is ever in memory; what comes from above scales it. A weight that moves needs all of them again, so they are one
    piece.
    """

    @staticmethod
    @torch.amp.custom_fwd(device_type="cpu", cast_inputs=torch.bfloat16)
    def forward(ctx: Any, hidden: torch.Tensor, weight: torch.Tensor, labels: torch.Tensor) -> tuple:
        """Keep the gradients of the hidden states, (n, d)."""
        n, differentiable, weight_moves = len(labels), any(ctx.needs_input_grad), ctx.needs_input_grad[1]
        log_probs, is_top1 = hidden.new_empty(n, dtype=torch.float32), hidden.new_empty(n, dtype=torch.bool)
        directions, ctx.errors = torch.empty_like(hidden) if differentiable else None, hidden.new_empty(0, len(weight))
        size = max(1, PIECE // len(weight) if differentiable and not weight_moves else n)
        for piece in (slice(start, start + size) for start in range(0, n, size)):
            logits = (hidden[piece] @ weight.T).float()
            chosen, top = logits.gather(1, labels[piece, None])[:, 0], logits.amax(1)
            logits.sub_(top[:, None]).exp_()
            total = logits.sum(1)
            log_probs[piece], is_top1[piece] = chosen - top - total.log(), chosen == top
            if differentiable:
                logits.div_(-total[:, None])
                logits[torch.arange(len(chosen), device=logits.device), labels[piece]] += 1
                directions[piece] = logits.to(weight.dtype) @ weight
            if weight_moves:
                ctx.errors = logits
        ctx.save_for_backward(hidden, directions)
        ctx.mark_non_differentiable(is_top1)
        return log_probs, is_top1

    @staticmethod
    @torch.amp.custom_bwd(device_type="cpu")
    def backward(ctx: Any, grad: torch.Tensor, _: torch.Tensor) -> tuple:
        """Gradients of the hidden states, and of the weight where it moves."""
        hidden, directions = ctx.saved_tensors
        grad_hidden = (grad[:, None] * directions) if ctx.needs_input_grad[0] else None
        grad_weight = None
        if ctx.needs_input_grad[1]:
            grad_weight = ctx.errors.mul_(grad[:, None]).to(hidden.dtype).T @ hidden
            ctx.errors = None
        return grad_hidden, grad_weight, None


def log_probs(hidden: torch.Tensor, weight: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Log-probabilities (n,) in float32 of labels (n,), from hidden states (n, d) and the LM head (v, d)."""
    if hidden.device.type == "cpu":
        return LogProbs.apply(hidden, weight, labels)[0]
    return -torch.nn.functional.cross_entropy((hidden @ weight.T).float(), labels, reduction="none")


def plain(model: torch.nn.Module) -> bool:
    """Whether the logits are one product of hidden states and LM head."""
    config = model.config.get_text_config()
    head = model.get_output_embeddings()
    scaled = any(getattr(config, name, None) not in (None, 1.0) for name in SCALED)
    return not scaled and head.bias is None and not hasattr(config, "output_router_logits")


def add_compact_head(model: Any) -> None:
    """On a CPU, answer TRL's `fused_lm_head=True` calls from trained positions only.

    `model` is the causal language model (not its PEFT wrapper), after TRL has patched it. Entropy and the mean
    logit, which only feed TRL's log, are not computed.
    """
    from trl.trainer.utils import FusedCausalLMOutput  # seconds that scoring, which needs the rest of this file, saves

    if next(model.parameters()).device.type != "cpu" or not plain(model):
        return
    trl_forward = model.forward

    def forward(
        self: Any, *args: Any, labels: torch.Tensor | None = None, fused_lm_head: bool = False, **kwargs: Any
    ) -> Any:
        trained = labels[:, 1:] != -100 if labels is not None else None
        if not fused_lm_head or trained.sum() * self.config.vocab_size > LARGEST:
            return trl_forward(*args, labels=labels, fused_lm_head=fused_lm_head, **kwargs)
        hidden = _hidden(self, labels, *args, **kwargs)
        log_probs, is_top1 = LogProbs.apply(hidden, self.get_output_embeddings().weight, labels[:, 1:][trained])
        zeros = log_probs.new_zeros(trained.shape)
        return FusedCausalLMOutput(
            loss=-log_probs.mean(),
            log_probs=zeros.masked_scatter(trained, log_probs),
            entropy=zeros,
            mean_logits=zeros,
            is_top1=torch.zeros_like(trained).masked_scatter(trained, is_top1),
            label_mask=trained,
        )

    model.forward = types.MethodType(forward, model)


def _hidden(
    model: Any, labels: torch.Tensor, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None, **kwargs: Any
) -> torch.Tensor:
    """Hidden states (n, d) that predict the n labels; rows that begin alike, as a DPO pair's, share their beginning."""
    if attention_mask is not None and prefix.can_share(model):  # packed rows have none
        lengths = attention_mask.sum(1).tolist()
        rows = [tuple(row[:length]) for row, length in zip(input_ids.tolist(), lengths, strict=True)]
        groups = prefix.pair(rows)
        if prefix.saving(rows, groups) > prefix.LEAST_SAVING:
            packed = prefix.pack(rows, groups, pad=0)
            hidden = prefix.hidden_states(model.base_model, packed, input_ids.device)
            return hidden[prefix.predicting(packed.where, labels)]
    kwargs["use_cache"] = False
    hidden = model.base_model(input_ids=input_ids, attention_mask=attention_mask, **kwargs).last_hidden_state
    return hidden[:, :-1][labels[:, 1:] != -100]
