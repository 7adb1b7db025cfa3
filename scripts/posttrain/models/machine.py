"""What memory there is for a training: of the first GPU, or of this machine."""

import os
import subprocess
from pathlib import Path
from typing import NamedTuple


class Memory(NamedTuple):
    """The memory that training will use."""

    device: str
    """cpu or gpu"""
    name: str
    total: int
    """bytes"""
    free: int
    """bytes, now"""
    bf16: bool
    """whether it is multiplied in hardware, as models.precision asks torch"""


def available() -> Memory:
    """The first GPU that may be used, or this machine's memory up to the limit of its container."""
    return _gpu() or of_machine()


def of_one_process(memory: Memory, count: int) -> Memory:
    """What each of several processes may use: a GPU of its own, or its share of the machine's memory."""
    if count == 1 or memory.device == "gpu":
        return memory
    name = f"{memory.name} for each of {count} processes"
    return memory._replace(name=name, total=memory.total // count, free=memory.free // count)


def _gpu() -> Memory | None:
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]
    fields = "name,memory.total,memory.free,compute_cap"
    command = ["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader,nounits", "-i", visible]
    try:
        line = subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout.splitlines()[0]
        name, total, free, capability = line.rsplit(", ", 3)
        return Memory("gpu", name, int(total) * 2**20, int(free) * 2**20, float(capability) >= 8)
    except (OSError, subprocess.SubprocessError, IndexError, ValueError):  # there is none, or it does not tell
        return None


def of_machine() -> Memory:
    """This machine's memory up to the limit of its container, whether or not it has a GPU."""
    import psutil

    memory = psutil.virtual_memory()
    limit = Path("/sys/fs/cgroup/memory.max")
    text = limit.read_text().strip() if limit.exists() else "max"
    most = memory.total if text == "max" else min(memory.total, int(text))
    return Memory("cpu", "this machine", most, min(memory.available, most), multiplies_bf16())


def multiplies_bf16() -> bool:
    """Whether this machine's processor multiplies bfloat16 in hardware."""
    flags = Path("/proc/cpuinfo")
    return flags.exists() and "avx512_bf16" in flags.read_text()
