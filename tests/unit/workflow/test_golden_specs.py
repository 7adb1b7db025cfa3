"""Finished results stay valid: no spec of an unchanged configuration moves.

Write golden_specs.json anew only where a stage's results change their meaning: `python tests/unit/workflow/test_golden_specs.py`.
"""

import itertools
import json
from pathlib import Path

import pytest
import yaml
from pydantic import Field, create_model

from posttrain.config.bases import RandomBase
from posttrain.config.datasets import Dataset, Part, Select
from posttrain.config.evaluation import Evaluation, GenerationSuite
from posttrain.config.runs import Run
from posttrain.methods import METHODS
from posttrain.objectives import OBJECTIVES
from posttrain.runtime.errors import UserError
from posttrain.workflow import specs
from posttrain.workflow.project import Project

REPOSITORY = Path(__file__).resolve().parents[3]
STORED = Path(__file__).with_name("golden_specs.json")
WHOLE = ("bases/tiny", "data/chats", "data/mixture", "sft_lora", "ppo_qlora", "sft_lora/eval")  # shown in full


def projects() -> dict[str, Project]:
    """The configurations by name."""
    folders = [REPOSITORY / "config", *(REPOSITORY / "config" / name for name in ("examples", "test"))]
    files = [file for folder in folders for file in sorted(folder.glob("*.yaml"))]
    found = {str(file.relative_to(REPOSITORY)): yaml.safe_load(file.read_text()) for file in files}
    found["every objective by every method"] = every_objective_by_every_method()
    found["texts"], found["labels"] = texts(), labels()
    return {name: Project(values, name, REPOSITORY) for name, values in found.items()}


def texts() -> dict:
    """The objectives that train on rows of their own kind, which another configuration would be evaluated on as well."""
    runs = {
        f"pretrain_{method}": {"from": "tiny", "objective": "pretrain", "method": method, "data": "texts"}
        for method in METHODS
    }
    return {
        "bases": {"tiny": {"source": "random", "text": "texts", "new_words": ["plum"]}},
        "datasets": {"texts": {"path": "texts.jsonl", "format": "text"}, "others": {"path": "others.jsonl"}},
        "runs": runs | {"unpacked": runs["pretrain_lora"] | {"packing": False}},
        "evaluation": {"outside": ["others"]},
    }


def labels() -> dict:
    """Classifiers."""
    run = {"from": "tiny", "objective": "classify", "data": "labelled"}
    return {
        "bases": {"tiny": {"source": "random", "text": "labelled"}},
        "datasets": {"labelled": {"path": "labelled.jsonl", "format": "labelled_text"}},
        "runs": {f"classify_{name}": run | {"method": name} for name, row in METHODS.items() if row.mergeable},
    }


