"""What the tokenizer of a base with random weights is trained on."""

import pytest

import make_base
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
