"""What each strategy can train, and what it is refused for when the configuration is read."""

import pytest

from posttrain.config.hardware import Hardware
from posttrain.methods import METHODS
from posttrain.runtime import processes
from posttrain.training import strategies
from posttrain.training.strategies import STRATEGIES

SHARED_OUT = ("fsdp", "zero1", "zero2", "zero3")


def refusal(strategy: str, method: str = "lora", **keys) -> str | None:
    return strategies.refusal(strategy, 2, {"objective": "sft", "method": method, "batch_size": 8} | keys)


@pytest.mark.parametrize("strategy", SHARED_OUT)
def test_methods_whose_weights_cannot_be_cut_are_refused_and_told_what_works(strategy):
    refused = [method for method in METHODS if refusal(strategy, method)]
    assert refused == ["adalora", "prefix", "p_tuning", "prompt"]
    for method in refused:
        assert refusal(strategy, method).startswith(f"{strategy} cannot train {method}: ")
        assert refusal(strategy, method).endswith("; write strategy: ddp")
        assert refusal("ddp", method) is None


def test_optimisers_whose_states_cannot_be_cut_are_refused():
    adam_8_bit = {"trainer_args": {"optim": "adamw_bnb_8bit"}}
    assert "optim is adamw_bnb_8bit; write strategy: ddp, or optim: adamw_torch" in refusal("fsdp", **adam_8_bit)
    assert refusal("ddp", **adam_8_bit) is None
    assert refusal("zero2", trainer_args={"optim": "adamw_torch"}) is None


def test_only_what_is_shared_out_can_be_offloaded():
    assert all(Hardware(processes=2, strategy=name, offload=True).offload for name in SHARED_OUT)
    assert [name for name in STRATEGIES if processes.SHARES[name]] == list(SHARED_OUT)
    assert Hardware(processes=2, strategy="zero3", offload=True).name == "zero3"
    with pytest.raises(ValueError, match="ddp shares nothing out"):
        Hardware(processes=2, offload=True)


@pytest.mark.parametrize("objective", ["grpo", "rloo"])
def test_sampling_by_trl_is_refused_where_each_layer_is_gathered(objective):
    assert f"fsdp cannot train {objective}: TRL lets each process stop sampling" in refusal("fsdp", objective=objective)
    assert [refusal(name, objective=objective) for name in ("ddp", "zero1", "zero2", "zero3")] == [None] * 4
    assert refusal("fsdp", objective="ppo") is None


def test_ppo_is_refused_where_deepspeed_would_offload_a_part_of_its_gradients():
    ppo = {"objective": "ppo", "method": "lora", "batch_size": 8}
    why = "write offload: false"
    assert [name for name in SHARED_OUT if why in (strategies.refusal(name, 2, ppo, True) or "")] == [
        "zero1",
        "zero2",
        "zero3",
    ]
    assert strategies.refusal("zero2", 2, ppo) is None
