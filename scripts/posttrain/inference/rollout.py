"""Prompts with their completions as rows of tokens, and what a model computes of them: hidden states and log-probabilities.

Shapes: n completions of at most t tokens, w the longest prompt with its completion, d the model's width, v its vocabulary.
"""

import inspect
from typing import Any, NamedTuple

import torch

from posttrain.models import lm_head


class Rows(NamedTuple):
    """Prompts with their completions, padded on the right."""

    ids: torch.Tensor
    """(n, w)"""
    prompts: torch.Tensor
    """lengths (n,)"""
    completions: torch.Tensor
    """lengths (n,)"""

    def mask(self) -> torch.Tensor:
        """Which positions hold a completion's token, (n, t)."""
        longest = int(self.completions.max())
        return torch.arange(longest, device=self.ids.device)[None] < self.completions[:, None]

    def take(self, slots: torch.Tensor) -> "Rows":
        """Some of the rows, no wider than the longest of them."""
        ids, prompts, completions = (part[slots] for part in self)
        return Rows(ids[:, : int((prompts + completions).max())], prompts, completions)


def pack(prompts: list[dict], completions: list[list[int]], pad: int, device: Any) -> Rows:
    """Prompts and completions side by side, padded on the right."""
    rows = [row["prompt_ids"] + completion for row, completion in zip(prompts, completions, strict=True)]
    width = max(map(len, rows))
    ids = torch.tensor([row + [pad] * (width - len(row)) for row in rows], device=device)
    lengths = torch.tensor([len(row["prompt_ids"]) for row in prompts], device=device)
    return Rows(ids, lengths, torch.tensor([len(completion) for completion in completions], device=device))


def joined(pieces: list[torch.Tensor]) -> torch.Tensor:
    """Pieces (n_i, t_i) below each other, padded with 0 to the widest, (n, t)."""
    width = max(piece.shape[1] for piece in pieces)
    return torch.cat([torch.nn.functional.pad(piece, (0, width - piece.shape[1])) for piece in pieces])


def causal(model: Any) -> Any:
    """The causal language model inside PEFT's wrapper, or `model` itself."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def hidden_states(model: Any, rows: Rows) -> torch.Tensor:
    """The backbone's last hidden states (n, t, d), from which each token of the completions is predicted."""
    return _of_completions(_forward(model, rows, logits=False)[0], rows)


def completion_log_probs(model: Any, rows: Rows, temperature: float) -> torch.Tensor:
    """Log-probabilities (n, t) of the completions' tokens, 0 beyond their end.

    From the hidden states where what follows them is understood (`head.find`), else from the model's own logits, all of them.
    """
    mask = rows.mask()
    at = rows.prompts[:, None] + torch.arange(mask.shape[1], device=mask.device)[None]
    labels = rows.ids.gather(1, at.clamp(max=rows.ids.shape[1] - 1))[mask]
    states, logits = _forward(model, rows, logits=lm_head.find(causal(model)) is None)
    found = lm_head.find(
        causal(model)
    )  # after the forward pass, which ZeRO-3 ends by dropping the weights it had gathered
    if found is None:
        logits = _of_completions(logits, rows)[mask].float() / temperature
        values = -torch.nn.functional.cross_entropy(logits, labels, reduction="none")
    else:
        values, _ = found.heated(temperature).log_probs(_of_completions(states, rows)[mask], labels)
    return torch.zeros(mask.shape, device=mask.device).masked_scatter(mask, values)


def _forward(model: Any, rows: Rows, logits: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """The backbone's last hidden states (n, w, d), and the logits (n, w, v), or only the last ones where none are needed.

    The states are taken where they leave the backbone: asked for as an output, they would come with those of every layer.
    """
    width = rows.ids.shape[1]
    mask = (torch.arange(width, device=rows.ids.device)[None] < (rows.prompts + rows.completions)[:, None]).long()
    base, kept = causal(model), []
    backbone = getattr(base.base_model, "decoder", base.base_model)  # OPT's head calls the decoder itself
    options = {"use_cache": False}
    if not logits and "logits_to_keep" in inspect.signature(type(base).forward).parameters:
        options["logits_to_keep"] = 1
    with backbone.register_forward_hook(lambda _, __, output: kept.append(output.last_hidden_state)):
        output = model(input_ids=rows.ids, attention_mask=mask, **options)
    return kept[0][:, -width:], output.logits[:, -width:]  # virtual tokens come first


def _of_completions(states: torch.Tensor, rows: Rows) -> torch.Tensor:
    """Of (n, w, ...) what stands before each token of the completions, (n, t, ...)."""
    at = rows.prompts[:, None] - 1 + torch.arange(int(rows.completions.max()), device=states.device)[None]
    return states.gather(1, at.clamp(max=states.shape[1] - 1)[..., None].expand(-1, -1, states.shape[-1]))
