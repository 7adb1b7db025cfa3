"""A LoRA that starts as EVA or LoftQ: at the right matrices, trained, and merged as it was trained."""

# ruff: noqa: F811  (fixtures of another file's)

from argparse import Namespace
from pathlib import Path

import pytest
import torch
from bitsandbytes.functional import dequantize_4bit
from conftest import refused
from datasets import Dataset
from peft.tuners.lora import LoraLayer

import merge_model
import train_cpo
import train_dpo
import train_kto
import train_reward
import train_sft
from posttrain.models import initial_weights, loading
from posttrain.runtime import atomic
from posttrain.runtime.errors import UserError
from posttrain.training import results
from posttrain.workflow.project import Project
from unit.scripts.test_train import pairs, sample, train, wide_folder  # noqa: F401  (fixtures)

pytestmark = pytest.mark.usefixtures("in_folder", "signals", "fp32")

EVA, LOFTQ = {"init_lora_weights": "eva"}, {"init_lora_weights": "loftq"}


@pytest.fixture
def begun(monkeypatch):
    """The trainers, each as it is when it has its first weights."""
    seen, put = [], initial_weights.put

    def look(trainer, parent, folder, spec):
        put(trainer, parent, folder, spec)
        seen.append((trainer, {name: weight.clone() for name, weight in trainer.model.state_dict().items()}))

    monkeypatch.setattr(initial_weights, "put", look)
    return seen


def run(train, script, objective: str, rows: list, shape: str, **keys) -> dict:
    """Train a run of three steps; returns the first one."""
    options = {"parent": keys.pop("parent")} if "parent" in keys else {}
    data = "chats" if objective == "sft" else "pairs"
    table = {"from": "base", "objective": objective, "data": data, "batch_size": 4, "max_steps": 3, "warmup": 0}
    return train(script, "own", rows, shape, {"runs": {"own": table | keys}, "sweeps": {}}, **options)[0]


def layers(model) -> dict[str, LoraLayer]:
    return {name: layer for name, layer in model.named_modules() if isinstance(layer, LoraLayer)}


def exact_directions(trainer, name: str) -> torch.Tensor:
    """Variances and directions (columns) of what goes into a layer at the trained tokens of all rows, by a full decomposition."""
    inputs = []
    layer = trainer.model.get_submodule(name)
    with torch.no_grad(), trainer.model.disable_adapter():
        for ids, trained in initial_weights.rows(trainer.train_dataset):
            handle = layer.register_forward_hook(lambda _, given, __, kept=trained: inputs.append(given[0][0][kept]))
            trainer.model(input_ids=torch.tensor([ids]))
            handle.remove()
    centred = torch.cat(inputs) - torch.cat(inputs).mean(0)
    values, vectors = torch.linalg.eigh(centred.T @ centred)
    return values.flip(0), vectors.flip(1)


@pytest.mark.parametrize("method", ["lora", "qlora"])
def test_eva_starts_at_the_directions_in_which_a_layers_inputs_vary(train, chats, begun, method, wide_folder):
    run(train, train_sft, "sft", chats, "messages", method=method, rank=4, dropout=0, peft_args=EVA, parent=wide_folder)
    [(trainer, first)] = begun
    found = layers(trainer.model)
    ranks = [layer.r["default"] for layer in found.values()]
    assert sum(ranks) == 4 * 14 and len(set(ranks)) > 1 and max(ranks) <= 8
    for name, layer in found.items():
        a, b = (first[f"{name}.lora_{side}.default.weight"] for side in "AB")
        assert torch.allclose(a @ a.T, torch.eye(len(a)), atol=1e-4)
        assert not b.any()
        assert layer.scaling["default"] == pytest.approx(2)  # alpha follows the rank
    name = next(name for name in found if name.endswith("layers.1.mlp.down_proj"))
    values, vectors = exact_directions(trainer, name)
    a = first[f"{name}.lora_A.default.weight"]
    held = (a @ vectors).square() @ values  # the variance along each row of A
    assert held.sum() > 0.95 * values[: len(a)].sum()
    assert trainer.state.log_history[-1]["step"] == 3


ROWS = {
    "dpo": (train_dpo, 2), "kto": (train_kto, 2), "cpo": (train_cpo, 2), "reward": (train_reward, 2),
}  # fmt: skip


@pytest.mark.parametrize("objective", ROWS)
def test_evas_rows_are_the_answers_with_their_prompts(train, objective, begun, monkeypatch):
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = {"ref_chosen_logps": [-9.0] * 4, "ref_rejected_logps": [-8.0] * 4}
    pq.write_table(pa.table({name: pa.array(column, pa.float32()) for name, column in columns.items()}), "r.parquet")
    script, sides = ROWS[objective]
    if objective == "dpo":
        main = script.main
        monkeypatch.setattr(
            script, "main", lambda options: main(Namespace(**vars(options), logprobs=Path("r.parquet")))
        )
    run(train, script, objective, pairs(), "preference", rank=4, peft_args=EVA)
    [(trainer, _)] = begun
    tokens = pq.read_table("tokens/train.parquet").to_pylist()
    expected = {
        (*row["prompt_ids"], *row[f"{side}_ids"]): len(row[f"{side}_ids"])
        for row in tokens
        for side in ("chosen", "rejected")
    }
    seen = {tuple(ids): sum(trained) for ids, trained in initial_weights.rows(trainer.train_dataset)}
    if objective == "reward":  # a score is of the whole
        expected = {ids: len(ids) for ids in expected}
    assert seen == expected and len(seen) == 4 * sides


