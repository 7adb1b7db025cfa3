"""The `posttrain` command: what is worth having beside Snakemake's own.

posttrain table smollm2 sft_lora dpo_lora     the models side by side, and one question answered by each
posttrain verify [dpo_lora]                   whether results are still what was built, and of which code and versions
posttrain why dpo_lora                        what would be built again, and which setting or file is the cause
posttrain rebuild-check sft_lora              train it again elsewhere and compare the bits
posttrain send-mlflow sft_lora                send what MLflow missed while it was away
posttrain schema [--check]                    regenerate config/schema.json and the tables of config/README.md

All but schema read the configuration that Snakemake read last in this folder, or --configfile FILE.
"""

import argparse
import os
import shutil
import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

from posttrain.metrics.statistics import shown
from posttrain.reports import verdict_lines
from posttrain.runtime.atomic import read_json
from posttrain.runtime.errors import UserError, nearest
from posttrain.workflow.paths import LAST_CONFIGURATION

if TYPE_CHECKING:
    from posttrain.workflow.project import Project

CONFIG = Path(__file__).resolve().parents[3] / "config"
LOCAL = Path("config/config.yaml")


def main() -> None:
    """Run one of the subcommands; a user's mistake is one line on standard error and exit status 1."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    table_parser = commands.add_parser("table", help="the models side by side")
    table_parser.add_argument("names", nargs="+", help="bases and runs that are evaluated")
    _add_configfile(table_parser)
    table_parser.set_defaults(command=_table)
    schema_parser = commands.add_parser("schema", help="regenerate the schema and the configuration page")
    schema_parser.add_argument("--check", action="store_true", help="only say whether they are up to date")
    schema_parser.set_defaults(command=_schema)
    _add_trust(commands)
    options = parser.parse_args()
    try:
        options.command(options)
    except UserError as error:
        sys.exit(f"posttrain: {error}")


# ---- table


def _table(options: argparse.Namespace) -> None:
    """Print the table; a name without results is looked up in the configuration, which may have it under another name."""
    names = [name.removeprefix("results/").split("/")[0] for name in options.names]
    if not all(map(_is_evaluated, names)):
        project, _ = _project(options)
        names = [name if _is_evaluated(name) else _evaluated(project, name) for name in names]
    print(table(names))


def _is_evaluated(name: str) -> bool:
    return Path(f"results/{name}/eval.json").exists()


def _evaluated(project: "Project", name: str) -> str:
    """The canonical name of a model that is evaluated.

    Raises:
        UserError: there is no such base or run, or it is not evaluated.
    """
    models = [*project.config.bases, *project.config.runs]
    if name.split(",")[0] not in models:
        raise UserError(f"{project.file}: there is no base or run '{name}'; {nearest(name, models)}")
    canonical = name if name in project.config.bases else project.run(name).name
    if not _is_evaluated(canonical):
        raise UserError(f"{name} is not evaluated yet; run: {project.command(f'results/{canonical}/eval.json')}")
    return canonical


def table(names: list[str]) -> str:
    """Metrics of several models with their intervals and verdicts, and one question with everyone's answer.

    Raises:
        UserError: one of them is not evaluated.
    """
    results = [_result(name) for name in names]
    metrics = list(dict.fromkeys(metric for result in results for metric in result["metrics"]))
    rows = [["", *metrics]]
    rows += [
        [name, *(_cell(result, metric) for metric in metrics)] for name, result in zip(names, results, strict=True)
    ]
    fewest = min(rows, list(zip(*rows, strict=True)), key=lambda lines: len(lines[0]))
    text = columns(fewest)
    verdicts = [
        textwrap.fill(line, _width(), subsequent_indent="  ", break_on_hyphens=False, break_long_words=False)
        for result in results
        for line in [*verdict_lines.of(result), *as_it_ships(result)]
    ]
    basis = textwrap.fill(verdict_lines.measured_on(results), _width(), subsequent_indent="  ")
    parts = [f"{text}\n\n{basis}", "\n".join(verdicts), _question(names)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _width() -> int:
    return min(shutil.get_terminal_size().columns, 110)


def _result(name: str) -> dict:
    file = Path(f"results/{name}/eval.json")
    if not file.exists():
        raise UserError(f"{name} is not evaluated yet; run: snakemake --cores 1 {file}")
    return read_json(file)


def _cell(result: dict, metric: str) -> str:
    if metric not in result["metrics"]:
        return "-"
    value, low, high = (shown(metric, result["metrics"][metric][part]) for part in ("value", "low", "high"))
    return f"{value} [{low}, {high}]"


def columns(rows: list[list[str]]) -> str:
    """Rows of cells as text, the first underlined as the header."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([lines[0], "-" * max(map(len, lines)), *lines[1:]])


