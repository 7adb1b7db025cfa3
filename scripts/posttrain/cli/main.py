"""The `posttrain` command: what is worth having beside Snakemake's own.

posttrain table smollm2 sft_lora dpo_lora     the models side by side, and one prompt completed by each
posttrain verify [dpo_lora]                   whether results are still what was built, and of which code and versions
posttrain why dpo_lora                        what would be built again, and which setting or file is the cause
posttrain rebuild-check sft_lora              train it again elsewhere and compare the bits
posttrain send-mlflow sft_lora                send what MLflow missed while it was away
posttrain schema [--check]                    regenerate config/schema.json and the tables of config/README.md

All but schema read the configuration that Snakemake read last in this folder, or --configfile FILE.
"""

import argparse
import signal
import sys
from collections.abc import Callable

from posttrain.cli import configuration
from posttrain.runtime.errors import UserError


def main() -> None:
    """Run one of the subcommands; a user's mistake is one line on standard error and exit status 1."""
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # `posttrain verify | head` ends quietly
    options = parser().parse_args()
    try:
        configuration.enter(options)
        options.command()(options)
    except UserError as error:
        sys.exit(f"posttrain: {error}")


def parser() -> argparse.ArgumentParser:
    """The command line; a command's own module, which may take seconds to import, is imported when it runs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    table = _command(commands, "table", _table, "the models side by side")
    table.add_argument("names", nargs="+", metavar="MODEL", help="bases and runs that are evaluated")
    schema = _command(commands, "schema", _schema, "regenerate the schema and the configuration page")
    schema.add_argument("--check", action="store_true", help="only say whether they are up to date")
    with_targets = [
        _command(commands, "verify", _verify, "whether results are still what was built"),
        _command(commands, "why", _why, "what would be built again, and why"),
        _command(commands, "rebuild-check", _rebuild_check, "train a run again elsewhere and compare the bits"),
        _command(commands, "send-mlflow", _send_mlflow, "send finished runs to MLflow, as far as they are not there"),
    ]
    for one, number in zip(with_targets, ("*", 1, 1, "+"), strict=True):
        one.add_argument("targets", nargs=number, metavar="TARGET", help="a run, or a file under results/")
    for one in (table, *with_targets):
        configuration.add_options(one)
    return parser


def _command(
    commands: argparse._SubParsersAction, name: str, command: Callable[[], Callable], words: str
) -> argparse.ArgumentParser:
    parser = commands.add_parser(name, help=words)
    parser.set_defaults(command=command)
    return parser


def _table() -> Callable:
    from posttrain.cli import table

    return table.run


def _schema() -> Callable:
    from posttrain.cli import schema

    return schema.run


def _verify() -> Callable:
    from posttrain.cli import verify

    return verify.run


def _why() -> Callable:
    from posttrain.cli import why

    return why.run


def _rebuild_check() -> Callable:
    from posttrain.cli import rebuild_check

    return rebuild_check.run


def _send_mlflow() -> Callable:
    from posttrain.cli import send_mlflow

    return send_mlflow.run
