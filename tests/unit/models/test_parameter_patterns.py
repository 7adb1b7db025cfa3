"""`freeze`, `train` and `learning_rates`: what a pattern means, what is refused, and what really moves in every objective."""

# ruff: noqa: F811  (fixtures of another file's)

import json
import shutil
from argparse import Namespace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from conftest import refused, write_rows
from safetensors.torch import load_file

import train_dpo
import train_kto
import train_orpo
import train_ppo
import train_reward
import train_sft
from posttrain.models import memory_estimate, parameter_patterns, shapes
from posttrain.preflight import settings_checks
from posttrain.runtime import atomic
from posttrain.runtime.errors import UserError
from posttrain.training import loop
from posttrain.workflow.project import Project
from unit.scripts.test_train import pairs, sample, train  # noqa: F401  (fixtures)

pytestmark = pytest.mark.usefixtures("in_folder", "signals", "fp32")

LAYER = "model.layers.2.mlp.up_proj.weight"
MEANT = [
    ("layers.[0-3]", LAYER, True),
    ("layers.[0-3]", "model.layers.20.mlp.up_proj.weight", False),
    ("layers.2", LAYER, True),
    ("layers.(0|2)", LAYER, True),
    ("up_proj", LAYER, True),
    ("up", LAYER, False),
    (".*_proj", LAYER, True),
    ("mlp.up_proj.weight", LAYER, True),
    ("model", LAYER, True),
    ("lora_B", "base_model.model.model.layers.2.mlp.up_proj.lora_B.default.weight", True),
    ("layers.2", "base_model.model.model.layers.2.mlp.up_proj.lora_B.default.weight", True),
]


@pytest.mark.parametrize(("pattern", "name", "is_meant"), MEANT)
def test_a_pattern_means_whole_parts_of_a_name(pattern, name, is_meant):
    assert parameter_patterns.is_meant(pattern, (name,)) is is_meant


REFUSED = [  # keys, code, place in the run
    ({"freeze": "["}, "invalid-value", "freeze"),
    ({"freeze": ["a", ".*"]}, "invalid-value", "freeze"),
    ({"train": ""}, "invalid-value", "train"),
    ({"learning_rates": {".+": 1e-3}}, "invalid-value", "learning_rates"),
    ({"learning_rates": {"a": 0}}, "invalid-value", "learning_rates.a"),
    ({"freeze": "a", "method": "ia3"}, "key-without-effect", "freeze"),
]


@pytest.mark.parametrize(("keys", "code", "place"), REFUSED)
def test_what_no_model_could_follow_is_refused_when_the_configuration_is_read(keys, code, place, configuration):
    table = {"from": "base", "objective": "sft", "data": "chats"} | keys
    with refused(code, f"runs.own.{place}"):
        Project(configuration({"runs.own": table}))


def test_patterns_are_in_a_spec_only_where_they_are_set(configuration):
    assert (
        not {*parameter_patterns.KEYS, "neftune", "packing"} & json.loads(Project(configuration()).spec("sft")).keys()
    )
    spec = json.loads(Project(configuration({"runs.sft.learning_rates": {"lora_B": "1e-3"}})).spec("sft"))
    assert spec["learning_rates"] == {"lora_B": 1e-3}


def test_one_pattern_and_a_list_of_one_are_the_same_run(configuration):
    project = Project(configuration())
    assert project.run("sft,freeze=lora_A").name == project.run("sft,freeze=lora_A+").name == "sft,freeze=lora_A+"


# ---- before training, and when it begins

UNFIT = [
    ("lora", {"freeze": "lora_C"}, "freeze: 'lora_C' matches no parameter that lora trains; did you mean 'lora_B'?"),
    ("lora", {"freeze": "embed_tokens"}, "freeze: 'embed_tokens' matches no parameter that lora trains; "),
    (
        "lora",
        {"freeze": "layers"},
        "freeze: 'layers' matches every parameter that lora trains; write the names of the",
    ),
    ("full", {"train": "layers.7"}, "train: 'layers.7' matches no parameter that full trains; did you mean 'layers'?"),
    (
        "full",
        {"freeze": ["layers.0", "layers.1", "embed_tokens", "norm", "lm_head"]},
        "freeze and train leave no parameter",
    ),
    (
        "full",
        {"freeze": "layers.0", "learning_rates": {"layers.0.mlp": 1}},
        "learning_rates: 'layers.0.mlp' matches only",
    ),
    ("lora", {"learning_rates": {"layers.0": 1, "lora_B": 2}}, "learning_rates: 'layers.0' and 'lora_B' both match "),
]


