"""`posttrain plan` as a user runs it: the jobs of Snakemake's own dry run, before anything is built."""

import json
import subprocess
import sys

import yaml
from conftest import TINY, environment, planned


def plan(folder, *arguments: str, config=TINY) -> str:
    command = [sys.executable, "-m", "posttrain.cli", "plan", *arguments, "--configfile", str(config)]
    run = subprocess.run(command, cwd=folder, capture_output=True, text=True, env=environment())
    assert run.returncode == 0, run.stderr
    return run.stdout


def test_a_plan_has_the_jobs_of_a_dry_run_with_their_costs_and_is_written_down(folder):
    values = yaml.safe_load(TINY.read_text()) | {"cost": {"price_per_hour": 3.6, "watts": 100}}
    config = folder / "config.yaml"
    config.write_text(yaml.safe_dump(values))
    found = json.loads(
        plan(folder, "dpo_lora", "results/sweeps/rank/report.html", "--json", "--svg", "p.svg", config=config)
    )
    expected = planned(folder, "results/dpo_lora/eval.json", "results/sweeps/rank/report.html", config=config)
    rules = [job["rule"] for job in found["jobs"]]
    assert {rule: rules.count(rule) for rule in rules} == {
        rule: number for rule, number in expected.items() if rule not in ("spec", "context")
    }
    total = found["total"]
    assert total["seconds"] == sum(job["seconds"] for job in found["jobs"]) > 10
    assert (
        abs(total["kwh"] * 3.6e6 - 100 * total["seconds"]) < 1e-6
        and abs(total["money"] - total["seconds"] / 1000) < 1e-9
    )
    assert all(job["low"] < job["seconds"] < job["high"] and job["memory"] > 1e8 for job in found["jobs"])
    shared = {job["job"]: job["serves"] for job in found["jobs"]}
    assert (shared["sft/sft_lora"], shared["dpo/dpo_lora,rank=2"]) == (2, 1)
    written = json.loads((folder / "results/plan.json").read_text())["jobs"]
    assert written.keys() == shared.keys() and (folder / "p.svg").read_text().count("<rect") == 4
