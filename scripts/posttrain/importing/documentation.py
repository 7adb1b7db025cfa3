"""The tables of docs/import-keys.md, from the tables of keys."""

from collections.abc import Mapping
from pathlib import Path

from posttrain.config.documentation import BEGIN, END
from posttrain.importing import axolotl, axolotl_datasets, dataset_info, hugging_face, llama_factory, trl
from posttrain.importing.carried import Row

PAGE = Path(__file__).resolve().parents[3] / "docs/import-keys.md"
HEADINGS = {
    "carried": "Carried over",
    "differs": "Carried over, but with another meaning",
    "same": "The same without a key",
    "not_carried": "Not carried over",
}


def generated() -> dict[Path, str]:
    """The page and its text."""
    before, _, rest = PAGE.read_text().partition(BEGIN)
    return {PAGE: before + BEGIN + _tables() + END + rest.partition(END)[2]}


def _tables() -> str:
    shared = hugging_face.TRAINING
    sections = [_section("Settings of transformers, in LLaMA-Factory, Axolotl and TRL", shared)]
    for tool, more in ((llama_factory, dataset_info.KEYS), (axolotl, axolotl_datasets.KEYS), (trl, trl.DATASET)):
        own = {key: row for key, row in tool.KEYS.items() if shared.get(key) != row}
        sections.append(_section(f"Settings of {tool.NAME}", own))
        sections.append(_section(f"A dataset of {tool.NAME}", more))
    return "\n".join(sections)


def _section(title: str, table: Mapping[str, Row]) -> str:
    """The rows of a table, by kind; keys with the same answer are one row."""
    lines = [f"## {title}", ""]
    for kind, heading in HEADINGS.items():
        rows: dict[tuple[str, str], list[str]] = {}
        for key, row in table.items():
            if row.kind == kind:
                rows.setdefault((row.ours, row.note), []).append(f"`{key}`")
        if not rows:
            continue
        ours = kind in ("carried", "differs")
        lines += [
            f"**{heading}**",
            "",
            "| key | ours | note |" if ours else "| key | why |",
            "|---|---|---|" if ours else "|---|---|",
        ]
        for (name, note), keys in rows.items():
            cells = [", ".join(keys), *([f"`{name}`"] if ours else []), _escaped(note)]
            lines.append(f"| {' | '.join(cells)} |")
        lines.append("")
    return "\n".join(lines)


def _escaped(note: str) -> str:
    return note.replace("|", "\\|")
