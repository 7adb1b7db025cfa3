"""Models that a command line names: whether there is such a base or run, and where what was built of it lies."""

from pathlib import Path
from typing import TYPE_CHECKING

from posttrain import exports
from posttrain.runtime.errors import UserError, nearest
from posttrain.workflow import paths

if TYPE_CHECKING:
    from posttrain.workflow.project import Project


def canonical(project: "Project", name: str) -> str:
    """The canonical name of a base or run.

    Raises:
        UserError: there is none of that name.
    """
    models = [*project.config.bases, *project.config.runs]
    if name.split(",")[0] not in models:
        raise UserError("unknown-name", project.file, f"there is no base or run '{name}'", nearest(name, models))
    return project.names.model(name)


def built(project: "Project", name: str, folder: str) -> Path:
    """A folder of a model, which has to be there.

    Raises:
        UserError: it is not built; the hint is the command that builds it.
    """
    if not Path(folder).exists():
        raise UserError("not-built", name, "it is not built yet", f"run: {project.command(folder)}")
    return Path(folder)


def check_kind(project: "Project", name: str, kind: str) -> None:
    """Look at a kind of export of a model that a command line names.

    Raises:
        UserError: there is no such kind, the model cannot have it, or is a base.
    """
    if name in project.config.bases:
        raise UserError("unsupported-export", name, "it is a base, and only runs are exported", "name a run")
    run = project.run(name).run
    exports.check(f"{name}: {kind}", kind, run.method, run.objective)


def trained_with(project: "Project", name: str) -> str | None:
    """The system prompt that the rows of a run share; None of a base, and where there is none."""
    from posttrain.data import system_prompts

    if name in project.config.bases:
        return None
    rows = Path(paths.data(project.run(name).run.data, "train.parquet"))
    return system_prompts.of_rows(rows) if rows.exists() else None
