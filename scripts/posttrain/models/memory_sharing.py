"""What of a training's memory each of several processes holds, by the strategy that shares it out.

Counted from what the libraries do, on no machine: torch's DistributedDataParallel, FSDP2 (`fully_shard`, one unit a layer) and DeepSpeed's
stages 1 to 3 with its default buckets.
"""

from typing import NamedTuple

from posttrain.runtime.processes import SHARES

SHARDING = [name for name, parts in SHARES.items() if parts]  # from the fewest parts to the most
ZERO = ("zero1", "zero2", "zero3")
BUCKET = 5 * 10**8  # elements of the buffer in which DeepSpeed reduces gradients, `reduce_bucket_size`
UNITS = 2  # layers that are whole at once: the one at work, and the next one


class Hardware(NamedTuple):
    """The configuration's `hardware`, as far as memory depends on it."""

    processes: int = 1
    strategy: str = "single"
    offload: bool = False


ALONE = Hardware()


def of_one(
    parts: dict[str, float], layers: int, inside: float, hardware: Hardware, bf16: bool
) -> tuple[dict[str, float], float]:
    """Bytes that one process holds, by what takes them, and bytes that all processes together hold in the machine's memory.

    Args:
        parts: of a training in one process: `weights`, `gradients` and `optimiser`, gradients in float32.
        layers: of the model.
        inside: share of the weights that belongs to the layers.
        hardware: how many processes, and how they share.
        bf16: whether matrices are multiplied in bfloat16.
    """
    count, strategy, offload = hardware
    if count == 1:
        return parts, 0
    parts, trained, size = dict(parts), parts["gradients"] / 4, 4
    parts["buckets"] = parts["gradients"] if strategy == "ddp" else 0
    if strategy in ZERO:
        parts["optimiser"] += 4 * trained  # what it updates, in float32
        if bf16:
            parts["weights"] -= 2 * trained
            parts["gradients"], size = 2 * trained, 2
        parts["buckets"] = size * BUCKET
    if "weights" in SHARES[strategy]:
        whole = 1 - inside + UNITS * inside / layers
        parts["gathered"] = whole * parts["weights"] + inside / layers * parts["gradients"]
    for part in SHARES[strategy]:
        parts[part] /= count
    moved = SHARES[strategy] if offload else ()
    host = count * sum(parts[part] for part in moved)
    return parts | dict.fromkeys(moved, 0.0), host
