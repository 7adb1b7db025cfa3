"""Training on rows with sounds: a kill and a resume give the same bits, and the merge keeps and proves every part."""

from functools import partial

import media_training
import pytest
from safetensors.torch import load_file

from posttrain.models import parts
from unit.models.test_audio_models import made  # noqa: F401  (a base, its data and their tokens)

pytestmark = [pytest.mark.usefixtures("in_folder", "signals", "fp32"), pytest.mark.slow]


@pytest.fixture
def train(made, configuration):  # noqa: F811
    """Train a run by its script, as the same command does each time; returns the spec's file."""
    model, _, _, tokens = made
    return partial(media_training.sft, configuration, model, tokens, batch_size=2)


def test_killed_and_resumed_it_ends_with_the_same_bits(train):
    media_training.check_resume(train)


@pytest.mark.parametrize(
    ("keys", "moving"),
    [
        ({"method": "full", "learning_rate": 1e-3, "train_parts": ["audio", "projector"]}, {"audio", "projector"}),
        ({"method": "lora", "rank": 4, "learning_rate": 1e-2}, {"projector", "language"}),
    ],
    ids=["full", "lora"],
)
def test_the_merged_model_has_every_tensor_and_the_proof_hears_sounds(train, made, keys, moving):  # noqa: F811
    model, _, _, tokens = made
    spec = train(**keys)
    proof = media_training.merge(spec, model, tokens)
    assert proof["effect"] > 0 and proof["relative"] < 1e-3
    before, after = load_file(model / "model.safetensors"), load_file(spec.parent / "merged/model.safetensors")
    assert before.keys() == after.keys()
    moved = {parts.part_of(name) for name in before if not before[name].equal(after[name])}
    assert moved <= moving and moved
    assert (spec.parent / "model/processor_config.json").exists()
