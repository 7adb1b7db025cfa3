"""Files of LLaMA-Factory, Axolotl and TRL as one configuration of ours."""

from pathlib import Path
from typing import Any, NamedTuple

import yaml

from posttrain.config.loading import read
from posttrain.importing import axolotl, llama_factory, trl
from posttrain.importing.carried import Entry, Job
from posttrain.importing.chain import Chain
from posttrain.runtime.errors import UserError


class Imported(NamedTuple):
    """What some files became."""

    chain: Chain
    merges: list[tuple[str, dict[str, Any]]]
    """files that only merge an earlier one's adapter, and their keys: every run does that here"""


def imported(files: list[Path], devices: int = 1) -> Imported:
    """Read files, in the order in which they were trained.

    Args:
        devices: on how many the files were run, each with a batch of its own.

    Raises:
        UserError: a file cannot be read, is of no known tool, or cannot be carried over.
    """
    jobs: list[Job] = []
    merges = []
    for file in files:
        if file.suffix in (".yaml", ".yml"):
            values = _read(file)
            if llama_factory.is_one(values) and llama_factory.merges(values) and jobs:
                _merge(jobs, file, values)
                merges.append((str(file), values))
            else:
                jobs.append(_job(file, values, devices))
        else:
            jobs += trl.commands(file, devices)
    chain = Chain(jobs)
    read(chain.values)
    return Imported(chain, merges)


def _read(file: Path) -> dict[str, Any]:
    try:
        values = yaml.safe_load(file.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError("unreadable-file", str(file), f"it cannot be read ({str(error).splitlines()[0]})") from None
    if not isinstance(values, dict):
        raise UserError("unreadable-file", str(file), "it has no keys")
    return values


def _job(file: Path, values: dict[str, Any], devices: int) -> Job:
    for tool in (axolotl, llama_factory, trl):
        if tool.is_one(values):
            return tool.job(file, values, devices)
    hint = "import a YAML of LLaMA-Factory, Axolotl or trl, or a file with trl's command lines"
    raise UserError("cannot-import", str(file), "it is a configuration of no tool that is known", hint)


def _merge(jobs: list[Job], file: Path, values: dict[str, Any]) -> None:
    """The folder of a merged model is another name for an earlier job's result."""
    for job in jobs:
        if str(values.get("adapter_name_or_path")) in job.outputs:
            job.outputs.append(str(values["export_dir"]))
            return
    raise UserError(
        "cannot-import", str(file), f"it merges {values.get('adapter_name_or_path')}, which no earlier file writes"
    )


def listing(found: Imported) -> dict[str, Any]:
    """The lists of each run, for programs."""
    runs = {
        name: {"file": job.file, "tool": job.tool}
        | {kind: [_plain(entry) for entry in entries] for kind, entries in job.lists.items()}
        for name, job in found.chain.runs.items()
    }
    return {"runs": runs, "merges": [file for file, _ in found.merges]}


def _plain(entry: Entry) -> dict[str, Any]:
    return {name: value for name, value in entry._asdict().items() if value not in ("", None) or name == "key"}
