"""The proof of a merge: how far the merged and the shipped model are from the trained one, as a share of what training changed.

All distances are mean absolute differences of logits (of scores, for a reward model) on real prompts, computed in float32. A
difference says little by itself: DPO may move logits by less than a bfloat16 copy rounds them. So each distance is divided by the
effect, the distance of the parent from the trained model. A merge that did nothing has a relative distance of 1. What all logits
of a position have in common changes no probability, and is left out of both.
"""

from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import safe_open

from posttrain.data.media_text import Reader
from posttrain.models import processors
from posttrain.models.shapes import read_model, weight_files
from posttrain.runtime.atomic import read_json
from posttrain.runtime.errors import UserError

PROMPTS, POSITIONS = 4, 256
PAIRS = 16  # prompts of a reward model, which gives one number for each answer
MERGED, SHIPPED = 0.01, 0.5  # largest relative distance of what children train on, and of what ships
# Smallest difference that counts, as a share of the mean absolute logit: a run that learnt nothing has an effect of zero. One
# merged weight is rounded once, where parent and adapter were multiplied apart; on SmolLM2 that moves logits by 1e-6 of them.
ROUNDING = 1e-5


class Reference(NamedTuple):
    """Logits (n, vocabulary) of the same positions, in float32."""

    parent: torch.Tensor
    trained: torch.Tensor

    @property
    def effect(self) -> float:
        """Distance of the parent from the trained model."""
        return distance(self.trained, self.parent)

    def measure(self, logits: torch.Tensor) -> dict[str, Any]:
        """How far a merged model's logits (n, vocabulary) are from the trained one's."""
        rounding = ROUNDING * self.trained.abs().mean().item()
        relative = distance(self.trained, logits) / max(self.effect, rounding)
        return compare(self.trained, logits) | {"effect": self.effect, "relative": relative, "rounding": rounding}


def distance(one: torch.Tensor, other: torch.Tensor) -> float:
    """Mean absolute difference of logits (n, vocabulary), or of scores (n, 1)."""
    difference = one - other
    if difference.shape[-1] > 1:
        difference -= difference.mean(-1, keepdim=True)
    return difference.abs().mean().item()


def kept(parent: Path, merged: Path, dtype: torch.dtype) -> float:
    """The share of the update of the weights that is left when parent and merged model are rounded to `dtype`, by projection."""
    before, after = _tensors(parent), _tensors(merged)
    left = whole = 0.0
    for name in before.keys() & after.keys():
        old, new = (file[name].get_tensor(name) for file in (before, after))
        update = (new.float() - old.float()).double()
        left += ((new.to(dtype).float() - old.to(dtype).float()).double() * update).sum().item()
        whole += update.square().sum().item()
    return left / whole if whole else 1.0


def _tensors(folder: Path) -> dict[str, Any]:
    """The open file of each of a model's weights, by the weight's name."""
    files = [safe_open(file, "pt") for file in weight_files(folder)]
    return {name: file for file in files for name in file.keys()}  # noqa: SIM118 (a file is no mapping)


def compare(before: torch.Tensor, after: torch.Tensor) -> dict[str, Any]:
    """Differences of two (n, vocabulary) tensors of logits."""
    difference = (before - after).abs()
    return {
        "max_abs_logit_difference": difference.max().item(),
        "mean_abs_logit_difference": difference.mean().item(),
        "greedy_agreement": (before.argmax(-1) == after.argmax(-1)).float().mean().item(),
        "n": len(before),
    }


def check_merged(name: str, proof: dict[str, Any]) -> None:
    """Refuse a merged model that is not the trained one.

    Raises:
        UserError: the relative distance is above `MERGED`, or not a number.
    """
    if not _within(proof, MERGED):
        raise UserError(
            "merge-failed",
            name,
            f"the merged model's logits differ from the trained one's by {proof['mean_abs_logit_difference']:.2g} on average, which is "
            f"{proof['relative']:.1%} of what training changed and more than the {MERGED:.0%} that rounding explains, so it is not "
            "published",
            "train with precision: fp32, without peft_args, or with method: full",
        )


