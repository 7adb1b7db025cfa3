"""What a training stage takes before its first step, beside importing torch and transformers alone.

    python bench/startup.py

The stage is the workflow's own SFT on a random tiny model, so loading weights and rows is nearly nothing. Its parts are
printed beside: what TRL's trainer takes to import, and what loading any causal language model imports.
"""

import json
import shutil
import sys
import tempfile
import time
from pathlib import Path

from aims import tell
from common import REPOSITORY, parser, snakemake, timed

ROUNDS = 2
IMPORTS = ["import torch, transformers", "from transformers import LlamaForCausalLM", "from trl import SFTTrainer"]


def main() -> None:
    parser(__doc__).parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        shutil.copytree(REPOSITORY / "examples", folder / "examples")
        config = ("--configfile", REPOSITORY / "config/test/tiny.yaml")
        timed(snakemake(folder, *config, "--cores", 1, "results/sft_lora/train.json"), folder, folder / "log")
        seconds = {code: min(importing(code, folder) for _ in range(ROUNDS)) for code in IMPORTS}
        stage = min(starting(folder) for _ in range(ROUNDS))
    for code in IMPORTS:
        print(f"{code}: {seconds[code]:.1f} s")
    print(f"the stage until its first step: {stage:.1f} s")
    tell("stage start / import torch, transformers", stage / seconds[IMPORTS[0]])


def importing(code: str, folder: Path) -> float:
    """Seconds that a line takes in a process of its own."""
    return timed([sys.executable, "-c", code], folder, folder / "log")


def starting(folder: Path) -> float:
    """Seconds from the stage's start until it begins to train."""
    run, base = folder / "results/sft_lora", folder / "results/bases/tiny"
    shutil.rmtree(run / "checkpoints")
    tokens = next((folder / "results/tokens/tiny").iterdir())
    script = [
        sys.executable,
        REPOSITORY / "scripts/train_sft.py",
        "--spec",
        run / "spec.json",
        "--parent",
        base / "model",
    ]
    began = time.time()
    timed([*script, "--manifest", base / "base.json", "--tokens", tokens], folder, folder / "log")
    steps = next(run.glob("checkpoints/*/train.jsonl"))  # written again at each step
    return steps.stat().st_mtime - json.loads(steps.read_text().splitlines()[-1])["seconds"] - began


if __name__ == "__main__":
    main()
