"""The table of the preflight's checks: mistakes that are cheap to find before training and cost days after it.

A check is a function of the `RunContext` and a row of CHECKS under the name that a user writes in `allow:`. It returns nothing where
all is well, or a Finding. docs/preflight.md has a section on each. Nothing here imports torch, since the configuration asks for the
names.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from posttrain.preflight import (
    data_checks,
    environment_checks,
    evaluation_checks,
    settings_checks,
    token_checks,
    tool_checks,
)
from posttrain.preflight.findings import Finding

if TYPE_CHECKING:
    from posttrain.preflight.run_context import RunContext


@dataclass(frozen=True)
class Check:
    """One check."""

    find: Callable[["RunContext"], Finding | None]
    of_tokens: bool = False
    """it looks at the tokens that are trained, which an on-policy objective does not have yet"""
    refused_again: bool = False
    """training refuses the same, so that overruling the check does not help"""


CHECKS: dict[str, Check] = {
    "stop_token": Check(token_checks.stop_token, of_tokens=True),
    "empty": Check(token_checks.empty, of_tokens=True),
    "nothing_trained": Check(token_checks.nothing_trained, of_tokens=True),
    "chosen_is_rejected": Check(token_checks.chosen_is_rejected, of_tokens=True),
    "repeated_rows": Check(token_checks.repeated_rows, of_tokens=True),
    "truncation": Check(token_checks.truncation, of_tokens=True),
    "classes": Check(token_checks.classes, of_tokens=True, refused_again=True),
    "double_bos": Check(token_checks.double_bos),
    "pad_token": Check(token_checks.pad_token),
    "embeddings": Check(token_checks.embeddings),
    "new_tokens": Check(token_checks.new_tokens),
    "context_length": Check(token_checks.context_length),
    "prompt_length": Check(token_checks.prompt_length),
    "overlap": Check(data_checks.overlap),
    "answer_in_prompt": Check(data_checks.answer_in_prompt),
    "missing_bos": Check(data_checks.missing_bos),
    "chat_template": Check(data_checks.chat_template),
    "template_drops": Check(data_checks.template_drops),
    "tool_results": Check(tool_checks.tool_results, of_tokens=True),
    "system_prompt": Check(data_checks.system_prompt),
    "dropped_thoughts": Check(data_checks.dropped_thoughts),
    "packing": Check(settings_checks.packing),
    "architecture": Check(settings_checks.architecture),
    "target_modules": Check(settings_checks.target_modules, refused_again=True),
    "patterns": Check(settings_checks.patterns, refused_again=True),
    "teacher": Check(settings_checks.teacher, refused_again=True),
    "learning_rate": Check(settings_checks.learning_rate),
    "rank": Check(settings_checks.rank),
    "memory": Check(settings_checks.memory),
    "environment": Check(environment_checks.environment, refused_again=True),
    "licence": Check(data_checks.licence),
    "held_out": Check(evaluation_checks.held_out),
    "evaluation": Check(evaluation_checks.evaluation),
    "measuring": Check(evaluation_checks.measuring),
}
NAMES = tuple(CHECKS)


def check(run: "RunContext", allow: list[str]) -> list[dict[str, str]]:
    """The results of all checks, in their order: `name`, `severity` of what was found, `result`, `message` and `example`."""
    results = []
    for name, row in CHECKS.items():
        needless = run.tokens is None and row.of_tokens
        found = Finding("skipped", "the run trains on its own answers") if needless else row.find(run)
        result = {"name": name, "severity": None, "result": "passed", "message": "", "example": ""}
        if found:
            overruled = name in allow and found.severity != "skipped"
            severity = None if found.severity == "skipped" else found.severity
            result |= {"severity": severity, "result": "allowed" if overruled else found.severity}
            result |= {"message": found.message, "example": found.example}
        results.append(result)
    return results
