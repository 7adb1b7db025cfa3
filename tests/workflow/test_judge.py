"""A judge in the workflow: a job after the measurements, which fails alone and asks for nothing twice."""

import json

import pytest
import yaml
from conftest import TINY, planned, refused, snakemake
from judge_server import completion, longer, serving

from posttrain.workflow.project import Project

SECRET = "s3cr3t" + "Canary43"


def configured(folder, suite: dict, **changes) -> dict:
    """The tiny configuration with a suite `better`, written to config.yaml."""
    values = yaml.safe_load(TINY.read_text()) | changes
    values["evaluation"] = {
        "limit": 12,
        "max_new_tokens": 8,
        "suites": {"better": {"kind": "judge", "data": "gsm8k"} | suite},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(values))
    return values


def test_a_judge_is_a_job_after_the_measurements(folder):
    configured(folder, {"by": "sft_full", "against": "tiny"})
    jobs = planned(folder, "results/dpo_lora/eval.json", config=folder / "config.yaml")
    assert (jobs["judge"], jobs["eval"], jobs["merge"]) == (1, 3, 3)  # sft_full is not evaluated, and tiny not judged
    jobs = planned(folder, "results/tiny/eval.json", config=folder / "config.yaml")
    assert (jobs["judge"], jobs["eval"], jobs["merge"]) == (1, 1, 0)


@pytest.mark.slow
def test_a_judge_that_goes_away_is_asked_for_the_rest_by_the_same_command(folder, monkeypatch):
    monkeypatch.setenv("JUDGE_KEY", SECRET)
    bases = yaml.safe_load(TINY.read_text())["bases"] | {
        "other": {"source": "random", "text": "gsm8k", "hidden_size": 32, "seed": 7}
    }
    bases["other"] |= {"layers": 2, "heads": 2, "vocab_size": 512}
    left = [5]  # requests until the key is withdrawn

    def answer(body: dict) -> tuple[int, dict, bytes]:
        left[0] -= 1
        prompt = body["messages"][0]["content"]
        return (
            (200, {}, json.dumps(completion(longer(prompt), prompt)).encode())
            if left[0] >= 0
            else (403, {}, SECRET.encode())
        )

    with serving(answer=answer) as server:
        endpoint = {"base_url": server.url, "model": "m", "key_env": "JUDGE_KEY", "concurrency": 1}
        changes = {"bases": bases, "runs": {}, "sweeps": {}}
        values = configured(folder, {"endpoint": endpoint, "against": "other"}, **changes)
        file = folder / "config.yaml"
        first = snakemake(folder, "results/tiny/eval.json", config=file)
        assert first.returncode != 0 and "posttrain: evaluation.suites.better.endpoint: " in first.stdout, first.stdout
        assert "refuses with status 403; check the key in the environment variable JUDGE_KEY" in first.stdout
        assert "Traceback" not in first.stdout
        results = folder / "results/tiny"
        measured = json.loads((results / "eval/measured.json").read_text())
        assert measured["metrics"]["perplexity"]["n"] == 12 and (results / "eval/examples.parquet").exists()
        assert not (results / "eval.json").exists()

        assert planned(folder, "results/tiny/eval.json", config=file) == {"judge": 1}
        left[0] = 1000
        again = snakemake(folder, "results/tiny/eval.json", config=file)
        assert again.returncode == 0, again.stdout
        asked = [body["messages"][0]["content"] for body, key in zip(server.bodies, server.keys, strict=True)]
        assert set(server.keys) == {f"Bearer {SECRET}"}
        assert len(asked) == len(set(asked)) + 1  # the one that was refused
        result = json.loads((results / "eval.json").read_text())
        assert result["metrics"] | {"better/win_rate": 0} == measured["metrics"] | {"better/win_rate": 0}
        row = result["metrics"]["better/win_rate"]
        assert row["n"] == 12 and result["against"]["other"]["better/win_rate"]["difference"] == pytest.approx(
            2 * row["value"] - 1
        )
        assert len(set(asked)) == 2 * (12 - result["judge"]["better"]["equal"])
        assert planned(folder, "results/tiny/eval.json", config=file) == {}

        (folder / "told.txt").write_text("Prefer brevity.\n")
        configured(folder, {"endpoint": endpoint, "against": "other", "instruction": "told.txt"}, **changes)
        assert planned(folder, "results/tiny/eval.json", config=file) == {"spec": 1, "judge": 1}
    assert Project(values).spec("tiny/judge")
    found = [file for file in folder.rglob("*") if file.is_file() and SECRET.encode() in file.read_bytes()]
    assert not found and SECRET not in first.stdout + again.stdout


def test_a_judge_that_is_the_parent_is_refused_when_the_configuration_is_read(folder):
    values = configured(folder, {"by": "sft_lora"})
    with refused("wrong-judge", "evaluation.suites.better.by"):
        Project(values)
