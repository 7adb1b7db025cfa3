"""Score answers and generate them, in batches of bounded size."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import torch

from posttrain.data import thoughts
from posttrain.data.tokens import IGNORED
from posttrain.inference import decoding, media
from posttrain.inference.answers import Answer, Decoder
from posttrain.models import loading, shared_prefix
from posttrain.models.lm_head import find, plain

PROMPTS = 32  # answered at once
TOKENS = 2**15  # prompts and answers that are held at once, at most
SPAN = 8  # tokens after which the answers that have ended leave the batch
TARGETS = 512  # projected to the vocabulary at once

Sequence = tuple[tuple[int, ...], tuple[int, ...]] | tuple[tuple[int, ...], tuple[int, ...], media.Files]
"""Token ids and labels, of equal length; labels are -100 where nothing is scored. Third, the files that it is about, if any."""

Each = Callable[[Callable[[Any], Any], Iterable[Any]], Iterable[Any]]
"""How batches are gone through: `map`, or `sharing.shared`, which deals them to the processes of a job."""


def answer(prompt: list[int], completion: list[int], files: media.Files = ()) -> Sequence:
    """A completion to score after a prompt that is not."""
    return sequence([*prompt, *completion], [*[IGNORED] * len(prompt), *completion], files)


def sequence(ids: list[int], labels: list[int], files: media.Files = ()) -> Sequence:
    """Token ids and labels, with the files that they are about."""
    return (tuple(ids), tuple(labels), files) if files else (tuple(ids), tuple(labels))


class Score(NamedTuple):
    """What a model gives the labels of a sequence."""

    log_prob: float
    """their summed log-probability (nats)"""
    tokens: int
    """their number"""
    greedy: bool
    """whether each is the most likely token where it stands"""


def log_probs(model: Any, sequences: list[Sequence], batch_tokens: int, each: Each = map) -> list[tuple[float, int]]:
    """Summed log-probability (nats) of each sequence's labels, and their number; equal sequences are scored once."""
    return [(score.log_prob, score.tokens) for score in scores(model, sequences, batch_tokens, each)]


def scores(model: Any, sequences: list[Sequence], batch_tokens: int, each: Each = map) -> list[Score]:
    """The score of each sequence; equal ones are scored once, and a beginning that several share is computed once."""
    unique = sorted(set(sequences))
    rows = [ids[: max(1, len(ids) - 1)] for ids, *_ in unique]  # nothing is predicted after the last token
    texts = [i for i, one in enumerate(unique) if not one[2:]]
    groups = [(i,) for i in texts]
    if is_whole(model) and shared_prefix.can_share(model):
        width = model.config.get_text_config().hidden_size
        found = shared_prefix.groups([rows[i] for i in texts], width, batch_tokens)
        groups = [tuple(texts[k] for k in group) for group in found]
    with_files = [(i,) for i, one in enumerate(unique) if one[2:]]  # what they begin with depends on the files

    def of_batch(batch: list[tuple[int, ...]]) -> list[Score]:
        numbers = [i for group in batch for i in group]
        local = {i: row for row, i in enumerate(numbers)}
        packed = shared_prefix.pack(
            [rows[i] for i in numbers], [tuple(local[i] for i in group) for group in batch], pad=0
        )
        return _score(model, packed, [unique[i][1] for i in numbers], [file for i in numbers for file in unique[i][2:]])

    found: dict[Sequence, Score] = {}
    batches = [*_batches(groups, rows, batch_tokens), *_batches(with_files, rows, batch_tokens)]
    with torch.no_grad(), autocast(model):
        for batch, given in zip(batches, each(of_batch, batches), strict=True):
            found |= zip((unique[i] for group in batch for i in group), given, strict=True)
    return [found[sequence] for sequence in sequences]


def is_whole(model: Any) -> bool:
    """Whether the logits are a known function of the backbone's hidden states: no adapter beside it, a head that is understood."""
    return not hasattr(model, "peft_config") and plain(model)


def _score(
    model: Any, packed: shared_prefix.Packed, labels: list[tuple[int, ...]], files: list[media.Files]
) -> list[Score]:
    """The score, summed in float32, of each row."""
    width = max(map(len, labels))
    padded = torch.tensor([[*row, *[IGNORED] * (width - len(row))] for row in labels])
    trained = padded[:, 1:] != IGNORED
    targets = padded[:, 1:][trained].to(model.device)
    where = shared_prefix.predicting(packed.where, padded)
    if len(packed.where) > len(packed.ids):
        hidden = shared_prefix.hidden_states(model.base_model, packed, model.device)[where]
        values, is_top1 = _project(model, hidden, targets)
    else:
        values, is_top1 = _unshared(model, packed, where, targets, files)
    sums = torch.zeros(trained.shape).masked_scatter(trained, values.cpu()).sum(1)
    greedy = torch.ones_like(trained).masked_scatter(trained, is_top1.cpu()).all(1)
    return list(map(Score, sums.tolist(), trained.sum(1).tolist(), greedy.tolist()))


