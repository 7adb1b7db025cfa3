"""The tables of docs/scale.md are those that bench/scale.py prints."""

import subprocess
import sys

from conftest import REPOSITORY


def test_the_page_has_the_tables_of_the_command():
    command = [sys.executable, REPOSITORY / "bench/scale.py"]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    rows = [line for line in printed.splitlines() if line.startswith("|")]
    page = (REPOSITORY / "docs/scale.md").read_text().splitlines()
    assert len(rows) > 40 and not [row for row in rows if row not in page]
