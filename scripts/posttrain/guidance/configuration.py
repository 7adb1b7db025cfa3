"""The configuration of a recommendation: YAML with a comment on each decision."""

import textwrap
from pathlib import Path
from typing import Any

import yaml

from posttrain.guidance.facts import Rows
from posttrain.guidance.stages import Decision, Question, Stage, data_row, evaluated_in
from posttrain.objectives import OBJECTIVES
from posttrain.runtime.errors import printable

WIDTH = 120


def text(question: Question, made: list[Stage], decisions: list[Decision], paths: dict[str, str]) -> str:
    """The file's text.

    Args:
        paths: of `examples` and `preferences`, where there are such rows.
    """
    source = question.source
    notes = {decision.about: decision for decision in decisions}
    lines = [
        *_comment(
            0,
            f"Recommended by `posttrain recommend` for {source.name}, {question.purpose.name}, {question.place.says}.",
        ),
        "# Each comment names the rows of the LLM Fine-tuning Guide 2025 that a choice rests on; docs/guide/choose.md shows them.",
        "# Every key: config/README.md of posttrain.",
        "",
        "bases:",
        *_comment(
            2,
            f"{source.billions:.3g}e9 parameters; {source.says}. Add `licence:` (SPDX), which is checked with `use: commercial`.",
        ),
        f"  {source.name}: {_flow(source.keys)}",
        "",
        "datasets:",
    ]
    for name, rows in _datasets(question).items():
        yours = "" if rows.path else "; put yours here, these are sample rows"
        lines += [*_comment(2, rows.says + yours), f"  {name}: {_flow({'path': paths[name]})}"]
    lines += ["", "runs:"]
    parent = source.name
    for stage in made:
        about = ["objective", "method", "rank and rate"] if stage is made[0] else []
        lines += [line for name in about if name in notes for line in _comment(2, _note(notes[name]))]
        keys = {"from": parent, "objective": stage.objective, "method": stage.method, "data": _data(stage)}
        settings = stage.keys | stage.fit.keys
        lines.append(f"  {stage.name}:")
        lines.append(f"    # about {stage.fit.gib:.1f} GiB of memory, by the estimate that the preflight uses")
        lines += [f"    {key}: {_value(value)}" for key, value in (keys | settings).items()]
        parent = stage.name
    if any(stage.fit.strategy for stage in made):
        strategy = "fsdp" if any(stage.fit.strategy == "fsdp" for stage in made) else "ddp"
        lines += ["", f"hardware: {_flow({'processes': question.place.gpus, 'strategy': strategy})}"]
    lines += ["", *_evaluation(question, made)]
    return "\n".join(lines) + "\n"


def _comment(indent: int, words: str) -> list[str]:
    return textwrap.wrap(
        printable(words),
        WIDTH,
        break_on_hyphens=False,
        initial_indent=" " * indent + "# ",
        subsequent_indent=" " * indent + "# ",
    )


def _datasets(question: Question) -> dict[str, Rows]:
    both = {"examples": question.examples, "preferences": question.preferences}
    return {name: rows for name, rows in both.items() if rows}


def _data(stage: Stage) -> str:
    return "examples" if OBJECTIVES[stage.objective].from_demonstrations else "preferences"


def _note(decision: Decision) -> str:
    return f"{decision.about}: {decision.choice} ({', '.join(decision.rows)})"


def _evaluation(question: Question, made: list[Stage]) -> list[str]:
    precision, _ = evaluated_in(question, made)
    lengths = max(stage.fit.keys["max_length"] for stage in made)
    lines = [
        "evaluation:",
        f"  max_length: {lengths}",
        "  limit: 100 # held-out rows of each dataset that are measured",
    ]
    if precision != "fp32":
        lines.append("  precision: bf16 # in float32 the whole model does not fit into memory")
    if data_row(question).few_shot and question.examples and question.examples.type == "messages":
        lines += [
            "  suites:",
            "    # data-small: what the base does with two examples in its prompt, beside what training makes of it",
            "    few_shot: {kind: generation, data: examples, num_fewshot: 2, metrics: [rougeL, chrf], limit: 50}",
        ]
    return lines


def _value(value: Any) -> str:
    """A value as YAML 1.1 reads it back."""
    return yaml.safe_dump(value, default_flow_style=True, width=10**6).removesuffix("\n").removesuffix("\n...")


def _flow(values: dict[str, Any]) -> str:
    return yaml.safe_dump(values, default_flow_style=True, sort_keys=False, allow_unicode=True, width=10**6).strip()


def parsed(text: str, file: Path) -> dict[str, Any]:
    """The values of a configuration's text, checked as Snakemake's are.

    Raises:
        UserError: for what is wrong in it.
    """
    from posttrain.config.plain_values import check_text
    from posttrain.workflow.project import Project

    check_text(text, str(file))
    values = yaml.safe_load(text)
    Project(values, str(file))
    return values
