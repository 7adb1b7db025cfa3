"""Callbacks of every training: stop on a signal, save checkpoints, refuse numbers that are not finite, log each step."""

import json
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import torch
from transformers import TrainerCallback

from posttrain.runtime import processes, slurm
from posttrain.runtime.console import progress, say
from posttrain.runtime.errors import UserError
from posttrain.runtime.script import end_at_once, on_signals
from posttrain.training import checkpoints, mlflow_tracking, strategies
from posttrain.training.results import history, is_finite, memory_gib, non_finite

MAX_SAVING_SHARE = 1 / 20  # of the time, for checkpoints
MAX_ROWS_NAMED = 8


class CheckStart(TrainerCallback):
    """Stop a training whose processes are not what was asked for."""

    def __init__(self, name: str, trainer: Any) -> None:
        self.name, self.trainer = name, trainer

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Once accelerate has prepared the model."""
        strategies.check(self.trainer, self.name)


class StopOnSignal(TrainerCallback):
    """Save a checkpoint and stop after the step in which a signal asks to; the same signal again ends the process at once.

    Until the first step has ended a signal ends the process at once as well, since there is nothing to save. After the last step
    the result is written whatever comes. Several processes agree on the step and on the signal.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.signal: int | None = None  # that this process has got
        self.agreed = 0  # that all processes stop for
        self.is_listening = self.has_ended = False

    def _on_signal(self, number: int, _: Any) -> None:
        self.signal = number
        signal.signal(number, signal.SIG_DFL)
        when = "the result is written" if self.has_ended else "this step; the same command resumes from here"
        say(f"{self.name}: stopping after {when}")

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Save and stop where a signal came; never after the last step, which ends in the result itself."""
        if not self.is_listening:
            self.is_listening = True
            on_signals(self._on_signal)
            if processes.is_main():
                slurm.stop_before_limit()
        if state.global_step >= state.max_steps:
            self.has_ended = True
        elif self._agree():
            control.should_save = control.should_training_stop = True

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Stop after a signal that came while the checkpoint was written."""
        control.should_training_stop |= self._agree()

    def _agree(self) -> bool:
        self.agreed = int(processes.largest(self.signal or 0))
        return self.agreed > 0

    def end_training(self, control: Any) -> None:
        """Let this step be the last: it ends in the result itself, and so is not saved."""
        self.has_ended = True
        control.should_save, control.should_training_stop = False, True

    def leave(self) -> None:
        """After training, and whatever ended it: exit where a signal asked to, and let the next one do so at once.

        Raises:
            SystemExit: with 128 + the signal's number.
        """
        if self.has_ended:
            return
        on_signals(end_at_once)
        if number := self.agreed or self.signal:
            if processes.is_main():
                slurm.requeue()
            sys.exit(128 + number)


class SaveCheckpoints(TrainerCallback):
    """Save a checkpoint every `checkpoint_seconds`, or more rarely where saving would take more than a twentieth of the time.

    To be added after `StopOnSignal`.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.seconds = mlflow_tracking.settings()["checkpoint_seconds"]
        self.saved = self.began = time.monotonic()
        self.last_took = 0.0

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Start the clock where training starts."""
        self.saved = time.monotonic()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Decide whether to save; never after the last step."""
        due = time.monotonic() - self.saved >= max(self.seconds, self.last_took / MAX_SAVING_SHARE)
        due = processes.largest(due) > 0
        control.should_save |= due and state.global_step < state.max_steps
        self.began = time.monotonic()

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Make the checkpoint count, once each process has written its part, and remember how long it took."""
        processes.barrier()
        if processes.is_main():
            checkpoints.seal(self.folder / f"checkpoint-{state.global_step}")
        processes.barrier()
        self.saved = time.monotonic()
        self.last_took = self.saved - self.began


class RefuseNonFinite(TrainerCallback):
    """Stop at a loss or gradient that is not finite, and before weights that are not finite are saved.

    Args:
        rows_of: where the rows of an optimiser step come from, by its number from 1.
    """

    def __init__(self, name: str, rows_of: Callable[[int], list[str]]) -> None:
        self.name, self.rows_of = name, rows_of

    def on_log(
        self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, model: Any = None, **_: Any
    ) -> None:
        """Look at a step's numbers, and at the weights where they are saved after it.

        Raises:
            UserError: naming the step, its rows and the usual remedies.
        """
        if "loss" not in logs:
            return
        wrong = non_finite({"loss": logs["loss"], "gradient's norm": logs.get("grad_norm", 0.0)})
        is_saved = control.should_save or state.global_step >= state.max_steps
        if not wrong and is_saved and not is_finite(model):
            wrong = ["the weights are no longer finite"]
        if not wrong:
            return
        rows = self.rows_of(state.global_step)
        more = f" and {len(rows) - MAX_ROWS_NAMED} more" if len(rows) > MAX_ROWS_NAMED else ""
        on = f" on the rows {', '.join(rows[:MAX_ROWS_NAMED])}{more}" if rows else ""
        raise UserError(
            "not-finite",
            self.name,
            f"{' and '.join(wrong)} at step {state.global_step}{on}",
            "write a lower learning_rate, a larger warmup_ratio or precision: fp32",
        )


class LogSteps(TrainerCallback):
    """Keep one line a step in train.jsonl, with speed and use of the machine, and show where training is."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name, self.file = name, folder / "train.jsonl"
        self.began = self.stepped = time.monotonic()
        self.tokens = 0
        self.seconds_before = 0.0  # that an earlier process has trained

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Start the clocks where training starts, or where the checkpoint's stood."""
        self.began = self.stepped = time.monotonic()
        self.seconds_before = max((line.get("seconds", 0.0) for line in state.log_history), default=0.0)
        psutil.cpu_percent()  # the next call tells the use since this one

    def on_evaluate(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Leave the time of a measurement out of the next step's."""
        self.stepped = time.monotonic()

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **_: Any) -> None:
        """Write the lines so far and show the progress."""
        if "loss" not in logs:
            return
        memory = processes.largest(memory_gib())
        if not processes.is_main():
            return
        now = time.monotonic()
        speed = None
        if "num_tokens" in logs:  # of several steps on the same completions, only the first has it
            speed = (logs["num_tokens"] - self.tokens) / (now - self.stepped) if self.tokens else None
            self.tokens, self.stepped = logs["num_tokens"], now
        state.log_history[-1] |= {
            "tokens_per_second": speed and round(speed, 1),
            "memory_gib": memory,
            "seconds": round(self.seconds_before + now - self.began, 4),
            "cpu_percent": psutil.cpu_percent(),
            "gpu_percent": gpu_percent(),
        }
        with self.file.open("w") as file:
            file.writelines(json.dumps(line) + "\n" for line in history(state.log_history))
        reward = f"  reward {logs['reward']:.3f}" if "reward" in logs else ""
        pace = f"  {speed:.0f} tokens/s" if speed else ""
        progress(
            f"{self.name}: step {state.global_step}/{state.max_steps}  loss {logs['loss']:.4f}{reward}{pace}",
            state.global_step,
            state.max_steps,
        )


def gpu_percent() -> int | None:
    """Use of the GPU; None without one, and where NVML cannot tell: in a container, on a slice of a GPU, without permission."""
    try:
        return torch.cuda.utilization() if torch.cuda.is_available() else None
    except Exception:  # NVML's own errors, whose module may be missing
        return None
