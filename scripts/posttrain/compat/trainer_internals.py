"""Private state of transformers' and TRL's trainers that a resumed or measured training has to read or set.

Checked with TRL 1.16.0 and transformers 5.23.0. Each function can go once the library saves the state in its checkpoints, or
returns the numbers that it notes.
"""

import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
import transformers.trainer
from safetensors import safe_open
from torch.utils.data import DataLoader
from transformers import PreTrainedModel, Trainer
from transformers.trainer_pt_utils import BatchRebalanceSampler

from posttrain.runtime import processes

CHECKED = {"trl": "1.16.0", "transformers": "5.23.0"}


def count_tokens_from(trainer: Any, checkpoint: Path) -> None:
    """Let TRL continue its count of tokens from a checkpoint; TRL itself starts from 0 again."""
    log = json.loads((checkpoint / "trainer_state.json").read_text())["log_history"]
    counts = [line["num_tokens"] for line in log if "num_tokens" in line]
    if counts:
        trainer._total_train_tokens = counts[-1]


def noted_in_evaluation(trainer: Any) -> dict[str, float]:
    """What TRL's loss has noted of one held-out batch beside its value.

    It is taken away, since TRL would add it to the next line of its log.
    """
    notes = trainer._metrics if hasattr(trainer, "_metrics") else trainer._stored_metrics
    found = {name.removeprefix("eval_"): values[-1] for name, values in notes["eval"].items() if values}
    notes["eval"].clear()
    return found


def held_out_batches(trainer: Any) -> Iterable[dict]:
    """The trainer's held-out batches: in each of several processes all of them, which the trainer itself would share out."""
    if processes.count() == 1:
        return trainer.get_eval_dataloader()
    rows = trainer._remove_unused_columns(trainer.eval_dataset, description="evaluation")
    return DataLoader(rows, trainer.args.eval_batch_size, collate_fn=trainer.data_collator)


def evaluation_loss(trainer: Any, batch: dict) -> tuple[float, dict]:
    """The trainer's loss of a held-out batch, and the batch as the model was given it."""
    given = trainer._prepare_inputs(batch)
    loss, *_ = trainer.prediction_step(trainer.model, given, prediction_loss_only=True)
    return float(loss), given


def rollout_position(trainer: Any) -> int:
    """How many micro-batches GRPOTrainer or RLOOTrainer have trained on, of all rollouts together."""
    return trainer._step


def rollout_parts(trainer: Any) -> list[dict[str, Any]]:
    """The micro-batches of GRPOTrainer's or RLOOTrainer's rollout."""
    return trainer._buffered_inputs


def set_rollout(trainer: Any, position: int, parts: list[dict[str, Any]] | None) -> None:
    """Let GRPOTrainer or RLOOTrainer continue at a micro-batch, with the rollout that it had sampled.

    TRL's checkpoints have neither: it would sample a new rollout from the model that has already learnt from a part of the old one.
    """
    trainer._step = position
    if parts is not None:
        trainer._buffered_inputs = parts


def set_first_rates(scheduler: Any) -> None:
    """Let a LambdaLR, whose lambdas were changed before the first step, apply them to that step."""
    rates = [base * share(0) for base, share in zip(scheduler.base_lrs, scheduler.lr_lambdas, strict=True)]
    for group, rate in zip(scheduler.optimizer.param_groups, rates, strict=True):
        group["lr"] = rate
    scheduler._last_lr = rates


class RankSampler(BatchRebalanceSampler):
    """The batches of this process, which the Trainer takes as they are: of this class of samplers it knows that they are one rank's.

    Its own cut of the rows into batches is replaced. It can go once a Trainer takes any sampler of batches.
    """

    def __init__(self, batches: list[list[int]]) -> None:
        self.batches = batches

    def __iter__(self) -> Iterator[list[int]]:
        """Each batch as the places of its rows."""
        return iter(self.batches)

    def __len__(self) -> int:
        """The number of batches."""
        return len(self.batches)


def load_weights(trainer: Any, checkpoint: Path) -> None:
    """Load a checkpoint's weights into the model as it is before it is shared out; transformers does that for DDP only."""
    shared = trainer.is_fsdp_enabled, trainer.is_deepspeed_enabled
    trainer.is_fsdp_enabled = trainer.is_deepspeed_enabled = False
    trainer._load_from_checkpoint(str(checkpoint))
    trainer.is_fsdp_enabled, trainer.is_deepspeed_enabled = shared


def load_by_saved_names(trainer: Any, checkpoint: Path) -> None:
    """Let a trainer load a checkpoint whose weights were saved under other names than the model has, as LLaVA's are.

    transformers' Trainer compares the names alone, loads nothing and says nothing. It can go once the Trainer loads a checkpoint as
    `from_pretrained` does.
    """
    model, files = trainer.model, sorted(checkpoint.glob("model*.safetensors"))
    names = set()
    for file in files:
        with safe_open(file, "pt") as tensors:
            names |= set(tensors.keys())
    if isinstance(model, PreTrainedModel) and not names <= model.state_dict().keys():

        def load(folder: str, model: Any = model) -> None:
            model.load_state_dict(type(model).from_pretrained(folder, dtype="auto").state_dict())

        trainer._load_from_checkpoint = load


def own_checkpoints(
    trainer: Any, save: Callable[[Path], None], save_optimizer: Callable[[Path], None], load: Callable[[Path], None]
) -> None:
    """Let functions write the weights of a trainer's checkpoints, and write and load optimiser and scheduler.

    Each strategy of transformers has files of its own, from which no other can go on. The weights that `load_weights` has loaded are
    not loaded again. It can go once transformers has checkpoints that do not depend on the strategy.
    """
    trainer.save_model = lambda output_dir, _internal_call=False: save(Path(output_dir))
    trainer._save_optimizer_and_scheduler = lambda output_dir: save_optimizer(Path(output_dir))
    trainer._load_from_checkpoint = lambda *_, **__: None
    trainer._load_optimizer_and_scheduler = lambda checkpoint: load(Path(checkpoint)) if checkpoint else None
    transformers.trainer.deepspeed_load_checkpoint = lambda *_, **__: None


class TrainerWithOwnCheckpoints(Trainer):
    """A trainer that writes and reads a checkpoint's weights itself.

    transformers saves a whole model. Its callbacks come after that, and cannot replace it.
    """

    def write_weights(self, folder: Path) -> None:
        """Write what is trained to a checkpoint's folder."""
        raise NotImplementedError

    def read_weights(self, folder: Path) -> None:
        """Read what `write_weights` wrote."""
        raise NotImplementedError

    def _save(self, output_dir: str | None = None, state_dict: dict[str, torch.Tensor] | None = None) -> None:
        folder = Path(output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        self.write_weights(folder)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        self.read_weights(Path(resume_from_checkpoint))
