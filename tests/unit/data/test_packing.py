"""Packed rows: what is in them, that examples neither see nor move each other, that as many steps are done as asked."""

# ruff: noqa: F811  (fixtures of another file's)

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import refused
from datasets import Dataset
from families import FAMILIES, build
from safetensors.torch import load_file

import train_sft
from posttrain.compat import transformers_source
from posttrain.data import packing
from posttrain.data.tokens import IGNORED
from posttrain.models import initial_weights
from posttrain.runtime import atomic
from posttrain.runtime.errors import UserError
from posttrain.training import callbacks, loop
from unit.scripts.test_train import train  # noqa: F401  (a fixture)

pytestmark = pytest.mark.usefixtures("in_folder", "signals", "fp32")


@pytest.mark.parametrize("size", [64, 100, 1000])
def test_each_example_is_in_one_bin_which_holds_it_and_few_tokens_are_padding(size):
    lengths = np.random.default_rng(1).integers(1, 65, 500).tolist()
    found = packing.bins(lengths, size)
    assert sorted(row for one in found for row in one) == list(range(500))
    filled = [sum(lengths[row] for row in one) for one in found]
    assert max(filled) <= size
    assert len(found) <= sum(lengths) / size * 1.03 + 1
    assert found == packing.bins(lengths, size)


def rows(*examples: list[int]) -> Dataset:
    """Examples whose tokens are all trained, but the second."""
    labels = [[token if i != 1 else IGNORED for i, token in enumerate(ids)] for ids in examples]
    return Dataset.from_dict({"id": list("abcdefgh"[: len(examples)]), "input_ids": list(examples), "labels": labels})


def test_a_packed_row_is_its_examples_one_after_the_other():
    (one, two) = packing.packed(rows([1, 2, 3], [4, 5, 6, 7, 8], [9, 10]), 8).to_list()
    assert (one["id"], one["input_ids"], one["seq_lengths"]) == (["b", "a"], [4, 5, 6, 7, 8, 1, 2, 3], [5, 3])
    assert one["labels"] == [IGNORED, IGNORED, 6, 7, 8, IGNORED, IGNORED, 3]
    assert (two["id"], two["labels"], two["seq_lengths"]) == (["c"], [IGNORED, IGNORED], [2])
    assert [one["trained"], two["trained"]] == [4, 0]


def test_a_batch_has_positions_that_begin_anew_and_no_attention_mask():
    found = packing.packed(rows([1, 2, 3], [4, 5, 6, 7, 8], [9, 10]), 8).to_list()
    batch = packing.Collator(pad=0)(found)
    assert batch["position_ids"].tolist() == [[0, 1, 2, 3, 4, 0, 1, 2], [0, 1, 0, 0, 0, 0, 0, 0]]
    assert batch["input_ids"][1].tolist() == [9, 10, 0, 0, 0, 0, 0, 0]
    assert set(batch) == {"input_ids", "labels", "position_ids", "tokens"} and batch["tokens"] == 10


# ---- nothing leaks

# A state, a convolution, a mask made without the positions, a mask made of the attention mask alone.
LEAKS = {"falcon_h1", "lfm2", "gpt_oss", "opt"}


def gradients(model, examples: list[list[int]], counted: int) -> dict[str, torch.Tensor]:
    """Of the log-probability of one example among those of a packed row."""
    batch = packing.Collator(pad=0)(packing.packed(rows(*examples), 64).to_list())
    batch.pop("tokens")
    labels = batch.pop("labels")
    start = batch["input_ids"][0].tolist().index(examples[counted][0])
    own = torch.zeros_like(labels, dtype=torch.bool)
    own[0, start + 2 : start + len(examples[counted])] = True
    model.zero_grad()
    logits = model(**batch, use_cache=False).logits[:, :-1].log_softmax(-1)
    (logits.gather(2, batch["input_ids"][:, 1:, None])[..., 0] * own[:, 1:]).sum().backward()
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.grad is not None}


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("family", FAMILIES)
def test_an_examples_gradient_does_not_depend_on_its_neighbours_or_the_family_is_refused(family, attention):
    model = build(family)
    try:
        model.set_attn_implementation(attention)
    except ValueError:
        pytest.skip(f"{family} has no {attention}")
    assert transformers_source.masks_packed_rows(family) == (family not in LEAKS)  # as the preflight says
    if family in LEAKS:
        with pytest.raises(
            UserError, match=f"packing: packed rows would see each other in a model of the type {family};"
        ):
            packing.check(model)
        return
    packing.check(model)
    example = [50, 51, 52, 53, 54, 55, 56, 57, 58, 59, 60, 61]
    alone = gradients(model, [example], 0)
    for neighbours in ([list(range(100, 120)), [7, 8, 9]], [list(range(200, 213))]):
        beside = gradients(model, [*neighbours, example], len(neighbours))
        assert (
            sum(float((beside[name] - alone[name]).square().sum()) for name in alone) ** 0.5
            < 2e-4 * sum(float(tensor.square().sum()) for tensor in alone.values()) ** 0.5
        )


