"""The `posttrain` command: what is worth having beside Snakemake's own.

posttrain table smollm2 sft_lora dpo_lora     the models side by side, and one prompt completed by each
posttrain verify [dpo_lora]                   whether results are still what was built, and of which code and versions
posttrain why dpo_lora                        what would be built again, and which setting or file is the cause
posttrain rebuild-check sft_lora              train it again elsewhere and compare the bits
posttrain send-mlflow sft_lora                send what MLflow missed while it was away
posttrain serve dpo_lora [--export KIND]      answer requests as OpenAI's API does
posttrain chat sft_lora [dpo_lora]            talk with a model in the terminal, or with two side by side
posttrain publish dpo_lora ORG/NAME           put a run, or an export, on the Hugging Face Hub, with its card
posttrain schema [--check]                    regenerate config/schema.json and the tables of config/README.md

All but schema read the configuration that Snakemake read last in this folder, or --configfile FILE.
"""

import argparse
import importlib
import signal
import sys

from posttrain.cli import configuration
from posttrain.runtime.errors import UserError


def main() -> None:
    """Run one of the subcommands; a user's mistake is one line on standard error and exit status 1."""
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # `posttrain verify | head` ends quietly
    options = parser().parse_args()
    try:
        configuration.enter(options)
        module = options.command.replace("-", "_")
        importlib.import_module(f"posttrain.cli.{module}").run(options)  # it may take seconds
    except UserError as error:
        sys.exit(f"posttrain: {error}")


def parser() -> argparse.ArgumentParser:
    """The command line; the command `some-name` is the function `run` of the module `some_name`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True, dest="command")
    table = commands.add_parser("table", help="the models side by side")
    table.add_argument("names", nargs="+", metavar="MODEL", help="bases and runs that are evaluated")
    serve = commands.add_parser("serve", help="answer requests as OpenAI's API does")
    add_serve(serve)
    chat = commands.add_parser("chat", help="talk with a model, or with two side by side")
    add_chat(chat)
    publish = commands.add_parser("publish", help="put a run on the Hugging Face Hub, with its card")
    add_publish(publish)
    schema = commands.add_parser("schema", help="regenerate the schema and the configuration page")
    schema.add_argument("--check", action="store_true", help="only say whether they are up to date")
    with_targets = {
        "verify": ("*", "whether results are still what was built"),
        "why": (1, "what would be built again, and why"),
        "rebuild-check": (1, "train a run again elsewhere and compare the bits"),
        "send-mlflow": ("+", "send finished runs to MLflow, as far as they are not there"),
    }
    reading = [table, serve, chat, publish]
    for name, (number, words) in with_targets.items():
        reading.append(commands.add_parser(name, help=words))
        reading[-1].add_argument("targets", nargs=number, metavar="TARGET", help="a run, or a file under results/")
        if name == "send-mlflow":
            reading[-1].add_argument("--register", action="store_true", help="also put the model into the registry")
    for one in reading:
        configuration.add_options(one)
    return parser


def add_publish(publish: argparse.ArgumentParser) -> None:
    """The arguments of `posttrain publish`."""
    publish.add_argument("run", metavar="RUN")
    publish.add_argument("repository", metavar="ORG/NAME", help="of the repository on the hub")
    what = publish.add_mutually_exclusive_group()
    what.add_argument("--export", metavar="KIND", help="this export, which has to be proved, instead of the model")
    what.add_argument("--adapter", action="store_const", const="adapter", dest="export", help="as --export adapter")
    publish.add_argument("--private", action="store_true", help="make the repository a private one")
    publish.add_argument("--revision", metavar="BRANCH", help="commit to this branch, made where it is not there")
    publish.add_argument("--replace", action="store_true", help="remove other files that the repository has")
    publish.add_argument("--dry-run", action="store_true", help="show what would be sent, and send nothing")


def add_serve(serve: argparse.ArgumentParser) -> None:
    """The arguments of `posttrain serve`."""
    serve.add_argument("name", metavar="RUN", help="a run or a base; with --adapters, the model that they belong to")
    serve.add_argument("--export", metavar="KIND", help="serve this export, which has to be proved, such as gguf-q8_0")
    serve.add_argument(
        "--adapters", nargs="+", default=[], metavar="RUN", help="also serve the adapter exports of these runs"
    )
    serve.add_argument(
        "--host", default="127.0.0.1", help="default: %(default)s; others need a key in POSTTRAIN_API_KEY"
    )
    serve.add_argument("--port", type=int, default=8000, help="default: %(default)s")
    serve.add_argument(
        "--context", type=int, metavar="TOKENS", help="the most of a prompt and its answer; default: the model's"
    )


def add_chat(chat: argparse.ArgumentParser) -> None:
    """The arguments of `posttrain chat`."""
    chat.add_argument(
        "names", nargs="+", metavar="MODEL", help="a base or a run; with two, both answer the same prompts"
    )
    chat.add_argument(
        "--export",
        metavar="KIND",
        help="talk with this export of the first model, such as gguf-q8_0; a second one is as it was trained",
    )
    chat.add_argument("--system", help="the system prompt; default: the one that the run was trained with")
    chat.add_argument(
        "--temperature",
        type=float,
        default=0.0,
        help="0 (the default) takes the likeliest token each time, as evaluation does",
    )
    chat.add_argument("--max-new-tokens", type=int, default=512, help="of an answer (default: %(default)s)")
