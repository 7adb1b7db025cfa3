"""Completing a dataset beside plain loops with `generate` and llama.cpp's server: the same prompts, model and cores, in one run.

    python bench/inference.py
    python bench/inference.py --model results/dpo_lora/merged --tasks commands
    python bench/inference.py --server llama-server --gguf smollm2.f16.gguf
    python bench/inference.py --many 1000000

The model is the demo's SmolLM2-135M, made by the workflow; `commands` are Snips commands with the demo's system prompt, `sums` are
GSM8K questions, whose answers are long. `ours` is what `scripts/predict.py` does, from rows to stored answers. The plain loops are
what a careful user writes with transformers: one prompt at a time, and batches of 8, padded on the left, in the order of the rows.
All three compute in float32, greedily. llama.cpp answers the same token ids over HTTP, as many at once as it has slots; its GGUF
file has to be of the same model. Printed: rows/s, seconds of processor time, how many answers are ours, then `name ratio aim`,
the geometric mean over the tasks.

With `--many`, what is around the model: seconds and peak memory for so many prompts, whose answers are a constant text.
"""

import contextlib
import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import geometric_mean
from typing import Any, NamedTuple

from aims import tell
from common import BASE, CORES, REPOSITORY, parser, project

sys.path.insert(0, str(REPOSITORY / "scripts"))

SYSTEM = "Answer with one tool call in JSON. Tools: AddToPlaylist, GetWeather, PlayMusic, RateBook."
SLOTS = 16  # llama.cpp's, the fastest of 4, 8, 16 and 32 on two cores
ONE, EIGHT, LLAMA = "one at a time", "batches of 8", "llama.cpp"


class Task(NamedTuple):
    """Prompts to answer."""

    file: str
    column: str
    system: list[dict]
    max_new_tokens: int

    def rows(self, count: int) -> list[dict]:
        """Normalised rows, as a dataset has them."""
        with (REPOSITORY / "examples/data" / self.file).open() as file:
            texts = [json.loads(line)[self.column] for line in itertools.islice(file, count)]
        turns = [[*self.system, {"role": "user", "content": text}] for text in texts]
        return [{"id": str(i), "place": f"{self.file} line {i}", "prompt": one} for i, one in enumerate(turns, 1)]


class Server(NamedTuple):
    """llama.cpp's."""

    address: str
    process: int


TASKS = {
    "commands": Task("snips_train.jsonl", "command", [{"role": "system", "content": SYSTEM}], 64),
    "sums": Task("gsm8k_train.jsonl", "question", [], 192),
}


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--model", type=Path, help="the folder of a model, instead of the demo's base")
    options.add_argument("--tasks", nargs="+", default=list(TASKS), choices=list(TASKS))
    options.add_argument("--rows", type=int, default=64, help="of each task")
    options.add_argument("--server", help="llama.cpp's llama-server")
    options.add_argument("--gguf", type=Path, help="the same model for it")
    options.add_argument("--many", type=int, help="prompts whose answers are not computed")
    options = options.parse_args()
    if options.model is None:
        project()

    import logging

    from posttrain.models import loading

    logging.disable(logging.WARNING)
    folder = (options.model or BASE).resolve()
    model, tokenizer = loading.for_inference(folder, "fp32"), loading.tokenizer(folder)
    if options.many:
        many(model, tokenizer, options.many)
        return
    ratios: dict[str, list[float]] = {}
    with contextlib.ExitStack() as stack:
        served = stack.enter_context(server(options.server, options.gguf)) if options.server else None
        for name in options.tasks:
            for other, ratio in compare(name, TASKS[name], options.rows, model, tokenizer, served):
                ratios.setdefault(other, []).append(ratio)
    for other, found in ratios.items():
        tell(f"batch rows/s, ours / {other}", geometric_mean(found))


def compare(name: str, task: Task, count: int, model, tokenizer, served: Server | None) -> Iterator[tuple[str, float]]:
    """Answer a task's prompts in each way; gives the ratios to ours."""
    from posttrain.data.encoding import prompt_tokens

    rows = task.rows(count)
    prompts = [prompt_tokens(tokenizer, row["prompt"]) for row in rows]
    ours(model, tokenizer, rows[:2], 4)  # the first steps are slow
    ways: dict[str, Callable[[], list[str]]] = {
        "ours": lambda: ours(model, tokenizer, rows, task.max_new_tokens),
        EIGHT: lambda: plain(model, tokenizer, prompts, 8, task.max_new_tokens),
        ONE: lambda: plain(model, tokenizer, prompts, 1, task.max_new_tokens),
    }
    if served:
        ways[LLAMA] = lambda: llama(served.address, prompts, task.max_new_tokens)
    expected, rate = None, 0.0
    for way, answer in ways.items():
        start, before = time.perf_counter(), processor_seconds(served and served.process)
        given = answer()
        seconds, used = time.perf_counter() - start, processor_seconds(served and served.process) - before
        expected = given if expected is None else expected
        same = sum(text.strip() == other.strip() for text, other in zip(given, expected, strict=True))
        print(
            f"{name}, {way}: {count / seconds:.2f} rows/s, {used:.0f} s of processor time, {same} of {count} answers are ours"
        )
        sys.stdout.flush()
        if way == "ours":
            rate = count / seconds
            length = sum(len(tokenizer(text)["input_ids"]) for text in given) / count
            print(
                f"{name}: prompts of {min(map(len, prompts))} to {max(map(len, prompts))} tokens, answers of {length:.0f} on average"
            )
        else:
            yield way, rate * seconds / count


