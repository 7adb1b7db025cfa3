"""Score answers and generate them, in batches of bounded size."""

from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any

import torch

from posttrain import models, prefix
from posttrain.head import LogProbs, plain
from posttrain.tokens import IGNORED

PROMPTS = 32  # answered at once

Sequence = tuple[tuple[int, ...], tuple[int, ...]]
"""Token ids and labels, of equal length; labels are -100 where nothing is scored."""


def answer(prompt: list[int], completion: list[int]) -> Sequence:
    """A completion to score after a prompt that is not."""
    return (*prompt, *completion), (*[IGNORED] * len(prompt), *completion)


def log_probs(model: Any, sequences: list[Sequence], batch_tokens: int) -> list[tuple[float, int]]:
    """Summed log-probability (nats) of each sequence's labels, and their number; equal sequences are scored once."""
    unique = sorted(set(sequences))
    rows = [ids for ids, _ in unique]
    groups = prefix.pair(rows) if is_whole(model) and prefix.can_share(model) else []
    if prefix.saving(rows, groups) <= prefix.LEAST_SAVING:
        groups = [(i,) for i in range(len(rows))]
    scores: dict[Sequence, tuple[float, int]] = {}
    with torch.no_grad(), autocast(model):
        for batch in _batches(groups, rows, batch_tokens):
            numbers = [i for group in batch for i in group]
            chosen = [unique[i] for i in numbers]
            local = {i: row for row, i in enumerate(numbers)}
            packed = prefix.pack([ids for ids, _ in chosen], [tuple(local[i] for i in group) for group in batch], pad=0)
            scores |= zip(chosen, _score(model, packed, [labels for _, labels in chosen]), strict=True)
    return [scores[sequence] for sequence in sequences]


def is_whole(model: Any) -> bool:
    """Whether the model's backbone alone gives what the LM head multiplies: no adapter beside it, no scaling after it."""
    return not hasattr(model, "peft_config") and plain(model)


def _score(model: Any, packed: prefix.Packed, labels: list[tuple[int, ...]]) -> list[tuple[float, int]]:
    """Summed log-probability in float32 of each row's labels, and their number."""
    width = max(map(len, labels))
    padded = torch.tensor([[*row, *[IGNORED] * (width - len(row))] for row in labels])
    trained = padded[:, 1:] != IGNORED
    targets = padded[:, 1:][trained].to(model.device)
    where = prefix.predicting(packed.where, padded)
    if len(packed.where) > len(packed.ids):
        hidden = prefix.hidden_states(model.base_model, packed, model.device)[where]
        values = LogProbs.apply(hidden, model.get_output_embeddings().weight, targets)[0]
    else:
        values = _unshared(model, packed, where, targets)
    sums = torch.zeros(trained.shape).masked_scatter(trained, values.cpu())
    return list(zip(sums.sum(1).tolist(), trained.sum(1).tolist(), strict=True))


def _unshared(model: Any, packed: prefix.Packed, where: list[int], targets: torch.Tensor) -> torch.Tensor:
    """Log-probabilities (n,) of n targets in rows that share nothing, from the mask and positions every model knows."""
    lengths = torch.tensor([len(row) for row in packed.where])
    mask = (torch.arange(packed.ids.shape[1])[None] < lengths[:, None]).long().to(model.device)
    inputs = {"input_ids": packed.ids.to(model.device), "attention_mask": mask, "use_cache": False}
    if is_whole(model):
        hidden = model.base_model(**inputs).last_hidden_state.flatten(0, 1)[where]
        return LogProbs.apply(hidden, model.get_output_embeddings().weight, targets)[0]
    logits = model(**inputs).logits[:, -packed.ids.shape[1] :]  # virtual tokens come first
    logits = logits.flatten(0, 1)[where].float()
    return logits.log_softmax(-1).gather(1, targets[:, None])[:, 0]


