"""`posttrain chat`: talk with a model in the terminal, or with two side by side, as they were trained to be talked with.

What stands on standard input is one prompt where that is no terminal, and its answer is all that is printed.
"""

import argparse
import json
import logging
import re
import sys
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from posttrain.cli import configuration, models, terminal
from posttrain.data import thoughts
from posttrain.exports import EXPORTS
from posttrain.runtime.errors import UserError, printable
from posttrain.serving.answers import Answer, offered
from posttrain.workflow import paths

if TYPE_CHECKING:
    from posttrain.export.llama_chat import LlamaPartner
    from posttrain.inference.chat import Partner, Reply, Show
    from posttrain.workflow.project import Project

COMMAND = re.compile(r"/([a-z]+)(?:\s+(.*))?$", re.DOTALL)
HELP = (
    "/reset begins anew, /system TEXT with another system prompt, /tool TEXT gives the result of a call; Ctrl-C stops an answer, "
    "/quit or Ctrl-D ends"
)


class Chosen(NamedTuple):
    """A model that is to be loaded."""

    name: str
    kind: str | None
    """of an export of it"""
    folder: Path

    @property
    def label(self) -> str:
        """As it is shown."""
        return f"{self.name} ({self.kind})" if self.kind else self.name


def run(options: argparse.Namespace) -> None:
    """Find the models, load them and talk.

    Raises:
        UserError: too many models, no such model, a model that gives no answers or is not built; and whatever
            is wrong with the one prompt that was piped.
    """
    logging.disable(logging.WARNING)  # what libraries say of themselves is no part of a conversation
    warnings.simplefilter("ignore")
    check(options)
    project, _ = configuration.project(options)
    names = [models.canonical(project, name) for name in options.names]
    kinds = [options.export, None]
    chosen = [find(project, name, kind) for name, kind in zip(names, kinds, strict=False)]
    # Both are asked the same, so a base is asked as the run beside it.
    systems = [options.system, *(models.trained_with(project, name) for name in names)]
    system = next((text for text in systems if text is not None), None)
    piped = None if sys.stdin.isatty() else sys.stdin.read().strip()
    if piped == "":
        raise UserError("no-rows", "standard input", "there is no prompt in it", "write one, or start it in a terminal")
    tools = read_tools(options.tools) if options.tools else None
    talk = Talk({one.label: load(project, one, options) for one in chosen}, system, tools)
    if piped is None:
        converse(talk)
    else:
        talk.turn(piped, terminal.plainly)


def check(options: argparse.Namespace) -> None:
    """Look at the options' values.

    Raises:
        UserError: one is out of its range.
    """
    if len(options.names) > 2:
        raise UserError("invalid-value", "MODEL", f"there are {len(options.names)}", "name one or two")
    for name, value, least in (("temperature", options.temperature, 0), ("max-new-tokens", options.max_new_tokens, 1)):
        if not value >= least:
            raise UserError("invalid-value", f"--{name}", f"{value} is below {least}", "write a larger one")


def read_tools(file: Path) -> str:
    """The functions of a JSON file, a list of tools as OpenAI's API has them.

    Raises:
        UserError: it is something else.
    """
    try:
        tools = json.loads(file.read_text(encoding="utf-8"))
        offered(tools)
    except OSError:
        raise UserError("missing-file", "--tools", f"'{file}' cannot be read", "write a JSON file") from None
    except (ValueError, RecursionError):
        hint = "write a list of {type: function, function: {name: ..., parameters: ...}}"
        raise UserError("invalid-value", "--tools", f"'{file}' is no list of tools", hint) from None
    return json.dumps(tools, ensure_ascii=False)


def find(project: "Project", name: str, kind: str | None) -> Chosen:
    """The folder of a model that ships, or of one of its exports.

    Raises:
        UserError: it is a reward model, or not built, or there is no such kind of export.
    """
    if project.is_reward(name):
        raise UserError(
            "unsupported-model", name, "it is a reward model or a classifier, which gives scores and no answers"
        )
    if kind is None:
        return Chosen(name, None, models.built(project, name, project.model(name)))
    models.check_kind(project, name, kind)
    return Chosen(name, kind, models.built(project, name, paths.export(name, kind)))


