"""What was built and is not there any more, and the commands that build a result again."""

from pathlib import Path

from posttrain.workflow import judging, paths
from posttrain.workflow.project import Project

FOLDERS = ("trained", "merged", "model")  # of a run


def gone(project: Project, models: list[str]) -> list[str]:
    """A sentence for each folder of these models, and of all that they are made from, that was built and is gone.

    Snakemake does not miss such a folder as long as nothing that it is asked for reads it.
    """
    lost = []
    for model in project.graph.parents_first(models):
        base = model in project.config.bases
        folder = Path(project.folder_of(model))
        built = (folder / ("base.json" if base else "provenance.json")).exists()
        lost += [folder / part for part in (["model"] if base else FOLDERS) if built and not (folder / part).exists()]
    return [f"{folder} is gone; to build it again: {project.command(str(folder))}" for folder in lost]


def rebuild(project: Project, result: str, wrong: list[str]) -> str:
    """The command that builds a result again of which something is edited or gone.

    Args:
        project: the configuration.
        result: a run, `RUN/eval`, `RUN/export/KIND`, `bases/NAME`, `data/NAME` or a folder of tokens.
        wrong: what is wrong with it; each begins with the file's place in the result's folder.
    """
    if result.endswith("/eval"):
        model = result.removesuffix("/eval")
        judged = f"{paths.examples(model)} " if judging.suites(project.config) else ""  # of two jobs, both are forced
        return project.command(f"--force {judged}{paths.evaluation(model)}")
    run, _, kind = result.partition("/export/")
    if kind:
        return project.command(f"--force {paths.export(run, kind)} {paths.proof(run, kind)}")
    table = paths.target(paths.of(result)).table
    if table:
        file = {"bases": "base.json", "data": "data.json", "tokens": "report.json"}[table]
        return project.command(f"--force {paths.of(result, file)}")
    trained = any(said.startswith(("trained/", "train.json")) for said in wrong)
    again = project.command(f"--force {paths.of(result, 'trained' if trained else 'merge.json')}")
    return f"rm -r {paths.of(result, 'checkpoints')}; {again}" if trained else again
