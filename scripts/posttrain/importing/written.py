"""An imported configuration as YAML, with the keys that it was carried from as comments."""

from pathlib import Path
from typing import Any

import yaml

from posttrain.importing.chain import Chain


def text(chain: Chain, files: list[Path]) -> str:
    """The configuration as a file's text, one key a line."""
    lines = [
        f"# Imported from {', '.join(file.name for file in files)}. What differs: posttrain import {' '.join(map(str, files))}"
    ]
    for table, values in chain.values.items():
        lines.append(f"{table}:")
        if table not in ("bases", "datasets", "runs"):
            lines += [f"  {key}: {_flow(value)}" for key, value in values.items()]
            continue
        for name, keys in values.items():
            about = (
                f"  # {chain.runs[name].tool}: {Path(chain.runs[name].file).name}"
                if name in chain.runs and table == "runs"
                else ""
            )
            lines.append(f"  {name}:{about}")
            lines += [f"    {key}: {_flow(value)}{_comment(chain, table, name, key)}" for key, value in keys.items()]
    return "\n".join(lines) + "\n"


def _comment(chain: Chain, table: str, name: str, key: str) -> str:
    origin = chain.comments.get((table, name, key))
    return f"  # {origin}" if origin and origin != key else ""


def _flow(value: Any) -> str:
    """A value on one line of YAML."""
    return (
        yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=1_000_000, sort_keys=False)
        .removesuffix("...\n")
        .strip()
    )
