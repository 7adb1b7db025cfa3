"""How many public example files of LLaMA-Factory, Axolotl and TRL are imported, and what becomes of their keys.

    git clone --depth 1 https://github.com/hiyouga/LLaMA-Factory
    python bench/importing.py LLaMA-Factory axolotl trl

Each argument is a checkout. YAML files below `examples` are read; TRL's examples are command lines in its scripts and pages.
"""

import argparse
import collections
import re
import tempfile
from pathlib import Path

from posttrain.importing import files
from posttrain.importing.carried import KINDS
from posttrain.importing.trl import COMMAND
from posttrain.runtime.errors import UserError
from posttrain.workflow.project import Project

NO_TRAINING = ("configures", "merges an adapter", "of no tool", "trains nothing")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkouts", nargs="+", type=Path)
    for checkout in parser.parse_args().checkouts:
        with tempfile.TemporaryDirectory() as folder:
            _report(checkout, _examples(checkout, Path(folder)))


def _examples(checkout: Path, folder: Path) -> list[Path]:
    """The example files of a checkout; command lines each as a file in `folder`."""
    if (checkout / "trl/trainer").is_dir():
        pages = [
            checkout / "README.md",
            *checkout.glob("docs/source/**/*.md"),
            *checkout.glob("examples/scripts/**/*.py"),
        ]
        pages += checkout.glob("trl/scripts/*.py")
        lines = [line.strip() for page in sorted(pages) for line in re.sub(r"\\\n", " ", page.read_text()).splitlines()]
        shown = [
            line
            for line in dict.fromkeys(lines)
            if (found := COMMAND.search(line)) and line[found.end() :].lstrip().startswith("--")
        ]
        for number, line in enumerate(shown):
            (folder / f"{number:03}.sh").write_text(line + "\n")
        return sorted(folder.glob("*.sh"))
    return sorted(path for kind in ("*.yaml", "*.yml") for path in (checkout / "examples").rglob(kind))


def _report(checkout: Path, examples: list[Path]) -> None:
    refused: collections.Counter[str] = collections.Counter()
    keys: collections.Counter[str] = collections.Counter()
    imported = 0
    for example in examples:
        try:
            found = files.imported([example])
            Project(found.chain.values)
        except UserError as error:
            refused[error.problem] += 1
            continue
        imported += 1
        for job in found.chain.runs.values():
            listed = [entry.key for kind in KINDS for entry in job.lists[kind] if entry.key in job.source]
            assert sorted(listed) == sorted(job.source), f"{example}: a key is in no list, or in two"
            keys.update({kind: len(job.lists[kind]) for kind in job.lists})
    other = sum(count for why, count in refused.items() if any(words in why for words in NO_TRAINING))
    images = sum(count for why, count in refused.items() if why.startswith("images come later"))
    text = len(examples) - other - images
    print(f"\n{checkout.name}: {len(examples)} files, {other} that train nothing, {images} with images")
    print(f"  of {text} that train on text: {imported} imported and valid, {text - imported} refused")
    print("  keys: " + ", ".join(f"{count} {kind}" for kind, count in keys.items()))
    for why, count in refused.most_common():
        print(f"  {count:4} {why}")


if __name__ == "__main__":
    main()
