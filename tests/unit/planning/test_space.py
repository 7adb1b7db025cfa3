"""What a job leaves on the disk, and its memory."""

import json

import pytest

from posttrain.models.machine import Memory
from posttrain.models.memory_estimate import estimate
from posttrain.models.memory_sharing import ALONE
from posttrain.planning import space
from posttrain.planning.records import Measured
from posttrain.planning.work import Work

MACHINE = Memory("cpu", "this machine", 2**34, 2**34, True)
PARAMETERS = 147_776


def test_an_adapter_takes_its_own_weights_and_checkpoints_while_it_trains(sizes):
    trained = 4 * sizes.trained("sft", json.loads(sizes.project.spec("sft")))
    assert space.disk(sizes, "sft", "sft/sft") == (trained, 2 * 3 * trained)
    assert space.disk(sizes, "sft", "sft/full") == (4 * PARAMETERS, 2 * 3 * 4 * PARAMETERS)


def test_a_merge_writes_the_model_and_of_full_training_only_links(sizes):
    assert space.disk(sizes, "merge", "merge/sft") == (4 * PARAMETERS, 0)
    assert space.disk(sizes, "merge", "merge/full") == (0, 0)
    assert space.disk(sizes, "base", "base/tiny") == (4 * PARAMETERS, 0)
    assert space.disk(sizes, "export", "export/sft/gguf-q8_0") == (8.5 / 8 * PARAMETERS, 0)


def test_a_training_s_memory_is_the_preflight_s_estimate(sizes):
    spec, tokens = json.loads(sizes.project.spec("sft")), sizes.of_run("sft")
    found = space.memory(sizes, "sft", "sft/sft", MACHINE, ALONE, [])
    expected = estimate(spec, sizes.model("tiny"), int(tokens.longest), tokens.trained, "cpu", True, ALONE)
    assert found == expected["total"] > 2**29


def test_other_jobs_take_the_model_beside_what_earlier_ones_took_besides(sizes):
    whole = 4 * 2 * PARAMETERS
    assert space.memory(sizes, "eval", "eval/sft", MACHINE, ALONE, []) == whole + space.WITH_TORCH
    before = Measured("eval/tiny", "eval", 1.0, 700.0, Work("score", 1.0), "tiny", "")
    assert space.memory(sizes, "eval", "eval/sft", MACHINE, ALONE, [before]) == pytest.approx(700 * 2**20)
    assert space.memory(sizes, "tokens", "tokens/tiny/chats,max_length=8", MACHINE, ALONE, []) == space.PROCESS
