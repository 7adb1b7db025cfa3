"""A token weighs the same wherever it stands, and no step is wasted on a learning rate of 0: weights, warm-up, real trainers."""

# ruff: noqa: F811  (fixtures of another file's)

import json
import math
from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
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


# ---- the order of the rows


def lengths(n: int) -> list[int]:
    """Lengths as real data has them: most short, some long."""
    return np.random.default_rng(3).lognormal(4, 0.7, n).astype(int).tolist()


ORDERS = [  # rows, batch_size, epochs, max_steps -> rows in the order
    (64, 8, 1, None, 64),
    (100, 8, 1, None, 100),
    (100, 8, 3, None, 300),
    (100, 8, 1.5, None, 150),
    (100, 8, 0.25, None, 25),
    (100, 8, 0.001, None, 1),
    (3, 8, 1, None, 3),
    (3, 8, 2.5, None, 8),
    (1, 8, 1, None, 1),
    (100, 8, 1, 5, 40),
    (100, 8, 1, 20, 160),
    (3, 8, 1, 4, 32),
    (100, 1, 1, None, 100),
]


@pytest.mark.parametrize(("n", "batch_size", "epochs", "max_steps", "total"), ORDERS)
def test_every_row_is_seen_as_often_as_every_other_to_within_one(n, batch_size, epochs, max_steps, total):
    order = row_order(lengths(n), batch_size, epochs, max_steps, 42)
    seen = Counter(order)
    assert len(order) == total
    assert set(seen) <= set(range(n))
    assert all(seen[row] in (total // n, math.ceil(total / n)) for row in range(n))


@pytest.mark.parametrize(("n", "batch_size", "epochs", "max_steps", "total"), ORDERS)
def test_the_order_is_the_same_whatever_the_generators_state(n, batch_size, epochs, max_steps, total):
    np.random.seed(1)
    torch.manual_seed(1)
    one = row_order(lengths(n), batch_size, epochs, max_steps, 42)
    np.random.seed(2)
    torch.manual_seed(2)
    assert row_order(lengths(n), batch_size, epochs, max_steps, 42) == one


def test_an_epoch_that_fills_its_windows_is_a_permutation_and_no_epoch_is_like_another():
    order = row_order(lengths(128), 8, 3, None, 42)
    epochs = [order[i : i + 128] for i in range(0, 384, 128)]
    assert all(sorted(epoch) == list(range(128)) for epoch in epochs)
    batches = {frozenset(frozenset(epoch[i : i + 8]) for i in range(0, 128, 8)) for epoch in epochs}
    assert len(batches) == 3  # rows meet other rows each time


def test_the_seed_moves_the_order():
    assert row_order(lengths(64), 8, 1, None, 1) != row_order(lengths(64), 8, 1, None, 2)


def padding(order: list[int], sizes: list[int], batch_size: int) -> int:
    batches = [[sizes[row] for row in order[i : i + batch_size]] for i in range(0, len(order), batch_size)]
    return sum(max(batch) * len(batch) - sum(batch) for batch in batches)


def test_batches_group_similar_lengths_and_are_not_sorted_from_short_to_long():
    sizes = lengths(512)
    order = row_order(sizes, 8, 1, None, 42)
    shuffled = np.random.default_rng(0).permutation(512).tolist()
    assert padding(order, sizes, 8) < 0.4 * padding(shuffled, sizes, 8)
    longest = [max(sizes[row] for row in order[i : i + 8]) for i in range(0, 512, 8)]
    assert sum(one > other for one, other in pairwise(longest)) > 15


def test_what_is_left_of_an_epoch_is_drawn_at_random_and_every_other_batch_is_whole():
    sizes = list(range(100, 0, -1))
    left = []
    for seed in range(20):
        order = row_order(sizes, 8, 1, None, seed)
        window = sorted(sizes[row] for row in order[64:96])
        batches = [sorted(sizes[row] for row in order[i : i + 8]) for i in range(64, 96, 8)]
        assert sorted(batches) == [window[i : i + 8] for i in range(0, 32, 8)]
        left += [sizes[row] for row in order[96:]]
    assert 40 < np.mean(left) < 61  # the longest rows would have 98.5


def test_batches_of_later_epochs_group_similar_lengths_too():
    sizes = lengths(100)
    order = row_order(sizes, 8, 3, None, 42)
    shuffled = [row for epoch in range(3) for row in np.random.default_rng(epoch).permutation(100).tolist()]
    assert padding(order[104:], sizes, 8) < 0.6 * padding(shuffled[104:], sizes, 8)
