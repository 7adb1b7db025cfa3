"""An export and its proof by `snakemake`: what is built, what a changed limit builds again, and what `posttrain verify` says."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import REPOSITORY, environment, planned, snakemake

CONFIG = """
bases:
  tiny: {source: random, text: gsm8k, hidden_size: 32, layers: 2, heads: 2, vocab_size: 512}
datasets:
  gsm8k:
    path: examples/data/gsm8k_train.jsonl
    validation: examples/data/gsm8k_test.jsonl
    format: prompt_completion
    columns: {prompt: question, completion: answer}
    licence: mit
    limit: 32
runs:
  sft: {from: tiny, objective: sft, method: lora, data: gsm8k, max_steps: 2, rank: 4}
evaluation:
  max_new_tokens: 8
  suites: {say: {kind: generation, data: gsm8k, metrics: [chrf]}, mine: {kind: cases, path: cases.yaml}}
export: {rows: 12, limits: {perplexity_ratio: 1.2}}
tracking: {mlflow: false}
"""
CASES = "- {id: sums, prompt: 1 + 1, must_not: [한국어]}\n- {id: red, prompt: Hello, must: [한국어]}\n"
TARGET = "results/sft/export/bf16.json"


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    """A project folder with a proved export."""
    folder = tmp_path_factory.mktemp("exports")
    shutil.copytree(REPOSITORY / "examples", folder / "examples")
    (folder / "config.yaml").write_text(CONFIG)
    (folder / "cases.yaml").write_text(CASES)
    run = snakemake(folder, "--", TARGET, config=folder / "config.yaml")
    assert run.returncode == 0, run.stdout
    assert "perplexity 1.00" in run.stdout and "mine: 1 of 2 cases green, red: red" in run.stdout
    return folder


def verified(folder: Path) -> str:
    command = [sys.executable, "-m", "posttrain.cli", "verify", "sft"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, env=environment()).stdout


def test_the_proof_is_there_and_nothing_is_left_to_do(built):
    proof = json.loads((built / TARGET).read_text())
    assert proof["program"] == "transformers" and proof["perplexity_ratio"]["n"] == 12
    assert set(proof["metrics"]) == {"perplexity", "say/chrf", "mine/passed"} == set(proof["against"]["sft"])
    assert [(row["id"], row["passed"], row["before"]) for row in proof["cases"]["mine"]] == [
        ("sums", True, True), ("red", False, False),
    ]  # fmt: skip
    assert planned(built, TARGET, config=built / "config.yaml") == {}
    assert "sft/export/bf16: as built" in verified(built)


def test_a_changed_limit_repeats_the_proof_alone(built):
    other = built / "other.yaml"
    other.write_text(CONFIG.replace("1.2", "0.5"))
    assert planned(built, TARGET, config=other) == {"spec": 1, "prove_export": 1}
    run = snakemake(built, "--", TARGET, config=other)
    assert run.returncode == 1 and "perplexity_ratio is 1" in run.stdout and "at most 0.5" in run.stdout
    assert (built / "results/sft/export/bf16").exists() and not (built / TARGET).exists()
    assert snakemake(built, "--", TARGET, config=built / "config.yaml").returncode == 0


def test_a_bad_file_of_cases_is_one_sentence_and_changed_cases_are_measured_again(built):
    config, cases = built / "config.yaml", built / "cases.yaml"
    try:
        cases.write_text(CASES.replace("must:", "musst:"))
        run = snakemake(built, "--", TARGET, config=config)
        assert (
            run.returncode == 1 and "cases.yaml line 2: a case has no key 'musst'; did you mean 'must'?" in run.stdout
        )
        cases.write_text(CASES.replace("한국어", "서울"))
        assert planned(built, TARGET, config=config)["prove_export"] == 1
    finally:
        cases.write_text(CASES)


def test_what_was_tampered_with_is_named(built):
    file = built / "results/sft/export/bf16/config.json"
    text = file.read_text()
    file.write_text(text + " ")
    assert "bf16/config.json is edited" in verified(built)
    file.write_text(text)


@pytest.mark.parametrize(
    ("target", "words"),
    [("onnx", "optimum-onnx needs transformers"), ("gguf-q8", "did you mean 'gguf-q8_0'?")],
)
def test_a_kind_that_there_is_not_is_refused(built, target, words):
    run = snakemake(built, "--", f"results/sft/export/{target}.json", config=built / "config.yaml")
    assert run.returncode == 1 and words in run.stdout