def processor_seconds(server: int | None) -> float:
    """Of this process and of the server."""
    others = Path(f"/proc/{server}/stat").read_text().rpartition(")")[2].split()[11:13] if server else []
    return sum(os.times()[:2]) + sum(map(int, others)) / os.sysconf("SC_CLK_TCK")


def ours(model, tokenizer, rows: list[dict], longest: int) -> list[str]:
    """What `scripts/predict.py` does with rows."""
    with tempfile.TemporaryDirectory() as scratch:
        windows = completed(model, tokenizer, rows, longest, Path(scratch, "answers"))
        return [line["completion"] for window in windows for line in window.lines]


def completed(model, tokenizer, rows: Iterable[dict], longest: int, answers: Path) -> Iterator[Any]:
    """Windows of completed rows, with the answers that are remembered in a file."""
    import hashlib

    from posttrain.inference.answer_store import AnswerStore
    from posttrain.inference.completion import Asking, complete

    def name(prompt: list[int]) -> str:
        return hashlib.sha256(json.dumps(prompt).encode()).hexdigest()

    return complete(Asking(model, tokenizer, longest, 1.0, name), rows, AnswerStore(answers), lambda done: None)


def plain(model, tokenizer, prompts: list[list[int]], size: int, longest: int) -> list[str]:
    """A loop with `generate` over batches in the order of the rows."""
    import torch

    texts = []
    for start in range(0, len(prompts), size):
        batch = {"input_ids": prompts[start : start + size]}
        inputs = tokenizer.pad(batch, padding_side="left", return_tensors="pt")
        with torch.no_grad():
            output = model.generate(**inputs, do_sample=False, max_new_tokens=longest)
        texts += tokenizer.batch_decode(output[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    return texts


def many(model, tokenizer, count: int) -> None:
    """Complete so many different prompts without the model, twice: as they come, and once all answers are there."""
    import resource

    from posttrain.inference import scoring

    def constant(model, tokenizer, prompts, *_, **__) -> list[scoring.Answer]:
        return [scoring.Answer("An answer of some length. " * 20, [1] * 100, True) for _ in prompts]

    def rows() -> Iterator[dict]:
        for i in range(count):
            turns = [{"role": "user", "content": f"Number {i}: " + "what is it that is asked here, and why? " * 8}]
            yield {"id": str(i), "place": f"rows.jsonl line {i}", "prompt": turns}

    scoring.generate_batch = constant
    megabytes = [resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024]
    with tempfile.TemporaryDirectory() as scratch:
        for state in ("new", "known"):
            start = time.process_time()
            lines = sum(
                len(window.lines) for window in completed(model, tokenizer, rows(), 256, Path(scratch, "answers"))
            )
            seconds = time.process_time() - start
            megabytes.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
            size = sum(file.stat().st_size for file in Path(scratch).iterdir()) / 1e6
            print(
                f"{lines} rows, {state}: {1e3 * seconds / lines:.2f} ms of processor time a row, {size:.0f} MB on disk"
            )
    print(f"peak memory: {megabytes[0]:.0f} MB with the model, then {megabytes[1]:.0f} and {megabytes[2]:.0f} MB")


# ---- llama.cpp


@contextlib.contextmanager
def server(program: str, gguf: Path) -> Iterator[Server]:
    """A server of llama.cpp that has read the model."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    where = ["--host", "127.0.0.1", "--port", str(port), "--threads", str(CORES), "--parallel", str(SLOTS)]
    command = [program, "-m", str(gguf), *where, "--ctx-size", str(512 * SLOTS), "--no-webui"]
    started = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    address = f"http://127.0.0.1:{port}"
    try:
        while True:
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"{address}/health")
                break
            if started.poll() is not None:
                sys.exit(f"{' '.join(command)}: exit status {started.returncode}")
            time.sleep(0.2)
        yield Server(address, started.pid)
    finally:
        started.send_signal(signal.SIGTERM)
        started.wait()


def llama(address: str, prompts: list[list[int]], longest: int) -> list[str]:
    """The server's greedy answers to token ids, as many at once as it has slots."""

    def ask(prompt: list[int]) -> str:
        body: dict[str, Any] = {"prompt": prompt, "n_predict": longest, "temperature": 0, "cache_prompt": True}
        request = urllib.request.Request(
            f"{address}/completion", json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request) as answer:
            return json.load(answer)["content"]

    with ThreadPoolExecutor(SLOTS) as pool:
        return list(pool.map(ask, prompts))


if __name__ == "__main__":
    main()
