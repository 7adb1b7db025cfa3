"""Every combination of arguments that is chosen by itself on a GPU makes TRL's real trainer, and where a CPU can, a step.

Only the functions that say what is there are replaced; what they make this project choose is handed to the trainer.
"""

# ruff: noqa: F811  (fixtures of another file's)

import itertools
import json
from argparse import Namespace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from conftest import write_rows

import train_cpo
import train_dpo
import train_kto
import train_orpo
import train_ppo
import train_reward
import train_sft
from posttrain.runtime import atomic
from posttrain.runtime.errors import UserError
from posttrain.training import arguments, loop, results
from posttrain.workflow.project import Project
from unit.scripts.test_train import pairs, prompt_of, sample, train  # noqa: F401  (fixtures)

pytestmark = pytest.mark.usefixtures("in_folder", "signals")

ON_GIVEN_ANSWERS = {"dpo": train_dpo, "kto": train_kto, "orpo": train_orpo, "cpo": train_cpo, "reward": train_reward}


@pytest.fixture
def chosen(monkeypatch):
    """What is chosen for an objective on a GPU with bf16, by whether Flash Attention and Liger's kernels are installed."""

    def kernels(objective: str, method: str, flash: bool, liger: bool) -> dict:
        with monkeypatch.context() as gpu:
            gpu.setattr(torch.cuda, "is_available", lambda: True)
            gpu.setattr(torch.cuda, "is_bf16_supported", lambda **_: True)
            gpu.setattr(arguments, "is_flash_attn_2_available", lambda: flash)
            gpu.setattr(arguments, "is_liger_kernel_available", lambda: liger)
            return arguments.fast_kernels({"objective": objective, "method": method, "precision": "auto"})

    return kernels


@pytest.mark.parametrize("packing", [False, True])
@pytest.mark.parametrize("flash", [False, True])
@pytest.mark.parametrize("method", ["lora", "full"])
def test_sft_trains_with_whatever_is_chosen(train, chosen, chats, method, flash, packing):
    given = chosen("sft", method, flash, liger=False)
    assert given["padding_free"] == flash
    table = {"from": "base", "objective": "sft", "data": "chats", "method": method, "batch_size": 4, "warmup": 0}
    losses = []
    for trainer_args in ({}, given):
        own = {"packing": packing, "max_length": 64, "precision": "fp32", "dropout": 0, "trainer_args": trainer_args}
        changes = {"runs.own": table | own}
        if method == "full":
            del changes["runs.own"]["dropout"]
        line, _, _ = train(train_sft, "own", chats, "messages", changes)
        losses.append(line["loss"])
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)


@pytest.mark.parametrize(("flash", "packing"), [*itertools.product([False, True], repeat=2)])
def test_sft_is_built_with_ligers_kernels(train, chosen, chats, flash, packing, monkeypatch):
    """The kernels themselves are put in when training starts, by a package that need not be installed here."""
    built = []
    real = results.trainable
    monkeypatch.setattr(loop, "add_compact_head", lambda model: built.append(model))
    given = chosen("sft", "lora", flash, liger=True)
    assert given["use_liger_kernel"] is True
    for module in (arguments, results):
        monkeypatch.setattr(module, "fast_kernels", lambda spec: given)  # trainer_args refuse what is not installed
    changes = {"runs.sft.packing": packing}
    if arguments.is_liger_kernel_available():
        assert train(train_sft, "sft", chats, "messages", changes)[0]["loss"] > 0
    else:
        with pytest.raises(ImportError, match=r"liger-kernel .* is not available"):
            train(train_sft, "sft", chats, "messages", changes)
    assert len(built) == 1 and real(built[0])[1] > 0


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("objective", ON_GIVEN_ANSWERS)
def test_objectives_on_given_answers_train_with_whatever_is_chosen(train, chosen, objective, precision):
    assert chosen(objective, "lora", flash=True, liger=True) == {}
    columns = {"ref_chosen_logps": [-9.0] * 4, "ref_rejected_logps": [-8.0] * 4}
    pq.write_table(pa.table({name: pa.array(column, pa.float32()) for name, column in columns.items()}), "r.parquet")
    table = {"from": "base", "objective": objective, "data": "pairs", "batch_size": 4, "precision": precision}
    options = {"logprobs": Path("r.parquet")} if objective == "dpo" else {}
    changes = {"runs": {objective: table | {"warmup": 0}}, "sweeps": {}}
    line, _, _ = train(ON_GIVEN_ANSWERS[objective], objective, pairs(), "preference", changes, **options)
    assert line["grad_norm"] > 0


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("objective", ["grpo", "rloo"])
def test_objectives_on_own_answers_train_with_whatever_is_chosen(sample, chosen, objective, precision):
    assert chosen(objective, "lora", flash=True, liger=True) == {}
    lines, _ = sample(objective, 2, precision=precision)
    assert lines


