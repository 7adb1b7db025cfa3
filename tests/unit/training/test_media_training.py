"""Training on rows with pictures: a kill and a resume give the same bits, the merge is proved with pictures, parts stay as they were."""

from functools import partial

import media_training
import pytest
import tiny_vision
from safetensors.torch import load_file
from transformers import AutoProcessor

from posttrain.models import loading, parts

pytestmark = pytest.mark.usefixtures("in_folder", "signals", "fp32")


@pytest.fixture(scope="module", params=tiny_vision.FAMILIES)
def made(request, tmp_path_factory):
    """A base of a family, and tokens of rows about pictures, one of them about none."""
    folder = tmp_path_factory.mktemp(request.param)
    model, data = tiny_vision.base(folder / "base", request.param), folder / "data"
    tiny_vision.tokens(folder / "tokens", model, data, tiny_vision.rows(data, 8))
    return model, folder / "tokens"


@pytest.fixture
def train(made, configuration):
    """Train a run by its script, as the same command does each time; returns the spec's file."""
    return partial(media_training.sft, configuration, *made, batch_size=4)


def test_killed_and_resumed_it_ends_with_the_same_bits(train):
    media_training.check_resume(train)


def test_only_the_parts_that_are_named_change_each_at_its_rate_and_the_merge_is_proved(train, made):
    model, tokens = made
    spec = train(
        method="full", learning_rate=1e-3, train_parts=["vision", "projector"], learning_rates={"vision": 1e-5}
    )
    before, after = load_file(model / "model.safetensors"), load_file(spec.parent / "trained/model.safetensors")
    assert before.keys() == after.keys()
    moved = dict.fromkeys(("vision", "projector", "language"), 0.0)
    for name, tensor in before.items():
        part = parts.part_of(name)
        moved[part] = max(moved[part], (after[name] - tensor).abs().max().item())
    assert moved["language"] == 0
    assert 0 < moved["vision"] <= 4.1e-5 < 5e-4 < moved["projector"]
    proof = media_training.merge(spec, model, tokens)
    assert proof["effect"] > 0 and proof["relative"] < 1e-4
    for folder in ("merged", "model"):
        own = AutoProcessor.from_pretrained(spec.parent / folder)
        assert own.chat_template == AutoProcessor.from_pretrained(model).chat_template
        assert type(loading.load(spec.parent / folder)) is type(loading.load(model))


def test_an_adapter_is_on_the_trained_parts_alone(train, made):
    joins = "proj" if any("connector" in name for name in load_file(made[0] / "model.safetensors")) else "linear_1"
    spec = train(method="lora", rank=4, target_modules=["q_proj", joins], learning_rate=1e-2)
    names = load_file(spec.parent / "trained/adapter_model.safetensors")
    assert {parts.part_of(name) for name in names} == {"projector", "language"}


def test_rows_with_pictures_are_not_packed(train):
    with pytest.raises(Exception, match="rows with images are not packed"):
        train(method="full", packing=True)


def test_a_rate_for_a_part_that_stays_frozen_is_refused(train):
    with pytest.raises(Exception, match="learning_rates: 'vision' matches only parameters that are frozen"):
        train(method="full", learning_rates={"vision": 1e-5})
