"""Trackers beside MLflow, through transformers' own callbacks: TensorBoard, Weights & Biases, Trackio.

As with MLflow, how a run is watched does not change it and does not stop it: a tracker that fails is said once and left out. A stage
that is resumed goes on in the same run of the tracker, and sends no step twice.
"""

import copy
import os
import secrets
import traceback
from pathlib import Path
from typing import Any

from transformers import TrainerCallback
from transformers.integrations import TensorBoardCallback, TrackioCallback, WandbCallback

from posttrain.runtime.atomic import read_json, write_json
from posttrain.runtime.console import say
from posttrain.runtime.processes import is_main
from posttrain.training import mlflow_tracking

LOGS = Path("results/logs")
CALLBACKS = {"tensorboard": TensorBoardCallback, "wandb": WandbCallback, "trackio": TrackioCallback}


def add(trainer: Any, name: str, folder: Path) -> None:
    """Let the trackers of the configuration (`tracking.also`) watch a trainer.

    Args:
        name: of the run.
        folder: the stage's own, whose name stands for the spec, and where a resumed stage finds what was sent.
    """
    for tracker in mlflow_tracking.settings().get("also", []) if is_main() else []:
        trainer.add_callback(Guarded(tracker, name, folder))


class Guarded(TrainerCallback):
    """A tracker's callback whose failure ends it, and not the training."""

    def __init__(self, tracker: str, name: str, folder: Path) -> None:
        self.tracker, self.name, self.file = tracker, name, folder / f"{tracker}.json"
        self.run = f"{name}-{folder.name[:8]}"  # of another spec, another run
        self.sent = read_json(self.file) if self.file.exists() else {"id": secrets.token_hex(8), "step": 0}
        self.before = self.sent["step"]  # steps after the last checkpoint are trained again; they are logged already
        self.callback: Any = None
        self.ended = False

    def _do(self, event: str, args: Any, *rest: Any, **given: Any) -> None:
        if self.ended:
            return
        try:
            if self.callback is None:
                self.callback = self._begin()
            args = copy.copy(args)
            args.run_name, args.project = self.run, mlflow_tracking.settings()["experiment"]
            getattr(self.callback, event)(args, *rest, **given)
        except Exception as error:  # whatever a tracker's client raises
            traceback.print_exc()  # to the log
            self.ended = True
            say(
                f"{self.name}: {self.tracker} failed ({mlflow_tracking.reason(error)}); training goes on without it, and its numbers are "
                "in train.jsonl"
            )

    def _begin(self) -> Any:
        """The callback, and where it writes: under results/logs, unless the environment says otherwise."""
        self.file.parent.mkdir(parents=True, exist_ok=True)
        write_json(self.file, self.sent)
        if self.tracker == "tensorboard":
            from torch.utils.tensorboard import SummaryWriter

            return TensorBoardCallback(SummaryWriter(str(LOGS / "tensorboard" / self.run)))
        if self.tracker == "wandb":
            LOGS.mkdir(parents=True, exist_ok=True)
            own = {"WANDB_RUN_ID": self.sent["id"], "WANDB_RESUME": "allow"}
            os.environ |= own  # of this run, whatever an outer one has set
            usual = {
                "WANDB_DIR": str(LOGS),
                "WANDB_PROJECT": mlflow_tracking.settings()["experiment"],
                "WANDB_CONSOLE": "off",
            }
            for variable, value in usual.items():
                os.environ.setdefault(variable, value)
            _check_login()
        return CALLBACKS[self.tracker]()

    def on_train_begin(self, *rest: Any, **given: Any) -> None:
        """Begin the tracker's run, or go on in it."""
        self._do("on_train_begin", *rest, **given)

    def on_log(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Send a step's numbers, unless an earlier process has sent them."""
        if state.global_step <= self.before or not state.is_world_process_zero:
            return
        self._do("on_log", args, state, control, **given)
        self.sent["step"] = state.global_step
        write_json(self.file, self.sent)

    def on_train_end(self, *rest: Any, **given: Any) -> None:
        """End the tracker's run."""
        self._do("on_train_end", *rest, **given)


def _check_login() -> None:
    """Refuse to ask for a key: nobody may be there to answer, and training would wait.

    Raises:
        RuntimeError: W&B has no key and is to send what it gets.
    """
    import wandb

    if os.environ.get("WANDB_MODE", "online") in ("online", "run") and not wandb.api.api_key:
        raise RuntimeError("nobody is logged in; run: wandb login, or set WANDB_MODE=offline")