def rewards(model: Any, rows: list[tuple[int, ...]], batch_tokens: int) -> list[float]:
    """A reward model's score of each row, the tokens of a prompt and its answer."""
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
    scores = [0.0] * len(rows)
    pad = model.config.get_text_config().pad_token_id
    with torch.no_grad(), autocast(model):
        while order:
            count = max(1, batch_tokens // len(rows[order[-1]]))
            order, batch = order[:-count], order[-count:]
            width = len(rows[batch[-1]])
            ids = torch.tensor([[*rows[i], *[pad] * (width - len(rows[i]))] for i in batch], device=model.device)
            lengths = torch.tensor([len(rows[i]) for i in batch], device=model.device)
            mask = (torch.arange(width, device=model.device)[None] < lengths[:, None]).long()
            outputs = model(input_ids=ids, attention_mask=mask, use_cache=False).logits[:, 0].float()
            for i, score in zip(batch, outputs.tolist(), strict=True):
                scores[i] = score
    return scores


def pair_rewards(model: Any, rows: list[dict], batch_tokens: int) -> list[tuple[float, float]]:
    """A reward model's scores of the chosen and of the rejected answer of each row of preference tokens."""
    sides = [[(*row["prompt_ids"], *row[f"{side}_ids"]) for row in rows] for side in ("chosen", "rejected")]
    scores = rewards(model, sides[0] + sides[1], batch_tokens)
    return list(zip(scores[: len(rows)], scores[len(rows) :], strict=True))


def generate(model: Any, tokenizer: Any, prompts: list[list[int]], max_new_tokens: int) -> list[str]:
    """The greedy answer to each prompt (token ids), without the stop token."""
    order = sorted(range(len(prompts)), key=lambda i: -len(prompts[i]))
    outputs = [""] * len(prompts)
    greedy = {"do_sample": False, "temperature": None, "top_p": None, "top_k": None, "max_new_tokens": max_new_tokens}
    stop = stop_tokens(model, tokenizer)
    for start in range(0, len(order), PROMPTS):
        rows = order[start : start + PROMPTS]
        with torch.no_grad(), autocast(model):
            new = continue_prompts(model, tokenizer, [prompts[i] for i in rows], stop, **greedy)
        for i, answer_ids in zip(rows, new.tolist(), strict=True):
            outputs[i] = tokenizer.decode(answer_ids, skip_special_tokens=True)
    return outputs


def stop_tokens(model: Any, tokenizer: Any) -> list[int]:
    """The tokens that end an answer: the tokenizer's, and those of the model's generation configuration."""
    return sorted({tokenizer.eos_token_id, *_as_list(model.generation_config.eos_token_id)})


def continue_prompts(
    model: Any, tokenizer: Any, prompts: list[list[int]], stop: list[int], **options: Any
) -> torch.Tensor:
    """What the model writes after each of n prompts, (n, longest), padded after a stop token."""
    width = max(map(len, prompts))
    pads = [width - len(prompt) for prompt in prompts]
    ids = torch.tensor([[tokenizer.pad_token_id] * pad + prompt for prompt, pad in zip(prompts, pads, strict=True)])
    mask = torch.tensor([[0] * pad + [1] * (width - pad) for pad in pads])
    ids, mask = ids.to(model.device), mask.to(model.device)
    options |= {"eos_token_id": stop, "pad_token_id": tokenizer.pad_token_id}
    virtual = virtual_tokens(model, len(prompts))
    if virtual is None:
        return model.generate(input_ids=ids, attention_mask=mask, **options)[:, width:]
    words = model.get_input_embeddings()(ids)
    rows = [
        torch.cat([row[:pad], v, row[pad:]]) for row, v, pad in zip(words, virtual.to(words.dtype), pads, strict=True)
    ]
    mask = torch.cat([mask, torch.ones_like(virtual[..., 0], dtype=mask.dtype)], 1)  # zeros first, then ones
    return model.get_base_model().generate(inputs_embeds=torch.stack(rows), attention_mask=mask, **options)


def virtual_tokens(model: Any, n: int) -> torch.Tensor | None:
    """Embeddings (n, v, d) of virtual tokens, which PEFT itself puts before the padding, away from the prompt."""
    config = getattr(model, "active_peft_config", None)
    if config is None or not config.is_prompt_learning or config.peft_type == "PREFIX_TUNING":
        return None
    return model.get_prompt(batch_size=n)


def autocast(model: Any) -> AbstractContextManager:
    """The arithmetic of evaluation: bf16 products where the processor has them."""
    return torch.autocast(model.device.type, torch.bfloat16, enabled=models.precision("auto") == "bf16")


def _as_list(value: Any) -> list[int]:
    return value if isinstance(value, list) else [value] if value is not None else []


def _batches(
    groups: list[tuple[int, ...]], rows: list[tuple[int, ...]], batch_tokens: int
) -> Iterator[list[tuple[int, ...]]]:
    """Groups of rows, longest first, so that groups x longest stays within `batch_tokens`; singles and pairs apart."""

    def size(group: tuple[int, ...]) -> int:
        shared = prefix.common(rows[group[0]], rows[group[1]]) if len(group) == 2 else 0
        return sum(len(rows[i]) for i in group) - shared

    for count in (1, 2):
        batch: list[tuple[int, ...]] = []
        for group in sorted((group for group in groups if len(group) == count), key=size, reverse=True):
            if batch and (len(batch) + 1) * size(batch[0]) > batch_tokens:
                yield batch
                batch = []
            batch.append(group)
        if batch:
            yield batch
