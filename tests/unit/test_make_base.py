"""What a base's manifest says."""

from argparse import Namespace
from pathlib import Path

import pytest
import safetensors

import make_base
from posttrain import stage


@pytest.mark.parametrize(
    ("card", "licence"), [("---\nlicense: gemma\n---\n# Base", "gemma"), ("# Base", None), (None, None)]
)
def test_the_manifest_has_the_licence_that_the_models_card_names(in_folder, card, licence):
    Path("model").mkdir()
    for name in ("config.json", "tokenizer.json"):
        Path("model", name).write_text("{}")
    Path("model/model.safetensors").write_bytes(safetensors.serialize({}))
    if card:
        Path("model/README.md").write_text(card)
    stage.write_json(Path("spec.json"), {"source": "path", "path": "model"})
    make_base.main(Namespace(spec=Path("spec.json"), output=Path("results/bases/base")))
    manifest = stage.read_json(Path("results/bases/base/base.json"))
    assert manifest["licence"] == licence
    assert ("README.md" in manifest["files"]) == bool(card)
