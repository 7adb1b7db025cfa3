"""From a spec to TRL's arguments and PEFT's configuration, and what libraries refuse of them."""

import dataclasses

import peft
import pytest
import torch
from conftest import refused
from trl import DPOConfig, GRPOConfig, KTOConfig, RewardConfig, RLOOConfig, SFTConfig
from trl.experimental.cpo import CPOConfig
from trl.experimental.orpo import ORPOConfig

from posttrain.config import library_fields
from posttrain.methods import METHODS
from posttrain.models import loading, peft_methods
from posttrain.objectives import OBJECTIVES
from posttrain.training import arguments, inputs, loop
from posttrain.training.arguments import trainer_arguments

TRL = {
    **dict.fromkeys(("sft", "pretrain", "distill"), SFTConfig),
    "dpo": DPOConfig,
    "kto": KTOConfig,
    "orpo": ORPOConfig,
    "cpo": CPOConfig,
    **dict.fromkeys(("reward", "classify"), RewardConfig),
    "grpo": GRPOConfig,
    "rloo": RLOOConfig,
}
PEFT = {
    "lora": peft.LoraConfig,
    "qlora": peft.LoraConfig,
    "adalora": peft.AdaLoraConfig,
    "oft": peft.OFTConfig,
    "vera": peft.VeraConfig,
    "ia3": peft.IA3Config,
    "prefix": peft.PrefixTuningConfig,
    "p_tuning": peft.PromptEncoderConfig,
    "prompt": peft.PromptTuningConfig,
}


def fields(cls) -> set[str]:
    return {field.name for field in dataclasses.fields(cls) if field.init}


@pytest.mark.parametrize("objective", [name for name, row in OBJECTIVES.items() if row.trl_config])
def test_the_fields_read_from_the_source_are_those_of_the_installed_trainer(objective):
    assert fields(TRL[objective]) == library_fields.trainer_fields(objective)


@pytest.mark.parametrize("method", [name for name, row in METHODS.items() if row.peft_config])
def test_the_fields_read_from_the_source_are_those_of_the_installed_method(method):
    assert fields(PEFT[method]) <= library_fields.peft_fields(method)


def test_a_spec_becomes_trls_arguments(spec, tmp_path):
    changes = {
        "runs.sft.accumulation": 2,
        "runs.sft.weight_decay": 0.1,
        "runs.sft.precision": "fp32",
        "runs.sft.max_length": 64,
    }
    arguments = SFTConfig(**trainer_arguments(spec("sft", changes), tmp_path), max_length=64)
    assert (arguments.per_device_train_batch_size, arguments.gradient_accumulation_steps) == (4, 2)
    assert (arguments.learning_rate, arguments.weight_decay, arguments.max_grad_norm) == (2e-4, 0.1, 1.0)
    assert (arguments.max_length, arguments.seed, arguments.bf16) == (64, 42, False)
    assert (arguments.lr_scheduler_type.value, arguments.get_warmup_steps(50)) == ("cosine", 5)
    assert arguments.report_to == []


def test_trainer_args_have_the_last_word(spec, tmp_path):
    arguments = SFTConfig(**trainer_arguments(spec("sft", {"runs.sft.trainer_args": {"adam_beta2": 0.95}}), tmp_path))
    assert arguments.adam_beta2 == 0.95


def test_dpo_takes_the_same_arguments(spec, tmp_path):
    dpo = spec("dpo")
    arguments = DPOConfig(**trainer_arguments(dpo, tmp_path), beta=dpo["beta"], loss_type=dpo["loss_type"])
    assert (arguments.learning_rate, arguments.beta, arguments.loss_type) == (1e-4, 0.1, ["sigmoid"])


@pytest.mark.parametrize("schedule", ["cosine", "linear", "constant"])
def test_every_schedule_warms_up(spec, tmp_path, schedule):
    from transformers import get_scheduler

    arguments = SFTConfig(**trainer_arguments(spec("sft", {"runs.sft.schedule": schedule}), tmp_path))
    optimiser = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = get_scheduler(arguments.lr_scheduler_type, optimiser, arguments.get_warmup_steps(20), 20)
    rates = []
    for _ in range(20):
        rates.append(optimiser.param_groups[0]["lr"])
        optimiser.step()
        scheduler.step()
    assert rates[:3] == [0, 0.5, 1]
    assert (rates[-1] == 1) == (schedule == "constant")


@pytest.mark.parametrize(("share", "steps"), [(0, 0), (0.1, 10), (0.5, 50), (1, 100)])
def test_warm_up_is_a_share_of_the_steps(spec, tmp_path, share, steps):
    arguments = SFTConfig(**trainer_arguments(spec("sft", {"runs.sft.warmup": share}), tmp_path))
    assert arguments.get_warmup_steps(100) == steps


def test_a_spec_becomes_pefts_configuration(spec, random_tiny_model):
    lora = peft_methods.peft_config(spec("sft", {"runs.sft.peft_args": {"use_rslora": True}}), random_tiny_model, 10)
    assert (lora.r, lora.lora_alpha, lora.lora_dropout, lora.target_modules, lora.use_rslora) == (
        8,
        16,
        0.05,
        "all-linear",
        True,
    )
    assert peft_methods.peft_config(spec("full"), random_tiny_model, 10) is None


