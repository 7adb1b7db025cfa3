"""The memory that trainings were measured to take, beside what `models/memory_estimate.py` says.

    python bench/memory.py                     # the tables, from what was measured before; seconds
    python bench/memory.py --measure [N ...]   # train the cases of bench/memory_cases.py again on this machine, or these

Printed are four tables: trainings of random models on this machine's CPU, whose rows have one length (memory_cases.py; measured by
memory_measure.py, kept in memory_measured.json); trainings of SmolLM2-135M on real rows, on a CPU (of the unit test of the
estimate); our stages on an NVIDIA H200 (the table of docs/performance.md, bench/gpu.py; torch's allocator, so the CUDA context is
left out); and figures that others have published, as a check only, since their settings differ. At the end the share of our own
measurements that the estimate meets within 15 %.
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from common import REPOSITORY, parser
from memory_cases import CASES, PAIRS, SHAPES, Case

sys.path.insert(0, str(REPOSITORY / "tests"))
sys.path.insert(0, str(REPOSITORY / "scripts"))

from posttrain.models.memory_estimate import GIB, estimate
from posttrain.models.shapes import Model
from posttrain.planning.fit import spec_of
from posttrain.planning.shapes import model_of

MEASURED = Path(__file__).with_name("memory_measured.json")
NEAR = 0.15
PROMPT = 220  # tokens of the longest prompt of memory_measure.py, with its template
LLAMA = {"model_type": "llama", "dtype": "bfloat16", "vocab_size": 128256, "head_dim": 128, "num_key_value_heads": 8}
MODELS: dict[str, dict[str, Any]] = {
    "Llama-3.2-1B": LLAMA
    | {"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16, "num_attention_heads": 32}
    | {"head_dim": 64, "tie_word_embeddings": True},
    "Llama-3.2-3B": LLAMA
    | {"hidden_size": 3072, "intermediate_size": 8192, "num_hidden_layers": 28, "num_attention_heads": 24}
    | {"tie_word_embeddings": True},
    "Llama-3.1-8B": LLAMA
    | {"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32},
    "Llama-2-7B": LLAMA
    | {"hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32}
    | {"num_key_value_heads": 32, "vocab_size": 32000},
    "Qwen3-0.6B": LLAMA
    | {"model_type": "qwen3", "hidden_size": 1024, "intermediate_size": 3072, "num_hidden_layers": 28}
    | {"num_attention_heads": 16, "vocab_size": 151936, "tie_word_embeddings": True},
}


class Row(NamedTuple):
    """A training, what it took and what was foreseen, in GiB."""

    name: str
    took: float
    foreseen: float
    note: str = ""

    @property
    def error(self) -> float:
        """As a share of what it took."""
        return self.foreseen / self.took - 1


def described(config: dict[str, Any]) -> Model:
    """The model of a configuration."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "config.json")
        file.write_text(json.dumps(config))
        return model_of(file)


def foreseen(case: Case) -> float:
    """GiB of one of memory_cases.py."""
    spec, even = case.spec, case.keys["objective"] in ("sft", *PAIRS)
    longest = spec["max_length"] if spec.get("packing") else case.length if even else PROMPT + spec["max_new_tokens"]
    model = described(SHAPES[case.shape] | {"dtype": "float32"})
    return estimate(spec, model, longest, 0.5, "cpu", spec["precision"] == "bf16", even=even)["total"] / GIB


def ours_on_a_cpu() -> Iterator[Row]:
    """Random models, rows of one length."""
    took = json.loads(MEASURED.read_text())["gib"]
    for number, case in enumerate(CASES):
        if str(number) in took:
            yield Row(f"{case.name} ({case.shape})", took[str(number)], foreseen(case))


def real_rows_on_a_cpu() -> Iterator[Row]:
    """SmolLM2-135M, float32, rows of GSM8K and Snips."""
    from unit.models.test_memory_estimate import MEASURED, SMOLLM2

    for took, spec, longest, share in MEASURED:
        need = estimate(spec, SMOLLM2, longest, share, "cpu", False)["total"]
        changed = {"accumulation": 1, "peft_args": {}} | spec
        more = [
            f"{key}: {changed[key]}"
            for key in ("dropout", "accumulation", "peft_args")
            if changed.get(key, 0) not in (0, 1, {})
        ]
        name = ", ".join([f"{spec['objective']} {spec['method']}", f"{longest} tokens", *more])
        yield Row(name, took, need / GIB)


# Of docs/performance.md: rows of up to 1,024 tokens, 8 at once (8B: 4); of a pair, of up to 818.
ON_H200 = (
    ("Llama-3.2-1B", "sft", "lora", {}, True, 17.89),
    ("Llama-3.1-8B", "sft", "lora", {"gradient_accumulation_steps": 2}, True, 46.13),
    ("Llama-3.2-1B", "dpo", "lora", {}, False, 38.02),
    ("Llama-3.2-1B", "sft", "full", {}, True, 32.46),
    ("Llama-3.1-8B", "sft", "qlora", {"gradient_accumulation_steps": 2}, True, 47.29),
    ("Llama-3.2-1B", "sft", "lora", {}, False, 20.09),
    ("Llama-3.2-1B", "sft", "lora", {"packing": True}, False, 21.36),
    ("Llama-3.2-1B", "sft", "lora", {}, True, 21.30),
    ("Llama-3.2-1B", "sft", "lora", {"gradient_checkpointing": True}, True, 4.63),
    ("Llama-3.2-1B", "dpo", "qlora", {}, False, 20.06),
    ("Qwen3-0.6B", "dpo", "full", {}, False, 39.26),
    ("Qwen3-0.6B", "sft", "lora", {}, True, 24.06),
)


