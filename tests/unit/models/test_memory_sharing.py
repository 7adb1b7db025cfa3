"""What each of several processes holds of a training's memory."""

import pytest

from posttrain.config.hardware import Hardware as Configured
from posttrain.models import memory_estimate, memory_sharing
from posttrain.models.memory_sharing import Hardware, of_one
from posttrain.runtime import processes
from unit.models.test_memory_estimate import SMOLLM2, spec

# 1,000 trained parameters in 10 layers that have all of the weights.
FULL = {"weights": 4000.0, "gradients": 4000.0, "optimiser": 8000.0}


@pytest.mark.parametrize(
    "strategy, bf16, held",
    [
        ("ddp", True, {**FULL, "buckets": 4000}),
        ("zero1", False, {**FULL, "optimiser": 12000 / 4}),
        ("zero2", False, {**FULL, "gradients": 1000, "optimiser": 3000}),
        ("zero2", True, {"weights": 2000, "gradients": 500, "optimiser": 3000}),
        ("zero3", True, {"weights": 500, "gradients": 500, "optimiser": 3000, "gathered": 2 * 200 + 200}),
        ("fsdp", True, {"weights": 1000, "gradients": 1000, "optimiser": 2000, "gathered": 2 * 400 + 400}),
    ],
)
def test_each_process_holds_its_share(strategy, bf16, held):
    found, host = of_one(FULL, 10, 1.0, Hardware(4, strategy), bf16)
    zero = {"buckets": (2 if bf16 else 4) * memory_sharing.BUCKET} if strategy.startswith("zero") else {}
    assert {key: value for key, value in found.items() if value} == pytest.approx(held | zero)
    assert host == 0


def test_what_is_offloaded_is_in_the_machines_memory():
    found, host = of_one(FULL, 10, 1.0, Hardware(4, "fsdp", offload=True), True)
    assert host == sum(FULL.values())
    assert (found["weights"], found["gradients"], found["optimiser"], found["gathered"]) == (0, 0, 0, 1200)
    found, host = of_one(FULL, 10, 1.0, Hardware(4, "zero1", offload=True), False)
    assert (host, found["optimiser"], found["gradients"]) == (12000, 0, 4000)


def test_one_process_holds_all():
    assert of_one(FULL, 10, 1.0, Hardware(), True) == (FULL, 0)
    alone = memory_estimate.estimate(spec("full"), SMOLLM2, 100, 0.5, "gpu", True)
    assert "buckets" not in alone and "host" not in alone


def test_every_strategy_of_the_configuration_is_known():
    names = {*Configured.model_json_schema()["properties"]["strategy"]["anyOf"][0]["enum"]}
    assert names == processes.SHARES.keys()


def test_a_process_computes_its_share_of_the_rows():
    def activations(run, processes):
        hardware = Hardware(processes, "ddp" if processes > 1 else "single")
        return memory_estimate.estimate(run, SMOLLM2, 512, 0.5, "gpu", True, hardware)["activations"]

    alone = activations(spec(batch_size=8), 1)
    assert activations(spec(batch_size=8), 2) == pytest.approx(alone / 2, rel=0.1)
    split = spec(batch_size=8, accumulation=4)  # two rows at once
    assert activations(split, 2) == activations(split, 4) == activations(split, 1)
    assert activations(split, 8) < activations(split, 1)


@pytest.mark.parametrize("method", ["full", "lora"])
def test_sharding_more_takes_less(method):
    totals = [
        memory_estimate.estimate(spec(method, batch_size=8), SMOLLM2, 512, 0.5, "gpu", True, Hardware(8, name))["least"]
        for name in ("zero1", "zero2", "zero3")
    ]
    assert totals == sorted(totals, reverse=True)


def test_the_strategies_that_share_out_the_weights_are_evaluated_by_one_process():
    assert set(processes.SHARDED) == {"fsdp", "zero3"}
