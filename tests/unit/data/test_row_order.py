"""A token weighs the same wherever it stands, and no step is wasted on a learning rate of 0: weights, warm-up, real trainers."""

# ruff: noqa: F811  (fixtures of another file's)

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors.torch import load_file

import train_dpo
import train_sft
from posttrain.data.row_order import row_order, step_weights, trained_tokens
from unit.scripts.test_train import pairs, sample, train  # noqa: F401  (fixtures)

pytestmark = pytest.mark.usefixtures("in_folder", "signals", "fp32")


def test_trained_tokens_are_counted_row_by_row_without_the_first_which_nothing_predicts():
    labels = pa.chunked_array([pa.array([[5, 6, -100], [-100, 7]]), pa.array([[], [8], [-100, -100, 1]])])
    assert trained_tokens(labels) == [1, 1, 0, 0, 1]
    assert trained_tokens(labels.slice(1)) == [1, 0, 0, 1]


def shares(lengths: list[int], weights: np.ndarray, order: list[int], batch_size: int) -> float:
    """What a token of the shortest tenth of rows weighs, over one of the longest tenth; a step's gradient is a mean over tokens."""
    ranked = np.argsort(np.argsort(lengths))
    found: dict[str, list[float]] = {"short": [], "long": []}
    for step, start in enumerate(range(0, len(order), batch_size)):
        batch = order[start : start + batch_size]
        each = weights[step] / sum(lengths[row] for row in batch)
        for row in batch:
            if not 0.1 * len(lengths) <= ranked[row] < 0.9 * len(lengths):
                found["short" if ranked[row] < 0.5 * len(lengths) else "long"] += [each] * lengths[row]
    return float(np.mean(found["short"]) / np.mean(found["long"]))


def test_a_token_of_a_short_row_weighs_as_much_as_one_of_a_long_row():
    lengths = np.random.default_rng(3).lognormal(4, 0.7, 1000).astype(int).tolist()
    order = row_order(lengths, 8, 1, None, 42)
    weights = step_weights([lengths[row] for row in order], 8)
    assert shares(lengths, np.ones_like(weights), order, 8) > 5  # a mean over each batch, and nothing else
    assert shares(lengths, weights, order, 8) == pytest.approx(1)
    assert weights.mean() == pytest.approx(1)


def test_the_rows_of_a_short_last_batch_weigh_as_much_as_others():
    assert step_weights([1] * 20, 8).tolist() == [1, 1, 0.5]


def test_the_steps_of_an_epoch_add_up_to_the_gradient_of_the_mean_over_all_tokens(train, chats, random_tiny_folder):
    """By SGD with small steps, in batches of one row each, against one step on all rows."""
    sizes = {len(row["messages"][-1]["content"]) for row in chats}
    assert max(sizes) > 2 * min(sizes)
    plain = {"optim": "sgd"}
    changes = {"runs.full.trainer_args": plain, "runs.full.schedule": "constant", "runs.full.max_grad_norm": 1e9}
    before = load_file(random_tiny_folder / "model.safetensors")
    moved = {}
    for batch_size, rate in ((1, 1e-3), (4, 4e-3)):
        own = {"runs.full.batch_size": batch_size, "runs.full.learning_rate": rate}
        train(train_sft, "full", chats[:4], "messages", changes | own)
        after = load_file("results/full/trained/model.safetensors")
        moved[batch_size] = {name: after[name] - before[name] for name in after if name in before}
    difference = sum(float((moved[1][name] - moved[4][name]).square().sum()) for name in moved[4]) ** 0.5
    assert difference < 0.03 * sum(float(moved[4][name].square().sum()) for name in moved[4]) ** 0.5


# ---- the warm-up


def rates(run: str) -> list[float]:
    lines = Path(f"results/{run}/train.jsonl").read_text().splitlines()
    return [json.loads(line)["learning_rate"] for line in lines]


SCHEDULES = {
    "cosine": [1 / 3, 2 / 3, 1, 0.5 * (1 + np.cos(np.pi / 3)), 0.5 * (1 + np.cos(2 * np.pi / 3))],
    "linear": [1 / 3, 2 / 3, 1, 2 / 3, 1 / 3],
    "constant": [1 / 3, 2 / 3, 1, 1, 1],
}


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_the_learning_rate_rises_from_the_first_step_on(train, chats, schedule):
    keys = {"warmup": 0.4, "schedule": schedule, "max_steps": 5, "learning_rate": 1e-3, "lora_plus": 4}
    train(train_sft, "sft", chats, "messages", {f"runs.sft.{key}": value for key, value in keys.items()})
    assert rates("sft") == pytest.approx([1e-3 * share for share in SCHEDULES[schedule]])


def test_the_first_step_of_a_default_preference_training_moves_the_model(train):
    columns = {"ref_chosen_logps": [-9.0] * 4, "ref_rejected_logps": [-8.0] * 4}
    pq.write_table(pa.table({name: pa.array(column, pa.float32()) for name, column in columns.items()}), "r.parquet")
    changes = {"runs.dpo.warmup": 0.1, "runs.dpo.max_steps": 1}
    line, _, _ = train(train_dpo, "dpo", pairs(), "preference", changes, logprobs=Path("r.parquet"))
    assert line["learning_rate"] == pytest.approx(0.5e-4)
    trained = load_file("results/dpo/trained/adapter_model.safetensors")
    assert all(bool(tensor.abs().max() > 0) for name, tensor in trained.items() if "lora_B" in name)


def test_objectives_on_own_answers_begin_above_0_too(sample):
    lines, _ = sample("grpo", 2, warmup=0.5, max_steps=2, learning_rate=1e-3)
    assert [line["learning_rate"] for line in lines] == pytest.approx([5e-4, 1e-3])
