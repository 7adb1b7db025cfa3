"""Score answers and generate them, in batches of bounded size."""

from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any

import torch

from posttrain import models
from posttrain.head import LogProbs, plain
from posttrain.tokens import IGNORED

Sequence = tuple[tuple[int, ...], tuple[int, ...]]
"""Token ids and labels, of equal length; labels are -100 where nothing is scored."""


def answer(prompt: list[int], completion: list[int]) -> Sequence:
    """A completion to score after a prompt that is not."""
    return (*prompt, *completion), (*[IGNORED] * len(prompt), *completion)


def log_probs(model: Any, sequences: list[Sequence], batch_tokens: int) -> list[tuple[float, int]]:
    """Summed log-probability (nats) of each sequence's labels, and their number; equal sequences are scored once."""
    unique = sorted(set(sequences), key=lambda sequence: (-len(sequence[0]), sequence))
    scores: dict[Sequence, tuple[float, int]] = {}
    with torch.no_grad(), autocast(model):
        for batch in _batches(unique, batch_tokens):
            ids, mask, labels = _pad(batch, model.device)
            trained = labels[:, 1:] != IGNORED
            sums = torch.zeros(trained.shape, device=model.device).masked_scatter(trained, _labels(model, ids, mask, labels))
            for sequence, total, count in zip(batch, sums.sum(1).tolist(), trained.sum(1).tolist(), strict=True):
                scores[sequence] = (total, count)
    return [scores[sequence] for sequence in sequences]


def _labels(model: Any, ids: torch.Tensor, mask: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Log-probabilities (n,) in float32 of the n labels that are not -100."""
    trained = labels[:, 1:] != IGNORED
    targets = labels[:, 1:][trained]
    if plain(model):
        hidden = model.base_model(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state[:, :-1]
        return LogProbs.apply(hidden[trained], model.get_output_embeddings().weight, targets)[0]
    logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits[:, :-1][trained].float()
    return logits.log_softmax(-1).gather(1, targets[:, None])[:, 0]


def generate(model: Any, tokenizer: Any, prompts: list[list[int]], max_new_tokens: int, batch_tokens: int) -> list[str]:
    """The greedy answer to each prompt (token ids), without the stop token."""
    order = sorted(range(len(prompts)), key=lambda i: -len(prompts[i]))
    outputs = [""] * len(prompts)
    stop = {tokenizer.eos_token_id} | set(_as_list(model.generation_config.eos_token_id))
    size = max(1, batch_tokens // (len(prompts[order[0]]) + max_new_tokens)) if order else 1
    for start in range(0, len(order), size):
        rows = order[start : start + size]
        width = max(len(prompts[i]) for i in rows)
        pads = [width - len(prompts[i]) for i in rows]
        ids = torch.tensor([[tokenizer.pad_token_id] * pad + prompts[i] for i, pad in zip(rows, pads, strict=True)])
        mask = torch.tensor([[0] * pad + [1] * (width - pad) for pad in pads])
        with torch.no_grad(), autocast(model):
            new = model.generate(
                input_ids=ids.to(model.device),
                attention_mask=mask.to(model.device),
                max_new_tokens=max_new_tokens,
                do_sample=False,
                temperature=None,
                top_p=None,
                top_k=None,
                eos_token_id=sorted(stop),
                pad_token_id=tokenizer.pad_token_id,
            )[:, width:]
        for i, answer_ids in zip(rows, new.tolist(), strict=True):
            outputs[i] = tokenizer.decode(answer_ids, skip_special_tokens=True)
    return outputs


def autocast(model: Any) -> AbstractContextManager:
    """The arithmetic of evaluation: bf16 products where the processor has them."""
    return torch.autocast(model.device.type, torch.bfloat16, enabled=models.precision("auto") == "bf16")


def _as_list(value: Any) -> list[int]:
    return value if isinstance(value, list) else [value] if value is not None else []


def _batches(sequences: list[Sequence], batch_tokens: int) -> Iterator[list[Sequence]]:
    """Neighbours in the order given, longest first, so that rows x longest stays within `batch_tokens`."""
    batch: list[Sequence] = []
    for sequence in sequences:
        if batch and (len(batch) + 1) * len(batch[0][0]) > batch_tokens:
            yield batch
            batch = []
        batch.append(sequence)
    if batch:
        yield batch


def _pad(batch: list[Sequence], device: torch.device) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Ids, attention mask and labels, all (rows, longest), padded on the right."""
    width = max(len(ids) for ids, _ in batch)
    rows = [(list(ids), list(labels), width - len(ids)) for ids, labels in batch]
    ids = torch.tensor([ids + [0] * pad for ids, _, pad in rows])
    mask = torch.tensor([[1] * (width - pad) + [0] * pad for _, _, pad in rows])
    labels = torch.tensor([labels + [IGNORED] * pad for _, labels, pad in rows])
    return ids.to(device), mask.to(device), labels.to(device)