def load(project: "Project", chosen: Chosen, options: argparse.Namespace) -> "Partner | LlamaPartner":
    """Load a model: on a processor in float32, as evaluation does, on a GPU in its own type; an export by the program that runs it."""
    import torch
    import transformers

    from posttrain.export import proof
    from posttrain.export.llama_chat import LlamaPartner
    from posttrain.inference.chat import Partner
    from posttrain.models import loading

    transformers.utils.logging.disable_progress_bar()
    name, kind, folder = chosen
    settings = (options.temperature, options.max_new_tokens)
    if kind is None:
        dtype = torch.float32 if loading.DEVICE == "cpu" else "auto"
        model = loading.load(folder, dtype, arithmetic="fp32").eval()
        return Partner(model, loading.tokenizer(folder), *settings)
    base = project.adapter_line(name)[0]
    program = proof.load(kind, folder, Path(project.merged(base)), Path(project.manifest(base)))
    if EXPORTS[kind].gguf:
        return LlamaPartner(program, Path(project.merged(name)), *settings)
    return Partner(program.model, program.tokenizer, *settings)


class Talk:
    """A conversation with one or two models, each of which remembers its own answers."""

    def __init__(
        self, partners: "dict[str, Partner | LlamaPartner]", system: str | None, tools: str | None = None
    ) -> None:
        """`tools`: the functions that may be called, as JSON."""
        self.partners, self.tools = partners, tools
        self.begin(system)

    def begin(self, system: str | None) -> None:
        """Begin a new conversation; a `system` prompt that is None or empty is none, and the template's own stands."""
        self.system = system
        opening = [{"role": "system", "content": system}] if system else []
        self.turns = {name: [*opening] for name in self.partners}

    def turn(self, prompt: str, present: "Callable[[dict[str, terminal.Answer]], None]", role: str = "user") -> None:
        """Ask every model, and let `present` show the answers; they are remembered once all are there.

        Args:
            role: `tool`, where the prompt is the result of a call.

        Raises:
            UserError: a model cannot answer; nothing is remembered of the prompt.
        """
        asked = {name: [*turns, {"role": role, "content": prompt}] for name, turns in self.turns.items()}
        replies: dict[str, Reply] = {}

        def answering(name: str) -> "terminal.Answer":
            def answer(show: "Show") -> "Reply":
                replies[name] = self.partners[name].reply(asked[name], show, self.tools)
                return replies[name]

            return answer

        present({name: answering(name) for name in self.partners})
        for name, reply in replies.items():
            self.turns[name] = [*asked[name], self._answer(reply.text)]
            for call in json.loads(self.turns[name][-1].get("tool_calls", "[]")):
                terminal.tell(
                    f"{name} calls {call['name']} with {printable(call['arguments'])}; /tool TEXT gives its result"
                )

    def _answer(self, text: str) -> dict[str, Any]:
        """An answer as a turn, its calls apart from its text."""
        answer = Answer("", (), offered(json.loads(self.tools or "[]")))
        said = answer.add(thoughts.answer(text)) + answer.finish()
        called = {"tool_calls": json.dumps([call._asdict() for call in answer.calls])} if answer.calls else {}
        return {"role": "assistant", "content": said} | called


# ---- in a terminal


def converse(talk: Talk) -> None:
    """Read prompts and commands until the end."""
    import readline  # noqa: F401  (input() then edits lines and remembers them)

    from rich.console import Console

    console = Console(highlight=False)
    alone, plain = len(talk.partners) == 1, not sys.stdout.isatty()
    present = terminal.plainly if plain else partial(terminal.in_lines if alone else terminal.in_columns, console)
    head(talk)
    print(HELP, file=sys.stderr)
    while (prompt := read("" if plain else "> ")) is not None:
        command = COMMAND.match(prompt)
        if command and command[1] == "quit":
            return
        role, said = ("tool", command[2]) if command and command[1] == "tool" else ("user", prompt)
        if command and role == "user":
            obey(talk, command)
        elif said:
            try:
                talk.turn(said, present, role)
            except UserError as error:
                terminal.tell(str(error))
            except KeyboardInterrupt:  # between two answers
                terminal.tell("stopped; the prompt is forgotten")


def read(mark: str) -> str | None:
    """What is typed, without white space around it; None at the end. Ctrl-C clears the line."""
    while True:
        try:
            return input(mark).strip()
        except KeyboardInterrupt:
            print()
        except EOFError:
            print()
            return None


def obey(talk: Talk, command: re.Match) -> None:
    """Carry out a command that is typed, or say which there are."""
    word, text = command.groups()
    if word == "reset" and not text:
        talk.begin(talk.system)
    elif word == "system":
        talk.begin(text)
    else:
        terminal.tell(f"there is no command {command[0]}; {HELP}")
        return
    head(talk)


def head(talk: Talk) -> None:
    """Say who answers, asked how."""
    system = f"system prompt: {talk.system}" if talk.system else "no system prompt but the template's own"
    terminal.tell(f"{' and '.join(talk.partners)}; {printable(system)}")