def every_objective_by_every_method() -> dict:
    """A configuration with a run for each pair that is allowed, all kinds of datasets and suites."""
    values = {
        "bases": {"tiny": {"source": "random", "text": "chats"}, "hub": {"source": "hub", "model": "a/b"}}
        | {"small": {"source": "pruned", "of": "tiny", "drop": 1, "data": "chats"}}
        | {"named": {"source": "pruned", "of": "hub", "drop": [1, 2]}},
        "datasets": {
            "chats": {"path": "chats.jsonl", "format": "messages", "system": "Be brief."},
            "texts": {"path": "texts.jsonl", "format": "text", "validation": 0.2, "limit": 10},
            "pairs": {"path": "pairs.jsonl", "format": "preference", "near_duplicates": 0.9},
            "unpaired": {"hub": "a/b", "format": "unpaired_preference"},
            "easy": {"from": "pairs", "select": {"by": "reward_lora", "part": "easy", "margin": 0.5}},
            "mixture": {"mix": {"chats": {"weight": 2}, "more": {"limit": 5}}},
            "more": {"path": "more.jsonl", "format": "alpaca"},
            "said": {"from": "chats", "generated": {"by": "hub"}},
        },
        "evaluation": {
            "suites": {
                "likely": {"kind": "perplexity", "data": "chats"},
                "written": {"kind": "generation", "data": "chats", "shots": 2},
                "judged": {"kind": "reward", "data": "chats", "by": "reward_lora"},
                "tasks": {"kind": "tasks", "tasks": ["arc_easy"]},
                "safe": {"kind": "safety"},
            }
        },
        "runs": {"reward_lora": {"from": "tiny", "objective": "reward", "data": "pairs"}},
    }  # fmt: skip
    for (objective, row), method in itertools.product(OBJECTIVES.items(), METHODS):
        if not {"preference", "messages"} & {*row.data}:
            continue
        run = {
            "from": "tiny",
            "objective": objective,
            "method": method,
            "data": "pairs" if "preference" in row.data else "chats",
        }
        if row.teacher:
            run["teacher"] = "hub"
        if row.on_policy:
            run["reward"] = {"from": "reward_lora"}
        runs = values["runs"] | {f"{objective}_{method}": run}
        try:
            Project(values | {"runs": runs}, "golden", REPOSITORY)
        except UserError:
            continue
        values["runs"] = runs
    sft = {"from": "sft_lora", "data": "chats"}
    values["runs"] |= {
        "easy_dpo": sft
        | {"objective": "dpo", "data": "easy", "loss_type": ["sigmoid", "sft"], "loss_weights": [1, 0.5]},
        "on_said": {"from": "small", "objective": "sft", "data": "said"},
        "top": {"from": "small", "objective": "distill", "data": "chats", "teacher": "sft_lora", "teacher_top_k": 16},
        "sampled": {"from": "named", "objective": "distill", "data": "chats", "teacher": "hub", "on_policy_share": 0.5},
        "mixed": {"from": "hub", "objective": "sft", "data": "mixture", "packing": True, "assistant_turns": "last"}
        | {"early_stopping": {"metric": "loss"}},
        "rto": sft
        | {"objective": "ppo", "reward": {"from": "easy_dpo", "kind": "implicit", "sequence": "reward_lora"}},
        "by_rule": sft | {"objective": "grpo", "variant": "dapo", "reward": {"function": "final_number"}},
    }
    return values


def targets(project: Project) -> list[str]:
    """Every target of a configuration that has a spec."""
    runs = dict.fromkeys(
        [*project.reported_runs, *(name for sweep in project.config.sweeps for name in project.sweep_runs(sweep))]
    )
    models = [*project.config.bases, *runs]
    return [
        *(f"bases/{name}" for name in project.config.bases),
        *(f"data/{name}" for name in project.config.datasets),
        *runs,
        *(f"{name}/eval" for name in models),
    ]


def measured() -> dict:
    """The hash of every spec, and some specs in full."""
    found = projects()
    hashes = {
        name: {target: project.spec_hash(target) for target in targets(project)} for name, project in found.items()
    }
    whole = found["every objective by every method"]
    return {"sha256": hashes, "whole": {target: json.loads(whole.spec(target)) for target in WHOLE}}


def test_no_spec_has_moved():
    stored, now = json.loads(STORED.read_text()), measured()
    assert now["whole"] == stored["whole"]
    assert now["sha256"] == stored["sha256"]


TABLES = {
    "base": RandomBase(source="random", text="chats"),
    "data": Dataset(path="x.jsonl"),
    "select": Select(by="reward", part="easy", margin=0.5),
    "mix": Part(),
    "eval": Evaluation(),
    "suite": GenerationSuite(kind="generation", data="chats"),
}


@pytest.mark.parametrize("stage", specs.WRITTEN_OUT)
def test_a_new_key_moves_no_spec_while_it_is_at_its_default(stage):
    table = TABLES[stage]
    values = table.model_dump(by_alias=True)
    wider = create_model("Wider", __base__=type(table), new_key=(int | None, None), new_list=(list, Field([])))
    assert specs.settings(stage, wider(**values)) == specs.settings(stage, table)
    assert specs.settings(stage, wider(**values, new_key=3)) == specs.settings(stage, table) | {"new_key": 3}


def test_a_new_key_of_a_run_moves_no_spec_while_it_is_at_its_default():
    values = {"from": "tiny", "objective": "sft", "data": "chats"}
    wider = create_model("Wider", __base__=Run, new_key=(int | None, None))
    assert wider(**values).settings() == Run(**values).settings()
    assert wider(**values, new_key=3).settings() == Run(**values).settings() | {"new_key": 3}


if __name__ == "__main__":
    STORED.write_text(json.dumps(measured(), indent=1) + "\n")
