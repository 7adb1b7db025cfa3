"""What the libraries would refuse, told when the configuration is read; each is compared with the library itself where it can be."""

import pytest
from conftest import refused

from posttrain.config import library_fields, library_refusals
from posttrain.workflow.project import Project

PEFT = [  # peft_args, other keys, code, place
    ({"layers_to_transform": [0]}, {}, "conflicting-keys", "layers_to_transform"),
    ({"layers_to_transform": [0]}, {"target_modules": ".*q_proj"}, "conflicting-keys", "layers_to_transform"),
    ({"layers_pattern": "h"}, {"target_modules": ["q_proj"]}, "missing-key", "layers_pattern"),
    ({"use_dora": True}, {"method": "adalora"}, "unsupported-combination", "use_dora"),
    ({"bias": "some"}, {}, "invalid-value", "bias"),
    ({"use_rslora": "yes please"}, {}, "invalid-value", "use_rslora"),
    ({"init_lora_weights": "gausian"}, {}, "invalid-value", "init_lora_weights"),
    ({"init_lora_weights": "EVA"}, {}, "invalid-value", "init_lora_weights"),
    ({"rho": 2}, {}, "unknown-key", "rho"),
    ({"init_lora_weights": "eva", "eva_config": 2}, {}, "invalid-value", "eva_config"),
    ({"init_lora_weights": "eva", "eva_config": {"roh": 2}}, {}, "unknown-key", "eva_config.roh"),
    ({"init_lora_weights": "eva", "eva_config": {"rho": "2x"}}, {}, "invalid-value", "eva_config.rho"),
]


@pytest.mark.parametrize(("arguments", "keys", "code", "place"), PEFT, ids=str)
def test_what_peft_refuses_is_refused_before(configuration, arguments, keys, code, place):
    with refused(code, f"runs.sft.peft_args.{place}"):
        Project(configuration({"runs.sft": run(peft_args=arguments, **keys)}))


def test_value_that_peft_takes_in_another_type_is_taken(configuration):
    Project(configuration({"runs.sft": run(peft_args={"modules_to_save": 3})}))


def run(**keys) -> dict:
    return {"from": "base", "objective": "sft", "data": "chats", "method": "lora"} | keys


@pytest.mark.parametrize(("arguments", "keys"), [row[:2] for row in PEFT[:3]], ids=str)
def test_peft_itself_refuses_it(arguments, keys):
    from peft import LoraConfig

    with pytest.raises(ValueError):
        LoraConfig(**({"target_modules": "all-linear"} | keys | arguments))


TRAINER = [  # trainer_args, code, part of the hint
    ({"deepspeed": "zero3.json"}, "unsupported-combination", "remove it"),
    ({"fsdp": "full_shard"}, "unsupported-combination", "remove it"),
    ({"load_best_model_at_end": True}, "unsupported-combination", "keep: best"),
    ({"metric_for_best_model": "loss"}, "unsupported-combination", "keep: best"),
    ({"report_to": "wandb"}, "conflicting-keys", "write tracking: {also: [tensorboard, wandb, trackio]}"),
    ({"early_stopping_patience": 3}, "unknown-key", "write early_stopping: {metric"),
    ({"lr": 1e-4}, "unknown-key", "write learning_rate"),
    ({"rank": 4}, "unknown-key", "write the run's own key rank"),
    ({"lora_alpha": 4}, "unknown-key", "write the run's own key alpha"),
    ({"optim": "adamw_torhc"}, "unknown-name", "did you mean 'adamw_torch'?"),
    ({"optim": "galore_adamw"}, "missing-package", "pip install galore-torch"),
    ({"optim": "schedule_free_adamw"}, "missing-package", "pip install schedulefree"),
    ({"adam_beta1": "high"}, "invalid-value", "write a number"),
    ({"pad_to_multiple_of": 1.5}, "invalid-value", "write an integer"),
    ({"torch_compile": "fast"}, "invalid-value", "write true or false"),
    ({"adam_beta1": [0.9]}, "invalid-value", "write a number"),
    ({"dataloader_prefetch_factor": 2}, "missing-key", "dataloader_num_workers"),
]


@pytest.mark.parametrize(("arguments", "code", "hint"), TRAINER, ids=str)
def test_what_the_trainer_refuses_is_refused_before(configuration, arguments, code, hint, monkeypatch):
    monkeypatch.setattr(library_refusals.importlib.util, "find_spec", spec_without("galore_torch", "schedulefree"))
    with refused(code, f"runs.sft.trainer_args.{next(iter(arguments))}") as error:
        Project(configuration({"runs.sft": run(trainer_args=arguments)}))
    assert hint in error.value.hint


def spec_without(*packages: str):
    """Python's own search, in which some packages are not installed."""
    found = library_refusals.importlib.util.find_spec
    return lambda name: None if name in packages else found(name)


@pytest.mark.parametrize(
    "arguments",
    [
        {"optim": "adafactor"}, {"adam_epsilon": 1e-7}, {"torch_compile": True}, {"adam_beta1": 0}, {"optim_args": "a=1"},
        {"lr_scheduler_kwargs": {"num_cycles": 2}}, {"pad_to_multiple_of": 8}, {"deepspeed": None},
    ],
)  # fmt: skip
def test_what_the_trainer_takes_is_taken(configuration, arguments):
    assert Project(configuration({"runs.sft": run(trainer_args=arguments)})).run("sft").run.trainer_args == arguments


def test_a_number_that_yaml_takes_for_text_is_one(configuration):
    graph = Project(configuration({"runs.sft": run(trainer_args={"adam_epsilon": "1e-7", "optim_args": "a=1e-7"})}))
    assert graph.run("sft").run.trainer_args == {"adam_epsilon": 1e-7, "optim_args": "a=1e-7"}
    assert graph.run("sft,trainer_args.adam_epsilon=1e-6").run.trainer_args["adam_epsilon"] == 1e-6


def test_every_optimiser_that_needs_a_package_is_known():
    names = library_refusals.optimisers(library_fields.trainer_files("sft")[-1])
    own = {
        "adamw_torch",
        "adamw_torch_fused",
        "adamw_torch_xla",
        "adamw_torch_npu_fused",
        "adafactor",
        "sgd",
        "adagrad",
        "rmsprop",
    }
    assert {name for name in names if not any(part in name for part in library_refusals.OPTIMISERS)} == own
