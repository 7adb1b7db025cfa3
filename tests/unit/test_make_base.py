"""What a base's manifest says, and what the tokenizer of one with random weights is trained on."""

from argparse import Namespace
from pathlib import Path

import pytest

import make_base
from posttrain import stage
from posttrain.rows import normalise

SHAPES = {
    "text": {"text": "one two"},
    "prompt_completion": {"prompt": "one", "completion": "two"},
    "messages": {"messages": [{"role": "user", "content": "one"}, {"role": "assistant", "content": "two"}]},
    "preference": {"prompt": "one", "chosen": "two", "rejected": "three"},
    "unpaired_preference": {"prompt": "one", "completion": "two", "label": True},
}


@pytest.mark.parametrize("shape", SHAPES)
def test_every_text_of_a_row_is_read_whatever_its_shape(shape):
    text = " ".join(make_base.texts([normalise(SHAPES[shape], shape, {}, "row")]))
    assert sorted(text.split()) == sorted(["one", "two", "three"][: 3 if shape == "preference" else 2])


@pytest.mark.parametrize(
    ("card", "licence"), [("---\nlicense: gemma\n---\n# Base", "gemma"), ("# Base", None), (None, None)]
)
def test_the_manifest_has_the_licence_that_the_models_card_names(in_folder, card, licence):
    Path("model").mkdir()
    for name in ("config.json", "tokenizer.json", "model.safetensors"):
        Path("model", name).write_text("{}")
    if card:
        Path("model/README.md").write_text(card)
    stage.write_json(Path("spec.json"), {"source": "path", "path": "model"})
    make_base.main(Namespace(spec=Path("spec.json"), output=Path("results/bases/base")))
    manifest = stage.read_json(Path("results/bases/base/base.json"))
    assert manifest["licence"] == licence
    assert ("README.md" in manifest["files"]) == bool(card)
