"""A team's cache between two users: what one has trained, the other does not, whatever the names in the configurations."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from conftest import REPOSITORY, TINY, environment, snakemake

from posttrain.runtime.hashes import folder_hashes

pytestmark = pytest.mark.slow

# What the second user calls the same things.
NAMES = {"tiny": "small", "gsm8k_pairs": "which", "gsm8k": "sums", "sft_lora": "first", "dpo_lora": "second"}


def project(folder: Path, cache: dict, renamed: bool) -> Path:
    """A user's folder with an SFT and a DPO run on the tiny base, with rows from the same files."""
    shutil.copytree(REPOSITORY / "examples", folder / "examples")
    config = yaml.safe_load(TINY.read_text())
    config = {key: config[key] for key in ("bases", "datasets", "tracking")} | {
        "runs": {name: config["runs"][name] for name in ("sft_lora", "dpo_lora")},
        "cache": cache,
    }
    text = yaml.safe_dump(config)
    for name, other in NAMES.items() if renamed else ():
        text = re.sub(rf"(?<![/\w]){name}\b", other, text)
    (folder / "config.yaml").write_text(text)
    return folder


def build(folder: Path, *targets: str) -> str:
    run = snakemake(folder, *targets, config=folder / "config.yaml")
    assert run.returncode == 0, run.stdout
    return run.stdout


def summary(folder: Path, run: str) -> dict:
    return json.loads((folder / f"results/{run}/train.json").read_text())


def posttrain(folder: Path, *arguments: str) -> str:
    command = [sys.executable, "-m", "posttrain.cli", *arguments, "--configfile", "config.yaml"]
    run = subprocess.run(command, cwd=folder, env=environment(), capture_output=True, text=True)
    return run.stdout + run.stderr


@pytest.fixture(scope="module")
def team(tmp_path_factory) -> dict[str, Path]:
    """The folder of the cache, and of two users who have built the same."""
    root = tmp_path_factory.mktemp("team")
    (root / "cache").mkdir()
    first = project(root / "one", {"path": str(root / "cache")}, renamed=False)
    second = project(root / "two", {"path": str(root / "cache"), "read_only": True}, renamed=True)
    (first / "said").write_text(build(first, "results/dpo_lora/merge.json"))
    (second / "said").write_text(build(second, "results/second/merge.json"))
    return {"cache": root / "cache", "one": first, "two": second}


def test_the_second_trains_nothing(team):
    assert len(list(team["cache"].glob("*.tar"))) == 3  # two trainings, one reference
    assert "team's cache" not in (team["one"] / "said").read_text()
    said = re.findall(r"^(.*): done .*found in the team's cache, by ", (team["two"] / "said").read_text(), re.M)
    assert sorted(said) == ["dpo second", "logprobs which by first", "sft first"]
    for ours, theirs in (("sft_lora", "first"), ("dpo_lora", "second")):
        trained, found = summary(team["one"], ours), summary(team["two"], theirs)
        assert "cached" not in trained and found.pop("cached").keys() == {"who", "when", "mlflow_run_id"}
        assert found == trained  # its seconds too: of the training that took place
        log = (team["two"] / "results/logs" / ("sft" if ours == "sft_lora" else "dpo") / f"{theirs}.log").read_text()
        assert "parameters are trained" not in log
        weights = [team["one"] / "results" / ours, team["two"] / "results" / theirs]
        assert len({folder_hashes(folder / "merged")["model.safetensors"] for folder in weights}) == 1


def test_a_result_has_its_own_user_s_names(team):
    config = json.loads((team["two"] / "results/second/trained/adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "first"
    for file in (team["two"] / "results/second/trained").glob("*.json"):
        assert "sft_lora" not in file.read_text() and str(team["one"]) not in file.read_text()


def test_records_say_where_it_came_from_and_hold(team):
    record = json.loads((team["two"] / "results/second/provenance.json").read_text())
    assert record["training"]["cached"]["who"]
    said = posttrain(team["two"], "verify", "second")
    assert "second: as built" in said and "edited" not in said
    assert "is trained" not in posttrain(team["two"], "why", "results/second/merge.json")


def test_results_are_not_changed_through_the_cache(team):
    file = next((team["two"] / "results/first/checkpoints").glob("*/finished/trained/adapter_model.safetensors"))
    other = next((team["one"] / "results/sft_lora/checkpoints").glob("*/finished/trained/adapter_model.safetensors"))
    assert file.stat().st_ino != other.stat().st_ino


def test_other_settings_are_trained(team):
    said = build(team["two"], "results/first,seed=3/train.json")
    assert "sft first,seed=3: done" in said and "team's cache" not in said
    assert "cached" not in summary(team["two"], "first,seed=3")
    assert len(list(team["cache"].glob("*.tar"))) == 3  # this user stores nothing


def test_a_cache_that_is_away_is_refused_before_anything_runs(tmp_path):
    folder = project(tmp_path, {"path": str(tmp_path / "away")}, renamed=False)
    run = snakemake(folder, "results/sft_lora/train.json", config=folder / "config.yaml")
    assert run.returncode == 1 and "posttrain: cache.path: " in run.stdout and "there is no such folder" in run.stdout
    assert not (folder / "results").exists()