# ---- KTO's borrowed answers


def kto_rows(prompts: list[int]):
    from datasets import Dataset

    return Dataset.from_dict(
        {"prompt_ids": [[prompt] for prompt in prompts], "completion_ids": [[100 + i] for i in range(len(prompts))]}
    )


@pytest.mark.parametrize("batch_size", [2, 3, 4, 6])
@pytest.mark.parametrize("prompts", [[1, 1, 2, 2, 3, 3], [1, 1, 1, 1, 1, 2], [1, 2, 1, 2, 1, 2], [1, 2, 3, 4, 5, 5]])
def test_kto_never_borrows_an_answer_to_the_same_prompt(prompts, batch_size):
    rows = train_kto.mismatched(kto_rows(prompts), batch_size)
    for i, borrowed in enumerate(rows["KL_completion_ids"]):
        other = borrowed[0] - 100
        assert prompts[other] != prompts[i]
        batch = range(i - i % batch_size, min(i - i % batch_size + batch_size, len(prompts)))
        assert other in batch or {prompts[j] for j in batch} == {prompts[i]}


def test_where_all_prompts_differ_kto_borrows_from_the_neighbour_in_the_batch():
    rows = train_kto.mismatched(kto_rows([1, 2, 3, 4, 5]), 3)
    assert [answer[0] - 100 for answer in rows["KL_completion_ids"]] == [2, 0, 1, 4, 3]


def test_kto_of_one_prompt_alone_is_one_sentence():
    with pytest.raises(UserError, match="all rows have the same one; write objective: dpo"):
        train_kto.mismatched(kto_rows([1, 1, 1]), 2)


@pytest.mark.parametrize(("method", "shape"), [("lora", "messages"), ("full", "messages"), ("lora", "prompts")])
def test_ppo_trains_from_its_script(method, shape, configuration, chats, random_tiny_folder):
    write_rows(Path("data/train.parquet"), list(map(prompt_of, chats)) if shape == "prompts" else chats, shape)
    atomic.write_json(Path("data/data.json"), {"shape": shape})
    atomic.write_json(Path("base.json"), {})
    table = {"from": "base", "objective": "ppo", "data": "chats", "method": method, "batch_size": 4, "accumulation": 2}
    table |= {"max_new_tokens": 4, "max_steps": 1, "ppo_epochs": 2, "reward": {"function": "answer_format"}}
    spec = Path("results/ppo/spec.json")
    spec.parent.mkdir(parents=True)
    spec.write_text(Project(configuration({"runs.ppo": table})).spec("ppo"))
    paths = {"parent": random_tiny_folder, "manifest": Path("base.json"), "data": Path("data"), "reward_models": []}
    train_ppo.main(Namespace(spec=spec, **paths))
    lines = [json.loads(line) for line in Path("results/ppo/train.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2]
    assert all(line["value_loss"] > 0 for line in lines)
    assert lines[0]["learning_rate"] == lines[1]["learning_rate"] / 2  # one step of warm-up, which is not at 0
