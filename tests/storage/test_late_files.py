"""Results on a network file system whose files other machines see seconds later."""

import json
import subprocess
from pathlib import Path

import pytest
from conftest import REPOSITORY, command, environment

PLUGINS = Path(__file__).with_name("plugins")


@pytest.mark.slow
def test_a_command_waits_for_files_that_come_late(folder):
    late = ("--executor", "late", "--jobs", "2", "--latency-wait", "30", "--seconds-between-status-checks", "1")
    variables = environment() | {"PYTHONPATH": f"{PLUGINS}:{REPOSITORY / 'scripts'}"}

    def build(*arguments: str) -> str:
        done = subprocess.run(
            command(folder, *late, *arguments),
            env=variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert done.returncode == 0, done.stdout
        return done.stdout

    build("results/sft_lora/merge.json")
    assert json.loads((folder / "results/sft_lora/provenance.json").read_text())["rows"]  # which no input declares
    assert "Nothing to be done" in build("results/sft_lora/merge.json")
