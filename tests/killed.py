"""Trainings that save after given steps whatever the clock says, and that are killed there, as far as one process can play it."""

import contextlib
from collections.abc import Callable, Iterator

import pytest

from posttrain.training import callbacks


class Killed(BaseException):
    """What `kill -9` is to a training, as far as one process can play it."""


def saving(*steps: int, then: Callable[[int], None] = lambda step: None) -> pytest.MonkeyPatch:
    """Save after these steps, and then do something; until the patch is undone.

    Args:
        then: is called after each checkpoint with its step.
    """
    decide, save = callbacks.SaveCheckpoints.on_step_end, callbacks.SaveCheckpoints.on_save

    def on_step_end(self, args, state, control, **options):
        decide(self, args, state, control, **options)
        control.should_save |= state.global_step in steps

    def on_save(self, args, state, control, **options):
        save(self, args, state, control, **options)
        then(state.global_step)

    patch = pytest.MonkeyPatch()
    patch.setattr(callbacks.SaveCheckpoints, "on_step_end", on_step_end)
    patch.setattr(callbacks.SaveCheckpoints, "on_save", on_save)
    return patch


@contextlib.contextmanager
def killed_after(step: int) -> Iterator[None]:
    """The training inside is killed as soon as the checkpoint of this step is written."""

    def die(_: int) -> None:
        raise Killed

    patch = saving(step, then=die)
    try:
        with pytest.raises(Killed):
            yield
    finally:
        patch.undo()
