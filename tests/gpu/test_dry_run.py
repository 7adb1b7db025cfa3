"""bench/gpu.py goes its whole way on a CPU, with tiny models."""

import json
import subprocess
import sys

import pytest
from conftest import REPOSITORY, environment

FIGURES = ("tokens_per_s", "note")
ABSENT = ("is not installed", "not in a dry run")


@pytest.fixture(scope="module")
def dry_run(tmp_path_factory) -> tuple[subprocess.CompletedProcess, list[dict]]:
    """The command, where neither MLflow nor Snakemake can be imported, and what it wrote as JSON."""
    folder = tmp_path_factory.mktemp("gpu")
    for absent in ("mlflow", "snakemake"):
        (folder / f"{absent}.py").write_text(f"raise ImportError('{absent} is not installed')")
    file = folder / "rows.json"
    command = [sys.executable, REPOSITORY / "bench/gpu.py", "--dry-run", "--shapes", "0.6b", "--json", file]
    done = subprocess.run(command, capture_output=True, text=True, env=environment() | {"PYTHONPATH": str(folder)})
    return done, json.loads(file.read_text())


def test_every_row_has_a_figure_or_a_reason(dry_run):
    done, rows = dry_run
    assert done.returncode == 0, done.stderr
    for row in rows:
        named = any(row.get("reason", "").endswith(words) for words in ABSENT)
        assert named != any(row.get(figure) for figure in FIGURES), row
    assert {"SFT lora", "SFT full", "SFT qlora", "DPO lora", "PPO lora", "generation", "evaluation"} <= {
        row["row"] for row in rows if row.get("tokens_per_s", 0) > 0 or "reason" in row
    }


def test_what_must_hold_holds_on_a_cpu(dry_run):
    notes = {row["row"]: row.get("note", "") for row in dry_run[1]}
    assert "the same bits" in notes["kill -9 and resume"]
    assert "4 rows, then 2 at once: the same bits" in notes["out of memory"]
    assert float(notes["merge proof"].split("effect: ")[1].split(" in fp32")[0]) < 1e-3


def test_the_table_is_what_the_docs_take(dry_run):
    done, rows = dry_run
    lines = [line for line in done.stdout.splitlines() if line.startswith("|")]
    assert len(lines) == 2 + len(rows)
    assert len({line.replace("\\|", "").count("|") for line in lines}) == 1
    assert "torch 2." in done.stdout and "machine: CPU" in done.stdout
