"""Latency and tokens/s of the servers that are installed, at 1, 8 and 32 clients: held-out commands of the demo, greedily.

python bench/serving.py --directory DEMO [--run dpo_lora] [--exports gguf-f16] [--clients 1 8 32] [--requests 64] [--transformers]

DEMO is the folder of a finished demo; exports have to be proved. --transformers also measures `transformers serve` by itself. Each
client asks its next command when it has its answer. A latency is from the request to the whole answer. Tokens per second of the
server's own CPU time, on all cores, do not depend on what else the machine does.
"""

import asyncio
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import openai
import psutil
from common import parser

TOOLS = Path(sys.executable).parent
LONGEST = 48  # tokens of an answer
TRANSFORMERS_PORT = 8765


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--directory", type=Path, required=True)
    options.add_argument("--run", default="dpo_lora")
    options.add_argument("--exports", nargs="*", default=[])
    options.add_argument("--clients", type=int, nargs="+", default=[1, 8, 32])
    options.add_argument("--requests", type=int, default=64)
    options.add_argument("--transformers", action="store_true")
    options = options.parse_args()
    rows = (options.directory / "examples/data/snips_test.jsonl").read_text().splitlines()
    commands = [json.loads(row)["command"] for row in rows][: options.requests]
    print(
        f"{'server':24} {'clients':>7} {'p50 s':>7} {'p90 s':>7} {'p99 s':>7} {'tokens/s':>8} {'/CPU s':>7} {'failed':>6}",
        flush=True,
    )
    for kind in [None, *options.exports]:
        command = [TOOLS / "posttrain", "serve", options.run, "--port", "0", "--directory", options.directory]
        process = subprocess.Popen(
            [*command, *(["--export", kind] if kind else [])],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        url = process.stdout.readline().split(" at ")[1].split(";")[0]
        measure(f"posttrain {kind or 'model'}", process, url, options.run, commands, options.clients)
    if options.transformers:
        model = str((options.directory / f"results/{options.run}/model").resolve())
        command = [TOOLS / "transformers", "serve", model, "--port", str(TRANSFORMERS_PORT), "--device", "cpu"]
        silent = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        process = subprocess.Popen(command, **silent, env=os.environ | {"HF_HUB_OFFLINE": "1"})
        url = f"http://localhost:{TRANSFORMERS_PORT}/v1"
        system = next(
            row for row in (options.directory / "config/config.yaml").read_text().splitlines() if "&system" in row
        )
        measure(
            "transformers serve",
            process,
            url,
            model,
            commands,
            options.clients,
            json.loads(system.split("&system ")[1]),
        )


def measure(
    name: str,
    process: subprocess.Popen,
    url: str,
    model: str,
    commands: list[str],
    counts: list[int],
    system: str | None = None,
) -> None:
    """Print a row for each number of clients, and end the server."""
    for clients in counts:
        asyncio.run(warm(url, model, commands[0], system))
        before, start = cpu_seconds(process), time.perf_counter()
        times, tokens, failed = asyncio.run(load(url, model, commands, clients, system))
        seconds, used = time.perf_counter() - start, tokens / (cpu_seconds(process) - before)
        ordered = statistics.quantiles(times, n=100, method="inclusive")
        p50, p90, p99 = (ordered[i - 1] for i in (50, 90, 99))
        row = f"{name:24} {clients:7} {p50:7.2f} {p90:7.2f} {p99:7.2f} {tokens / seconds:8.1f} {used:7.1f} {failed:6}"
        print(row, flush=True)
    process.kill()
    process.wait()


def cpu_seconds(process: subprocess.Popen) -> float:
    """Of a server and the programs that it started."""
    main = psutil.Process(process.pid)
    return sum(one.cpu_times().user + one.cpu_times().system for one in [main, *main.children(recursive=True)])


def connect(url: str) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0, timeout=600)


async def ask(client: openai.AsyncOpenAI, model: str, command: str, system: str | None) -> int:
    """The number of tokens of an answer."""
    before = [{"role": "system", "content": system}] if system else []
    options = {"messages": [*before, {"role": "user", "content": command}], "temperature": 0, "max_tokens": LONGEST}
    return (await client.chat.completions.create(model=model, **options)).usage.completion_tokens


async def warm(url: str, model: str, command: str, system: str | None) -> None:
    """Wait for the server's first answer."""
    async with connect(url) as client:
        while True:
            try:
                await ask(client, model, command, system)
                return
            except openai.APIConnectionError:
                await asyncio.sleep(0.5)


async def load(
    url: str, model: str, commands: list[str], clients: int, system: str | None
) -> tuple[list[float], int, int]:
    """Seconds of each request, the tokens of all answers, and the number of requests that failed."""
    waiting, times, tokens, failed = list(commands), [], [], 0

    async def work(client: openai.AsyncOpenAI) -> None:
        nonlocal failed
        while waiting:
            start = time.perf_counter()
            try:
                tokens.append(await ask(client, model, waiting.pop(), system))
            except openai.APIError:
                failed += 1
            times.append(time.perf_counter() - start)

    async with connect(url) as client:
        await asyncio.gather(*(work(client) for _ in range(clients)))
    return times, sum(tokens), failed


if __name__ == "__main__":
    main()
