"""The diagnosis of a run: what its files prove to be wrong with it."""

from pathlib import Path

from posttrain.diagnosis import evidence, loss_rules, other_rules, preference_rules, result_rules, sampling_rules
from posttrain.diagnosis.evidence import Evidence
from posttrain.diagnosis.findings import FINDINGS, Finding

ORDER = list(FINDINGS)
# A model that has learnt nothing, or lost it again, also answers badly: that is told by its cause alone.
CAUSES = {
    "diverged",
    "loss-zero",
    "reward-hacking",
    "kl-explosion",
    "learning-rate-too-high",
    "learning-rate-too-low",
    "flat-loss",
}
SYMPTOMS = {"stop-token-not-learnt", "repetition", "worse-than-the-parent"}


def diagnose(folder: Path) -> list[Finding]:
    """What is wrong with the run whose folder this is, such as `results/sft_lora`; nothing for a healthy one."""
    return examine(evidence.read(folder))


def examine(found: Evidence) -> list[Finding]:
    """What is wrong with a run by its files."""
    findings: dict[str, Finding] = {}
    for part in (other_rules, loss_rules, preference_rules, sampling_rules, result_rules):
        for finding in part.find(found):
            is_explained = part is result_rules and finding.code in SYMPTOMS and not CAUSES.isdisjoint(findings)
            if not is_explained:
                findings.setdefault(finding.code, finding)  # one of a kind: the rest is the same fault seen elsewhere
    return sorted(findings.values(), key=lambda finding: ORDER.index(finding.code))
