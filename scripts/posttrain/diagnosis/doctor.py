"""The diagnosis of a run: what its files prove to be wrong with it."""

from pathlib import Path

from posttrain.diagnosis import evidence
from posttrain.diagnosis.evidence import Evidence
from posttrain.diagnosis.findings import Finding


def diagnose(folder: Path) -> list[Finding]:
    """What is wrong with the run whose folder this is, such as `results/sft_lora`; nothing for a healthy one."""
    return examine(evidence.read(folder))


def examine(found: Evidence) -> list[Finding]:
    """What is wrong with a run by its files."""
    return []
