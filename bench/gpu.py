"""Everything that only a GPU can tell, in one command and one table, in at most 8 minutes.

    python bench/gpu.py
    python bench/gpu.py --dry-run      # the same way on a CPU, with tiny models, in less than a minute
    python bench/gpu.py --wheels       # what an offline machine needs, as `pip download` takes it

Trained are models of real shapes with random weights, without a download, by the workflow's own stages and by TRL's trainers with
their defaults. Needed are torch, transformers, peft, trl, datasets, accelerate and pydantic; rows that need bitsandbytes,
flash-attn or liger-kernel say where it is not installed. Rows stand in the order of their importance. Each has a limit of its own and is
measured in a worker process; after a crash or a lack of memory the next row starts in a new one. What does not fit into the
minutes is named "no time". Exits with 1 where a row failed. What the columns mean: docs/performance.md.
"""

import importlib.util
import json
import os
import re
import select
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from common import parser
from gpu_inputs import KILL, SIZES

LEAST = 5  # seconds; a row is not begun with less left
GIVEN = {"flash": "flash_attn", "liger": "liger_kernel", "bits": "bitsandbytes"}
ROOTS = "transformers trl peft datasets accelerate pydantic nvidia-ml-py bitsandbytes"


class Row(NamedTuple):
    """One line of the table."""

    name: str
    shape: str
    work: str
    """a function of gpu_rows.py or gpu_proofs.py"""
    arguments: dict[str, Any] = {}
    needs: str = ""
    """a package that may not be installed"""
    limit: float = 60
    """seconds"""
    apart: bool = False
    """whether it leaves its process changed, as patched kernels do"""
    only_on_gpu: bool = False
    """whether a dry run leaves it out"""


def table(shapes: list[str], dry: bool) -> Iterator[Row]:
    """The rows, the most important first."""
    small, large = shapes[0], shapes[-1]
    main = "1b" if "1b" in shapes else small
    yield Row("bf16 matrix product", "", "machine")
    for shape in dict.fromkeys((main, large)):
        split = {"accumulation": 2} if shape == "8b" and not dry else {}
        yield Row("SFT lora", shape, "ours", split)
        yield Row("`trl sft` lora", shape, "trl")
    yield Row("DPO lora", main, "ours", {"objective": "dpo"})
    yield Row("`trl dpo` lora", main, "trl", {"objective": "dpo"})
    yield Row("SFT full", main, "ours", {"method": "full"})
    yield Row("SFT qlora", large, "ours", {"method": "qlora"} | split, GIVEN["bits"])
    sampled = {
        "max_steps": 4 if not dry else 2,
        "reward": {"function": "answer_format"},
        "max_new_tokens": 8 if dry else 64,
    }
    yield Row("PPO lora", small, "ours", {"objective": "ppo"} | sampled)
    yield Row("kill -9 and resume", small, "resumed", limit=120)
    yield Row("out of memory", small, "out_of_memory")
    yield Row("merge proof", small, "merged")
    yield Row("generation", main, "generated")
    yield Row("generation, plain loop", main, "generated", {"plain": True})
    yield Row("evaluation", main, "scored")
    yield Row("evaluation in fp32", main, "scored", {"precision": "fp32"})
    yield Row("evaluation, plain loop", main, "scored", {"plain": True})
    yield from kernels(main)
    always = {"trainer_args": {"full_determinism": True}}
    yield Row("SFT lora, gradient checkpointing", main, "ours", {"gradient_checkpointing": True})
    yield Row("SFT lora, deterministic", main, "ours", always, apart=True)
    again = Row("kill -9 and resume, deterministic", small, "resumed", always, limit=120, apart=True)
    yield again._replace(only_on_gpu=True)
    yield Row("`trl sft` lora, weights in bf16", main, "trl", {"dtype": "bfloat16"})
    yield Row("DPO qlora", main, "ours", {"objective": "dpo", "method": "qlora"}, GIVEN["bits"])
    yield Row("DPO full", small, "ours", {"objective": "dpo", "method": "full"})
    if small != main:
        yield Row("SFT lora", small, "ours")
        yield Row("`trl sft` lora", small, "trl")
    if large != main:
        yield Row("DPO lora", large, "ours", {"objective": "dpo"} | split)
        yield Row("generation", large, "generated")


