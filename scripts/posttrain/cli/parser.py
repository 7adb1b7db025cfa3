"""The command line of `posttrain`: its subcommands, their arguments and examples.

The subcommand `some-name` is the function `run` of the module `posttrain.cli.some_name`, which is imported when it is called.
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, NoReturn

from posttrain.cli import configuration

ALL = """\
start        init           a new project in a folder: configuration, sample data, the next commands
             recommend      a configuration for your GPU, model, aim and data, and why
             import         a configuration of LLaMA-Factory, Axolotl or TRL as one of ours
before       plan           the jobs of a target: time, memory, disk, energy, money; what is there already
             why            what would be built again, and which setting or file is the cause
after        table          the models side by side, and one prompt completed by each
             doctor         what is wrong with a run, by its records, and what to try next
             verify         whether results are still what was built, and of which code and versions
             rebuild-check  train a run again elsewhere and compare the bits
use          chat           talk with a model in the terminal, or with two side by side
             serve          answer requests as OpenAI's API does
             publish        put a run, or an export, on the Hugging Face Hub, with its card
             send-mlflow    send what MLflow missed while it was away
the rest     completion     the lines that make a shell complete these commands
             schema         regenerate config/schema.json and the tables of config/README.md

`posttrain COMMAND --help` has examples. Most commands read the configuration that Snakemake read last in this folder."""


class Command(NamedTuple):
    """A subcommand."""

    words: str
    """what it does, in a line"""
    arguments: Callable[[argparse.ArgumentParser], None]
    examples: tuple[str, ...]
    reads_configuration: bool = True


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one sentence, as every other mistake."""

    def error(self, message: str) -> NoReturn:
        """End with the sentence and exit status 2."""
        self.exit(2, f"posttrain: {message.removeprefix('argument ')}; see `{self.prog} --help`\n")