def ours_on_an_h200() -> Iterator[Row]:
    """Our stages on a GPU; the same settings took 17.89 and 21.30 GiB in two rows, so an error of 10 % is the measurement's own."""
    for name, objective, method, keys, liger, took in ON_H200:
        run = {
            "objective": objective,
            "method": method,
            "batch_size": 8,
            "max_length": 1024,
            "precision": "bf16",
        } | keys
        longest = 818 if objective == "dpo" else 1024
        need = estimate(spec_of(run), described(MODELS[name]), longest, 0.5, "gpu", True, liger=liger)
        more = ", ".join([*(f"{key}: {json.dumps(value)}" for key, value in keys.items()), *["Liger"] * liger])
        yield Row(
            f"{name} {objective} {method}{', ' * bool(more)}{more}", took, (need["total"] - need["overhead"]) / GIB
        )


PACKED = {"batch_size": 2, "packing": True, "max_length": 2048}
CHECKPOINTED = {"gradient_checkpointing": True}
TUNE, PRIME = "torchtune, README", "prime-rl, benchmarks/results"
FACTORY = "LLaMA-Factory, wiki"
PUBLISHED = (
    ("Llama-3.1-8B", "lora", PACKED | CHECKPOINTED, 16.2, TUNE, "compiled, RTX 4090"),
    ("Llama-3.1-8B", "lora", PACKED, 30.3, TUNE, "compiled, A6000"),
    ("Llama-3.1-8B", "qlora", PACKED | CHECKPOINTED, 7.4, TUNE, "RTX 4090"),
    ("Llama-3.2-3B", "lora", PACKED | CHECKPOINTED, 8.5, TUNE, "compiled, A100"),
    ("Llama-3.2-3B", "qlora", PACKED | CHECKPOINTED, 4.6, TUNE, "compiled, A100"),
    (
        "Qwen3-0.6B",
        "full",
        {"batch_size": 1, "max_length": 8192, "packing": True},
        31.7,
        PRIME,
        "H100",
    ),
    (
        "Qwen3-0.6B",
        "full",
        {"batch_size": 1, "max_length": 16384, "packing": True},
        52.8,
        PRIME,
        "H100",
    ),
    (
        "Llama-2-7B",
        "qlora",
        CHECKPOINTED | {"batch_size": 1, "max_length": 1024},
        5.6,
        FACTORY,
        "A100, Flash Attention 2, 6 GB",
    ),
    ("Llama-2-7B", "qlora", CHECKPOINTED | {"batch_size": 1, "max_length": 16384}, 17.7, FACTORY, "as before, 19 GB"),
)


def published() -> Iterator[Row]:
    """Figures of other programs on GPUs, whose settings are not all told."""
    for name, method, keys, took, source, note in PUBLISHED:
        spec = spec_of({"method": method, "precision": "bf16"} | keys)
        need = estimate(spec, described(MODELS[name]), spec["max_length"], 1.0, "gpu", True)
        length = f"{spec['batch_size']} x {spec['max_length']:,}"
        recomputed = ", recomputed" if spec["gradient_checkpointing"] else ""
        yield Row(f"{name} {method}, {length}{recomputed}", took, need["total"] / GIB, f"{source}: {note}")


def measure(numbers: list[int]) -> None:
    """Train cases again, and keep what they took."""
    kept = json.loads(MEASURED.read_text()) if MEASURED.exists() else {"gib": {}}
    with tempfile.TemporaryDirectory() as folder:
        script = Path(__file__).with_name("memory_measure.py")
        command = [sys.executable, str(script), folder, *map(str, numbers)]
        lines = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()
    for line in lines:
        if line.startswith('{"number"'):
            made = json.loads(line)
            kept["gib"][str(made["number"])] = made["gib"]
    kept["gib"] = dict(sorted(kept["gib"].items(), key=lambda item: int(item[0])))
    MEASURED.write_text(json.dumps(kept, indent=1) + "\n")


def show(title: str, rows: list[Row]) -> None:
    """Print a table as Markdown, and what share of it is near."""
    print(f"**{title}**\n\n| training | GiB, measured | GiB, estimated | error | |\n|---|---|---|---|---|")
    for row in rows:
        print(f"| {row.name} | {row.took:.2f} | {row.foreseen:.2f} | {row.error:+.0%} | {row.note} |")
    print(f"\n{near(rows)} of {len(rows)} within {NEAR:.0%}\n", flush=True)


def near(rows: list[Row]) -> int:
    """How many are within 15 %."""
    return sum(abs(row.error) <= NEAR for row in rows)


TABLES = {
    "Random models, rows of one length, CPU": ours_on_a_cpu,
    "SmolLM2-135M, real rows, CPU, float32": real_rows_on_a_cpu,
    "Our stages, one H200, bf16 (n = 1 each)": ours_on_an_h200,
}


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--measure", nargs="*", type=int, metavar="N", help="train the cases again, or these")
    given = options.parse_args().measure
    if given is not None:
        measure(given)
    own = {title: list(table()) for title, table in TABLES.items()}
    for title, rows in own.items():
        show(title, rows)
    show("Published by others, as a check", list(published()))
    rows = [row for table in own.values() for row in table]
    print(
        f"Of {len(rows)} own measurements, {near(rows)} ({near(rows) / len(rows):.0%}) are estimated within {NEAR:.0%}."
    )


if __name__ == "__main__":
    main()
