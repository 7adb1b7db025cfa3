"""What is planned for a target, read off dry runs: what is shared, what a change reruns, what a name means."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from conftest import REPOSITORY, TINY, planned, snakemake, write_made_data


def test_a_rank_sweep_shares_parent_tokens_and_reference(folder):
    targets = [f"results/dpo_lora,rank={rank}/eval.json" for rank in (2, 8, 16)]
    jobs = planned(folder, *targets)
    assert jobs["dpo"] == 3 and jobs["merge"] == 4
    assert jobs["sft"] == jobs["base_here"] == jobs["logprobs"] == 1
    assert jobs["tokens"] == 2 and jobs["eval"] == 5


def test_a_run_that_trains_other_turns_has_tokens_of_its_own(folder):
    names = (
        "sft_lora",
        "sft_lora,assistant_turns=last",
        "sft_lora,train_thoughts=false",
        "sft_lora,assistant_turns=all",
    )
    jobs = planned(folder, *(f"results/{name}/preflight.json" for name in names))
    assert jobs["tokens"] == jobs["preflight"] == 3


def test_a_declared_sweep_plans_its_grid_once(folder):
    jobs = planned(folder, "results/sweeps/rank/table.tsv")
    assert jobs["dpo"] == 2 and jobs["sft"] == 1 and jobs["sweep"] == 1


def test_an_override_equal_to_the_file_is_the_same_run(folder):
    jobs = planned(folder, "results/dpo_lora,rank=4/eval.json", "results/dpo_lora/eval.json")
    assert jobs["dpo"] == 1 and jobs["alias"] == 1


def test_keys_in_any_order_are_the_same_run(folder):
    orders = ("rank=8,beta=0.2", "beta=2e-1,rank=8")
    jobs = planned(folder, *(f"results/dpo_lora,{order}/eval.json" for order in orders))
    assert jobs["dpo"] == 1


def test_a_parent_follows_only_where_it_says_so(folder):
    config = yaml.safe_load(TINY.read_text())
    config["runs"]["dpo_lora"]["from"] = "sft_lora,rank={rank}"
    file = folder / "config.yaml"
    file.write_text(yaml.safe_dump(config))
    targets = [f"results/dpo_lora,rank={rank}/eval.json" for rank in (2, 8)]
    assert planned(folder, *targets, config=file)["sft"] == 2
    assert planned(folder, *targets)["sft"] == 1


def test_the_default_target_is_every_run(folder):
    jobs = planned(folder)
    assert jobs["sft"] == jobs["dpo"] == 2 and jobs["eval"] == 5


CONFIGURATIONS = sorted(REPOSITORY.glob("config/**/*.yaml"))


@pytest.mark.parametrize("config", CONFIGURATIONS, ids=lambda file: str(file.relative_to(REPOSITORY)))
def test_every_shipped_configuration_plans(folder, config):
    write_made_data(folder, config)
    assert planned(folder, config=config)["eval"] >= 1


def test_no_configfile_means_the_folder_s_own_then_the_repository_s(folder):
    program = [Path(sys.executable).parent / "snakemake", "-s", REPOSITORY / "Snakefile", "--directory", folder, "-n"]
    run = subprocess.run(program, capture_output=True, text=True)
    assert run.returncode == 0 and "smollm2" in run.stderr + run.stdout
    (folder / "config").mkdir()
    (folder / "config/config.yaml").write_text(TINY.read_text())
    run = subprocess.run(program, capture_output=True, text=True)
    assert run.returncode == 0 and "smollm2" not in run.stderr + run.stdout


def test_a_command_with_nothing_to_do_imports_no_heavy_library(folder, monkeypatch):
    target = "results/sft_lora/spec.json"
    assert snakemake(folder, target).returncode == 0
    monkeypatch.setenv("PYTHONPROFILEIMPORTTIME", "1")
    again = snakemake(folder, target).stdout
    assert "Nothing to be done" in again and "posttrain.workflow.project" in again
    for library in ("torch", "transformers", "scipy"):  # Snakemake imports pandas, and pandas pyarrow
        assert not re.search(rf"\| +{library}$", again, re.M)