def keeps_the_update(proof: dict[str, Any]) -> bool:
    """Whether a model in another type is near enough to the trained one to ship."""
    return _within(proof, SHIPPED)


def _within(proof: dict[str, Any], limit: float) -> bool:
    return proof["relative"] <= limit or proof["mean_abs_logit_difference"] <= proof["rounding"]  # NaN is neither


# ---- logits on real prompts


class Prompt(NamedTuple):
    """A text that is about pictures or sounds."""

    ids: list[int]
    media: dict[str, torch.Tensor]
    """what the processor makes of them"""


def real_prompts(tokens: Path, reward: bool = False, parent: Path | None = None) -> list[list[int]] | list[Prompt]:
    """Token ids of the first held-out rows (of the training rows, where none is held out); of pairs, both for a reward model.

    Args:
        parent: the folder of the model whose processor reads the rows' media, where they have any; such rows come first.
    """
    import pyarrow.parquet as pq

    count = PAIRS if reward else PROMPTS
    reader = processors.reader(parent, tokens) if parent else None
    for split in ("validation", "train"):
        rows = pq.read_table(tokens / f"{split}.parquet")
        if reader:
            rows = sorted(
                rows.to_pylist(), key=lambda row: not any(row[name] for name in reader.processor.columns if name in row)
            )[:count]
        else:
            rows = rows.slice(0, count).to_pylist()
        if rows:
            break
    sides = ("chosen_ids", "rejected_ids", "completion_ids") if reward else ("chosen_ids", "completion_ids")
    ids: list = []
    for row in rows:
        asked = row.get("input_ids") or row["prompt_ids"]  # a prompt alone is a text to compare on as well
        found = [asked + row[side] for side in sides if side in row] or [asked]
        if reader:  # cut, it might end inside a picture
            ids += [Prompt(some, _media(reader, row, some)) for some in found]
        else:
            ids += [some[:POSITIONS] for some in found]
    return ids


def _media(reader: Reader, row: dict, ids: list[int]) -> dict[str, torch.Tensor]:
    return reader.processor.inputs([reader.opened(row)]) | reader.processor.token_types(torch.tensor([ids]))


def logits(model: Any, prompts: list[list[int]] | list[Prompt]) -> torch.Tensor:
    """Logits in float32 on the CPU, (positions of all prompts, vocabulary); a reward model's scores are (prompts, 1)."""
    given = [prompt if isinstance(prompt, Prompt) else Prompt(prompt, {}) for prompt in prompts]
    with torch.no_grad():
        outputs = [_outputs(model, prompt) for prompt in given]
    found = [
        out.flatten(0, -2)[-len(prompt.ids) :] for out, prompt in zip(outputs, given, strict=True)
    ]  # virtual tokens come first
    return torch.cat([some.float().cpu() for some in found])


def _outputs(model: Any, prompt: Prompt) -> torch.Tensor:
    row = torch.tensor([prompt.ids], device=model.device)
    media = {
        name: value.to(model.device, model.dtype if value.is_floating_point() else None)
        for name, value in prompt.media.items()
    }
    return model(input_ids=row, attention_mask=torch.ones_like(row), **media).logits


# ---- what is written


def check_tensors(name: str, parent: Path, merged: Path) -> None:
    """Refuse a merged model of several parts that lacks a tensor of its parent, or has it in another shape.

    Raises:
        UserError: naming the first.
    """
    if not processors.has_processor(parent):
        return
    before, after = read_model(parent).shapes, read_model(merged).shapes
    config = read_json(merged / "config.json")
    tied = config.get("tie_word_embeddings") or config.get("text_config", {}).get("tie_word_embeddings")
    lost = [
        key
        for key, shape in before.items()
        if after.get(key) != shape and not (tied and key.endswith("lm_head.weight"))
    ]
    if lost:
        raise UserError(
            "merge-failed",
            name,
            f"the merged model lacks {len(lost)} of {len(before)} tensors of its parent, such as {lost[0]}",
            "tell the authors of this program the base's name",
        )
