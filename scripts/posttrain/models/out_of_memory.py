"""What a training stage remembers of its attempts that ran out of memory, so that the next one takes smaller steps.

Out of memory, the micro-batch halves and the accumulation doubles: the batch, the order of the rows and the seed stay.
An error is caught where it is raised. A process that the kernel kills can say nothing, so each attempt leaves a mark while
it is at work, with the kernel's own counts of such kills; the next one finds the mark and a count that has risen.
"""

import contextlib
import errno
import json
import re
from collections.abc import Iterator
from pathlib import Path

from posttrain.methods import METHODS
from posttrain.objectives import OBJECTIVES
from posttrain.runtime import processes
from posttrain.runtime.atomic import read_json, write_json

ATTEMPTS, MARK = "attempts.json", "at_work.json"
# oneDNN reports what it cannot compute while it makes the descriptor of a primitive; the primitive itself fails for want of memory.
WORDS = re.compile(
    "can(?:'t|not) allocate memory|out of memory|CUBLAS_STATUS_ALLOC_FAILED|could not create a primitive(?! desc)",
    re.IGNORECASE,
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a GPU's, torch's own, Python's or the operating system's allocator had no memory left."""
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and bool(WORDS.search(str(error))))


def micro_batch(spec: dict) -> int:
    """Rows in one forward pass of one process."""
    return spec["batch_size"] // spec.get("minibatches", 1) // spec["accumulation"] // processes.count()


def share(spec: dict, most: int | None = None) -> dict:
    """The spec of one of this job's processes: with the same batch, its `accumulation` is that of the rows of one process.

    Args:
        most: rows in one forward pass; by default as many as one process alone would take.
    """
    rows = spec["batch_size"] // spec.get("minibatches", 1)
    most, rows = most or rows // spec["accumulation"], rows // processes.count()
    sizes = [n for n in range(OBJECTIVES[spec["objective"]].least_batch, rows + 1) if rows % n == 0]
    size = max([n for n in sizes if n <= most], default=sizes[0])
    return spec | {"accumulation": rows // size}


def smaller(spec: dict) -> dict | None:
    """The spec with at least twice the accumulation and the same batch, or None where the micro-batch is the smallest."""
    step = micro_batch(spec) * spec["accumulation"]
    least = OBJECTIVES[spec["objective"]].least_batch
    splits = [n for n in range(spec["accumulation"] + 1, step // least + 1) if step % n == 0]
    halves = [n for n in splits if n >= 2 * spec["accumulation"]]
    return spec | {"accumulation": min(halves)} if halves else None


def remedies(spec: dict) -> str:
    """What would fit where the smallest micro-batch does not."""
    method, changes = METHODS[spec["method"]], []
    if not spec["gradient_checkpointing"] and method.gradient_checkpointing:
        changes.append("gradient_checkpointing: true")
    if not method.four_bit:
        changes.append("method: qlora")
    changes.append(f"max_length: {spec['max_length'] // 2}")
    if spec.get("max_new_tokens"):
        changes.append(f"max_new_tokens: {spec['max_new_tokens'] // 2}, or a smaller batch_size to answer at once")
    return ", or ".join(changes)


def recorded(folder: Path) -> list[dict]:
    """The attempts of this spec that ran out of memory, the first one first."""
    file = folder / ATTEMPTS
    return read_json(file) if file.exists() else []


def record(folder: Path, spec: dict, why: str) -> None:
    """Add one: its micro-batch, its accumulation, the last step it took and its peak memory, and why it ended."""
    lines = (folder / "train.jsonl").read_text().splitlines() if (folder / "train.jsonl").exists() else []
    step = json.loads(lines[-1]) if lines else {}
    numbers = {"micro_batch": micro_batch(spec), "accumulation": spec["accumulation"]}
    last = {"last_step": step.get("step", 0), "memory_gib": step.get("memory_gib")}
    write_json(folder / ATTEMPTS, [*recorded(folder), numbers | last | {"why": why}])


@contextlib.contextmanager
def at_work(folder: Path) -> Iterator[None]:
    """Leave a mark in the folder during the block; only a death that Python does not see leaves it for longer."""
    write_json(folder / MARK, kernel_kills())
    try:
        yield
    finally:
        (folder / MARK).unlink(missing_ok=True)


def killed_for_memory(folder: Path) -> bool:
    """Whether the last attempt ended without a word, and the kernel has killed for want of memory since it began."""
    file = folder / MARK
    if not file.exists():
        return False
    before, now = read_json(file), kernel_kills()
    shared = [name for name in now if name in before]
    return bool(shared) and now[shared[0]] > before[shared[0]]


def kernel_kills() -> dict[str, int]:
    """How often the kernel has killed for want of memory: this control group's count, and then the whole machine's.

    Named with the boot that they began at. A container or a batch job has a control group of its own.
    """
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    counts = {}
    for file in [*_group_files(), Path("/proc/vmstat")]:
        words = dict(line.split() for line in file.read_text().splitlines())
        if "oom_kill" in words:
            counts[f"{file} since boot {boot}"] = int(words["oom_kill"])
    return counts


def _group_files() -> Iterator[Path]:
    """The file in which this process's control group counts, in version 2 or 1, as a container sees it."""
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers in ("", "memory"):
            root = Path("/sys/fs/cgroup") / controllers
            name = "memory.oom_control" if controllers else "memory.events"
            yield from [file for file in (root / path.lstrip("/") / name, root / name) if file.exists()][:1]
