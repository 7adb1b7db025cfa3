"""What a training stage reads, and the folder that its checkpoints are in."""

import json
from argparse import Namespace
from pathlib import Path

import pytest
from conftest import refused, write_rows

from posttrain.data.tokens import questions
from posttrain.models import loading
from posttrain.training import inputs


def test_prompts_without_room_for_an_answer_are_left_out_and_said(
    spec, in_folder, chats, random_tiny_tokenizer, monkeypatch
):
    said = []
    monkeypatch.setattr(inputs, "say", said.append)
    write_rows(Path("data/train.parquet"), chats)
    lengths = [len(row["prompt_ids"]) for row in questions(random_tiny_tokenizer, chats)]
    keys = {"max_length": sorted(lengths)[1] + 8, "max_new_tokens": 8}
    ppo = {"from": "base", "objective": "ppo", "data": "chats", "reward": {"function": "final_number"}} | keys
    kept = inputs.read_prompts(
        Namespace(parent=Path("base"), data=Path("data")), spec("ppo", {"runs.ppo": ppo}), random_tiny_tokenizer
    )
    assert sorted(len(row["prompt_ids"]) for row in kept) == sorted(lengths)[:2]
    room = keys["max_length"] - 8
    assert said == [f"chats: 2 of 4 prompts are longer than {room} tokens, and left out"]
    ppo |= {"max_length": 12}
    with refused("too-long", "dataset chats"):
        inputs.read_prompts(
            Namespace(parent=Path("base"), data=Path("data")), spec("ppo", {"runs.ppo": ppo}), random_tiny_tokenizer
        )


def test_what_a_reward_is_made_of_is_a_part_of_the_checkpoints_key(spec, in_folder):
    for name in ("dpo", "reward"):
        Path(f"results/{name}").mkdir(parents=True)
        Path(f"results/{name}/merge.json").touch()
    reward = {"from": "base", "objective": "reward", "data": "pairs"}
    rto = {
        "from": "sft",
        "objective": "ppo",
        "data": "chats",
        "reward": {"from": "dpo", "kind": "implicit", "sequence": "reward"},
    }
    changes = {"runs.reward": reward, "runs.rto": rto, "runs.dpo.from": "base"}
    models = [Path("results/dpo"), Path("results/reward"), Path("results/bases/base")]
    options = Namespace(manifest=Path("results/sft/merge.json"), data=Path("data"), reward_models=models)
    files = inputs.reward_files(options, spec("rto", changes))
    manifests = ["results/dpo/merge.json", "results/reward/merge.json", "results/bases/base/base.json"]
    assert [str(file) for file in files] == ["results/sft/merge.json", "data/train.parquet", *manifests]
    ruled = spec("rto", changes | {"runs.rto": rto | {"reward": {"function": "final_number"}}})
    assert inputs.reward_files(options, ruled) == files[:2]


@pytest.fixture
def work(tmp_path):
    """The stage's folder for a spec and an input."""

    def folder(spec: dict, content: str) -> Path:
        (tmp_path / "spec.json").write_text(json.dumps(spec))
        (tmp_path / "input").write_text(content)
        return inputs.work_folder(Namespace(spec=tmp_path / "spec.json"), [tmp_path / "input"])

    return folder


def test_the_work_folder_is_keyed_by_the_spec_and_by_every_input(work):
    one = work({"precision": "fp32", "seed": 1}, "tokens")
    others = [
        ({"precision": "fp32", "seed": 2}, "tokens"),
        ({"precision": "fp32", "seed": 1}, "other"),
        ({"precision": "bf16", "seed": 1}, "tokens"),
    ]
    assert one.is_dir()
    assert one == work({"precision": "fp32", "seed": 1}, "tokens")
    assert len({one, *(work(*other) for other in others)}) == 4


def test_what_is_done_with_the_result_is_no_reason_to_train_again(work):
    spec = {"precision": "fp32", "method": "qlora"}
    assert work(spec | {"merge_into": "original"}, "x") == work(spec | {"merge_into": "dequantised"}, "x")


def test_precision_auto_is_keyed_by_what_this_machine_makes_of_it(work, monkeypatch):
    monkeypatch.setattr(loading, "precision", lambda wanted: "fp32")
    one = work({"precision": "auto"}, "tokens")
    monkeypatch.setattr(loading, "precision", lambda wanted: "bf16")
    assert work({"precision": "auto"}, "tokens") != one