def as_it_ships(result: dict) -> list[str]:
    """One line with the values of the weights that ship, where their type is another than what was trained."""
    if "shipped" not in result:
        return []
    found = result["shipped"]
    values = [f"{metric} {shown(metric, row['value'])}" for metric, row in found["metrics"].items()]
    return [f"{result['run']} as it ships, in {found['dtype']}: {', '.join(values)}"]


def _question(names: list[str]) -> str:
    """The first generated question and each model's answer, without what it thought."""
    import pyarrow.parquet as pq

    from posttrain.data import thoughts

    tables = [pq.read_table(f"results/{name}/eval/examples.parquet").to_pylist() for name in names]
    asked = [[row for row in rows if row["output"] is not None] for rows in tables]
    if not all(asked):
        return ""
    width = _width()
    first = asked[0][0]
    parts = [("question", first["prompt"]), ("reference", first["reference"])]
    parts += [(name, thoughts.answer(rows[0]["output"])) for name, rows in zip(names, asked, strict=True)]
    margin = max(len(label) for label, _ in parts) + 2
    return "\n".join(_paragraph(label, text, margin, width) for label, text in parts if text is not None)


def _paragraph(label: str, text: str, margin: int, width: int) -> str:
    lines = [
        piece for line in text.strip().splitlines() for piece in textwrap.wrap(line, max(20, width - margin)) or [""]
    ]
    return "\n".join((label if i == 0 else "").ljust(margin) + line for i, line in enumerate(lines or [""]))


# ---- trust


def _add_trust(commands: argparse._SubParsersAction) -> None:
    """The subcommands that read the configuration."""
    for name, command, targets, words in (
        ("verify", _verify, "*", "whether results are still what was built"),
        ("why", _why, 1, "what would be built again, and why"),
        ("rebuild-check", _rebuild_check, 1, "train a run again elsewhere and compare the bits"),
        ("send-mlflow", _send_mlflow, "+", "send finished runs to MLflow, as far as they are not there"),
    ):
        parser = commands.add_parser(name, help=words)
        parser.add_argument("targets", nargs=targets, metavar="TARGET", help="a run, or a file under results/")
        _add_configfile(parser)
        parser.set_defaults(command=command)


def _add_configfile(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--configfile",
        type=Path,
        help="default: the one that snakemake read last in this folder, else config/config.yaml here, else the repository's",
    )


def _project(options: argparse.Namespace) -> "tuple[Project, Path]":
    """The configuration that Snakemake read last in this folder, or would read.

    Raises:
        UserError: it is not there, is no YAML or is refused.
    """
    import yaml

    from posttrain.workflow.project import Project

    file = options.configfile or _found()
    try:
        values = yaml.safe_load(file.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"{file}: it cannot be read ({str(error).splitlines()[0]}); write a YAML file") from None
    if not isinstance(values, dict):
        raise UserError(f"{file}: it has no keys; write bases, datasets and runs in it")
    return Project(values, os.path.relpath(file)), file


def _found() -> Path:
    """The configuration of the last Snakemake command in this folder, or the one that Snakemake would find; an unusual one is told."""
    last = Path(LAST_CONFIGURATION.read_text().strip()) if LAST_CONFIGURATION.exists() else LOCAL
    if last != LOCAL and last.is_file():
        file, why = last, "as the last snakemake command here did"
    elif LOCAL.exists():
        return LOCAL
    else:
        file, why = CONFIG / LOCAL.name, f"as there is no {LOCAL} here"
    print(f"posttrain: reads {file}, {why}; --configfile FILE names another", file=sys.stderr)
    return file


def _verify(options: argparse.Namespace) -> None:
    from posttrain.provenance.verify import verify

    findings = []
    for finding in verify(_project(options)[0], options.targets):
        print(finding, flush=True)
        findings.append(finding)
    if any(finding.wrong for finding in findings):
        sys.exit(1)


def _why(options: argparse.Namespace) -> None:
    from posttrain.provenance.explain import gone, why

    project, file = _project(options)
    target = options.targets[0]
    changes = why(project, target, file)
    print("\n".join(map(str, changes)) or f"nothing: {target} is up to date")
    print("".join(f"{line}\n" for line in gone(project, target)), end="")


def _rebuild_check(options: argparse.Namespace) -> None:
    from posttrain.provenance.rebuild import rebuild_check

    found = rebuild_check(*_project(options), options.targets[0])
    print("\n".join(found) or "the same bits")
    if found:
        sys.exit(1)


def _send_mlflow(options: argparse.Namespace) -> None:
    project, _ = _project(options)
    from posttrain.training import mlflow_tracking  # after a configuration that is refused: it takes seconds

    os.environ[mlflow_tracking.SETTINGS] = project.config.tracking.model_dump_json()
    for target in options.targets:
        print(mlflow_tracking.send(project.run(target.removeprefix("results/").split("/")[0]).name))


def _schema(options: argparse.Namespace) -> None:
    from posttrain.config import documentation

    documentation.write(options.check)


if __name__ == "__main__":
    main()
