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


def complete(parsed_args: argparse.Namespace, **_: object) -> list[str]:
    """The names of runs and bases, for a shell; none where the configuration cannot be read."""
    import yaml

    try:
        enter(parsed_args)
        values = yaml.safe_load((parsed_args.configfile or _found()[0]).read_text())
        return [*values["bases"], *values["runs"]]
    except (UserError, OSError, UnicodeDecodeError, yaml.YAMLError, LookupError, TypeError):
        return []


def project(options: argparse.Namespace) -> "tuple[Project, Path]":
    """The project and the file of its configuration.

    Raises:
        UserError: the file is missing, cannot be parsed, or is refused.
    """
    import yaml

    from posttrain.workflow.project import Project

    file, why = (options.configfile, "") if options.configfile else _found()
    if why:
        print(f"posttrain: reads {file}, {why}; --configfile FILE names another", file=sys.stderr)
    try:
        values = yaml.safe_load(file.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        problem = f"it cannot be read ({str(error).splitlines()[0]})"
        raise UserError("unreadable-file", str(file), problem, "write a YAML file") from None
    if not isinstance(values, dict):
        raise UserError("unreadable-file", str(file), "it has no keys", "write bases, datasets and runs in it")
    return Project(values, os.path.relpath(file)), file


def _found() -> tuple[Path, str]:
    """The configuration of the last Snakemake command in this folder, or the one that Snakemake would find, and why an unusual one."""
    from posttrain.workflow.paths import LAST_CONFIGURATION

    last = Path(LAST_CONFIGURATION.read_text().strip()) if LAST_CONFIGURATION.exists() else LOCAL
    if last != LOCAL and last.is_file():
        return last, "as the last snakemake command here did"
    if LOCAL.exists():
        return LOCAL, ""
    return CONFIG / LOCAL.name, f"as there is no {LOCAL} here"
