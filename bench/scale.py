"""What larger models take: memory of each GPU and time, by method and strategy; the tables of docs/scale.md.

    python bench/scale.py

Memory is estimated by posttrain/models/memory_estimate.py from the shapes below, time is computed from floating-point
operations at a stated share of a GPU's peak. Measured numbers are read from the GPU table of docs/performance.md.
"""

import functools
import json
import math
import re
import sys

from common import REPOSITORY, parser

sys.path.insert(0, str(REPOSITORY / "scripts"))
from posttrain.methods import METHODS
from posttrain.models.memory_estimate import GIB, estimate, trained_parameters
from posttrain.models.memory_sharing import ALONE, Hardware
from posttrain.planning import published
from posttrain.planning.published import model
from posttrain.workflow.project import Project

SHAPES = {key: published.SHAPES[key] for key in ("1B", "8B", "32B", "70B")}
LENGTH, BATCH = 2048, 16  # tokens of the longest row, rows of a step
TRAINED = 0.5  # share of the tokens that are trained
GPUS = 8
GPU_GIB = 80  # of an H100 or A100
PEAK = 989e12  # operations per second of an H100 or H200 in bf16, dense, by its data sheet
UTILISATION = 0.2
TOKENS = 100e6
COLUMNS = (
    ("1 GPU", ALONE),
    (f"ddp, {GPUS}", Hardware(GPUS, "ddp")),
    ("zero2", Hardware(GPUS, "zero2")),
    ("zero3", Hardware(GPUS, "zero3")),
    ("fsdp", Hardware(GPUS, "fsdp")),
    ("fsdp, offload", Hardware(GPUS, "fsdp", True)),
)


@functools.cache
def spec(method: str, **keys) -> dict:
    """The spec of an SFT run with default settings, except for a micro-batch of one row and recomputed activations."""
    run = {
        "from": "base",
        "objective": "sft",
        "method": method,
        "data": "rows",
        "max_length": LENGTH,
        "precision": "bf16",
    }
    run |= {"batch_size": BATCH, "gradient_accumulation_steps": BATCH, "gradient_checkpointing": True} | keys
    base = {"source": "hub", "model": "someone/model", "revision": "main"}
    rows = {"hub": "someone/rows", "revision": "main"}
    return json.loads(Project({"bases": {"base": base}, "datasets": {"rows": rows}, "runs": {"run": run}}).spec("run"))


def needed(shape: str, method: str, hardware: Hardware) -> dict[str, float]:
    """GiB in each GPU."""
    found = estimate(spec(method), model(SHAPES[shape]), LENGTH, TRAINED, "gpu", True, hardware)
    return {part: value / GIB for part, value in found.items()}


# ---- tables


def table(head: list[str], rows: list[list[str]]) -> str:
    """A table as Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def shapes() -> str:
    """The shapes and their parameters."""
    rows = [
        [
            key,
            shape.name.rpartition("/")[2].removesuffix("-Instruct"),
            f"{model(shape).parameters / 1e9:.2f}",
            *map(str, shape[1:8]),
            "yes" if shape.tied else "no",
        ]
        for key, shape in SHAPES.items()
    ]
    head = "|model|parameters, 1e9|hidden|intermediate|layers|heads|key-value heads|head|vocabulary|tied".split("|")
    return table(head, rows)


def memory() -> str:
    """GiB of each GPU; in brackets what does not fit, and of offloading what all processes keep in the machine's memory."""
    rows = []
    for shape in SHAPES:
        for method in ("full", "lora", "qlora"):
            cells = []
            for _, hardware in COLUMNS:
                if METHODS[method].four_bit and hardware.strategy not in ("single", "ddp", "zero2"):
                    cells.append("no")  # weights in 4 bits are not shared out
                    continue
                need = needed(shape, method, hardware)
                text = f"{need['total']:.0f}" if need["total"] <= GPU_GIB else f"({need['total']:.0f})"
                cells.append(text + (f" + {need['host']:.0f}" if "host" in need else ""))
            rows.append([shape, method, *cells])
    return table(["", "", *(name for name, _ in COLUMNS)], rows)


