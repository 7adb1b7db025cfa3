"""How stages, times and reasons are told."""

import re
from pathlib import Path

# Jobs that are no stages: they write settings down, link a name, or only collect files.
MINOR = ("all", "alias", "context", "spec")
# Rules that only say where a job runs.
STAGES = {"base_here": "base", "data_online": "data"}
# The wildcards by which a job is named; the others are details.
NAMES = ("run", "dataset", "base", "sweep", "pair", "kind", "alias", "target")
REASONS = {
    "Incomplete output files": "was not finished",
    "Forced execution": "forced, or not finished",
    "Code has changed since last execution": "its command has changed",
    "Params have changed since last execution": "its settings have changed",
    "Set of input files has changed since last execution": "is made from other files",
}


def name(rule: str, wildcards: dict[str, str]) -> str:
    """A job as people name it: `sft sft_lora`, `tokens gsm8k for tiny`."""
    if rule == "tokens":
        return f"tokens {wildcards['dataset']}{wildcards['trained']} for {wildcards['base']}"
    if rule in ("logprobs", "topk"):
        return f"{rule} {wildcards['dataset']} by {wildcards['run']}"
    return " ".join([STAGES.get(rule, rule), *(wildcards[key] for key in NAMES if key in wildcards)])


def clock(seconds: float) -> str:
    """A duration as 0:07, 1:12 or 1:02:03."""
    minutes, seconds = divmod(max(0, round(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


def count(number: int, noun: str) -> str:
    """`1 stage`, `2 stages`."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def briefly(reason: str, output: list[str]) -> str:
    """Snakemake's reason for a job in a few words.

    Args:
        reason: as the job's event has it: `KIND: FILE, FILE; KIND: FILE`.
        output: the job's files.
    """
    kind, _, rest = re.split(r"; (?=[A-Z])", reason)[0].partition(": ")
    files = rest.split(", ") if rest else []
    if kind == "Missing output files":
        return f"{several(files)} missing" if any(Path(file).exists() for file in output) else "not built yet"
    if any(Path(file).name == "spec.json" for file in files):
        return "its settings have changed"
    if kind == "Updated input files":
        return f"{several(files)} newer"
    if kind == "Input files updated by another job":
        return "what it is made from is built again"
    return REASONS.get(kind, kind)


def several(files: list[str]) -> str:
    """The first file, and how many more there are."""
    verb = "is" if len(files) == 1 else "are"
    return files[0] + (f" and {len(files) - 1} more {verb}" if files[1:] else f" {verb}")
