"""`posttrain import`: configurations of other tools as one of ours."""

import argparse
import json
from pathlib import Path
from typing import Any

from posttrain.runtime.errors import UserError

HEADINGS = {
    "carried": "carried over",
    "differs": "carried over, but means something else here",
    "not_carried": "not carried over",
    "defaults": "written out, because the tool's default is not ours",
}


def run(options: argparse.Namespace) -> None:
    """Write the configuration, and print what became of each key of the files."""
    from posttrain.guidance import project
    from posttrain.importing import files, written
    from posttrain.runtime.atomic import whole_file

    output = options.output
    if output.exists() and not options.force:
        hint = "write --force to replace it, or --output FILE"
        raise UserError("file-exists", str(output), "it exists, and is not overwritten", hint)
    found = files.imported(options.files, options.devices)
    text = written.text(found.chain, options.files)
    with whole_file(output) as file:
        file.write_text(text)
    refused = _refused(found.chain.values, str(output))
    if options.json:
        print(json.dumps({"output": str(output), "refused": refused} | files.listing(found), ensure_ascii=False))
        return
    for name, job in found.chain.runs.items():
        print(f"{job.file} ({job.tool}) is the run {name}")
        for kind, heading in HEADINGS.items():
            _table(heading, job.lists[kind], notes=kind != "carried")
        print(
            f"  the same without a key ({len(job.lists['same'])}): {', '.join(entry.key for entry in job.lists['same'])}"
        )
    for file, _ in found.merges:
        print(f"{file} merges an adapter, which every run does here")
    if refused:
        print(f"\nwrote {output}, which is refused on this machine: {refused}")
        return
    command = project.snakemake(Path())
    print(f"\nwrote {output}; next: {command} -n results/{[*found.chain.runs][-1]}/eval.json --configfile {output}")


def _refused(values: dict[str, Any], file: str) -> str | None:
    """Why the configuration cannot be used on this machine as it is, such as a package that is not installed."""
    from posttrain.workflow.project import Project

    try:
        Project(values, file)
    except UserError as error:
        return str(error)
    return None


def _table(heading: str, entries: list[Any], notes: bool) -> None:
    if not entries:
        return
    print(f"  {heading} ({len(entries)})")
    for entry in entries:
        value = _short(entry.value)
        ours = f" -> {entry.ours}" if entry.ours else ""
        print(f"    {entry.key}: {value}{ours}{'; ' + entry.note if entry.note and notes else ''}")


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else f"{text[:57]}..."