def test_a_model_that_takes_no_notice_of_positions_is_found():
    model = build("llama")
    forward = model.model.forward
    model.model.forward = lambda *args, position_ids=None, **kwargs: forward(*args, **kwargs)
    with refused("packing-leaks"):
        packing.check(model)


# ---- trained


def weights(train, chats, changes: dict) -> tuple[dict, dict[str, torch.Tensor]]:
    line, _, _ = train(
        train_sft, "full", chats, "messages", {f"runs.full.{key}": value for key, value in changes.items()}
    )
    return line, load_file("results/full/trained/model.safetensors")


@pytest.mark.parametrize("padding_free", [False, True])
def test_a_packed_step_is_the_step_of_its_examples_in_rows_of_their_own(train, chats, padding_free):
    plain = {"max_steps": 1, "batch_size": 4, "learning_rate": 1e-2, "trainer_args": {"optim": "sgd"}}
    line, expected = weights(train, chats, plain)
    sgd = {"optim": "sgd", "padding_free": padding_free}
    own = plain | {"packing": True, "max_length": 512, "batch_size": 1, "trainer_args": sgd}
    packed, found = weights(train, chats, own)
    assert packed["loss"] == pytest.approx(line["loss"], rel=1e-5)
    assert packed["grad_norm"] == pytest.approx(line["grad_norm"], rel=1e-4)
    assert packed["num_tokens"] == line["num_tokens"]
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("batch_size", "accumulation"), [(1, 1), (2, 1), (2, 2)])
@pytest.mark.parametrize("method", ["lora", "qlora"])
def test_packing_does_as_many_steps_as_are_asked(train, chats, method, batch_size, accumulation):
    changes = {"packing": True, "max_steps": 5, "max_length": 128, "method": method, "batch_size": batch_size}
    changes |= {"accumulation": accumulation}
    _, rows, _ = train(
        train_sft, "sft", chats, "messages", {f"runs.sft.{key}": value for key, value in changes.items()}
    )
    lines = [json.loads(line) for line in Path("results/sft/train.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5]
    bins = packing.bins([row["length"] for row in rows], 128)
    assert 1 < len(bins) < len(rows)
    totals = np.diff([0, *(line["num_tokens"] for line in lines)])
    sizes = [sum(rows[row]["length"] for row in one) for one in bins]
    assert all(batch_size * min(sizes) <= total <= batch_size * max(sizes) for total in totals)


def test_two_passes_are_over_all_packed_rows_twice(train, chats):
    changes = {"packing": True, "epochs": 2, "max_length": 128, "batch_size": 1}
    _, rows, _ = train(
        train_sft, "sft", chats, "messages", {f"runs.sft.{key}": value for key, value in changes.items()}
    )
    bins = packing.bins([row["length"] for row in rows], 128)
    assert atomic.read_json(Path("results/sft/train.json"))["steps"] == 2 * len(bins)


def test_a_packed_training_may_be_measured_on_its_held_out_rows(train, chats, random_tiny_folder):
    losses = []
    for packed in (True, False):
        changes = {"packing": packed, "max_steps": 1, "learning_rate": 1e-9, "batch_size": 4}
        changes |= {"measure_every": 1}
        own = {f"runs.full.{key}": value for key, value in changes.items()}
        train(train_sft, "full", chats, "messages", own, held_out=3)
        lines = [json.loads(line) for line in Path("results/full/train.jsonl").read_text().splitlines()]
        losses += [line["eval_loss"] for line in lines if "eval_loss" in line]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_the_examples_of_a_packed_step_are_named_where_it_fails(train, chats):
    named = []
    with pytest.MonkeyPatch.context() as patch:
        original = loop.rows_of_step
        patch.setattr(loop, "rows_of_step", lambda *args: named.append(original(*args)) or named[-1])
        patch.setattr(callbacks, "is_finite", lambda model: False)
        with pytest.raises(UserError, match=r"sft: the weights are no longer finite at step 1 on the rows "):
            keys = {"packing": True, "max_steps": 1, "max_length": 512, "batch_size": 1}
            train(train_sft, "sft", chats, "messages", {f"runs.sft.{key}": value for key, value in keys.items()})
    assert len(named[0]) == len(chats)


def test_evas_first_weights_are_made_of_the_examples_of_packed_rows():
    one = rows([1, 2, 3], [4, 5, 6, 7, 8], [9, 10])
    found = list(initial_weights.rows(packing.packed(one, 8)))
    assert [ids for ids, _ in found] == [[4, 5, 6, 7, 8], [1, 2, 3], [9, 10]]
    assert found[0][1] == [False, False, True, True, True]
