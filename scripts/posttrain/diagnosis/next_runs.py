"""The run to try next: a target that the configuration accepts."""

from typing import Any

from posttrain.config import aliases
from posttrain.config.overrides import text
from posttrain.diagnosis.findings import Finding
from posttrain.runtime.errors import UserError
from posttrain.workflow import paths
from posttrain.workflow.project import Project


def with_target(project: Project, run: str, finding: Finding) -> Finding:
    """A finding with the target of the first of its changes that makes another run which the configuration accepts.

    Args:
        run: the canonical name of the run that the finding is about.
    """
    for change in finding.changes:
        if target := _target(project, run, change):
            return finding._replace(target=target, changes=(change,))
    return finding


def _target(project: Project, run: str, change: dict[str, Any]) -> str:
    """The evaluation of a run with changed keys; empty where the configuration refuses it, or where it is the same run."""
    name, *written = run.split(",")
    values = dict(override.split("=", 1) for override in written)
    values |= {aliases.in_spec(key): text(value) for key, value in change.items()}
    try:
        other = project.run(",".join([name, *(f"{key}={value}" for key, value in values.items())])).name
    except UserError:
        return ""
    return paths.evaluation(other) if other != run else ""
