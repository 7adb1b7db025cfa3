"""Which part of a model a parameter belongs to, for each family, and which keys of a run follow from that."""

import pytest
import torch
from transformers import AutoConfig, AutoModelForImageTextToText

from posttrain.models import parameter_patterns, parts

TEXT = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 200}
SIGLIP = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
QWEN = {"depth": 1, "hidden_size": 32, "num_heads": 2, "out_hidden_size": 32, "embed_dim": 32}
FAMILIES = {  # model_type: configuration of its vision part
    "idefics3": SIGLIP,
    "smolvlm": SIGLIP,
    "llava": {"model_type": "clip_vision_model", **SIGLIP},
    "gemma3": SIGLIP,
    "qwen2_vl": QWEN,
    "qwen2_5_vl": QWEN,
    "qwen3_vl": QWEN,
}


@pytest.mark.parametrize("kind", FAMILIES)
def test_every_family_has_its_three_parts_and_the_text_model_is_language(kind):
    config = AutoConfig.for_model(kind, vision_config=FAMILIES[kind], text_config=TEXT if kind != "llava" else None)
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(config)
    of = {name: parts.part_of(name) for name, _ in model.named_parameters()}
    assert set(of.values()) == {"vision", "projector", "language"}
    decoder = model.get_decoder()
    inside = {id(p) for p in decoder.parameters()}
    assert {of[name] for name, p in model.named_parameters() if id(p) in inside} == {"language"}


NAMES = [
    ("model.vision_tower.layers.0.mlp.fc1.weight",),
    ("model.multi_modal_projector.linear_1.weight",),
    ("model.language_model.layers.0.mlp.up_proj.weight",),
]


@pytest.mark.parametrize(
    ("keys", "trained"),
    [
        ({}, [False, True, True]),
        ({"train_parts": ["vision", "projector"]}, [True, True, False]),
        ({"train_parts": ["vision", "projector", "language"], "freeze": ["fc1"]}, [False, True, True]),
        ({"train_parts": ["language"]}, [False, False, True]),
    ],
)
def test_train_parts_says_which_are_trained(keys, trained):
    assert [parameter_patterns.is_trained(keys, names) for names in NAMES] == trained


def test_a_part_has_a_rate_of_its_own_and_one_that_is_not_there_is_refused():
    spec = {"method": "full", "train_parts": ["vision", "language"], "learning_rates": {"vision": 1e-5}}
    assert parameter_patterns.refusal(spec, NAMES) is None
    assert [parameter_patterns.is_meant("vision", names) for names in NAMES] == [True, False, False]
    frozen = spec | {"train_parts": ["language"]}
    assert "matches only parameters that are frozen" in parameter_patterns.refusal(frozen, NAMES)
    assert "finds no audio in the model" in parameter_patterns.refusal(spec | {"train_parts": ["audio"]}, NAMES)
