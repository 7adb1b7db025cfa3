"""The diagnosis of a run: what its files prove to be wrong with it."""

import itertools
from pathlib import Path

from posttrain.diagnosis import evidence, loss_rules, other_rules, preference_rules, result_rules, sampling_rules
from posttrain.diagnosis.evidence import Evidence
from posttrain.diagnosis.findings import FINDINGS, Finding

ORDER = list(FINDINGS)


def diagnose(folder: Path) -> list[Finding]:
    """What is wrong with the run whose folder this is, such as `results/sft_lora`; nothing for a healthy one."""
    return examine(evidence.read(folder))


def examine(found: Evidence) -> list[Finding]:
    """What is wrong with a run by its files."""
    rules = (other_rules, loss_rules, preference_rules, sampling_rules, result_rules)
    findings: dict[str, Finding] = {}
    for finding in itertools.chain.from_iterable(part.find(found) for part in rules):
        findings.setdefault(finding.code, finding)  # one of a kind: the rest is the same fault seen elsewhere
    return sorted(findings.values(), key=lambda finding: ORDER.index(finding.code))
