"""The example of docs/import.md: two files become a configuration, whose chain is planned by Snakemake."""

import re
import subprocess
import sys

import pytest
import yaml
from conftest import REPOSITORY, environment, planned

from posttrain.importing import documentation

PAGE = REPOSITORY / "docs/import.md"
SHOWN = re.findall(r"```(?:yaml|json|text)\n(.*?)```", PAGE.read_text(), re.S)
SFT, DPO, INFO, PRINTED, WRITTEN = SHOWN


@pytest.fixture(scope="module")
def imported(tmp_path_factory):
    """The page's files in a folder, and what the page's command prints there."""
    folder = tmp_path_factory.mktemp("imported")
    (folder / "examples").symlink_to(REPOSITORY / "examples")
    (folder / "data").mkdir()
    for name, text in {"sft.yaml": SFT, "dpo.yaml": DPO, "data/dataset_info.json": INFO}.items():
        (folder / name).write_text(text)
    command = [sys.executable, "-m", "posttrain.cli", "import", "sft.yaml", "dpo.yaml"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, env=environment())
    assert done.returncode == 0, done.stderr
    return folder, done.stdout


def test_the_page_shows_what_the_command_prints_and_writes(imported):
    folder, printed = imported
    # The page is of a folder with a Snakefile, as `posttrain init` makes it.
    assert printed.replace(f"snakemake -s {REPOSITORY}/Snakefile ", "snakemake ") == PRINTED
    assert (folder / "config/config.yaml").read_text() == WRITTEN


def test_the_chain_is_planned(imported):
    folder, _ = imported
    jobs = planned(folder, "results/dpo_lora/eval.json", config=folder / "config/config.yaml")
    assert (jobs["sft"], jobs["dpo"], jobs["merge"], jobs["logprobs"], jobs["eval"]) == (1, 1, 2, 1, 3)
    assert [*yaml.safe_load(WRITTEN)["bases"]] == ["smollm2_135m_instruct"]


def test_the_tables_are_the_ones_that_are_read():
    for file, text in documentation.generated().items():
        assert file.read_text() == text, f"{file} has drifted; run: posttrain schema"
