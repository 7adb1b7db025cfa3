"""`posttrain doctor`: what is wrong with runs, by their files."""

import argparse
import json
import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

from posttrain.cli import configuration
from posttrain.runtime.errors import UserError

if TYPE_CHECKING:
    from posttrain.diagnosis.evidence import Evidence
    from posttrain.diagnosis.findings import Finding
    from posttrain.workflow.project import Project

WIDTH = 110  # characters of a line


def run(options: argparse.Namespace) -> None:
    """Print the findings of each run; exit status 1 where there is one."""
    from posttrain.diagnosis import doctor, evidence, next_runs
    from posttrain.workflow import paths

    project, _ = configuration.project(options)
    diagnoses = []
    for name in [_run(project, target) for target in options.targets]:
        folder = Path(paths.of(name))
        found = evidence.read(folder)
        if found.state == "not begun":
            hint = f"run: {project.command(paths.evaluation(name))}"
            raise UserError("not-built", name, "nothing of its training is there yet", hint)
        findings = [next_runs.with_target(project, name, finding) for finding in doctor.examine(found)]
        diagnoses.append((found, findings))
        if not options.json:
            print("\n".join(_lines(project, found, findings)), flush=True)
    if options.json:
        print(json.dumps({"runs": [_values(found, findings) for found, findings in diagnoses]}, indent=1))
    if any(findings for _, findings in diagnoses):
        sys.exit(1)


def _run(project: "Project", target: str) -> str:
    """The canonical name of a run that a target names.

    Raises:
        UserError: there is no such run, or it is a base.
    """
    name = project.model_named(target) or target
    if name in project.config.bases:
        raise UserError("unknown-name", name, "it is a base, which nobody has trained here", "name a run")
    return project.run(name).name


def _lines(project: "Project", found: "Evidence", findings: "list[Finding]") -> list[str]:
    """A diagnosis for people."""
    count = f"{len(findings) or 'no'} finding{'s' * (len(findings) != 1)}"
    steps = f", {found.steps[-1]['step']} steps" if found.steps else ""
    lines = [f"{found.run}: {found.state}{steps}: {count}"]
    for finding in findings:
        lines += ["", f"  {finding.code} ({finding.group})", *_wrapped(f"{finding.sentence}.")]
        lines += [f"    {finding.picture}"] if finding.picture else []
        lines += _wrapped(f"change: {finding.advice}") if finding.advice else []
        lines += [f"    try: {project.command(finding.target)}"] if finding.target else []
        lines += [f"    read: {_page(finding)}"]
    if found.missing:
        lines += ["", f"  not looked at, as it is not there: {', '.join(found.missing)}"]
    return lines


def _page(finding: "Finding") -> str:
    """The page about a finding, where it lies: in this folder, or in the repository that posttrain is installed from."""
    name = finding.page.partition("#")[0]
    return finding.page if Path(name).exists() else f"{configuration.CONFIG.parent}/{finding.page}"


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, initial_indent="    ", subsequent_indent="    ", break_long_words=False)


def _values(found: "Evidence", findings: "list[Finding]") -> dict[str, Any]:
    """A diagnosis for programs."""
    return {
        "run": found.run,
        "state": found.state,
        "steps": found.steps[-1]["step"] if found.steps else 0,
        "findings": [
            {
                "code": finding.code,
                "class": finding.group,
                "sentence": finding.sentence,
                "picture": finding.picture,
                "key": finding.kind.key,
                "advice": finding.advice,
                "change": finding.changes[0] if finding.target else None,
                "target": finding.target or None,
                "page": finding.page,
            }
            for finding in findings
        ],
        "not_looked_at": found.missing,
    }