def _project(model: Any, hidden: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probabilities (n,) of n targets, and whether each is the most likely token; never all logits at once."""
    head = find(model)
    pieces = zip(hidden.split(TARGETS), targets.split(TARGETS), strict=True)
    parts = [head.log_probs(some, labels) for some, labels in pieces]
    return torch.cat([values for values, _ in parts]), torch.cat([is_top1 for _, is_top1 in parts])


def _unshared(
    model: Any, packed: shared_prefix.Packed, where: list[int], targets: torch.Tensor, files: list[media.Files]
) -> tuple[torch.Tensor, torch.Tensor]:
    """As `_project`, for rows that share nothing, from the mask and positions every model knows."""
    lengths = torch.tensor([len(row) for row in packed.where])
    mask = (torch.arange(packed.ids.shape[1])[None] < lengths[:, None]).long().to(model.device)
    inputs = {"input_ids": packed.ids.to(model.device), "attention_mask": mask, "use_cache": False}
    inputs |= media.inputs(model, inputs["input_ids"], files)
    if is_whole(model):
        return _project(model, model.base_model(**inputs).last_hidden_state.flatten(0, 1)[where], targets)
    logits = model(**inputs).logits[:, -packed.ids.shape[1] :]  # virtual tokens come first
    logits = logits.flatten(0, 1)[where].float()
    chosen = logits.gather(1, targets[:, None])[:, 0]
    return chosen - logits.logsumexp(-1), chosen == logits.amax(-1)


def rewards(model: Any, rows: list[tuple[int, ...]], batch_tokens: int, each: Each = map) -> list[float]:
    """A reward model's score of each row, the tokens of a prompt and its answer."""
    return [score for (score,) in class_scores(model, rows, batch_tokens, each)]


def class_scores(model: Any, rows: list[tuple[int, ...]], batch_tokens: int, each: Each = map) -> list[list[float]]:
    """A classifier's score of each class, by row; a reward model has one."""
    pad = model.config.get_text_config().pad_token_id

    def of_batch(batch: list[int]) -> list[list[float]]:
        width = max(len(rows[i]) for i in batch)
        ids = torch.tensor([[*rows[i], *[pad] * (width - len(rows[i]))] for i in batch], device=model.device)
        lengths = torch.tensor([len(rows[i]) for i in batch], device=model.device)
        mask = (torch.arange(width, device=model.device)[None] < lengths[:, None]).long()
        return model(input_ids=ids, attention_mask=mask, use_cache=False).logits.float().tolist()

    scores: list[list[float]] = [[]] * len(rows)
    batches = list(by_length(rows, batch_tokens))
    with torch.no_grad(), autocast(model):
        for batch, given in zip(batches, each(of_batch, batches), strict=True):
            for i, score in zip(batch, given, strict=True):
                scores[i] = score
    return scores


def by_length(rows: list[tuple[int, ...]] | list[list[int]], batch_tokens: int) -> Iterator[list[int]]:
    """Which rows are scored together: neighbours in length, the longest first."""
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
    while order:
        count = max(1, batch_tokens // len(rows[order[-1]]))
        yield order[-count:]
        order = order[:-count]


def reference(
    model: Any,
    rows: list[dict],
    batch_tokens: int = 4096,
    each: Each = map,
    files: list[media.Files] | None = None,
) -> tuple[list[float], list[float]]:
    """Log-probabilities of the chosen and of the rejected answer of each row of preference tokens.

    Args:
        files: what each row is about, where rows have files.
    """
    sides = ("chosen", "rejected")
    about = files or [()] * len(rows)
    pairs = list(zip(rows, about, strict=True))
    sequences = [answer(row["prompt_ids"], row[f"{side}_ids"], some) for side in sides for row, some in pairs]
    scores = [score for score, _ in log_probs(model, sequences, batch_tokens, each)]
    return scores[: len(rows)], scores[len(rows) :]


def pair_rewards(model: Any, rows: list[dict], batch_tokens: int, each: Each = map) -> list[tuple[float, float]]:
    """A reward model's scores of the chosen and of the rejected answer of each row of preference tokens."""
    sides = [[(*row["prompt_ids"], *row[f"{side}_ids"]) for row in rows] for side in ("chosen", "rejected")]
    scores = rewards(model, sides[0] + sides[1], batch_tokens, each)
    return list(zip(scores[: len(rows)], scores[len(rows) :], strict=True))


def generate(
    model: Any,
    tokenizer: Any,
    prompts: list[list[int]],
    max_new_tokens: int,
    stop: tuple[str, ...] = (),
    penalty: float = 1.0,
) -> list[str]:
    """The text of the greedy answer to each prompt (token ids), as `generate_batch` gives it."""
    outputs = [""] * len(prompts)
    for batch in prompt_batches(prompts, max_new_tokens):
        answers = generate_batch(model, tokenizer, [prompts[i] for i in batch], max_new_tokens, stop, penalty)
        for i, answer in zip(batch, answers, strict=True):
            outputs[i] = answer.text
    return outputs


def prompt_batches(
    prompts: list[list[int]], max_new_tokens: int, files: list[media.Files] | None = None
) -> Iterator[list[int]]:
    """Which prompts are answered together: neighbours in length, the longest first, whatever order they come in."""
    about = files or [()] * len(prompts)
    order = sorted(range(len(prompts)), key=lambda i: (-len(prompts[i]), prompts[i], about[i]))
    while order:
        count = min(PROMPTS, max(1, TOKENS // (len(prompts[order[0]]) + max_new_tokens)))
        yield order[:count]
        order = order[count:]


def generate_batch(
    model: Any,
    tokenizer: Any,
    prompts: list[list[int]],
    max_new_tokens: int,
    stop: tuple[str, ...] = (),
    penalty: float = 1.0,
    files: list[media.Files] | None = None,
) -> list[Answer]:
    """Greedy answers to prompts of one batch, to the model's context at most; none to a prompt that leaves no room.

    In float32 the other prompts of the batch change an answer only where its two likeliest tokens are as likely as
    float32 can tell, as matrices of another size are multiplied in another order.

    Args:
        stop: texts before the first of which what comes after the thoughts is cut; those of the model's own
            configuration as well.
        penalty: on tokens that have occurred, prompt included; 1 is none.
        files: that each prompt is about; None where they are all text.
    """
    files = files or [()] * len(prompts)
    stop = (*stop, *as_list(model.generation_config.stop_strings))
    room = decoding.rooms(prompts, max_new_tokens, decoding.context(model))
    answers = [Answer("", [], False)] * len(prompts)
    with torch.no_grad(), autocast(model):
        kinds = list(zip(room, map(bool, files), strict=True))
        for longest, has_files in sorted({kind for kind in kinds if kind[0]}):
            rows = [i for i, kind in enumerate(kinds) if kind == (longest, has_files)]
            some = [prompts[i] for i in rows]
            openings = [thoughts.opened(tokenizer, prompt) for prompt in some]
            decoder = Decoder(tokenizer, stop_tokens(model, tokenizer), stop, openings)
            if not has_files and not hasattr(model, "peft_config") and shared_prefix.can_share(model):
                found = _in_spans(model, decoder, some, longest, penalty)
            else:
                found = _in_one(model, decoder, some, longest, penalty, [files[i] for i in rows])
            for i, answer in zip(rows, found, strict=True):
                answers[i] = answer
    return answers


def _in_one(
    model: Any, decoder: Decoder, prompts: list[list[int]], longest: int, penalty: float, files: list[media.Files]
) -> list[Answer]:
    """Greedy answers, computed until the last has ended."""
    options = decoding.greedy(model) | {"max_new_tokens": longest}
    if penalty != 1:
        width = 0 if virtual_tokens(model, 1) is not None else max(map(len, prompts))
        options["logits_processor"] = [decoding.RepetitionPenalty(penalty, prompts, width)]
    found = continue_prompts(model, decoder.tokenizer, prompts, decoder.ends, files, **options).tolist()
    return [decoder.answer(row, *decoder.until_end(ids)) for row, ids in enumerate(found)]


def _in_spans(model: Any, decoder: Decoder, prompts: list[list[int]], longest: int, penalty: float) -> list[Answer]:
    """Greedy answers, a few tokens at a time: one that has ended is not computed any further.

    What all prompts begin with, as a system prompt or worked examples, is computed once.
    """
    ids, mask, cache = _begin(model, decoder.tokenizer, prompts)
    options = decoding.greedy(model) | {"eos_token_id": decoder.ends, "pad_token_id": decoder.tokenizer.pad_token_id}
    answers: list[list[int]] = [[] for _ in prompts]
    ended = [False] * len(prompts)
    left, rows = longest, list(range(len(prompts)))
    while rows and left:
        if penalty != 1:
            before = [[*prompts[row], *answers[row]] for row in rows]
            options["logits_processor"] = [decoding.RepetitionPenalty(penalty, before, ids.shape[1])]
        output = model.generate(
            input_ids=ids,
            attention_mask=mask,
            past_key_values=cache,
            max_new_tokens=min(SPAN, left),
            **options | {"return_dict_in_generate": True},
        )
        new, cache = output.sequences[:, ids.shape[1] :], output.past_key_values
        left -= new.shape[1]
        going = []
        for k, (row, tokens) in enumerate(zip(rows, new.tolist(), strict=True)):
            more, ended[row] = decoder.until_end(tokens)
            answers[row] += more
            if not ended[row] and not decoder.has_stop(row, answers[row]):
                going.append(k)
        # The layers' caches of a model on several GPUs lie there too, and an index on the CPU serves each.
        keep = torch.tensor(going, dtype=torch.long, device=None if hasattr(model, "hf_device_map") else ids.device)
        ids, mask = output.sequences[keep], torch.cat([mask, torch.ones_like(new)], 1)[keep]
        cache.batch_select_indices(keep)
        rows = [rows[k] for k in going]
    return [decoder.answer(row, ids, ended[row]) for row, ids in enumerate(answers)]


def _begin(model: Any, tokenizer: Any, prompts: list[list[int]]) -> tuple[torch.Tensor, torch.Tensor, Any]:
    """The prompts' ids and mask (n, width), padded after what all begin with, and its keys and values for n rows."""
    width, least = max(map(len, prompts)), min(map(len, prompts))
    shared = min(
        shared_prefix.common(min(prompts), max(prompts)), least - 1
    )  # each has a token of its own to go on from
    pads = [width - len(prompt) for prompt in prompts]
    pairs = list(zip(prompts, pads, strict=True))
    ids = [[*row[:shared], *[tokenizer.pad_token_id] * pad, *row[shared:]] for row, pad in pairs]
    mask = [[*[1] * shared, *[0] * pad, *[1] * (len(row) - shared)] for row, pad in pairs]
    cache = None
    if shared:
        beginning = torch.tensor([prompts[0][:shared]], device=model.device)
        cache = model.base_model(input_ids=beginning, use_cache=True).past_key_values
        cache.batch_repeat_interleave(len(prompts))
    return torch.tensor(ids, device=model.device), torch.tensor(mask, device=model.device), cache


def stop_tokens(model: Any, tokenizer: Any) -> list[int]:
    """The tokens that end an answer: the tokenizer's, and those of the model's generation configuration."""
    return sorted({tokenizer.eos_token_id, *as_list(model.generation_config.eos_token_id)})


def continue_prompts(
    model: Any,
    tokenizer: Any,
    prompts: list[list[int]],
    stop: list[int],
    files: list[media.Files] | None = None,
    **options: Any,
) -> torch.Tensor:
    """What the model writes after each of n prompts, (n, longest), padded after a stop token."""
    width = max(map(len, prompts))
    pads = [width - len(prompt) for prompt in prompts]
    ids = torch.tensor([[tokenizer.pad_token_id] * pad + prompt for prompt, pad in zip(prompts, pads, strict=True)])
    mask = torch.tensor([[0] * pad + [1] * (width - pad) for pad in pads])
    ids, mask = ids.to(model.device), mask.to(model.device)
    options |= {"eos_token_id": stop, "pad_token_id": tokenizer.pad_token_id}
    virtual = virtual_tokens(model, len(prompts))
    options |= media.inputs(model, ids, files or [])
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
    """The arithmetic that `models.load` was asked for: products in bf16, or all of it in the weights' type."""
    arithmetic = getattr(model, "arithmetic", None) or loading.precision("auto")
    return torch.autocast(model.device.type, torch.bfloat16, enabled=arithmetic == "bf16")


def as_list(value: Any) -> list[Any]:
    """One or several of a generation configuration, or None, as a list."""
    return value if isinstance(value, list) else [value] if value is not None else []


def _batches(
    groups: list[tuple[int, ...]], rows: list[tuple[int, ...]], batch_tokens: int
) -> Iterator[list[tuple[int, ...]]]:
    """Groups of rows, longest first, so that groups x longest stays within `batch_tokens`; lone rows and others apart."""
    sizes = {group: shared_prefix.size(rows, group) for group in groups}
    order = sorted(groups, key=lambda group: -sizes[group])
    for some in ([group for group in order if len(group) == 1], [group for group in order if len(group) > 1]):
        while some:
            count = max(1, batch_tokens // sizes[some[0]])
            yield some[:count]
            some = some[count:]
