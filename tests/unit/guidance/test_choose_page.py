"""docs/guide/choose.md shows what the commands print, and every row of the guide's tables.

After a change of what is printed: `python tests/unit/guidance/test_choose_page.py`, and read the difference.
"""

import contextlib
import io
import re
import shlex
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "bench"))

import guide

from posttrain.cli import init, parser, recommend
from posttrain.guidance import tables

REPOSITORY = Path(__file__).resolve().parents[3]
PAGE = REPOSITORY / "docs/guide/choose.md"
SHOWN = re.compile(r"```bash\nposttrain ([^\n]*)\n```\n\n```text\n(.*?)```", re.DOTALL)


def printed(line: str) -> str:
    """What a command of the page prints in the folder of the project that the page starts."""
    options = parser.parser().parse_args(shlex.split(line))
    with contextlib.redirect_stdout(io.StringIO()) as output:
        (init if options.command == "init" else recommend).run(options)
    return output.getvalue()


def outputs(page: str) -> list[tuple[str, str, str]]:
    """Of each command with an output on the page: the command, what the page shows, and what it prints now."""
    found = []
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        stack.enter_context(contextlib.chdir(folder))
        for line, shown in SHOWN.findall(page):
            found.append((line, shown, printed(line)))
            if line.startswith("init"):  # the commands after it are typed in the project
                stack.enter_context(contextlib.chdir(line.split()[1]))
    return found


def test_the_page_shows_what_the_commands_print():
    found = outputs(PAGE.read_text())
    assert len(found) == 2
    for _, shown, now in found:
        assert shown == now


def test_the_page_has_the_tables_of_the_bench_and_every_row():
    page = PAGE.read_text()
    assert guide.memory() in page and guide.adapters() in page
    for id in tables.ROWS.keys() - {row.id for row in (*tables.TRENDS, *tables.OBJECTIVES)}:
        assert id in page, id
    for claim in tables.CLAIMS:
        assert f"| {claim.id} | {claim.says} | {claim.measured} |" in page


def test_the_claims_that_can_be_computed_are_the_ones_that_the_bench_computes():
    said = {claim.id: claim.measured for claim in tables.CLAIMS}
    assert said | guide.computed() == said
    performance = (REPOSITORY / "docs/performance.md").read_text()
    for measured in (
        "| SFT lora | 8b | 7,006 | 46.13 |",
        "| SFT qlora | 8b | 6,444 | 47.29 |",
        "| SFT full | 1b | 43,655 | 32.46 |",
    ):
        assert measured in performance  # what the claims about memory and time were read from


def rewrite() -> None:
    page = PAGE.read_text()
    for _, shown, now in outputs(page):
        page = page.replace(shown, now)
    for table in (guide.memory(), guide.adapters()):
        head = re.escape(table.splitlines()[0])
        page = re.sub(rf"{head}\n(\|.*\n)+", lambda _, table=table: f"{table}\n", page)
    for claim in tables.CLAIMS:
        page = re.sub(
            rf"^\| {claim.id} \| .*? \| .*? \|", f"| {claim.id} | {claim.says} | {claim.measured} |", page, flags=re.M
        )
    PAGE.write_text(page)


if __name__ == "__main__":
    rewrite()
