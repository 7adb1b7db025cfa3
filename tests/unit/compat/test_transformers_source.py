"""transformers' source still says what is read off it."""

import pytest

from posttrain.compat.transformers_source import has_classifier, masks_packed_rows


@pytest.mark.parametrize(("model_type", "has"), [("llama", True), ("qwen3", True), ("gpt2", True), ("mamba", False)])
def test_types_with_a_sequence_classifier_are_known(model_type, has):
    assert has_classifier(model_type) == has


@pytest.mark.parametrize(
    ("model_type", "masks"), [("llama", True), ("qwen3", True), ("mamba", False), ("no_such", False)]
)
def test_types_whose_masks_follow_positions_are_known(model_type, masks):
    assert masks_packed_rows(model_type) == masks