@pytest.mark.parametrize(("method", "keys", "sentence"), UNFIT)
def test_what_this_model_cannot_follow_is_told_before_training_and_by_it(
    method, keys, sentence, train, chats, random_tiny_folder
):
    name = {"lora": "sft", "full": "full"}[method]
    changes = {f"runs.{name}.{key}": value for key, value in keys.items()}
    with pytest.raises(UserError) as error:
        train(train_sft, name, chats, "messages", changes)
    assert str(error.value).startswith(f"{name}: {sentence}")
    spec = json.loads(Path(f"results/{name}/spec.json").read_text())
    found = settings_checks.patterns(Namespace(spec=spec, model=shapes.read_model(random_tiny_folder)))
    assert (found.severity, found.message.startswith(sentence)) == ("error", True)


def test_the_preflight_skips_what_names_nothing():
    assert settings_checks.patterns(Namespace(spec={}, model=None)).severity == "skipped"


def test_frozen_parameters_have_no_gradients_in_the_memory(random_tiny_folder):
    model = shapes.read_model(random_tiny_folder)
    layer = sum(torch.Size(shape).numel() for name, shape in model.shapes.items() if "layers.0." in name)
    assert memory_estimate.trained_parameters({"method": "full"}, model) == model.parameters
    assert (
        memory_estimate.trained_parameters({"method": "full", "freeze": ["layers.0"]}, model)
        == model.parameters - layer
    )


# ---- what moves


def moved(after: dict, before: dict) -> set[str]:
    return {name for name in after if not torch.equal(after[name], before[name])}


def test_full_fine_tuning_moves_what_is_not_frozen(train, chats, random_tiny_folder):
    before = load_file(random_tiny_folder / "model.safetensors")
    train(train_sft, "full", chats, "messages", {"runs.full.freeze": ["embed_tokens", "layers.0"]})
    after = load_file("results/full/trained/model.safetensors")
    assert moved(after, before) == {name for name in after if "embed_tokens" not in name and "layers.0." not in name}


def test_full_fine_tuning_moves_only_what_is_named(train, chats, random_tiny_folder):
    before = load_file(random_tiny_folder / "model.safetensors")
    train(train_sft, "full", chats, "messages", {"runs.full.train": "layers.1", "runs.full.freeze": "mlp"})
    after = load_file("results/full/trained/model.safetensors")
    assert moved(after, before) == {name for name in after if "layers.1." in name and "mlp" not in name}


OBJECTIVES = {  # of those that switch the adapter off for their reference, and of the others
    "sft": train_sft,
    "dpo": train_dpo,
    "kto": train_kto,
    "orpo": train_orpo,
    "reward": train_reward,
}


@pytest.mark.parametrize("method", ["lora", "qlora"])
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_an_adapters_frozen_layers_stay_as_they_began(train, chats, objective, method):
    columns = {"ref_chosen_logps": [-9.0] * 4, "ref_rejected_logps": [-8.0] * 4}
    pq.write_table(pa.table({name: pa.array(column, pa.float32()) for name, column in columns.items()}), "r.parquet")
    data, rows, shape = ("chats", chats, "messages") if objective == "sft" else ("pairs", pairs(), "preference")
    table = {"from": "base", "objective": objective, "method": method, "data": data, "freeze": "layers.0", "warmup": 0}
    options = {"logprobs": Path("r.parquet")} if objective == "dpo" else {}
    changes = {"runs": {objective: table | {"batch_size": 4}}, "sweeps": {}}
    train(OBJECTIVES[objective], objective, rows, shape, changes, **options)
    check_frozen(objective)


def check_frozen(run: str) -> None:
    after = load_file(f"results/{run}/trained/adapter_model.safetensors")
    b = {name: bool(tensor.any()) for name, tensor in after.items() if "lora_B" in name}
    assert b == {name: "layers.0." not in name for name in b}
    if run != "ppo":  # which counts the value's as well
        summary = json.loads(Path(f"results/{run}/train.json").read_text())
        assert summary["trainable_parameters"] < sum(tensor.numel() for tensor in after.values())