def kernels(shape: str) -> Iterator[Row]:
    """SFT by lora with each of what makes it faster, alone; "SFT lora" has all that is installed."""
    none = {"flash": False, "liger": False}
    compiled = {"kernels": none, "trainer_args": {"torch_compile": True}}
    yield Row("SFT lora, SDPA alone", shape, "ours", {"kernels": none})
    yield Row("… Flash Attention, padding_free", shape, "ours", {"kernels": none | {"flash": True}}, GIVEN["flash"])
    yield Row("… SDPA, padding_free", shape, "ours", {"kernels": none, "trainer_args": {"padding_free": True}})
    yield Row("… SDPA, packing", shape, "ours", {"kernels": none, "packing": True})
    yield Row("… SDPA, Liger", shape, "ours", {"kernels": none | {"liger": True}}, GIVEN["liger"], apart=True)
    row = Row("… SDPA, torch.compile", shape, "ours", compiled, limit=120, apart=True)
    yield row._replace(only_on_gpu=True)  # the tracing alone takes minutes of a CPU


class Worker:
    """A process that measures rows, one after the other; it ends with this one."""

    def __init__(self, folder: Path, log: Any, dry: bool) -> None:
        command = [
            sys.executable,
            str(Path(__file__).resolve()),
            "--serve",
            str(folder),
            *(["--dry-run"] if dry else []),
        ]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": log}
        self.process = subprocess.Popen(command, **pipes, env=environment(dry))
        self.buffer = b""
        self.ready = False

    def measure(self, row: Row, limit: float) -> dict[str, Any]:
        """A row's figures, or why there are none."""
        end = time.monotonic() + limit
        if not self.ready:
            if isinstance(answer := self._line(end), dict):
                return answer
            self.ready = True
        request = {"work": row.work, "shape": row.shape, "arguments": row.arguments}
        try:
            self.process.stdin.write(json.dumps(request).encode() + b"\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            return self._died()
        answer = self._line(end)
        return answer if isinstance(answer, dict) else json.loads(answer)

    def _line(self, end: float) -> str | dict[str, Any]:
        """What the process says next, or why it says nothing."""
        while b"\n" not in self.buffer:
            left = end - time.monotonic()
            if left <= 0 or not select.select([self.process.stdout], [], [], left)[0]:
                return {"reason": "no time"}
            piece = os.read(self.process.stdout.fileno(), 65536)
            if not piece:
                return self._died()
            self.buffer += piece
        line, self.buffer = self.buffer.split(b"\n", 1)
        return line.decode()

    def _died(self) -> dict[str, Any]:
        return {"failed": f"the process died with status {self.process.wait()}"}

    def end(self) -> None:
        """Kill the process, whatever it does."""
        self.process.kill()
        self.process.wait()


def environment(dry: bool) -> dict[str, str]:
    """What a worker sees: one GPU, or none; no hub; nothing of the user's settings of the workflow."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("POSTTRAIN", "MLFLOW"))}
    first = "" if dry else os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]
    kept |= {"CUDA_VISIBLE_DEVICES": first, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    return kept


def measure(rows: list[Row], end: float, dry: bool, folder: Path) -> list[dict[str, Any]]:
    """Each row with its figures or its reason, until `end` on the monotonic clock."""
    found, workers = [], []
    with (folder / "log").open("w") as log:

        def begin() -> None:
            workers.append(Worker(folder / "scratch", log, dry))

        try:
            for row in rows:
                left = end - time.monotonic()
                if row.needs and importlib.util.find_spec(row.needs) is None:
                    answer = {"reason": f"{row.needs} is not installed"}
                elif row.only_on_gpu and dry:
                    answer = {"reason": "not in a dry run"}
                elif left < LEAST:
                    answer = {"reason": "no time"}
                else:
                    while len(workers) < (1 if dry else 2):  # the second imports while the first measures
                        begin()
                    started = time.monotonic()
                    answer = workers[0].measure(row, min(left, row.limit if not dry else left))
                    answer["seconds"] = round(time.monotonic() - started, 1)
                    if "failed" in answer or "reason" in answer or (row.apart and not dry):
                        workers.pop(0).end()
                found.append({"row": row.name, "shape": row.shape} | answer)
                tell(found[-1])
                if row is rows[0] and "failed" in answer:
                    break  # not even a worker can begin
        finally:
            for worker in workers:
                worker.end()
    return found


def tell(row: dict[str, Any]) -> None:
    """Say a row as soon as it is there; the table comes at the end."""
    what = row.get("failed") or row.get("reason") or row.get("note", "")
    speed = f"{row['tokens_per_s']:,.0f} tokens/s, " if "tokens_per_s" in row else ""
    print(f"{row['row']} {row['shape']}: {speed}{what} ({row.get('seconds', 0)} s)", file=sys.stderr, flush=True)


# ---- what is printed


def markdown(found: list[dict[str, Any]]) -> str:
    """The machine, the versions and the table, as docs/performance.md has them."""
    first = found[0]
    peak, sheet = first.get("flop_per_s"), first.get("data_sheet")
    lines = [f"{key}: {first[key]}" for key in ("machine", "memory_of_gpu_gib", "cuda") if first.get(key)]
    lines.append(", ".join(f"{name} {number}" for name, number in first.get("versions", {}).items()))
    lines.append(f"data sheet: {sheet / 1e12:.0f} TFLOP/s in bf16" if sheet else "data sheet: not known to TRL")
    lines += [
        "",
        "| row | shape | tokens/s | GiB | of the measured peak | of the data sheet's | |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in found:
        rate = row.get("flop_per_s")
        cells = [
            row["row"],
            row["shape"],
            f"{row['tokens_per_s']:,.0f}" if "tokens_per_s" in row else "",
            f"{row['memory_gib']:.2f}" if "memory_gib" in row else "",
            f"{rate / peak:.1%}" if rate and peak and row is not first else "",
            f"{rate / sheet:.1%}" if rate and sheet else "",
            row.get("failed") or row.get("reason") or row.get("note", ""),
        ]
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines)


def wheels() -> list[str]:
    """NAME==VERSION of what is installed here and the bench needs, torch and what comes with it left out."""
    from importlib.metadata import PackageNotFoundError, requires, version

    from packaging.requirements import Requirement

    waiting, found = ROOTS.split(), {}
    while waiting:
        name = waiting.pop().lower().replace("_", "-")
        if name in found or name == "torch":
            continue
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
        needed = map(Requirement, requires(name) or [])
        waiting += [part.name for part in needed if part.marker is None or part.marker.evaluate({"extra": ""})]
    return [f"{name}=={number}" for name, number in sorted(found.items())]


def arguments() -> Any:
    """The command line; what begins with `serve` or `killed` is for the processes that it starts."""
    options = parser(__doc__)
    options.add_argument("--dry-run", action="store_true", help="on a CPU, with tiny models of the same architectures")
    options.add_argument("--shapes", default=",".join(SIZES), help="of 0.6b,1b,8b")
    options.add_argument(
        "--rows", default="", help="a regular expression; only the rows whose names it finds are measured"
    )
    options.add_argument("--minutes", type=float, default=8)
    options.add_argument("--json", type=Path, help="a file for the figures")
    options.add_argument("--wheels", action="store_true", help="print what an offline machine needs, and end")
    options.add_argument("--serve", type=Path, help="for the workers")
    options.add_argument(KILL, nargs=3, help="for the row that is killed: folder, shape, keys")
    return options.parse_args()


def main() -> None:
    options = arguments()
    if options.wheels:
        print("\n".join(wheels()))
        return
    if options.serve or options.killed:
        import gpu_proofs
        import gpu_worker

        if options.serve:
            gpu_worker.serve(options.serve, options.dry_run)
        else:
            folder, shape, keys = options.killed
            gpu_proofs.killed(Path(folder), shape, json.loads(keys), options.dry_run)
        return
    shapes = [name for name in SIZES if name in options.shapes.split(",")]
    if not shapes:
        sys.exit(f"--shapes: {options.shapes} names none of {', '.join(SIZES)}")
    end = time.monotonic() + 60 * options.minutes - (0 if options.dry_run else 3)
    folder = Path(tempfile.mkdtemp(prefix="posttrain-gpu-"))
    first, *others = table(shapes, options.dry_run)
    chosen = [first, *(row for row in others if re.search(options.rows, f"{row.name} {row.shape}"))]
    found = measure(chosen, end, options.dry_run, folder)
    failed = any("failed" in row for row in found)
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n")
    print(markdown(found))
    if failed:
        sys.exit(f"a row failed; its traceback is in {folder / 'log'}")
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
