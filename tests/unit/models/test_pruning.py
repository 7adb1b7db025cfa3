"""Layers are left out where the hidden states change least, and what is left is a model of its own."""

import shutil
from pathlib import Path

import pytest
import torch
from conftest import write_rows

from posttrain.models import loading, pruning
from posttrain.runtime import atomic
from posttrain.runtime.errors import UserError

ROWS = [[5, 6, 7, 8], [9, 10]]


@pytest.fixture
def deep(random_tiny_folder, monkeypatch):
    """A model of 4 layers, of which layers 1 and 2 do nothing."""
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(random_tiny_folder, num_hidden_layers=4)
    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for layer in model.model.layers[1:3]:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
    return model


def test_the_distance_is_that_of_the_hidden_states_over_all_tokens(deep):
    found = pruning.distances(deep, ROWS, 0)
    with torch.no_grad():
        states = [deep(input_ids=torch.tensor([row]), output_hidden_states=True).hidden_states for row in ROWS]
    angles = torch.cat([torch.acos(torch.cosine_similarity(state[0][0], state[1][0], dim=-1)) for state in states])
    assert len(angles) == sum(map(len, ROWS))
    assert found[0, 1] == pytest.approx(angles.mean().item() / torch.pi, rel=1e-4)
    assert found[1, 3] == pytest.approx(0, abs=1e-3) and found[0, 1] > 0.01


def test_layers_that_do_nothing_are_dropped_and_the_logits_stay(deep, tmp_path):
    ids = torch.tensor([[5, 6, 7]])
    with torch.no_grad():
        before = deep(input_ids=ids).logits
        assert pruning.block(pruning.distances(deep, ROWS, 0), 2) == [1, 2]
        pruning.drop(deep, [1, 2])
        torch.testing.assert_close(deep(input_ids=ids).logits, before)
        assert deep.generate(ids, max_new_tokens=3, do_sample=False).shape == (1, 6)  # its cache counts the layers anew
    deep.save_pretrained(tmp_path)
    again = loading.load(tmp_path).eval()
    assert again.config.num_hidden_layers == 2
    with torch.no_grad():
        torch.testing.assert_close(again(input_ids=ids).logits, before)


def prune(random_tiny_folder: Path, chats: list[dict], **keys) -> dict:
    from argparse import Namespace

    import make_base

    if not Path("whole").exists():
        shutil.copytree(random_tiny_folder, "whole/model")
        atomic.write_json(Path("whole/base.json"), {"licence": "gemma", "files": {}})
        write_rows(Path("results/data/chats/train.parquet"), chats)
    output = Path("results/bases/small")
    atomic.write_json(output / "spec.json", {"source": "pruned", "of": {"name": "whole"}} | keys)
    make_base.main(
        Namespace(
            spec=output / "spec.json",
            text=Path("results/data/chats/train.parquet"),
            whole=Path("whole/model"),
            output=output,
        )
    )
    return atomic.read_json(output / "base.json")


def test_a_pruned_base_says_which_layers_it_lacks(in_folder, random_tiny_folder, chats):
    first = prune(random_tiny_folder, chats, drop=1)
    assert (first["of"], first["layers"], first["licence"], len(first["distances"])) == ("whole", 1, "gemma", 2)
    assert first["dropped"] == [first["distances"].index(min(first["distances"]))]
    shutil.rmtree("results/bases/small/model")
    assert prune(random_tiny_folder, chats, drop=1) == first
    shutil.rmtree("results/bases/small/model")
    assert prune(random_tiny_folder, chats, drop=[0])["dropped"] == [0]


@pytest.mark.parametrize("drop", [2, [2]])
def test_layers_that_are_not_there_are_refused(in_folder, random_tiny_folder, chats, drop):
    with pytest.raises(UserError, match=r"whole has 2 layers, and drop is .*counted from 0 to 1"):
        prune(random_tiny_folder, chats, drop=drop)
