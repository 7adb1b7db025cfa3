"""The `posttrain` command: what is worth having beside Snakemake's own; `posttrain --help` lists it."""

import importlib
import os
import sys

from posttrain.cli import configuration
from posttrain.cli.parser import parser
from posttrain.runtime.errors import UserError


def main() -> None:
    """Run one of the subcommands; a user's mistake is one line on standard error and exit status 1."""
    commands = parser()
    if "_ARGCOMPLETE" in os.environ:
        import argcomplete

        argcomplete.autocomplete(commands, default_completer=None)
    options = commands.parse_args()
    try:
        configuration.enter(options)
        module = options.command.replace("-", "_")
        if module == "import":  # a word of Python's
            module = "import_"
        importlib.import_module(f"posttrain.cli.{module}").run(options)  # it may take seconds
        sys.stdout.flush()
    except UserError as error:
        sys.exit(f"posttrain: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:  # `posttrain verify | head` ends quietly
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python tells of it when it ends
        sys.exit(1)
