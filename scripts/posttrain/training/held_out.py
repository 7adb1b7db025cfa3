"""Held-out rows, measured while a model trains: by the trainer's own loss, or by rewards or metrics of completions.

transformers calls `evaluate` after a step's numbers are logged and before its checkpoint is saved, so a checkpoint always
knows the measurement of its step. What is measured is ours, since a mean over batches would weigh the rows of an incomplete
one more, and since no trainer here can score completions by a metric. Of several processes each measures all rows, so that the numbers
are those of one, and decides by the first one's. Measuring changes no random state: a training takes the
same steps with it as without.
"""

import contextlib
import math
import random
from argparse import Namespace
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import Trainer, TrainerCallback

from posttrain.compat.trainer_internals import evaluation_loss, held_out_batches, noted_in_evaluation
from posttrain.data import samples, thoughts
from posttrain.data.rows import read
from posttrain.data.tokens import IGNORED, turn_end
from posttrain.inference import media, rollout, scoring
from posttrain.metrics import text_metrics
from posttrain.objectives import OBJECTIVES, Objective
from posttrain.runtime import processes, user_code
from posttrain.runtime.console import say
from posttrain.runtime.errors import UserError
from posttrain.training import early_stopping, keeping
from posttrain.training.early_stopping import EVALUATED, Decision, Plan

# ---- which rows


def sample(ids: list[str], count: int) -> list[int]:
    """The places of at most `count` rows, chosen by a hash of their ids.

    They are the end of the order of which an evaluation takes the beginning, so that the two share as few rows as can be.
    """
    return sorted(samples.chosen(ids, [None] * len(ids))[-count:])


def rows(file: Path, spec: dict, read: Callable[[Path], Any]) -> Any:
    """The rows of held-out tokens that are measured during training, as a dataset; None where none are.

    Args:
        read: reads the file as a dataset with the column `id`.

    Raises:
        UserError: there is none to measure.
    """
    planned = early_stopping.plan(spec)
    if planned is None or planned.of_answers:
        return None
    table = read(file)
    if not len(table):
        raise nothing_to_measure(spec)
    return table.select(sample(table["id"], planned.rows))


def held_out_prompts(file: Path, spec: dict, planned: Plan, tokenizer: Any, processor: Any = None) -> list[dict]:
    """The held-out prompts that the model completes during training, without those that leave no room for a completion.

    Args:
        processor: the model's; None where it reads text only.

    Raises:
        UserError: there is none, or none with room for an answer.
    """
    held_out = read(file)
    chosen = [held_out[i] for i in sample([row["id"] for row in held_out], planned.rows)]
    found = media.questions(processor, tokenizer, chosen, file.parent)
    room = spec["max_length"] - planned.max_new_tokens
    kept = [row for row in found if len(row["prompt_ids"]) <= room]
    if found and not kept:
        raise UserError(
            "too-long",
            f"dataset {spec['data']['name']}",
            f"no held-out prompt is short enough for an answer of {planned.max_new_tokens} tokens within max_length "
            f"{spec['max_length']}",
            "write a larger max_length, or a smaller max_new_tokens",
        )
    if not kept:
        raise nothing_to_measure(spec)
    return kept


def nothing_to_measure(spec: dict) -> UserError:
    """The error of a run that has no held-out row to measure during training."""
    name = spec["data"]["name"]
    return UserError(
        "nothing-held-out",
        f"dataset {name}",
        "no row is held out that could be measured during training",
        f"write a larger validation under datasets.{name}",
    )


def inputs(options: Namespace, spec: dict) -> list[Path]:
    """The files that are measured during training, and so go into the checkpoints' key."""
    planned = early_stopping.plan(spec)
    if planned is None:
        return []
    return [*options.held_out] if planned.of_answers else [options.tokens / "validation.parquet"]


# ---- what a measurement gives


def losses(trainer: Any, objective: Objective) -> dict[str, float]:
    """The objective's own metrics over the trainer's held-out rows, in which all that its loss is a mean of weighs the same."""
    sums, weights = Counter(), Counter()
    for batch in held_out_batches(trainer):
        loss, given = evaluation_loss(trainer, batch)
        found = {"loss": loss} | noted_in_evaluation(trainer)
        for name, weight in _weights(objective, given).items():
            if name in found and weight:
                sums[name] += weight * found[name]
                weights[name] += weight
    found = {name: sums[name] / weights[name] for name in sums}
    if objective.mean_of == "labels":  # of batches, the last of which may have no completion of one kind
        found["rewards/margins"] = found.get("rewards/chosen", 0.0) - found.get("rewards/rejected", 0.0)
    return {name: found[name] for name in objective.measures.values() if name in found}