@pytest.mark.parametrize("objective", ["grpo", "rloo"])
def test_an_adapter_that_is_switched_off_in_each_step_stays_frozen(sample, objective):
    sample(objective, 3, freeze="layers.0", beta=0.5, max_steps=2, learning_rate=1e-2)
    check_frozen(objective)


def test_the_gradients_norm_is_of_what_moves(sample):
    """PEFT asks for gradients of all of an adapter again whenever it was switched off."""
    norms = []
    for beta in (0.0, 1e-9):
        lines, _ = sample("grpo", 3, freeze="layers.0", beta=beta, max_steps=1, learning_rate=1e-9)
        norms.append(lines[0]["grad_norm"])
        shutil.rmtree("results")
    assert norms[0] == pytest.approx(norms[1], abs=1e-6)


@pytest.mark.parametrize("method", ["lora", "full"])
def test_ppo_freezes_its_policy_and_not_its_value(method, configuration, chats, random_tiny_folder):
    write_rows(Path("data/train.parquet"), chats)
    atomic.write_json(Path("data/data.json"), {"shape": "messages"})
    atomic.write_json(Path("base.json"), {})
    table = {"from": "base", "objective": "ppo", "data": "chats", "method": method, "batch_size": 4, "warmup": 0}
    table |= {"max_new_tokens": 4, "max_steps": 1, "ppo_epochs": 2, "reward": {"function": "answer_format"}}
    table |= {"freeze": "layers.0", "learning_rates": {"layers.1.mlp": 1e-3}, "learning_rate": 1e-2}
    spec = Path("results/ppo/spec.json")
    spec.parent.mkdir(parents=True)
    spec.write_text(Project(configuration({"runs.ppo": table})).spec("ppo"))
    made = []
    with pytest.MonkeyPatch.context() as patch:
        build = loop._train
        patch.setattr(loop, "_train", lambda make, *rest: build(lambda spec: made.append(make(spec)) or made[0], *rest))
        paths = {"parent": random_tiny_folder, "manifest": Path("base.json"), "data": Path("data"), "reward_models": []}
        train_ppo.main(Namespace(spec=spec, **paths))
    trainer = made[0]
    assert any(bool(p.any()) for p in trainer.model.value_parameters if p.shape[0] > 1)
    if method == "full":
        before = load_file(random_tiny_folder / "model.safetensors")
        after = load_file("results/ppo/trained/model.safetensors")
        assert moved(after, before) == {name for name in after if "layers.0." not in name}
    else:
        check_frozen("ppo")
    names = {id(p): name for name, p in trainer.model.named_parameters()}
    groups = {names[id(p)]: group["initial_lr"] for group in trainer.optimizer.param_groups for p in group["params"]}
    own = {name: rate for name, rate in groups.items() if ".value." not in name and "value_head" not in name}
    assert own and all(rate == pytest.approx(1e-3 if "layers.1.mlp" in name else 1e-2) for name, rate in own.items())


@pytest.mark.parametrize(("method", "lora_plus"), [("full", None), ("lora", None), ("lora", 4), ("qlora", None)])
def test_each_pattern_has_its_learning_rate(train, chats, method, lora_plus, random_tiny_folder):
    """Adam's first step is the learning rate itself, wherever the gradient is not tiny."""
    table = {
        "from": "base",
        "objective": "sft",
        "method": method,
        "data": "chats",
        "learning_rate": 1e-3,
        "max_steps": 1,
    }
    table |= {"learning_rates": {"layers.1.mlp": 1e-2, "layers.1.self_attn": 1e-2}, "warmup": 0, "batch_size": 4}
    table |= {"lora_plus": lora_plus} if lora_plus else {}
    table |= {"trainer_args": {"optim": "adamw_torch"}} if method == "qlora" else {}
    line, _, _ = train(train_sft, "own", chats, "messages", {"runs.own": table})
    assert line["learning_rate"] == 1e-3
    before = load_file(random_tiny_folder / "model.safetensors")
    file = "model" if method == "full" else "adapter_model"
    after = load_file(f"results/own/trained/{file}.safetensors")
    steps = {
        name: (tensor - before.get(name, torch.zeros_like(tensor))).abs().max().item()
        for name, tensor in after.items()
        if ("lora_B" in name or method == "full") and "proj" in name
    }
    factor = lora_plus or 1
    assert len(steps) == 14
    assert all(
        step == pytest.approx(factor * (1e-2 if "layers.1." in name else 1e-3), rel=0.05)
        for name, step in steps.items()
    )
