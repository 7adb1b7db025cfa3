"""The best step of a training: what it would leave if it ended there, kept beside the checkpoints until a better one comes.

`best-{step}/` is sealed as a checkpoint is. It stays as long as a checkpoint from which training may go on counts it as the
best so far, so that a kill at any moment, between a measurement and a checkpoint too, loses nothing.
"""

import contextlib
import shutil
from collections.abc import Callable
from pathlib import Path

from posttrain.runtime import processes
from posttrain.runtime.atomic import read_json, whole_folder
from posttrain.training import checkpoints
from posttrain.training.early_stopping import Plan, decide, measured

BEST = "best-"


def save(folder: Path, step: int, write: Callable[[Path], None]) -> None:
    """Keep what `write` writes to a folder as the result of `step`; it takes the place of an earlier attempt's.

    Every process calls it and its `write`; the first one writes.
    """
    if not processes.is_main():
        write(folder)
        return
    with whole_folder(folder / f"{BEST}{step}") as best:
        write(best)
    checkpoints.write_list(folder / f"{BEST}{step}")


def result(folder: Path, step: int) -> Path | None:
    """The folder of what was kept of `step`; None where it is not there, or not as it was written."""
    best = folder / f"{BEST}{step}"
    return best if checkpoints.is_whole(best) else None


def files(best: Path) -> list[Path]:
    """The files of a result, without the list of their hashes."""
    return [file for file in sorted(best.iterdir()) if file.name != checkpoints.SEAL]


def last(folder: Path, planned: Plan | None) -> Path | None:
    """The newest checkpoint to go on from: one that is whole, and so is the best step that it counts on."""
    while checkpoint := checkpoints.last(folder):
        step = _best(checkpoint, planned)
        if step is None or result(folder, step):
            return checkpoint
        checkpoints.set_aside(checkpoint, f"its best step, {BEST}{step}, is not there as it was written")
    return None


def prune(folder: Path, planned: Plan, best: int) -> None:
    """Remove what was kept of steps that neither are the best now nor were for a checkpoint that is still there."""
    needed = {best, *(_best(checkpoint, planned) for checkpoint in folder.glob("checkpoint-*"))}
    for path in folder.glob(f"{BEST}*"):
        if int(path.name.removeprefix(BEST)) not in needed:
            shutil.rmtree(path)


def clear(folder: Path) -> None:
    """Remove everything that was kept: the training has ended."""
    for path in folder.glob(f"{BEST}*"):
        shutil.rmtree(path)


def _best(checkpoint: Path, planned: Plan | None) -> int | None:
    """The best step as a checkpoint knows it; None where nothing is kept or was measured yet, or it cannot be read."""
    if planned is None or not planned.keep_best:
        return None
    with contextlib.suppress(OSError, ValueError):
        found = decide(planned, measured(planned, read_json(checkpoint / "trainer_state.json")["log_history"]))
        return found and found.best
    return None