def fewest() -> str:
    """GPUs that it takes at least, alone or with fsdp: a power of 2, one row of a step or more for each."""
    rows = []
    for shape in SHAPES:
        cells = []
        for method in ("full", "lora", "qlora"):
            counts = (1,) if METHODS[method].four_bit else (1, 2, 4, 8, 16)
            enough = [n for n in counts if needed(shape, method, Hardware(n, "fsdp"))["total"] <= GPU_GIB]
            cells.append(str(enough[0]) if enough else f"more than {counts[-1]}")
        rows.append([shape, *cells])
    return table(["", "full", "lora", "qlora"], rows)


def operations(shape: str, method: str) -> float:
    """Floating-point operations for each token of a row, as bench/gpu.py counts them: no recomputation, half of attention.

    2 for each weight forwards and 2 backwards, 2 more where it is trained; the LM head at trained tokens alone.
    """
    size, own = SHAPES[shape], model(SHAPES[shape])
    inside = sum(map(math.prod, own.matrices.values()))
    head = size.vocabulary * size.hidden * TRAINED
    trained = trained_parameters(spec(method), own)
    own_trained = min(trained, inside + head) if METHODS[method].full else trained
    attention = 2 * 2 * size.layers * size.heads * size.head * LENGTH / 2
    return 4 * (inside + head) + 2 * own_trained + 3 * attention


def time() -> str:
    """Tokens per second and GPU at the stated utilisation, and what a training takes."""
    rows = []
    for shape in SHAPES:
        for method in ("full", "lora"):
            per_token = operations(shape, method)
            speed = PEAK * UTILISATION / per_token
            hours = TOKENS / speed / 3600
            rows.append(
                [shape, method, f"{per_token / 1e9:.1f}", f"{speed:,.0f}", f"{hours:,.1f}", f"{hours / GPUS:,.1f}"]
            )
    head = ["", "", "GFLOP per token", "tokens/s per GPU", "GPU hours", f"hours on {GPUS} GPUs"]
    return table(head, rows)


def beside_measured() -> str:
    """The estimate for the rows of bench/gpu.py that were measured on one GPU."""
    page = (REPOSITORY / "docs/performance.md").read_text()
    rows = []
    again = ", gradient checkpointing"
    for method, shape, more in (
        ("lora", "1b", ""), ("lora", "1b", again), ("lora", "8b", ""), ("full", "1b", ""), ("qlora", "8b", "")
    ):  # fmt: skip
        line = re.search(rf"^\| SFT {method}{more} \| {shape} \| (.*?) \| (.*?) \| .*? \| (.*?) \|", page, re.M)
        split = 2 if shape == "8b" else 1  # as bench/gpu.py trains them
        keys = {"batch_size": 8, "gradient_accumulation_steps": split, "max_length": 1024}
        given = spec(method, **keys, gradient_checkpointing=bool(more))
        own = model(SHAPES[shape.upper()])
        need = {key: value / GIB for key, value in estimate(given, own, 1024, 0.5, "gpu", True, liger=True).items()}
        parts = ", ".join(
            f"{part} {need[part]:.1f}" for part in ("weights", "gradients", "optimiser", "activations", "logits")
        )
        total = need["total"] - need["overhead"]  # torch's allocator knows nothing of the CUDA context
        rows.append([f"{shape} {method}{more}", line[1], line[3], line[2], f"{total:.1f}", parts])
    return table(["SFT", "tokens/s", "of the peak", "GiB, measured", "GiB, estimated", "of which"], rows)


TABLES = {"shapes": shapes, "memory": memory, "fewest": fewest, "time": time, "beside_measured": beside_measured}


def main() -> None:
    parser(__doc__).parse_args()
    for make in TABLES.values():
        print(f"{make.__doc__.splitlines()[0]}\n\n{make()}\n")


if __name__ == "__main__":
    main()