def _weights(objective: Objective, batch: dict) -> dict[str, int]:
    """The weight of a batch, in each number that it gives."""
    if objective.mean_of == "tokens":
        return dict.fromkeys(objective.measures.values(), int((batch["labels"][:, 1:] != IGNORED).sum()))
    if objective.mean_of == "labels":
        desired = sum(map(bool, batch["label"]))
        undesired = len(batch["label"]) - desired
        return {"loss": desired + undesired, "rewards/chosen": desired, "rewards/rejected": undesired}
    count = len(next(value for value in batch.values() if isinstance(value, torch.Tensor)))
    return dict.fromkeys(objective.measures.values(), count)


def completions(trainer: Any, rows: list[dict], max_new_tokens: int) -> list[scoring.Answer]:
    """The greedy completion of each prompt by the model in training."""
    prompts, tokenizer = [row["prompt_ids"] for row in rows], trainer.processing_class
    files = [row.get("files", ()) for row in rows]
    found: dict[int, scoring.Answer] = {}
    with _policy(trainer) as model, trainer.compute_loss_context_manager():
        for batch in scoring.prompt_batches(prompts, max_new_tokens, files):
            some = partial(
                scoring.generate_batch,
                model,
                tokenizer,
                [prompts[i] for i in batch],
                max_new_tokens,
                files=[files[i] for i in batch],
            )
            is_role = processes.count() > 1 and hasattr(
                trainer.model, "role"
            )  # of a model that may be shared out as one
            found |= zip(batch, trainer.model(some) if is_role else some(), strict=True)
    return [found[i] for i in range(len(prompts))]


@contextlib.contextmanager
def _policy(trainer: Any) -> Iterator[Any]:
    """The causal language model in training, within its adapter."""
    if hasattr(trainer.model, "role"):
        with trainer.model.role("policy") as policy:
            yield policy
    else:
        yield trainer.model


def of_completions(trainer: Any, planned: Plan, prompts: list[dict]) -> dict[str, float]:
    """The mean of a metric of completions, or of their rewards, over held-out prompts."""
    given = completions(trainer, prompts, planned.max_new_tokens)
    if planned.metric == "reward":
        values = rewards(trainer, prompts, given)
    else:
        own = user_code.is_own(planned.metric)
        metric = (
            user_code.load(planned.metric, "early_stopping.metric") if own else text_metrics.METRICS[planned.metric]
        )
        pairs = zip(given, prompts, strict=True)
        values = [metric(thoughts.answer(answer.text), _reference(row)) for answer, row in pairs]
    return {planned.logged.removeprefix(EVALUATED): math.fsum(values) / len(values)}


def _reference(row: dict) -> str | None:
    """A row's own answer without thoughts; None for a prompt alone."""
    return None if row["reference"] is None else thoughts.answer(row["reference"])


@torch.no_grad()
def rewards(trainer: Any, prompts: list[dict], given: list[scoring.Answer]) -> list[float]:
    """The reward of each completion, as the trainer's own reward gives it to what it samples."""
    with _policy(trainer) as model:
        stops = scoring.stop_tokens(model, trainer.processing_class)
    end = turn_end(trainer.processing_class, stops)
    ids = [[*answer.ids, *([end] if answer.ended else [])] for answer in given]
    if hasattr(trainer, "rewards"):
        return _ppo_rewards(trainer, prompts, ids)
    (reward,) = trainer.reward_funcs
    columns = {"prompts": [row["prompt_ids"] for row in prompts], "reference": [row["reference"] for row in prompts]}
    return [float(value) for value in reward(completion_ids=ids, **columns)]


def _ppo_rewards(trainer: Any, prompts: list[dict], ids: list[list[int]]) -> list[float]:
    """PPO's rewards, whose models may be adapters of the model itself and may reward each token."""
    values, size = [], trainer.args.per_device_train_batch_size
    with trainer.compute_loss_context_manager():
        for start in range(0, len(ids), size):
            some, given = prompts[start : start + size], ids[start : start + size]
            packed = rollout.pack(some, given, trainer.processing_class.pad_token_id, trainer.args.device)
            scores, tokens = trainer.rewards(some, given, packed)
            values += (scores if tokens is None else scores + tokens.sum(1)).tolist()
    return values


# ---- when, and what follows


