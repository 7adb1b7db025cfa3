"""What preflight, data, exports, the machine and the log of a run prove."""

import re
from collections.abc import Iterator
from typing import Any

import numpy as np

from posttrain.diagnosis import trends
from posttrain.diagnosis.evidence import Evidence
from posttrain.diagnosis.findings import Finding
from posttrain.diagnosis.loss_rules import NOT_FINITE
from posttrain.diagnosis.trends import bar, picture
from posttrain.methods import METHODS
from posttrain.models.out_of_memory import WORDS
from posttrain.objectives import OBJECTIVES

TOLD = ("warning", "allowed", "error")  # results of a check that found something
# Checks of the preflight whose finding is a fault of the run, and the code that it has here.
OF_CHECKS = {
    "overlap": "contaminated-benchmark",
    "stop_token": "stop-token-not-learnt",
    "missing_bos": "template-mismatch",
    "double_bos": "template-mismatch",
    "template_drops": "template-mismatch",
    "system_prompt": "template-mismatch",
    "dropped_thoughts": "thinking-mismatch",
    "truncation": "truncated-rows",
    "repeated_rows": "repeated-rows",
    "nothing_trained": "loss-zero",
}
MARKS = re.compile(r"<\|[\w-]+\|>|</?[a-z_]+>|\[/?[A-Z_]+\]|###? ?\w+:")  # how templates mark turns
IDLE = 50  # percent of the GPU's use, below which more than half of what it costs is waiting
BUSY = 80  # percent of all cores: the CPU is what the GPU waits for
MIN_MEASURED = 20  # steps with a reading: fewer are the start-up
MEMORY = re.compile(f"{WORDS.pattern}|out-of-memory|kernel killed|do not fit|GiB are free", re.IGNORECASE)


def find(found: Evidence) -> Iterator[Finding]:
    """The findings that rest on other files than the curves and the evaluation."""
    yield from checks(found)
    for rule in (out_of_memory, other_template, exported, device, failed):
        if finding := rule(found):
            yield finding


def checks(found: Evidence) -> Iterator[Finding]:
    """What the preflight found and the training went on with."""
    told: dict[str, list[str]] = {}
    for check in found.preflight.get("checks", []):
        if check["result"] in TOLD and check["name"] in OF_CHECKS:
            word = "overruled" if check["result"] == "allowed" else check["result"]
            told.setdefault(OF_CHECKS[check["name"]], []).append(
                f"{check['message']} (preflight, {check['name']}: {word})"
            )
    for code, messages in told.items():
        changes = [{"max_length": int(number)} for number in re.findall(r"write max_length: (\d+)", messages[0])]
        yield Finding(code, "; ".join(messages), "", messages[0].partition("; ")[2], tuple(changes))


# ---- memory


def out_of_memory(found: Evidence) -> Finding | None:
    """Attempts that ran out of memory, or a training that did not begin for want of it."""
    attempts = found.attempts
    failed = found.error if MEMORY.search(found.error) else ""
    if not attempts and not failed and not found.was_killed_for_memory:
        return None
    sizes = [attempt["micro_batch"] for attempt in attempts]
    if found.train:
        text = (
            f"ran out of memory with {', '.join(map(str, sizes))} rows at once, and went on with {found.train['micro_batch']}: each start "
            "of this run pays for the failed attempts"
        )
    else:
        killed = "the kernel ended the training for want of memory" if found.was_killed_for_memory else ""
        text = (
            failed
            or killed
            or f"ran out of memory with {', '.join(map(str, sizes))} rows at once, and has not gone on since"
        )
    spec, changes = found.spec, []
    if found.train:
        changes.append({"gradient_accumulation_steps": found.train["accumulation"]})
    elif spec:
        changes += _smaller(spec)
    drawn = (
        bar("of the memory", min(found.preflight["memory"]["total"] / found.preflight["memory"]["there"], 1))
        if _estimated(found)
        else ""
    )
    advice = (
        "fewer rows at once (gradient_accumulation_steps), gradient_checkpointing: true, method: qlora, a smaller "
        "max_length, or a smaller base"
    )
    return Finding("out-of-memory", text, drawn, advice, tuple(changes))


def _estimated(found: Evidence) -> bool:
    memory = found.preflight.get("memory") or {}
    return bool(memory.get("total") and memory.get("there"))


