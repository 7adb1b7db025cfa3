"""The rows of config/examples/domain.yaml, from this project's own documentation (MIT).

    python examples/make_domain.py docs examples/data

domain_train.jsonl has whole pages, domain_test.jsonl sections of other pages; domain_questions.jsonl asks how the errors that
docs/errors.md lists are put right.
"""

import json
import re
import sys
from pathlib import Path

TRAIN = "models data preflight sweeps reproducibility predictions reliability publishing cache early-stopping rating terminal".split()
TEST = "evaluation processes judge cases storage slurm serving deploy scale plan".split()
FIELD = re.compile(r"^- \*\*(\w+)\*\*: (.*?)(?=^- \*\*|\Z)", re.MULTILINE | re.DOTALL)


def main(docs: Path, output: Path) -> None:
    pages = [{"text": plain(docs / f"{name}.md")} for name in TRAIN]
    parts = [part for name in TEST for part in plain(docs / f"{name}.md").split("\n## ")[1:]]
    write(output / "domain_train.jsonl", pages)
    write(output / "domain_test.jsonl", [{"text": part} for part in parts if 300 < len(part) < 1200])
    asked = [row for section in plain(docs / "errors.md").split("\n## ")[1:] for row in question(section)]
    write(output / "domain_questions.jsonl", asked[: len(asked) - 20])
    write(output / "domain_questions_test.jsonl", asked[len(asked) - 20 :])


def plain(page: Path) -> str:
    """A page without its tables, whose cells are no sentences."""
    return "\n".join(line for line in page.read_text().splitlines() if not line.startswith("|"))


def question(section: str) -> list[dict]:
    """What the section of an error says, as a question and its answer."""
    fields = {name: " ".join(text.split()) for name, text in FIELD.findall(section)}
    code = section.split("\n")[0]
    if not {"What", "Fix"} <= fields.keys():
        return []
    answer = f"It means: {fields['What']} To put it right: {fields['Fix']}"
    return [{"question": f"What does the error {code} of posttrain mean?", "answer": answer}]


def write(file: Path, rows: list[dict]) -> None:
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