def test_what_peft_refuses_is_one_sentence(spec, random_tiny_model):
    with refused("refused-argument", "sft"), loop.library_refusals("sft"):
        peft_methods.peft_config(spec("sft") | {"peft_args": {"layers_to_transform": [0]}}, random_tiny_model, 10)


@pytest.mark.parametrize("kind", [TypeError, ValueError, NotImplementedError, ImportError])
def test_what_a_library_refuses_is_its_first_line(kind, capsys):
    with refused("refused-argument", "sft") as error, loop.library_refusals("sft"):
        raise kind("no such thing\nand much more")
    assert str(error.value) == "sft: method, peft_args or trainer_args: no such thing"
    assert "and much more" in capsys.readouterr().err  # the log has it all
    with pytest.raises(KeyError), loop.library_refusals("sft"):
        raise KeyError("a fault of ours")


def test_a_parent_is_trained_in_float32_where_all_weights_move_and_in_its_own_dtype_under_an_adapter(
    spec, random_tiny_model, random_tiny_tokenizer, tmp_path
):
    loading.save(random_tiny_model.to(torch.bfloat16), random_tiny_tokenizer, tmp_path)
    assert inputs.load_parent(tmp_path, spec("full")).dtype == torch.float32
    assert inputs.load_parent(tmp_path, spec("sft")).dtype == torch.bfloat16


def test_loading_the_parent_seeds_what_draws_the_adapters_first_weights(spec, random_tiny_folder):
    def drawn(seed: int) -> torch.Tensor:
        inputs.load_parent(random_tiny_folder, spec("sft", {"runs.sft.seed": seed}))
        return torch.rand(3)

    assert torch.equal(drawn(1), drawn(1))
    assert not torch.equal(drawn(1), drawn(2))


COMPACT = [
    ("sft", "lora", {}, True),
    ("sft", "full", {}, True),
    ("dpo", "qlora", {}, True),
    ("kto", "lora", {}, True),
    ("dpo", "lora", {"use_weighting": True}, False),  # WPO needs more of the distribution than one log-probability
    ("sft", "prompt", {}, False),  # the model is handed embeddings
    ("dpo", "prefix", {}, False),
    ("kto", "p_tuning", {}, False),
    ("orpo", "lora", {}, False),  # it reads the logits
    ("reward", "lora", {}, False),  # it has no LM head
]


@pytest.mark.parametrize(("objective", "method", "trainer_args", "can"), COMPACT)
def test_only_what_needs_log_probabilities_alone_gets_the_compact_head(spec, objective, method, trainer_args, can):
    data = "chats" if objective == "sft" else "pairs"
    table = {"from": "base", "objective": objective, "method": method, "data": data, "trainer_args": trainer_args}
    assert loop.can_be_compact(spec("own", {"runs.own": table})) == can


def test_a_4_bit_training_uses_the_paged_optimiser_unless_told_otherwise(spec, tmp_path):
    table = {"from": "base", "objective": "sft", "method": "qlora", "data": "chats"}
    assert trainer_arguments(spec("own", {"runs.own": table}), tmp_path)["optim"] == "paged_adamw_8bit"
    own = table | {"trainer_args": {"optim": "adamw_torch"}}
    assert trainer_arguments(spec("own", {"runs.own": own}), tmp_path)["optim"] == "adamw_torch"
    assert "optim" not in trainer_arguments(spec("sft"), tmp_path)


KERNELS = [  # objective, method, precision, Flash Attention there -> what SFT is given
    ("sft", "lora", "bf16", True, {"padding_free": True, "use_liger_kernel": True}),
    ("sft", "lora", "fp32", True, {"padding_free": False, "use_liger_kernel": True}),
    ("sft", "lora", "bf16", False, {"padding_free": False, "use_liger_kernel": True}),
    ("sft", "prefix", "bf16", True, {"padding_free": False, "use_liger_kernel": True}),
    ("sft", "adapter", "bf16", True, {"padding_free": True, "use_liger_kernel": False}),
    ("dpo", "lora", "bf16", True, {}),
]


@pytest.mark.parametrize(("objective", "method", "precision", "there", "given"), KERNELS)
def test_a_gpu_uses_the_kernels_that_are_installed(
    spec, tmp_path, monkeypatch, objective, method, precision, there, given
):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: True)
    monkeypatch.setattr(arguments, "is_flash_attn_2_available", lambda: there)
    monkeypatch.setattr(arguments, "is_liger_kernel_available", lambda: True)
    data = "chats" if objective == "sft" else "pairs"
    table = {"from": "base", "objective": objective, "method": method, "data": data, "precision": precision}
    own = spec("own", {"runs.own": table})
    assert arguments.fast_kernels(own) == given
    assert given.items() <= trainer_arguments(own, tmp_path).items()
    assert arguments.uses_flash_attention(own) == given.get("padding_free", False)
    if objective == "sft":
        told = spec("own", {"runs.own": table | {"trainer_args": {"use_liger_kernel": False}}})
        assert trainer_arguments(told, tmp_path)["use_liger_kernel"] is False


def test_a_cpu_is_given_no_kernels(spec):
    assert arguments.fast_kernels(spec("sft")) == {}
    assert not arguments.uses_flash_attention(spec("sft"))