def parser() -> argparse.ArgumentParser:
    """The whole command line."""
    parser = Parser(
        prog="posttrain",
        usage="posttrain COMMAND [ARGUMENT ...]",
        description="What is worth having beside Snakemake's own commands.",
        epilog=ALL,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(
        prog="posttrain", required=True, dest="command", metavar="COMMAND", help=argparse.SUPPRESS
    )
    for name, command in COMMANDS.items():
        one = commands.add_parser(
            name,
            description=command.words,
            epilog="\n".join(["examples:", *(f"  {example}" for example in command.examples)]),
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        command.arguments(one)
        if command.reads_configuration:
            configuration.add_options(one)
    return parser


def add_json(parser: argparse.ArgumentParser) -> None:
    """--json, for commands whose answer a program may read."""
    parser.add_argument("--json", action="store_true", help="print one JSON object for programs")


def names(parser: argparse.ArgumentParser, name: str, **more: object) -> None:
    """A positional argument that takes runs or bases, which a shell completes from the configuration."""
    parser.add_argument(name, **more).completer = configuration.complete


def add_targets(number: int | str, json: bool = False) -> Callable[[argparse.ArgumentParser], None]:
    """The arguments of a command that takes `number` targets."""

    def add(parser: argparse.ArgumentParser) -> None:
        names(parser, "targets", nargs=number, metavar="TARGET", help="a run, or a file under results/")
        if json:
            add_json(parser)

    return add


def add_init(init: argparse.ArgumentParser) -> None:
    """The arguments of `posttrain init`."""
    init.add_argument("folder", nargs="?", default=".", metavar="FOLDER", help="default: this one")


def add_recommend(recommend: argparse.ArgumentParser) -> None:
    """The arguments of `posttrain recommend`."""
    recommend.add_argument(
        "--gpu-memory", type=float, metavar="GB", help="of one GPU, 0 for none; default: this machine's"
    )
    recommend.add_argument("--gpus", type=int, metavar="N", help="GPUs of that memory (default: 1)")
    recommend.add_argument("--model", help="a folder, a hub id, a wheel (NAME==VERSION) or a size such as 8B")
    recommend.add_argument("--purpose", help="domain, chat, prototype or production, or words that say so")
    recommend.add_argument("--examples", type=int, metavar="N", help="rows that show right answers")
    recommend.add_argument("--preferences", type=int, metavar="N", help="pairs of a better and a worse answer")
    recommend.add_argument("--quality", choices=["high", "medium", "mixed"], help="of the rows")
    recommend.add_argument("--data", nargs="+", metavar="FILE", help="files of rows, which are looked at and counted")
    recommend.add_argument("--preference-data", nargs="+", metavar="FILE", help="the same of preferences")
    recommend.add_argument("--output", default="config/config.yaml", metavar="FILE", help="default: %(default)s")
    recommend.add_argument("--force", action="store_true", help="replace the output file")
    add_json(recommend)


def add_plan(plan: argparse.ArgumentParser) -> None:
    """The arguments of `posttrain plan`."""
    names(plan, "targets", nargs="*", metavar="TARGET", help="runs, or files under results/; default: every run")
    add_json(plan)
    plan.add_argument("--mermaid", action="store_true", help="print the graph as Mermaid text, which GitHub draws")
    plan.add_argument("--svg", metavar="FILE", type=Path, help="also write the graph of models as an SVG file")
    plan.add_argument(
        "--probe", action="store_true", help="measure first how fast this machine computes, which takes seconds"
    )
    add_fit(plan)


def add_fit(plan: argparse.ArgumentParser) -> None:
    """The arguments of the question whether a model's training fits into a GPU, which needs no configuration."""
    fit = plan.add_argument_group("will it fit", "from a model's config.json alone, without a configuration")
    fit.add_argument(
        "--model", metavar="MODEL", help="a config.json, a model's folder, an id of the hub, or a size such as 8B"
    )
    fit.add_argument(
        "--gpu-memory", metavar="GIB", type=float, help="of the GPU; default: say which one is large enough"
    )
    fit.add_argument("--objective", help="default: sft")
    fit.add_argument("--method", help="default: lora")
    fit.add_argument("--rank", type=int)
    fit.add_argument("--max-length", metavar="TOKENS", type=int, help="of the longest row")
    fit.add_argument("--batch-size", metavar="ROWS", type=int)
    fit.add_argument(
        "--set", metavar="KEY=VALUE", action="append", default=[], help="another key of a run; can be repeated"
    )


def add_import(importing: argparse.ArgumentParser) -> None:
    """The arguments of `posttrain import`."""
    importing.add_argument(
        "files",
        nargs="+",
        type=Path,
        metavar="FILE",
        help="a YAML, or trl's command lines; several make a chain, in this order",
    )
    importing.add_argument(
        "--output", type=Path, default=Path("config/config.yaml"), metavar="FILE", help="default: %(default)s"
    )
    importing.add_argument("--force", action="store_true", help="replace the output file where it exists")
    importing.add_argument(
        "--devices",
        type=int,
        default=1,
        metavar="N",
        help="how many the files were run on; a batch is per device there",
    )
    add_json(importing)


def add_table(table: argparse.ArgumentParser) -> None:
    """The arguments of `posttrain table`."""
    names(table, "names", nargs="+", metavar="MODEL", help="bases and runs that are evaluated")
    add_json(table)


def add_send_mlflow(send: argparse.ArgumentParser) -> None:
    """The arguments of `posttrain send-mlflow`."""
    add_targets("+")(send)
    send.add_argument("--register", action="store_true", help="also put the model into the registry")


def add_schema(schema: argparse.ArgumentParser) -> None:
    """The arguments of `posttrain schema`."""
    schema.add_argument("--check", action="store_true", help="only say whether they are up to date")


def add_completion(completion: argparse.ArgumentParser) -> None:
    """The arguments of `posttrain completion`."""
    completion.add_argument("shell", choices=["bash", "zsh", "fish"])


def add_publish(publish: argparse.ArgumentParser) -> None:
    """The arguments of `posttrain publish`."""
    names(publish, "run", metavar="RUN")
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
    names(serve, "name", metavar="RUN", help="a run or a base; with --adapters, the model that they belong to")
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
    names(chat, "names", nargs="+", metavar="MODEL", help="a base or a run; with two, both answer the same prompts")
    chat.add_argument(
        "--export",
        metavar="KIND",
        help="talk with this export of the first model, such as gguf-q8_0; a second one is as it was trained",
    )
    chat.add_argument(
        "--tools", type=Path, metavar="FILE", help="functions that may be called, a JSON list as in OpenAI's API"
    )
    chat.add_argument("--system", help="the system prompt; default: the one that the run was trained with")
    chat.add_argument(
        "--temperature",
        type=float,
        default=0.0,
        help="0 (the default) takes the likeliest token each time, as evaluation does",
    )
    chat.add_argument("--max-new-tokens", type=int, default=512, help="of an answer (default: %(default)s)")


COMMANDS = {
    "init": Command(
        "Start a project: configuration, a data sample, .gitignore, and the next commands.",
        add_init,
        ("posttrain init my-model",),
        reads_configuration=False,
    ),
    "recommend": Command(
        "Recommend a way to train, with the row of the guide that it rests on, and write its configuration.",
        add_recommend,
        (
            "posttrain recommend    # asks, in a terminal",
            "posttrain recommend --gpu-memory 16 --model HuggingFaceTB/SmolLM2-1.7B --purpose chat --examples 5000 --preferences 800",
            "posttrain recommend --gpu-memory 24 --model 8B --purpose domain --data data/train.jsonl --output config/mine.yaml",
        ),
        reads_configuration=False,
    ),
    "import": Command(
        "Turn a configuration of LLaMA-Factory, Axolotl or TRL into one of ours, and list what differs.",
        add_import,
        (
            "posttrain import llama3_lora_sft.yaml",
            "posttrain import sft.yaml dpo.yaml --devices 8 --output config/imported.yaml",
            "posttrain import train.sh    # with a line such as: trl sft --model_name_or_path ...",
        ),
        reads_configuration=False,
    ),
    "plan": Command(
        "The jobs that a target takes: time, memory, disk, energy and money; what is shared or there already.",
        add_plan,
        (
            "posttrain plan results/dpo_lora/eval.json",
            "posttrain plan dpo_lora --json",
            "posttrain plan dpo_lora --probe --svg plan.svg",
            "posttrain plan --mermaid > plan.md",
            "posttrain plan --model Qwen/Qwen3-8B --method qlora --rank 16 --max-length 2048 --gpu-memory 24",
            "posttrain plan --model ./config.json --method full --objective dpo --set gradient_checkpointing=true",
        ),
    ),
    "why": Command(
        "What would be built again for a target, and which changed setting or file is the cause.",
        add_targets(1, json=True),
        ("posttrain why dpo_lora", "posttrain why results/report.html"),
    ),
    "table": Command(
        "The models side by side, and one prompt completed by each.",
        add_table,
        ("posttrain table smollm2 sft_lora dpo_lora",),
    ),
    "doctor": Command(
        "What is wrong with a run, by its records, with the evidence, the key to change and the run to try next.",
        add_targets("+", json=True),
        (
            "posttrain doctor dpo_lora",
            "posttrain doctor sft_lora,rank=4 dpo_lora    # also while they train, and after they failed",
            "posttrain doctor results/dpo_lora/eval.json --json",
        ),
    ),
    "verify": Command(
        "Whether results are still what was built, and of which code and versions.",
        add_targets("*", json=True),
        ("posttrain verify", "posttrain verify dpo_lora"),
    ),
    "rebuild-check": Command(
        "Train a run again elsewhere and compare the bits.", add_targets(1), ("posttrain rebuild-check sft_lora",)
    ),
    "chat": Command(
        "Talk with a model in the terminal, or with two side by side.",
        add_chat,
        ("posttrain chat sft_lora", "posttrain chat sft_lora dpo_lora", "posttrain chat dpo_lora --export gguf-q8_0"),
    ),
    "serve": Command(
        "Answer requests as OpenAI's API does.",
        add_serve,
        ("posttrain serve dpo_lora", "posttrain serve dpo_lora --export gguf-q8_0 --port 8080"),
    ),
    "publish": Command(
        "Put a run, or an export, on the Hugging Face Hub, with its card.",
        add_publish,
        ("posttrain publish dpo_lora ORG/NAME --private", "posttrain publish dpo_lora ORG/NAME --dry-run"),
    ),
    "send-mlflow": Command(
        "Send finished runs to MLflow, as far as they are not there.",
        add_send_mlflow,
        ("posttrain send-mlflow sft_lora --register",),
    ),
    "completion": Command(
        "Print the lines that make a shell complete these commands and the names of runs.",
        add_completion,
        ('eval "$(posttrain completion bash)"', "posttrain completion fish | source"),
        reads_configuration=False,
    ),
    "schema": Command(
        "Regenerate config/schema.json and the tables of config/README.md.",
        add_schema,
        ("posttrain schema --check",),
        reads_configuration=False,
    ),
}
