"""The rows of each of several processes: together those of one process, step by step, and the same number of backward passes."""

import itertools

import pytest

from posttrain.models import out_of_memory
from posttrain.runtime import processes
from posttrain.training.row_shares import shares

SHAPES = [  # rows, batch_size, micro_batch, count
    *itertools.product((1, 2, 3, 7, 8, 9, 16, 21), (4,), (1, 2), (2,)),
    *itertools.product((1, 5, 12, 13, 17, 23), (12,), (1, 2, 4), (3,)),
]


@pytest.mark.parametrize(("rows", "batch_size", "micro_batch", "count"), SHAPES)
def test_the_rows_of_a_step_are_those_of_one_process(rows, batch_size, micro_batch, count):
    accumulation = batch_size // micro_batch // count
    found = shares(rows, batch_size, micro_batch, count)
    for step in range(-(-rows // batch_size)):
        part = found[step * accumulation : (step + 1) * accumulation]
        trained = sorted(row for group in part for share in group for row in share)
        assert trained == list(range(step * batch_size, min((step + 1) * batch_size, rows)))
    assert all(len(group) == count for group in found)  # each takes part in each backward pass
    assert all(len(share) <= micro_batch for group in found for share in group)
    sizes = [sorted({len(share) for share in group}) for group in found]
    assert all(few[-1] - few[0] <= 1 for few in sizes)
    assert all(few == [micro_batch] for few in sizes[: rows // (micro_batch * count)])


@pytest.mark.parametrize(
    ("keys", "count", "micro_batch", "accumulation"),
    [
        ({"batch_size": 8, "accumulation": 8}, 2, 1, 4),
        ({"batch_size": 8, "accumulation": 1}, 2, 4, 1),
        ({"batch_size": 8, "accumulation": 2}, 2, 4, 1),
        ({"batch_size": 6, "accumulation": 3}, 2, 1, 3),
        ({"batch_size": 12, "accumulation": 2}, 3, 4, 1),
        ({"batch_size": 8, "accumulation": 4}, 1, 2, 4),
        ({"batch_size": 6, "accumulation": 3, "objective": "kto"}, 2, 3, 1),  # 2 would not divide 3, and 1 is too few
    ],
)
def test_a_batch_is_split_over_processes_and_forward_passes(monkeypatch, keys, count, micro_batch, accumulation):
    monkeypatch.setenv("WORLD_SIZE", str(count))
    spec = out_of_memory.share({"objective": "sft"} | keys)
    assert spec["accumulation"] == accumulation
    assert out_of_memory.micro_batch(spec) == micro_batch
    assert micro_batch * accumulation * processes.count() == keys["batch_size"]


def test_after_an_attempt_that_was_out_of_memory_the_rows_are_fewer_whatever_the_number_of_processes(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    spec = {"objective": "sft", "batch_size": 16, "accumulation": 1}
    assert out_of_memory.micro_batch(out_of_memory.smaller(out_of_memory.share(spec))) == 4
    assert out_of_memory.micro_batch(out_of_memory.share(spec, 4)) == 4  # as one process has recorded it
