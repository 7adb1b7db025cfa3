"""PPO, GRPO and RLOO by two processes on the CPU: the completions and the numbers of one, by each strategy, and after kill -9."""

# ruff: noqa: F811  (fixtures of another file's)

import json
import os
import shutil
import signal

import pytest
import several
from workflow.test_processes import begin, equal, gone, project, reach, same  # noqa: F401  (fixtures)

pytestmark = pytest.mark.processes

RULE = {"function": "rule.py:length"}
PPO = {
    "reward": RULE,
    "batch_size": 8,
    "num_mini_batches": 2,
    "ppo_epochs": 2,
    "max_new_tokens": 4,
    "epochs": 2,
    "missing_eos_penalty": 0,
}
PPO |= {"kl_target": 3, "seed": 7, "precision": "fp32"}
GRPO = {"reward": RULE, "batch_size": 8, "num_generations": 4, "num_mini_batches": 2, "max_new_tokens": 4, "seed": 7}
WEIGHTS = 1e-4  # the largest difference seen: 2e-6


@pytest.fixture(scope="module")
def peace(project):
    """What a PPO run gives that nothing interrupts, by method, number of processes and strategy: lines and weights."""
    found = {}

    def trained(method: str, count: int, strategy: str | None = None) -> tuple[list[dict], dict]:
        key = method, count, strategy
        if key not in found:
            keys = {"gradient_checkpointing": True, "learning_rate": 1e-3} if method == "full" else {"rank": 4}
            run = several.spec(project, "peace", "ppo", method, **PPO, **keys)
            found[key] = several.train(project, run.name, count, strategy=strategy), several.weights(run)
            shutil.rmtree(run)
        return found[key]

    return trained


def is_as_one(ours: tuple[list[dict], dict], theirs: tuple[list[dict], dict]) -> None:
    """The same completions, so the same lengths and rewards, and the same losses and weights but for rounding."""
    same(ours[0], theirs[0])
    for name in ("reward", "answer_length", "num_tokens"):
        assert [line.get(name) for line in ours[0]] == [line.get(name) for line in theirs[0]]
    assert max((ours[1][name] - theirs[1][name]).abs().max() for name in theirs[1]) < WEIGHTS


def test_two_processes_sample_and_train_as_one(peace):
    ours, theirs = peace("lora", 2), peace("lora", 1)
    is_as_one(ours, theirs)
    assert len({line["reward"] for line in theirs[0] if "reward" in line}) > 1
    assert ours[1].keys() == theirs[1].keys()


@pytest.mark.slow
@pytest.mark.parametrize("method", ["lora", "full"])
@pytest.mark.parametrize("strategy", ["ddp", "fsdp", "zero1", "zero2", "zero3"])
def test_each_strategy_trains_as_one_process(method, strategy, peace):
    is_as_one(peace(method, 2, strategy), peace(method, 1))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("objective", "keys"),
    [("ppo", PPO | {"rank": 4}), ("grpo", GRPO), ("rloo", {k: v for k, v in GRPO.items() if k != "num_mini_batches"})],
)
def test_after_kill_9_of_a_rank_the_same_command_ends_with_the_same_bits(objective, keys, project):
    found = []
    for step in (None, 3):
        run = several.spec(project, "killed", objective, "lora", **keys)
        if step:
            job = begin(project, run.name, 2)
            pids = reach(project, run.name, step, job)
            os.kill(pids[2], signal.SIGKILL)
            assert job.wait(20) == -signal.SIGKILL
            assert gone(pids)
        lines = several.train(project, run.name, 2)
        assert bool(json.loads((run / "train.json").read_text())["resumed_from"]) == bool(step)
        found.append((lines, several.weights(run)))
        shutil.rmtree(run)
    ours, theirs = ([{k: v for k, v in line.items() if k != "step_time"} for line in lines] for lines, _ in found)
    assert ours == theirs
    assert equal(found[0][1], found[1][1])


@pytest.mark.slow
@pytest.mark.parametrize("strategies", [("ddp", None, "ddp"), ("fsdp", None, "zero2")])
def test_from_two_processes_to_one_and_back_ppo_has_the_same_completions(strategies, project, peace):
    run = several.spec(project, "changing", "ppo", "lora", **PPO, rank=4)
    for strategy, step in zip(strategies, (1, 3, 5), strict=True):
        count = 2 if strategy else 1
        job = begin(project, run.name, count, **({"strategy": strategy} if strategy else {}))
        pids = reach(project, run.name, step, job)
        os.kill(pids[-1] if count == 2 else job.pid, signal.SIGKILL)
        job.wait(20)
    is_as_one((several.train(project, run.name, 1), several.weights(run)), peace("lora", 1))
    shutil.rmtree(run)
