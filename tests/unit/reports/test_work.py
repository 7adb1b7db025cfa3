"""What a training takes in work."""

from pathlib import Path

import pytest

from posttrain.reports import work
from posttrain.runtime import atomic

pytestmark = pytest.mark.usefixtures("in_folder")


@pytest.mark.parametrize(("minibatches", "rows"), [(None, 48), (1, 48), (4, 12)])
def test_rows_are_counted_once_a_step_and_several_steps_share_a_batch_of_answers(minibatches, rows):
    spec = {"batch_size": 8} | ({"minibatches": minibatches} if minibatches else {})
    atomic.write_json(Path("results/own/spec.json"), spec)
    atomic.write_json(Path("results/own/train.json"), {"steps": 6, "parameters": 10, "trainable_parameters": 2})
    Path("results/own/train.jsonl").write_text('{"step": 1, "loss": 1.0}\n')
    assert work.of("own") == work.Work(None, rows)
