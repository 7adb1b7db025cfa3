"""How fast this machine computes: matrix products, and the forward and backward pass of two layers of the base's shape.

It takes seconds, and is kept under results/ for each machine, so that later plans rest on it where they have no records.
"""

import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from posttrain.models.shapes import Model
from posttrain.planning.work import SCORE, STEP, TRAIN
from posttrain.runtime.atomic import read_json, write_json
from posttrain.workflow import paths

if TYPE_CHECKING:
    from posttrain.planning.timing import Machine

LAYERS, ROWS, LENGTH = 2, 4, 128
REPEATS = 5
SIDE = 1024  # of the square matrices that are multiplied
# Share of the probe's speed that a whole training, or evaluation, reaches: optimiser, adapters, padding, records.
OVERHEAD = {TRAIN: 0.8, SCORE: 0.8}


def read(machine: "Machine") -> dict[str, Any] | None:
    """Operations a second that were measured on a machine like this one; None where none was."""
    found = read_json(paths.PROBE) if paths.PROBE.exists() else {}
    return found.get(key(machine))


def key(machine: "Machine") -> str:
    """What the measurements of a machine are kept under."""
    cpus = Path("/proc/cpuinfo")
    lines = cpus.read_text().splitlines() if cpus.exists() else []
    name = next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.processor())
    return f"{machine.gpu or name}, {machine.threads} threads"


def measure(model: Model | None, machine: "Machine") -> dict[str, Any]:
    """Measure this machine on a model's shape, or on that of a small Llama, and write it down.

    Returns:
        Operations a second of matrix products (`matmul`), of training (`train`) and of scoring (`score`).
    """
    import torch

    device = torch.device("cuda" if machine.gpu else "cpu")
    two = _two_layers(model).to(device)
    parameters = sum(parameter.numel() for parameter in two.parameters())
    two.requires_grad_(False)
    vectors = torch.randn(ROWS, LENGTH, two.config.hidden_size, device=device, requires_grad=True)
    tokens = torch.zeros(ROWS, LENGTH, dtype=torch.long, device=device)

    def train() -> None:  # as with an adapter: gradients of what goes through the layers, and not of their weights
        with torch.autocast(device.type, torch.bfloat16, enabled=machine.bf16):
            two(inputs_embeds=vectors, labels=tokens).loss.backward()

    def score() -> None:
        with torch.no_grad():
            two(input_ids=tokens)

    left, right = (torch.randn(SIDE, SIDE, device=device) for _ in range(2))
    if machine.bf16:
        left, right = left.bfloat16(), right.bfloat16()
    each = ROWS * LENGTH + STEP
    found = {
        "matmul": 2 * SIDE**3 / _seconds(lambda: left @ right),
        TRAIN: OVERHEAD[TRAIN] * 4 * parameters * each / _seconds(train),
        SCORE: OVERHEAD[SCORE] * 2 * parameters * each / _seconds(score),
    }
    before = read_json(paths.PROBE) if paths.PROBE.exists() else {}
    paths.PROBE.parent.mkdir(exist_ok=True)
    write_json(paths.PROBE, before | {key(machine): found})
    return found


def _two_layers(model: Model | None) -> Any:
    """A model of random weights with two layers of this shape."""
    from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig

    if model is None:
        return AutoModelForCausalLM.from_config(
            LlamaConfig(hidden_size=512, intermediate_size=1536, num_hidden_layers=2)
        )
    values = dict(model.config) | {"num_hidden_layers": LAYERS, "layer_types": None}
    config = AutoConfig.for_model(values.pop("model_type"), **values)
    return AutoModelForCausalLM.from_config(config)


def _seconds(work: Callable[[], Any]) -> float:
    """Of a call, the median of several after a first one."""
    import torch

    taken = []
    for _ in range(REPEATS + 1):
        start = time.perf_counter()
        work()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        taken.append(time.perf_counter() - start)
    return statistics.median(taken[1:])
