"""Lay out the proofs of a run's exports on one page: size, quality and speed, and a sentence on each.

Reads the proofs, and the size of the trained model that they are compared with; writes table.html. Nothing is measured here.

    python scripts/make_export_table.py --proofs results/dpo_lora/export/nf4.json --model results/dpo_lora/merged \
        --output results/dpo_lora/export/table.html
"""

import argparse
import shutil
import tempfile
import textwrap
from pathlib import Path

from posttrain.exports import EXPORTS
from posttrain.reports import export_figures, export_table
from posttrain.runtime.atomic import read_json, whole_file
from posttrain.runtime.console import say
from posttrain.runtime.script import arguments, run


def main(options) -> None:
    found = {file.stem: read_json(file) for file in options.proofs}
    size = sum(file.stat().st_size for file in options.model.rglob("*") if file.is_file())
    proofs = {kind: found[kind] for kind in EXPORTS if kind in found}
    table = export_table.Table(next(iter(proofs.values()))["run"], size, proofs)
    with tempfile.TemporaryDirectory() as folder:
        figures = export_figures.draw(Path(folder), table)
    with whole_file(options.output) as file:
        file.write_text(export_table.page(table, figures), encoding="utf-8")
    width = shutil.get_terminal_size().columns
    lines = [textwrap.fill(sentence, width, subsequent_indent="  ") for sentence in export_table.sentences(table)]
    say("\n".join([*lines, f"\nSee {options.output}\n"]), "table")


def parser() -> argparse.ArgumentParser:
    options = arguments(__doc__, model=Path, output=Path)
    options.add_argument("--proofs", type=Path, nargs="+", required=True, help="the JSON files of the exports")
    return options


if __name__ == "__main__":
    run(parser(), main)
