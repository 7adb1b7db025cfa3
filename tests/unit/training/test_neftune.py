"""NEFTune: noise of the right size for each example, in training alone, drawn anew for rows that begin alike."""

# ruff: noqa: F811  (fixtures of another file's)

import json
import math
import shutil
from pathlib import Path

import pytest
import torch
from conftest import refused
from families import build

import train_sft
from posttrain.models.lm_head import add_compact_head
from posttrain.training import neftune
from posttrain.workflow.project import Project
from unit.scripts.test_train import train  # noqa: F401  (a fixture)

pytestmark = pytest.mark.usefixtures("in_folder", "signals", "fp32")

ALPHA = 5.0


def noise(model, **inputs: torch.Tensor) -> torch.Tensor:
    """What reaches the first layer, less what the embedding alone gives."""
    seen = []
    with model.model.layers[0].register_forward_pre_hook(lambda module, args: seen.append(args[0].detach())):
        model.train()(**inputs, use_cache=False)
    return seen[0] - torch.nn.functional.embedding(inputs["input_ids"], model.get_input_embeddings().weight)


def largest(length: int, width: int = 32) -> float:
    return ALPHA / math.sqrt(length * width)


def test_a_padded_rows_noise_is_that_of_its_own_length():
    model = build("llama")
    neftune.add(model, ALPHA)
    mask = torch.tensor([[1] * 64, [1] * 16 + [0] * 48])
    found = noise(model, input_ids=torch.randint(3, 300, (2, 64)), attention_mask=mask)
    for row, length in ((0, 64), (1, 16)):
        values = found[row, :length].abs()
        assert 0.98 * largest(length) < float(values.max()) <= largest(length) * 1.001
        assert float(values.mean()) == pytest.approx(largest(length) / 2, rel=0.1)


def test_a_packed_examples_noise_is_that_of_its_own_length():
    model = build("llama")
    neftune.add(model, ALPHA)
    positions = torch.cat([torch.arange(60), torch.arange(20)])[None]
    found = noise(model, input_ids=torch.randint(3, 300, (1, 80)), position_ids=positions)
    assert 0.98 * largest(60) < float(found[0, :60].abs().max()) <= largest(60) * 1.001
    assert 0.98 * largest(20) < float(found[0, 60:].abs().max()) <= largest(20) * 1.001


def test_there_is_no_noise_where_nothing_is_trained():
    model = build("llama")
    ids = torch.randint(3, 300, (2, 9))
    before = model(input_ids=ids).logits
    neftune.add(model, ALPHA)
    assert torch.equal(model(input_ids=ids).logits, before)
    assert not torch.equal(model.train()(input_ids=ids).logits, before)


def test_rows_that_begin_alike_get_noise_of_their_own(random_tiny_model):
    """Without noise their beginning is computed once, see `prefix`."""
    add_fused(random_tiny_model)
    neftune.add(random_tiny_model, ALPHA)
    add_compact_head(random_tiny_model)
    ids = torch.randint(3, 300, (1, 40)).repeat(2, 1)
    labels = torch.cat([torch.full((2, 30), -100), ids[:, 30:]], 1)
    rows = random_tiny_model.train()(
        input_ids=ids, labels=labels, attention_mask=torch.ones_like(ids), fused_lm_head=True
    ).log_probs
    assert not torch.equal(rows[0], rows[1])


def add_fused(model) -> None:
    from trl.trainer.utils import add_fused_lm_head

    add_fused_lm_head(model)


@pytest.mark.parametrize("method", ["full", "lora", "qlora"])
@pytest.mark.parametrize("packed", [False, True])
def test_a_training_with_noise_can_be_repeated_and_is_another_one(train, chats, method, packed):
    table = {"from": "base", "objective": "sft", "method": method, "data": "chats", "max_steps": 2, "packing": packed}
    losses = []
    for alpha in (5, 5, None):
        train(train_sft, "own", chats, "messages", {"runs.own": table | ({"neftune": alpha} if alpha else {})})
        lines = Path("results/own/train.jsonl").read_text().splitlines()
        losses.append([json.loads(line)["loss"] for line in lines])
        shutil.rmtree("results/own")
    assert losses[0] == losses[1]
    assert losses[0][0] != losses[2][0]


@pytest.mark.parametrize(
    ("keys", "code", "place"),
    [
        ({"neftune_noise_alpha": 5, "objective": "dpo", "data": "pairs"}, "key-without-effect", "neftune_noise_alpha"),
        ({"neftune_noise_alpha": 5, "method": "prompt"}, "key-without-effect", "neftune_noise_alpha"),
        ({"neftune_noise_alpha": 0}, "invalid-value", "neftune_noise_alpha"),
        ({"trainer_args": {"neftune_noise_alpha": 5}}, "key-without-effect", "trainer_args.neftune_noise_alpha"),
        ({"trainer_args": {"packing": True}}, "key-without-effect", "trainer_args.packing"),
        ({"trainer_args": {"chat_template_path": "a"}}, "key-without-effect", "trainer_args.chat_template_path"),
    ],
)
def test_what_does_nothing_is_refused(keys, code, place, configuration):
    with refused(code, f"runs.own.{place}"):
        Project(configuration({"runs.own": {"from": "base", "objective": "sft", "data": "chats"} | keys}))
