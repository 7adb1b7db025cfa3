"""The whole road on a random tiny model, through `snakemake`: what it builds, and what a change builds again."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml
from conftest import REPOSITORY, TINY, environment, planned, snakemake

from posttrain import documents
from posttrain.reports import front_matter

TARGETS = (
    "results/dpo_full/loss.png",
    "results/sweeps/rank/table.tsv",
    "results/ratings/tiny~sft_lora/rate.html",
    "results/report.html",
    "results/dpo_lora/README.md",
)
STANDARD = {
    "perplexity",
    "byte_perplexity",
    "preference_accuracy",
    "exact_match",
    "exact_match_lenient",
    "format_followed",
}


@pytest.fixture(scope="module")
def road(tmp_path_factory) -> Path:
    """A project folder in which every run of the tiny configuration is built."""
    folder = tmp_path_factory.mktemp("road")
    shutil.copytree(REPOSITORY / "examples", folder / "examples")
    run = snakemake(folder, *TARGETS)
    assert run.returncode == 0, run.stdout
    return folder


def read(file: Path) -> dict:
    return json.loads(file.read_text())


def test_every_json_file_has_the_documented_keys(road):
    results = road / "results"
    found = [results / "dpo_lora" / file for file in documents.FILES if file not in ("data.json", "report.json")]
    found += [results / "tiny/eval.json", results / "sft_full/merge.json", *results.glob("data/*/data.json")]
    found += results.glob("data/*/report.json")
    assert {str(file): faults for file in found if (faults := documents.faults(file.name, read(file)))} == {}


def test_eval_json_keeps_its_contract(road):
    result = read(road / "results/dpo_lora/eval.json")
    assert {"run", "spec", "metrics", "against"} <= result.keys()
    assert set(result["against"]) == {"sft_lora", "tiny"}
    suites = {
        "say/final_number",
        "say/chrf",
        "safe/refusal",
        "safe/over_refusal",
        "safe/toxicity",
        "safe/unequal_treatment",
    }
    assert STANDARD | suites | {"preference_margin", "preference_margin_accuracy"} == result["metrics"].keys()
    for name, metric in result["metrics"].items():
        assert metric["low"] <= metric["value"] <= metric["high"]
        assert metric["n"] == (8 if "/" not in name else 4 if name.startswith("say/") else metric["n"])
    for rows in result["against"].values():
        assert set(rows) == STANDARD | suites
        assert all(row["verdict"] in ("better", "worse", "no evidence") for row in rows.values())
        assert all(row["low"] <= row["high"] and 0 < row["p"] <= 1 for row in rows.values())
        assert all(("detectable" in row) == (row["verdict"] == "no evidence") for row in rows.values())


def test_a_base_is_evaluated_alike(road):
    result = read(road / "results/tiny/eval.json")
    assert result["against"] == {} and "perplexity" in result["metrics"]


@pytest.mark.parametrize("name", ["sft_lora", "dpo_lora", "sft_full", "dpo_full"])
def test_the_merge_is_proved(road, name):
    proof = read(road / f"results/{name}/merge.json")
    assert proof["max_abs_logit_difference"] < 1e-4 and proof["greedy_agreement"] == 1.0 and proof["n"] > 100


@pytest.mark.parametrize("name", ["sft_lora", "dpo_lora", "sft_full", "dpo_full"])
def test_training_moved_the_weights(road, name):
    parent = {"sft_lora": "bases/tiny", "dpo_lora": "sft_lora", "sft_full": "bases/tiny", "dpo_full": "sft_full"}[name]
    files = [road / f"results/{folder}/model/model.safetensors" for folder in (name, parent)]
    assert files[0].read_bytes() != files[1].read_bytes()
    steps = [json.loads(line) for line in (road / f"results/{name}/train.jsonl").read_text().splitlines()]
    assert [step["step"] for step in steps] == list(range(1, read(road / f"results/{name}/train.json")["steps"] + 1))


def test_sft_learns_and_dpo_starts_at_its_reference(road):
    sft = read(road / "results/sft_lora/eval.json")["against"]["tiny"]["perplexity"]
    assert sft["high"] < 0 and sft["p"] < 0.01
    assert (sft["verdict"], sft["detectable"]) == (
        "no evidence",
        None,
    )  # of 8 examples, which are too few for a verdict
    first = json.loads((road / "results/dpo_lora/train.jsonl").read_text().splitlines()[0])
    assert first["loss"] == pytest.approx(0.693147, abs=1e-4)


def test_others_can_load_the_model(road):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = road / "results/dpo_lora/model"
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = tokenizer.apply_chat_template([{"role": "user", "content": "2+2?"}], return_tensors="pt", return_dict=True)
    assert AutoModelForCausalLM.from_pretrained(folder)(**ids).logits.shape[-1] == 512


def test_the_card_is_one_that_the_hub_takes_and_its_lines_load_the_model(road, capsys):
    text = (road / "results/dpo_lora/README.md").read_text()
    assert front_matter.faults(text) == [] and str(road) not in text and "| `dpo_lora` |" in text
    code = text.split("```python\n")[1].split("```")[0].replace("FOLDER", str(road / "results/dpo_lora/model"))
    exec(compile(code.replace("max_new_tokens=200", "max_new_tokens=2"), "card", "exec"), {})
    assert capsys.readouterr().out.endswith("\n")


def test_provenance_names_inputs_versions_and_code(road):
    record = read(road / "results/dpo_lora/provenance.json")
    parent = read(road / "results/sft_lora/merge.json")
    assert record["parent"] == {"name": "sft_lora", "files": parent["files"]}
    assert {"torch", "trl", "peft"} <= record["versions"].keys() and len(record["code"]["scripts"]) == 64


def posttrain(folder: Path, *arguments: str) -> tuple[int, list[str]]:
    """Exit status and printed lines of a `posttrain` command."""
    run = subprocess.run(
        [sys.executable, "-m", "posttrain.cli", *arguments, "--configfile", TINY],
        env=environment() | {"PYTHONPATH": str(REPOSITORY / "scripts")},
        cwd=folder,
        capture_output=True,
        text=True,
    )
    return run.returncode, run.stdout.splitlines()


def test_all_that_was_built_is_verified_as_built(road):
    status, lines = posttrain(road, "verify")
    assert status == 0 and {"sft_lora: as built", "dpo_full/eval: as built"} <= set(lines)
    assert all(line.endswith(": as built") for line in lines)


def test_an_edited_number_is_found_and_trained_again_to_the_same_bits(road):
    file = road / "results/sft_lora/train.jsonl"
    content = file.read_text()
    file.write_text(content.replace('"step": 2', '"step": 2, "reward": 9'))
    try:
        status, lines = posttrain(road, "verify", "results/sft_lora/eval.json")
        assert status == 1 and any(line.startswith("sft_lora: train.jsonl is edited") for line in lines)
        status, lines = posttrain(road, "rebuild-check", "sft_lora")
        # The first line would be of trained/, were its bits others.
        assert (status, lines[0]) == (1, "train.jsonl, step 2: reward was 9, is now None")
    finally:
        file.write_text(content)


def test_there_is_nothing_left_to_do(road):
    assert planned(road, *TARGETS) == {}


def test_a_deleted_evaluation_is_all_that_runs(road):
    file = road / "results/dpo_lora/eval.json"
    content = file.read_bytes()
    file.unlink()
    try:
        assert planned(road, "results/dpo_lora/eval.json") == {"eval": 1}
    finally:
        file.write_bytes(content)


@pytest.mark.parametrize(
    ("change", "rules"),
    [
        (
            lambda c: c["runs"]["dpo_lora"].update(beta=0.3),
            {"spec": 2, "preflight": 1, "dpo": 1, "merge": 1, "eval": 1},
        ),
        (lambda c: c["runs"]["dpo_lora"].update(allow=["overlap"]), {"preflight": 1}),
        (lambda c: c["datasets"]["gsm8k_pairs"].update(licence="cc-by-4.0"), {"preflight": 1}),
        (lambda c: c["tracking"].update(checkpoint_seconds=5), {}),
        (lambda c: c["evaluation"].update(limit=4), {"spec": 3, "eval": 3}),
        (lambda c: c["runs"].update(c["runs"], sft_lora=dict(reversed(c["runs"]["sft_lora"].items()))), {}),
    ],
    ids=["beta", "allow", "licence", "tracking", "evaluation", "order of keys"],
)
def test_a_change_reruns_what_it_changes(road, change, rules):
    config = yaml.safe_load(TINY.read_text())
    change(config)
    file = road / "changed.yaml"
    file.write_text(yaml.safe_dump(config, sort_keys=False))
    assert planned(road, "results/dpo_lora/eval.json", config=file) == rules


def test_the_loss_picture_is_one(road):
    assert (road / "results/dpo_full/loss.png").read_bytes().startswith(b"\x89PNG")


def test_a_finished_run_is_not_trained_again(road):
    """Its outputs may be lost, as after a Ctrl-C that reached Snakemake alone; the result is still in checkpoints/."""
    before = (road / "results/sft_lora/trained/adapter_model.safetensors").read_bytes()
    shutil.rmtree(road / "results/sft_lora/trained")
    run = snakemake(road, "results/sft_lora/trained")
    assert run.returncode == 0 and "started" in run.stdout
    assert (road / "results/sft_lora/trained/adapter_model.safetensors").read_bytes() == before


def test_a_sweep_is_a_table_a_page_and_pictures(road):
    lines = (road / "results/sweeps/rank/table.tsv").read_text().splitlines()
    _, *rows = (dict(zip(lines[0].split("\t"), line.split("\t"), strict=True)) for line in lines)
    assert [row["rank"] for row in rows] == ["2", "4"] and [row["runs"] for row in rows] == [
        "dpo_lora,rank=2",
        "dpo_lora",
    ]
    value = read(road / "results/dpo_lora/eval.json")["metrics"]["perplexity"]["value"]
    assert float(rows[1]["perplexity"]) == pytest.approx(value, rel=1e-5)
    assert (road / "results/sweeps/rank/plots/perplexity.png").read_bytes().startswith(b"\x89PNG")
    assert "<h2" in (road / "results/sweeps/rank/report.html").read_text()


def test_the_report_has_every_model_and_its_figures(road):
    page = (road / "results/report.html").read_text()
    assert all(f">{name}<" in page for name in ("tiny", "sft_lora", "dpo_lora", "sft_full", "dpo_full"))
    assert (road / "results/figures/dpo_lora-loss.svg").exists()


def test_what_raters_exported_becomes_a_dataset_to_train_on(road):
    pair = {"a": "tiny", "b": "sft_lora", "page": "0", "suite": "", "dataset": "gsm8k"}
    answers = {"answer_a": "a bad one", "answer_b": "a good one"}
    verdict = {"helpfulness": "b", "harmlessness": "tie", "honesty": "b"}
    rows = [pair | {"rater": "anna", "id": str(i), "prompt": f"question {i}"} | answers | verdict for i in range(12)]
    (road / "anna.json").write_text(json.dumps(rows))
    config = yaml.safe_load(TINY.read_text()) | {"ratings": ["anna.json"]}
    config["datasets"]["rated"] = {"ratings": "tiny~sft_lora", "validation": 0, "near_duplicates": None}
    file = road / "rated.yaml"
    file.write_text(yaml.safe_dump(config))
    run = snakemake(road, "results/data/rated/train.parquet", config=file)
    assert run.returncode == 0, run.stdout
    helpful = read(road / "results/ratings/tiny~sft_lora/ratings.json")["questions"]["helpfulness"]
    assert (helpful["b"], helpful["a"], helpful["verdict"]) == (12, 0, "better")
    rows = pq.read_table(road / "results/data/rated/train.parquet").to_pylist()
    assert [row["chosen"][-1]["content"] for row in rows] == ["a good one"] * 12


def test_snakemakes_own_report_has_the_pages_and_figures(road):
    run = snakemake(road, "--report", "own.html", *TARGETS)
    assert run.returncode == 0, run.stdout
    text = (road / "own.html").read_text()
    assert all(title in text for title in ("results/report.html", "results/sweeps/rank/report.html", "Curves"))
