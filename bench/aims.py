"""What every comparison should reach, and how its line is printed. Ratios of two things that were measured in one run."""

AIMS = {
    "pipeline wall, ours / a plain TRL script": "<= 1.0",
    "sft tokens/s, ours / trl sft": ">= 2.0",
    "dpo pairs/s, ours / trl dpo": ">= 1.5",
    "dpo peak memory, ours / trl dpo": "<= 0.6",
    "sft FLOP/s, ours / matrix multiplication": ">= 0.7",
    "ppo answers/s, ours / trl 1.12": ">= 1.5",
    "sweep of 4 / four chains": "<= 0.40",
    "sweep of 16 / sixteen chains": "<= 0.25",
    "evaluation requests/s, ours / lm-eval hf": ">= 2.0",
    "batch rows/s, ours / batches of 8": ">= 2.0",
    "batch rows/s, ours / one at a time": ">= 2.0",
    "batch rows/s, ours / llama.cpp": ">= 1.0",
    "data rows/s, ours / a plain datasets script": ">= 1.5",
    "nothing to do, ours / a Snakefile of one rule": "<= 1.5",
    "dry run of 1,000 runs, s": "<= 10",
    "dry run of 10,000 runs, s": "<= 100",
    "training steps, threads asleep / spinning, quiet": ">= 0.97",
    "training steps, threads asleep / spinning, busy": ">= 3.0",
    "stage start / import torch, transformers": "<= 1.5",
}


def tell(name: str, ratio: float) -> None:
    """Print one line of the table: `name ratio aim`, and whether the aim is reached."""
    sign, aim = AIMS[name].split()
    reached = ratio >= float(aim) if sign == ">=" else ratio <= float(aim)
    print(f"{name:48} {ratio:7.2f}  {AIMS[name]:>7}  {'reached' if reached else 'MISSED'}", flush=True)