def test_eva_learns_from_prompts_where_the_answers_are_the_models_own(sample, begun):
    lines, _ = sample("grpo", 4, rank=4, peft_args=EVA)
    [(trainer, _)] = begun
    assert [ids for ids, _ in initial_weights.rows(trainer.train_dataset)] == trainer.train_dataset["prompt"]
    assert len(lines) == 2


def test_loftq_starts_at_the_best_of_its_rank_for_what_4_bits_lose(train, chats, begun, wide_folder):
    keys = {"method": "qlora", "rank": 4, "alpha": 12, "dropout": 0, "peft_args": LOFTQ, "parent": wide_folder}
    run(train, train_sft, "sft", chats, "messages", **keys)
    [(trainer, first)] = begun
    whole = loading.load(wide_folder)
    for name, layer in layers(trainer.model).items():
        held = layer.get_base_layer().weight
        lost = whole.get_submodule(name.removeprefix("base_model.model.")).weight - dequantize_4bit(
            held.data, held.quant_state
        )
        a, b = (first[f"{name}.lora_{side}.default.weight"].float() for side in "AB")
        lost = lost.detach()
        left = torch.linalg.svdvals(lost)[4:].square().sum().sqrt()  # Eckart and Young 1936
        assert (lost - 3 * b @ a).norm() == pytest.approx(left.item(), rel=1e-3)
        assert left < 0.95 * lost.norm()


@pytest.mark.parametrize(("method", "peft_args"), [("lora", EVA), ("qlora", EVA), ("qlora", LOFTQ)])
def test_what_is_merged_is_what_was_trained(train, chats, method, peft_args, wide_folder, monkeypatch):
    keep, trained, ids = results.write, [], torch.tensor([[5, 9, 17, 33]])

    def look(trainer, model, *rest):
        with torch.no_grad():
            trained.append(model.eval()(input_ids=ids).logits)
        keep(trainer, model, *rest)

    monkeypatch.setattr(results, "write", look)
    keys = {"method": method, "rank": 4, "learning_rate": 0.01, "peft_args": peft_args, "parent": wide_folder}
    run(train, train_sft, "sft", chats, "messages", **keys)
    atomic.write_json(Path("base.json"), {"files": {}})
    atomic.write_json(Path("preflight.json"), {"licences": {}})
    paths = {name: Path(f"{name}.json") for name in ("preflight", "base")} | {"tokens": Path("tokens")}
    paths |= {"parent": wide_folder, "shipped": wide_folder, "manifest": paths.pop("base")}
    merge_model.main(Namespace(spec=Path("results/own/spec.json"), **paths))
    with torch.no_grad():
        merged, parent = (
            loading.load(folder)(input_ids=ids).logits for folder in (Path("results/own/model"), wide_folder)
        )
    torch.testing.assert_close(merged, trained[0], atol=1e-3, rtol=1e-3)
    assert (merged - parent).abs().max() > 0.1


def test_rows_that_are_too_few_for_eva_are_refused(train, chats, wide_folder):
    with pytest.raises(
        UserError,
        match=r"^own: .*eva looks at 4 x rank directions .* has 32 inputs; write a rank up to 8",
    ):
        run(train, train_sft, "sft", chats, "messages", rank=16, peft_args=EVA)
    with refused("unsupported-setting"):
        keys = {"rank": 4, "target_modules": ["q_proj", "embed_tokens"], "peft_args": EVA}
        run(train, train_sft, "sft", chats, "messages", **keys)
    rows = Dataset.from_list([{"input_ids": [1, 2, 3], "labels": [-100, 2, 3]}] * 3)
    with refused("unsupported-setting"):
        initial_weights.batches(rows, 8, 16, 0)


def test_every_batch_for_eva_has_the_tokens_that_it_needs():
    rows = Dataset.from_list([{"input_ids": [1] * n, "labels": [-100] + [1] * (n - 1)} for n in range(2, 40)])
    made = initial_weights.batches(rows, 4, 50, 0)
    counts = [int((batch["labels"] != -100).sum()) for batch in made]
    assert all(count >= 50 for count in counts) and sum(counts) == sum(range(1, 39))
    assert sum(len(batch["input_ids"]) for batch in made) == 38
    assert all(int(batch["attention_mask"].sum()) == int((batch["input_ids"] == 1).sum()) for batch in made)


SFT = {"from": "base", "objective": "sft", "data": "chats"}
START = "peft_args.init_lora_weights"
REFUSED = [  # run, code, place in it
    (SFT | {"peft_args": LOFTQ}, "unsupported-combination", START),
    (
        SFT | {"objective": "dpo", "data": "pairs", "method": "qlora", "peft_args": LOFTQ},
        "unsupported-combination",
        START,
    ),
    (SFT | {"method": "qlora", "peft_args": LOFTQ, "merge_into": "original"}, "conflicting-keys", "merge_into"),
    (
        SFT | {"method": "qlora", "peft_args": LOFTQ | {"loftq_config": {"loftq_iter": 5}}},
        "unsupported-combination",
        "peft_args.loftq_config",
    ),
    (SFT | {"peft_args": {"eva_config": {"rho": 1}}}, "key-without-effect", "peft_args.eva_config"),
    (SFT | {"method": "adalora", "peft_args": EVA}, "unsupported-combination", START),
    (SFT | {"peft_args": {"init_lora_weights": "corda"}}, "unsupported-combination", START),
]


@pytest.mark.parametrize(("table", "code", "place"), REFUSED)
def test_unsupported_initialisation_is_refused(table, code, place, configuration):
    with refused(code, f"runs.own.{place}"):
        Project(configuration({"runs.own": table}))