def _smaller(spec: dict[str, Any]) -> list[dict[str, Any]]:
    """Changes of a run that need less memory, the cheapest first."""
    method, changes = METHODS[spec["method"]], []
    if spec.get("accumulation", 1) < spec["batch_size"]:
        changes.append({"gradient_accumulation_steps": spec["batch_size"]})
    if not spec["gradient_checkpointing"] and method.gradient_checkpointing:
        changes.append({"gradient_checkpointing": True})
    if not method.four_bit:
        changes.append({"method": "qlora"})
    return [*changes, {"max_length": spec["max_length"] // 2}]


# ---- templates


def other_template(found: Evidence) -> Finding | None:
    """A base whose conversations are marked by other tokens here than where it was trained."""
    own, given = (set(MARKS.findall(text)) for text in found.templates)
    if not own or own & given:  # one that was only edited keeps its marks
        return None
    text = (
        f"the base comes with a chat template that marks turns by {', '.join(sorted(own)[:3])}, and is given one that has "
        f"none of these ({', '.join(sorted(given)[:3]) or 'no marks'})"
    )
    advice = "take chat_template out of the base, so that it is asked as it was trained, or train for long enough to learn the new one"
    return Finding("template-mismatch", text, "", advice)


def exported(found: Evidence) -> Finding | None:
    """An export whose program makes another prompt of the same conversation than training did."""
    wrong = [
        f"{kind}: {row['value']:.0%} of {row['n']} prompts have the {what}"
        for kind, proof in found.proofs.items()
        for name, what in (("same_tokens", "tokens"), ("same_template", "text"))
        if (row := proof.get(name)) and row["value"] < 1
    ]
    if not wrong:
        return None
    text = f"prompts of an export differ from those in training: {'; '.join(wrong)}"
    advice = "serve with the chat template that lies in the export; the proof of the export names the first prompt that differs"
    return Finding("template-mismatch", text, "", advice)


# ---- the machine


def device(found: Evidence) -> Finding | None:
    """A GPU that waits."""
    lines = [line for line in found.steps if line.get("gpu_percent") is not None]
    lines = lines[len(lines) // 10 :]
    if len(lines) < MIN_MEASURED:
        return None
    used = [float(line["gpu_percent"]) for line in lines]
    middle, processor = float(np.median(used)), float(np.median([line.get("cpu_percent", 0.0) for line in lines]))
    if middle >= IDLE:
        return None
    drawn = picture("GPU", used, " %")
    size = found.train.get("micro_batch", found.spec["batch_size"])
    if processor >= BUSY:
        text = f"the GPU was used to {middle:.0f}% (median of {len(used)} steps) while all cores were busy to {processor:.0f}%"
        advice = (
            "more cores, workers that make the batches (trainer_args.dataloader_num_workers), or fewer other programs"
        )
        return Finding("data-bound", text, drawn, advice, ({"trainer_args.dataloader_num_workers": 4},))
    text = (
        f"the GPU was used to {middle:.0f}% (median of {len(used)} steps) with {size} rows at once, and no more "
        f"than {processor:.0f}% of the cores"
    )
    changes: list[dict[str, Any]] = []
    if found.spec.get("accumulation", 1) > 1:
        changes.append({"gradient_accumulation_steps": 1})
    if found.spec.get("gradient_checkpointing"):
        changes.append({"gradient_checkpointing": False})
    if "packing" in OBJECTIVES[found.spec["objective"]].keys and not found.spec.get("packing"):
        changes.append({"packing": True})
    changes.append({"batch_size": 2 * found.spec["batch_size"]})
    return Finding(
        "device-underused", text, drawn, "more rows at once, packing, no gradient checkpointing", tuple(changes)
    )


# ---- no result


def failed(found: Evidence) -> Finding | None:
    """A step that ended in an error which no other finding explains."""
    refused = [check for check in found.preflight.get("checks", []) if check["result"] == "error"]
    if found.is_at_work or (refused and all(check["name"] in OF_CHECKS for check in refused)):
        return None
    if not found.error or MEMORY.search(found.error) or NOT_FINITE.search(found.error):
        return None
    losses = [line["loss"] for line in found.steps]
    at = f" after step {found.steps[-1]['step']}" if found.steps else ""
    text = f"ended in an error{at}: {found.error}"
    return Finding(
        "failed",
        text,
        trends.picture("loss", losses),
        "docs/errors.md has a section on each error; the log has the whole of it",
    )
