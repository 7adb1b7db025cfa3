"""What the libraries would refuse, told when the configuration is read; each is compared with the library itself where it can be."""

import pytest

from posttrain.config import library_refusals, schema
from posttrain.runtime.errors import UserError
from posttrain.workflow.project import Project

PEFT = [
    (
        {"layers_to_transform": [0]},
        {},
        "picks layers for names, and target_modules is all-linear; write target_modules as a list",
    ),
    (
        {"layers_to_transform": [0]},
        {"target_modules": ".*q_proj"},
        "target_modules is the regular expression '.*q_proj'",
    ),
    ({"layers_pattern": "h"}, {"target_modules": ["q_proj"]}, "layers_pattern needs layers_to_transform"),
    ({"use_dora": True}, {"method": "adalora"}, "AdaLoRA has no DoRA"),
    ({"bias": "some"}, {}, "peft_args.bias: 'some' is not allowed; valid are all, lora_only, none"),
    ({"modules_to_save": 3}, {}, ""),
    ({"use_rslora": "yes please"}, {}, "peft_args.use_rslora: 'yes please' is not allowed; write true or false"),
    ({"init_lora_weights": "gausian"}, {}, "did you mean 'gaussian'?"),
    ({"init_lora_weights": "EVA"}, {}, "did you mean 'eva'?"),
    ({"rho": 2}, {}, "peft_args: lora has no 'rho' in PEFT"),
    ({"init_lora_weights": "eva", "eva_config": 2}, {}, "peft_args.eva_config: write a table, such as {rho: 2}"),
    ({"init_lora_weights": "eva", "eva_config": {"roh": 2}}, {}, "EVA has no 'roh' in PEFT; did you mean 'rho'?"),
    (
        {"init_lora_weights": "eva", "eva_config": {"rho": "2x"}},
        {},
        "peft_args.eva_config.rho: '2x' is not allowed; write a number",
    ),
]


@pytest.mark.parametrize(("arguments", "keys", "said"), [row for row in PEFT if row[2]])
def test_what_peft_refuses_is_said_before(configuration, arguments, keys, said):
    with pytest.raises(UserError) as error:
        Project(configuration({"runs.sft": run(peft_args=arguments, **keys)}))
    assert said in str(error.value)


def run(**keys) -> dict:
    return {"from": "base", "objective": "sft", "data": "chats", "method": "lora"} | keys


@pytest.mark.parametrize(("arguments", "keys", "said"), PEFT[:3])
def test_peft_itself_refuses_it(arguments, keys, said):
    from peft import LoraConfig

    with pytest.raises(ValueError):
        LoraConfig(**({"target_modules": "all-linear"} | keys | arguments))


TRAINER = [
    (
        {"deepspeed": "zero3.json"},
        "trainer_args.deepspeed: a run trains in one process, on one GPU or on the CPU; take it out",
    ),
    ({"fsdp": "full_shard"}, "trainer_args.fsdp: a run trains in one process"),
    ({"load_best_model_at_end": True}, "write the run's own key keep: best"),
    ({"metric_for_best_model": "loss"}, "keep: best"),
    ({"report_to": "wandb"}, "'report_to' is not set here; write tracking: {also: [tensorboard, wandb, trackio]}"),
    ({"early_stopping_patience": 3}, "has no field 'early_stopping_patience'; write early_stopping: {metric"),
    ({"lr": 1e-4}, "the trainer has no field 'lr'; write learning_rate"),
    ({"rank": 4}, "write the run's own key rank"),
    ({"optim": "adamw_torhc"}, "trainer_args.optim: there is no optimiser 'adamw_torhc'; did you mean 'adamw_torch'?"),
    ({"optim": "galore_adamw"}, "galore_adamw needs a package that is not installed; pip install galore-torch"),
    ({"optim": "schedule_free_adamw"}, "pip install schedulefree"),
    ({"adam_beta1": "high"}, "trainer_args.adam_beta1: 'high' is not allowed; write a number"),
    ({"pad_to_multiple_of": 1.5}, "trainer_args.pad_to_multiple_of: 1.5 is not allowed; write a whole number"),
    ({"torch_compile": "fast"}, "trainer_args.torch_compile: 'fast' is not allowed; write true or false"),
    ({"adam_beta1": [0.9]}, "trainer_args.adam_beta1: a list is not allowed; write a number"),
    ({"dataloader_prefetch_factor": 2}, "needs dataloader_num_workers"),
]


@pytest.mark.parametrize(("arguments", "said"), TRAINER)
def test_what_the_trainer_refuses_is_said_before(configuration, arguments, said, monkeypatch):
    monkeypatch.setattr(library_refusals.importlib.util, "find_spec", spec_without("galore_torch", "schedulefree"))
    with pytest.raises(UserError) as error:
        Project(configuration({"runs.sft": run(trainer_args=arguments)}))
    assert said in str(error.value)


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
    names = library_refusals.optimisers(schema.trainer_files("sft")[-1])
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


@pytest.mark.parametrize("objective", ["grpo", "rloo", "ppo"])
def test_prompts_need_room_beside_the_answers(configuration, objective):
    reward = {"objective": objective, "reward": {"function": "final_number"}}
    with pytest.raises(
        UserError, match="max_length 128 counts a prompt and its answer, and max_new_tokens 128 leaves no room"
    ):
        Project(configuration({"runs.sft": run(**reward, max_length=128)}))
    Project(configuration({"runs.sft": run(**reward, max_length=129)}))
