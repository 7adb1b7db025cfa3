"""Which configuration a command reads: the one that Snakemake read last in this folder, unless another is named."""

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from posttrain.runtime.errors import UserError

if TYPE_CHECKING:
    from posttrain.workflow.project import Project

CONFIG = Path(__file__).resolve().parents[3] / "config"
LOCAL = Path("config/config.yaml")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add --configfile and --directory."""
    parser.add_argument(
        "--configfile",
        type=Path,
        help="default: the one that snakemake read last in this folder, else config/config.yaml here, else the repository's",
    )
    parser.add_argument(
        "--directory", type=Path, help="the project's folder, as snakemake's --directory; default: this one"
    )


def enter(options: argparse.Namespace) -> None:
    """Make the project's folder the current one; a file named by --configfile stays what it is."""
    if getattr(options, "directory", None) is None:
        return
    options.configfile = options.configfile and options.configfile.resolve()
    try:
        os.chdir(options.directory)
    except OSError as error:
        raise UserError("missing-file", str(options.directory), f"it cannot be entered ({error.strerror})") from None


def project(options: argparse.Namespace) -> "tuple[Project, Path]":
    """The project and the file of its configuration.

    Raises:
        UserError: the file is missing, cannot be parsed, or is refused.
    """
    import yaml

    from posttrain.workflow.project import Project

    file = options.configfile or _found()
    try:
        values = yaml.safe_load(file.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        problem = f"it cannot be read ({str(error).splitlines()[0]})"
        raise UserError("unreadable-file", str(file), problem, "write a YAML file") from None
    if not isinstance(values, dict):
        raise UserError("unreadable-file", str(file), "it has no keys", "write bases, datasets and runs in it")
    return Project(values, os.path.relpath(file)), file


def _found() -> Path:
    """The configuration of the last Snakemake command in this folder, or the one that Snakemake would find; an unusual one is told."""
    from posttrain.workflow.paths import LAST_CONFIGURATION

    last = Path(LAST_CONFIGURATION.read_text().strip()) if LAST_CONFIGURATION.exists() else LOCAL
    if last != LOCAL and last.is_file():
        file, why = last, "as the last snakemake command here did"
    elif LOCAL.exists():
        return LOCAL
    else:
        file, why = CONFIG / LOCAL.name, f"as there is no {LOCAL} here"
    print(f"posttrain: reads {file}, {why}; --configfile FILE names another", file=sys.stderr)
    return file