class Measuring(TrainerCallback):
    """Measures held-out rows during training, keeps the result of the best step, and ends training that no longer improves.

    Args:
        folder: the stage's own, for the best step's result.
        measure: gives the numbers by their names in the trainer's log.
        write: writes to a folder what the training would leave if it ended now.
        end: ends the training after this step.
        rows: how many are measured.
        steps: optimiser steps for one of the run's own, which is a rollout in ppo.
    """

    def __init__(
        self,
        planned: Plan,
        trainer: Any,
        folder: Path,
        measure: Callable[[], dict[str, float]],
        write: Callable[[Path], None],
        end: Callable[[Any], None],
        rows: int,
        steps: int = 1,
    ) -> None:
        self.planned, self.trainer, self.folder = planned, trainer, folder
        self.measure, self.write, self.end, self.rows, self.steps = measure, write, end, rows, steps
        self.name = folder.parent.parent.name
        trainer.evaluate = self.evaluate
        trainer.add_callback(self)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Ask for a measurement after every so many steps, and after the last."""
        every = self.steps * self.planned.steps_between(state.max_steps // self.steps)
        control.should_evaluate = state.global_step % every == 0 or state.global_step >= state.max_steps

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Remove what no checkpoint counts on any more, as a new one is there."""
        self._prune()

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """Measure, note it in the log, keep the result where it is the best so far, and end where patience does.

        Raises:
            UserError: what is measured is not a number.
        """
        trainer = self.trainer
        step = trainer.state.global_step
        with undisturbed(trainer.model):
            found = {EVALUATED + name: value for name, value in processes.gathered(self.measure())[0].items()}
            for name, number in found.items():
                if not math.isfinite(number):
                    raise UserError(
                        "not-finite",
                        self.name,
                        f"{name} of the held-out rows is {number} at step {step}",
                        "write a lower learning_rate, a larger warmup_ratio or precision: fp32",
                    )
            value = found[self.planned.logged]
            Trainer.log(trainer, dict(found))  # TRL's own would add what the training step has noted
            decided = self.decision()
            if self.planned.keep_best and decided.best == step:
                keeping.save(self.folder, step, self.write)
                self._prune()
        self._tell(step, value, decided)
        trainer.control = trainer.callback_handler.on_evaluate(trainer.args, trainer.state, trainer.control, found)
        if decided.stop and step < trainer.state.max_steps:
            self.end(trainer.control)
        return found

    def decision(self) -> Decision | None:
        """What the measurements so far say."""
        return early_stopping.decide(
            self.planned, early_stopping.measured(self.planned, self.trainer.state.log_history)
        )

    def _prune(self) -> None:
        decided = self.decision()
        if decided and self.planned.keep_best and processes.is_main():
            keeping.prune(self.folder, self.planned, decided.best)

    def _tell(self, step: int, value: float, decided: Decision) -> None:
        best = "the best so far" if decided.best == step else f"the best is {decided.value:.4g} at step {decided.best}"
        text = f"{self.name}: step {step}: {self.planned.metric} of the held-out rows is {value:.4g}, {best}"
        stops = decided.stop and step < self.trainer.state.max_steps
        say(f"{text}; training ends, as {self.planned.patience} in a row are no better" if stops else text)

    # ---- after training

    def kept(self) -> Path | None:
        """The folder of the result that is kept in place of the last step's; None where that is the last step's own.

        Raises:
            UserError: it is not there as it was written.
        """
        step = self.decision().best
        if not self.planned.keep_best or step == self.trainer.state.global_step:
            return None
        if best := keeping.result(self.folder, step):
            return best
        raise UserError(
            "changed-file",
            str(self.folder),
            f"the result of the best step, {step}, was changed or removed",
            "run the same command again",
        )

    def summary(self) -> dict[str, Any]:
        """What train.json says of it; steps are the optimiser's."""
        state, decided = self.trainer.state, self.decision()
        points = early_stopping.measured(self.planned, state.log_history)
        ended = state.global_step < state.max_steps
        return {
            "metric": self.planned.metric,
            "logged": self.planned.logged,
            "rows": self.rows,
            "measurements": len(points),
            "best": {"step": decided.best, "value": decided.value},
            "kept_step": decided.best if self.planned.keep_best else state.global_step,
            "stopped_at": state.global_step if ended else None,
            "planned_steps": state.max_steps,
        }


@contextlib.contextmanager
def undisturbed(model: Any) -> Iterator[None]:
    """Within the block the model is in evaluation mode; after it modes and generators are as they were."""
    modes = [(module, module.training) for module in model.modules()]
    python, numpy = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(), torch.no_grad():
            model.eval()
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
        for module, training in modes:
            module.training = training


def begin(
    spec: dict,
    options: Namespace,
    trainer: Any,
    folder: Path,
    write: Callable[[Path], None],
    end: Callable[[Any], None],
) -> Measuring | None:
    """Let a trainer be measured as its spec plans it; None where it plans nothing.

    Raises:
        UserError: there is nothing held out to measure.
    """
    planned, objective = early_stopping.plan(spec), OBJECTIVES[spec["objective"]]
    if planned is None:
        return None
    if planned.of_answers:
        processor = getattr(trainer.model, "processor", None)
        found = held_out_prompts(*options.held_out, spec, planned, trainer.processing_class, processor)
        measure = partial(of_completions, trainer, planned, found)
    else:
        found = trainer.eval_dataset
        measure = partial(losses, trainer, objective)
    steps = spec["ppo_epochs"] * spec["minibatches"] if objective.value_model else 1
    return Measuring(planned, trainer, folder, measure, write, end, len(found), steps)
