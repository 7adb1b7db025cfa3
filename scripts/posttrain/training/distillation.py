"""Distillation: the divergence of a model from a teacher, and TRL's SFTTrainer with that as its loss.

The teacher's distribution is computed while the model trains, or read from what `compute_topk.py` has stored. A share of the steps may
use completions that the model samples itself, on which the teacher's distribution is computed as well (Agarwal et al. 2024).
"""

import random
from collections.abc import Callable
from typing import Any

import torch
from torch.nn.functional import cross_entropy
from trl import SFTTrainer
from trl.experimental.gkd import GKDTrainer

from posttrain.data.tokens import IGNORED
from posttrain.inference import distributions, scoring
from posttrain.inference.distributions import Top

# ---- the loss


def divergence(model: torch.Tensor, teacher: torch.Tensor | Top, beta: float, temperature: float) -> torch.Tensor:
    """Summed divergence (nats) of n distributions, times temperature^2.

    The generalised Jensen-Shannon divergence of Agarwal et al. 2024 (eq. 1), by TRL: beta 0 is KL(teacher || model), 1 is
    KL(model || teacher). The factor keeps gradients of one size over temperatures (Hinton et al. 2015, section 2.1). Of a teacher
    whose k most likely tokens are known, all other tokens are one more outcome, of the model as well: the divergence is that of the
    two coarser distributions, a lower bound of the whole, and equal to it where k is the size of the vocabulary.

    Args:
        model: logits (n, v).
        teacher: logits (n, v'), of which the tokens that only one of the two has are left out, or the k most likely tokens.
        beta: from 0 to 1.
        temperature: by which logits are divided; that of `Top` is in its log-probabilities.
    """
    scaled = model / temperature
    if isinstance(teacher, Top):
        total = scaled.logsumexp(-1)
        pairs = [(scaled.gather(-1, teacher.ids) - total[:, None], teacher.log_probs)]
        if teacher.ids.shape[-1] < scaled.shape[-1]:
            rest = scaled.scatter(-1, teacher.ids, -torch.inf).logsumexp(-1) - total
            pairs.append((rest[:, None], teacher.rest[:, None]))
        ours, theirs = (torch.cat(parts, -1) for parts in zip(*pairs, strict=True))
    else:
        size = min(model.shape[-1], teacher.shape[-1])  # some models have embeddings of tokens that no tokenizer has
        ours, theirs = scaled[:, :size], teacher[:, :size] / temperature
    return temperature**2 * GKDTrainer.generalized_jsd_loss(ours, theirs, beta=beta, reduction="sum")


# ---- batches


class Collator:
    """Pads rows of `input_ids` and `labels`, and joins what the teacher said of their labels, row by row."""

    def __init__(self, pad_token: int, count: int | None) -> None:
        """Batches of a tokenizer's rows; `count` tokens of the teacher are stored for each label."""
        self.pad_token, self.count = pad_token, count

    def __call__(self, rows: list[dict]) -> dict[str, torch.Tensor]:
        """One batch."""
        batch = distributions.pad(rows, self.pad_token)
        if self.count:
            batch["teacher_ids"] = _joined(rows, "ids", torch.long).view(-1, self._width(rows))
            batch["teacher_log_probs"] = _joined(rows, "log_probs", torch.float32).view(-1, self._width(rows))
            batch["teacher_rest"] = _joined(rows, "rest", torch.float32)
        return batch

    def _width(self, rows: list[dict]) -> int:
        """Stored tokens for each label: `count`, or the vocabulary where that is smaller."""
        return sum(len(row["ids"]) for row in rows) // sum(len(row["rest"]) for row in rows)


def _joined(rows: list[dict], key: str, dtype: torch.dtype) -> torch.Tensor:
    return torch.cat([torch.tensor(row[key], dtype=dtype) for row in rows])


def prompt(row: list[int], labels: list[int]) -> list[int]:
    """The tokens of a row before the first one that is trained."""
    first = next((i for i, label in enumerate(labels) if label != IGNORED), len(row))
    return row[:first]


# ---- the trainer


