"""A company's small files at the first command: nothing is lost, nothing is refused, and what can be measured is said."""

import json
from pathlib import Path

import pytest
import yaml
from in_process import jobs, run
from unit.data.test_splits import faq

TINY_BASE = {"source": "random", "text": "faq", "hidden_size": 32, "heads": 2, "vocab_size": 384}
QUICK = {"max_steps": 2, "batch_size": 4, "rank": 8}
PREFERENCES = [
    {
        "prompt": f"Please write to a customer whose {thing} came late.",
        "chosen": f"We are sorry that your {thing} was late, and give you back what you paid for the delivery.",
        "rejected": f"Late {thing}s are not our fault; write to the carrier.",
    }
    for kind in ("red", "blue", "small", "large", "old", "new")
    for thing in (f"{kind} {name}" for name in "lamp kettle desk chair tent knife hose coat clock radio".split())
]


@pytest.fixture
def company(tmp_path, monkeypatch):
    """120 questions of one template and 60 preferences, with no more than the keys that a run needs."""
    monkeypatch.chdir(tmp_path)
    for name, rows in {"faq": faq(), "pairs": PREFERENCES}.items():
        Path(f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    values = {
        "bases": {"tiny": TINY_BASE},
        "datasets": {
            "faq": {"path": "faq.jsonl", "columns": {"prompt": "question", "completion": "answer"}},
            "pairs": {"path": "pairs.jsonl"},
        },
        "runs": {
            "q": {"from": "tiny", "objective": "sft", "data": "faq", **QUICK},
            "liked": {"from": "tiny", "objective": "orpo", "data": "pairs", **QUICK},
        },
        "evaluation": {"suites": {"asked": {"kind": "generation", "data": "faq", "num_fewshot": 2}}},
    }
    Path("config.yaml").write_text(yaml.dump(values))
    return tmp_path


def test_an_faq_of_templated_rows_passes_at_the_first_command(company, capsys):
    for job in jobs(company, company / "config.yaml", ["results/q/preflight.json", "results/liked/preflight.json"]):
        run(job)
    for name, rows, held_out in (("faq", 120, 20), ("pairs", 60, 12)):
        data = json.loads(Path(f"results/data/{name}/data.json").read_text())
        assert (data["train"] + data["validation"], data["validation"]) == (rows, held_out)
        overlap = json.loads(Path(f"results/data/{name}/overlap.json").read_text())
        assert {found["shared"] for found in overlap.values()} == {0}
    for name in ("q", "liked"):
        report = json.loads(Path(f"results/{name}/preflight.json").read_text())
        assert report["passed"]
        (found,) = [result for result in report["checks"] if result["name"] == "held_out"]
        assert found["result"] == "warning"
        assert "faq holds out 20 rows, which show a difference in accuracy of 36.7 points" in found["message"]
        assert "pairs holds out 12 rows, which show a difference in accuracy of 57.8 points" in found["message"]


def test_a_suite_that_its_rows_cannot_answer_is_refused_before_training(company):
    from posttrain.runtime.errors import UserError

    values = yaml.safe_load(Path("config.yaml").read_text())
    values["evaluation"]["suites"]["asked"]["num_fewshot"] = 101
    values["evaluation"]["suites"]["likes"] = {"kind": "preference", "data": "faq"}
    Path("config.yaml").write_text(yaml.dump(values))
    *before, preflight = jobs(company, company / "config.yaml", ["results/q/preflight.json"])
    for job in before:
        run(job)
    with pytest.raises(UserError) as error:
        run(preflight)
    assert "num_fewshot is 101, and faq has 100 training rows of one question and one answer; write fewer" in str(
        error.value
    )
    assert "likes.data: preference needs rows of type preference or image_preference, and faq is messages" in str(
        error.value
    )
