"""Gradients of ZeRO-3 where a step has several backward passes, each of other parameters.

Checked with deepspeed 0.19.8: the first backward pass of a step overwrites what the step before has left of its own parameters'
gradients, and the later ones add. A parameter that only a later pass reaches would add to the gradient of the step before.
It can go once DeepSpeed clears its gradients after a step.
"""

from typing import Any

CHECKED = {"deepspeed": "0.19.8"}


def clear(engine: Any) -> None:
    """Set a ZeRO-3 engine's gradients to 0, after its step."""
    engine.optimizer.grad_partitions_flat_buffer.zero_()