class DistillationTrainer(SFTTrainer):
    """TRL's SFTTrainer whose loss is (1 - w) divergence + w cross-entropy, a mean over the trained tokens of a step.

    TRL's own GKDTrainer divides by the number of the data's tokens where it trains on sampled ones, and draws from a generator whose
    state a resumed training would have to share; here both follow from the step's number.
    """

    def __init__(
        self, *args: Any, teacher: Any, spec: dict, stops: Callable[[Any], list[int]] | None = None, **kwargs: Any
    ) -> None:
        """As SFTTrainer.

        Args:
            teacher: the model to learn from; None where its most likely tokens are in the rows.
            spec: the run's.
            stops: the tokens that end a completion, of a model.
            args, kwargs: SFTTrainer's own.
        """
        super().__init__(*args, **kwargs)
        self.teacher, self.spec, self.stops = teacher, spec, stops
        self.weight, self.share = spec.get("label_weight", 0.0), spec.get("on_policy_share", 0.0)

    # ---- sampled completions

    def is_sampled(self, step: int) -> bool:
        """Whether a step trains on the model's own completions, by its number and the seed alone."""
        return random.Random(f"{self.spec['seed']} {step}").random() < self.share

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: Any) -> tuple[list, Any]:
        """The batches of a step, with sampled completions where it is such a step; the loss is a mean over their tokens."""
        batches, count = super().get_batch_samples(epoch_iterator, num_batches, device)
        step = self.state.global_step
        if not batches or not self.is_sampled(step):
            return batches, count
        with torch.random.fork_rng(), torch.no_grad(), self.compute_loss_context_manager():
            torch.manual_seed(int.from_bytes(random.Random(f"{self.spec['seed']} {step} completions").randbytes(7)))
            batches = [self._sampled(batch) for batch in batches]
        return batches, self._get_num_items_in_batch(batches, device)

    def _sampled(self, batch: dict[str, torch.Tensor]) -> dict[str, Any]:
        """A batch whose completions the model has sampled at the run's temperature."""
        model, tokenizer, longest = self.model, self.processing_class, self.spec["max_new_tokens"]
        lengths = batch["attention_mask"].sum(1).tolist()
        rows = zip(batch["input_ids"].tolist(), batch["labels"].tolist(), lengths, strict=True)
        prompts = [prompt(row[:length], labels) for row, labels, length in rows]
        ends = self.stops(model)
        was_training = model.training
        model.eval()
        options = {"do_sample": True, "temperature": self.spec["temperature"], "top_k": 0, "top_p": 1.0}
        found = scoring.continue_prompts(model, tokenizer, prompts, ends, max_new_tokens=longest, **options).tolist()
        model.train(was_training)
        kept = [until_end(ids, ends) for ids in found]
        rows = [
            {"input_ids": before + after, "labels": [IGNORED] * len(before) + after}
            for before, after in zip(prompts, kept, strict=True)
        ]
        return distributions.pad(rows, tokenizer.pad_token_id) | {"sampled": True}

    # ---- the loss

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> torch.Tensor:
        """The loss of a batch; `num_items_in_batch` are the trained tokens of the whole step."""
        mode = "train" if self.model.training else "eval"
        labels = inputs["labels"][:, 1:]
        labels = labels[labels != IGNORED]
        ours = distributions.logits(model, inputs)
        apart = divergence(ours, self._teacher(inputs), self.spec["beta"], self.spec["temperature"])
        weight = 0.0 if inputs.get("sampled") else self.weight
        total = (1 - weight) * apart
        if weight:
            hard = cross_entropy(ours, labels, reduction="sum")
            total = total + weight * hard
            self._note(mode, "label_loss", hard, len(labels))
        if self.share and mode == "train":
            self._metrics[mode]["sampled"].append(float(bool(inputs.get("sampled"))))
        self._note(mode, "divergence", apart, len(labels))
        self._note(mode, "mean_token_accuracy", (ours.argmax(-1) == labels).sum(), len(labels))
        if mode == "train":
            self._total_train_tokens += int(self.accelerator.gather_for_metrics(inputs["attention_mask"].sum()).sum())
            self._metrics[mode]["num_tokens"] = [self._total_train_tokens]
        if num_items_in_batch is None:
            return total / max(1, len(labels))
        return (
            total
            / num_items_in_batch
            * (self.accelerator.num_processes if self.args.average_tokens_across_devices else 1)
        )

    @torch.no_grad()
    def _teacher(self, inputs: dict[str, Any]) -> torch.Tensor | Top:
        if self.teacher is None:
            return Top(inputs["teacher_ids"], inputs["teacher_log_probs"], inputs["teacher_rest"])
        return distributions.logits(self.teacher, inputs)

    def _note(self, mode: str, name: str, total: torch.Tensor, count: int) -> None:
        """A mean over the batch's trained tokens, for the log."""
        both = self.accelerator.gather_for_metrics(
            torch.tensor([[float(total.detach()), count]], device=self.args.device)
        )
        total, count = both.sum(0).tolist()
        self._metrics[mode][name].append(total / max(1, count))


def until_end(ids: list[int], ends: list[int]) -> list[int]:
    """Tokens up to the first that ends a completion, with it."""
    end = next((i for i, token in enumerate(ids) if token in ends), len(ids))
    return ids[: end + 1]
