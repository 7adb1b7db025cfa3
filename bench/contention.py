"""Training steps with OpenMP's threads asleep while they wait, as stages set it, beside spinning, which is OpenMP's default.

    python bench/contention.py

Two processes do the same steps by turns, on all cores: first on the machine as it is, then beside one process a core that
computes without a pause. A ratio is that of one pair's times; the median of all pairs counts.
"""

import os
import statistics
import subprocess
import sys
import time

from aims import tell
from common import CORES, REPOSITORY, parser

PAIRS = {"quiet": 20, "busy": 5}
MIN_PAIRS, MAX_SECONDS = 3, 120  # of each part
STEPS = 1
LOAD = "import os; parent = os.getppid()\nwhile os.getppid() == parent: pass"  # ends with this process
# Layers of SmolLM2-135M's size, with a smaller vocabulary and fewer of them, so that a step takes part of a second.
SHAPE = {
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "num_hidden_layers": 6,
    "vocab_size": 2048,
}
ROWS, TOKENS = 4, 200


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--worker", choices=("sleep", "spin"), help="do steps when asked to on standard input")
    kind = options.parse_args().worker
    if kind:
        worker(kind)
        return
    ours, theirs = start("sleep"), start("spin")
    tell("training steps, threads asleep / spinning, quiet", measure("quiet", ours, theirs))
    load = [subprocess.Popen([sys.executable, "-c", LOAD]) for _ in range(CORES)]
    try:
        tell("training steps, threads asleep / spinning, busy", measure("busy", ours, theirs))
    finally:
        for process in (*load, ours, theirs):
            process.kill()


def start(kind: str) -> subprocess.Popen:
    """A worker that has taken its first steps."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("OMP_", "GOMP_"))}
    command = [sys.executable, __file__, "--worker", kind]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    process = subprocess.Popen(command, env=environment, **pipes)
    process.stdout.readline()
    return process


def measure(name: str, ours: subprocess.Popen, theirs: subprocess.Popen) -> float:
    """The median of the pairs' ratios of speed; each pair is printed as a part of the spread."""
    ratios, seconds = [], {ours: [], theirs: []}
    begun = time.monotonic()
    for pair in range(PAIRS[name]):
        if pair >= MIN_PAIRS and time.monotonic() - begun > MAX_SECONDS:
            break
        for process in (ours, theirs) if pair % 2 else (theirs, ours):
            print(STEPS, file=process.stdin, flush=True)
            seconds[process].append(float(process.stdout.readline()))
        ratios.append(seconds[theirs][-1] / seconds[ours][-1])
    low, _, high = statistics.quantiles(ratios, n=4)
    rates = [ROWS * TOKENS * STEPS / statistics.median(seconds[process]) for process in (ours, theirs)]
    best = min(seconds[theirs]) / min(seconds[ours])
    print(
        f"{name}: asleep {rates[0]:.0f} tokens/s, spinning {rates[1]:.0f} (medians); {len(ratios)} pairs, "
        f"half of them between {low:.2f} and {high:.2f}; the fastest of each {best:.2f}"
    )
    return statistics.median(ratios)


def worker(kind: str) -> None:
    """Take as many steps as a line of standard input says, and print the seconds."""
    sys.path.insert(0, str(REPOSITORY / "scripts"))
    from posttrain.runtime.script import sleep_while_waiting

    if kind == "sleep":
        sleep_while_waiting()
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from posttrain.models import loading

    torch.set_num_threads(CORES)
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**SHAPE))
    ids = torch.randint(0, SHAPE["vocab_size"], (ROWS, TOKENS))
    bf16 = loading.precision("auto") == "bf16"

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            model(input_ids=ids, labels=ids).loss.backward()
        model.zero_grad()

    for _ in range(3):
        step()
    print("ready", flush=True)
    for line in sys.stdin:
        begun = time.perf_counter()
        for _ in range(int(line)):
            step()
        print(time.perf_counter() - begun, flush=True)


if __name__ == "__main__":
    main()
