"""Which errors are a lack of memory, also those without a text, and that none of them ends a training as if it had succeeded."""

import errno
import shutil
from argparse import Namespace

import pytest
import torch
from conftest import refused

from posttrain.models import loading, out_of_memory
from posttrain.models.base_inspection import first_line
from posttrain.runtime.errors import UserError
from posttrain.training import loop


def no_memory() -> RuntimeError:
    """What torch's own allocator says."""
    with pytest.raises(RuntimeError) as error:
        torch.empty(2**60)
    return error.value


def test_a_lack_of_memory_is_told_from_other_errors():
    lacks = [
        MemoryError(),
        no_memory(),
        torch.cuda.OutOfMemoryError("CUDA out of memory."),
        OSError(errno.ENOMEM, "mmap"),
        RuntimeError("could not create a primitive"),
    ]
    assert all(map(out_of_memory.is_out_of_memory, lacks))
    others = [
        RuntimeError("a view of memory format"),
        RuntimeError("could not create a primitive descriptor for the matmul primitive"),
        ValueError("out of memory"),
        OSError(errno.ENOSPC, "full"),
        KeyError(),
    ]
    assert not any(map(out_of_memory.is_out_of_memory, others))


@pytest.mark.parametrize("kind", [MemoryError, NotImplementedError, RuntimeError])
def test_an_error_without_a_text_is_called_by_its_type(kind):
    assert first_line(kind()) == first_line(kind(" \n")) == kind.__name__
    assert first_line(kind("\none\ntwo")) == "one"


def test_a_refusal_without_a_text_is_one_sentence():
    with pytest.raises(UserError) as error, loop.library_refusals("sft"):
        raise NotImplementedError
    assert str(error.value) == "sft: method, peft_args or trainer_args: NotImplementedError"


def test_a_bare_memory_error_is_an_attempt_that_failed(tmp_path):
    """`fit` goes on while an attempt gives a reason, so an empty one would pass for success."""
    built = []

    def build(spec: dict):
        built.append(spec["accumulation"])
        raise MemoryError

    spec = {"objective": "sft", "method": "lora", "batch_size": 4, "accumulation": 1, "max_length": 64}
    spec |= {"gradient_checkpointing": False}
    with refused("out-of-memory"):
        loop.fit(build, Namespace(spec=tmp_path / "spec.json"), tmp_path, spec)
    assert built == [1, 2, 4]
    assert [one["why"] for one in out_of_memory.recorded(tmp_path)] == ["MemoryError"] * 3


def test_a_broken_model_in_a_folder_called_memory_is_one_sentence(random_tiny_folder, tmp_path):
    folder = shutil.copytree(random_tiny_folder, tmp_path / "out of memory")
    (folder / "model.safetensors").write_bytes(b"broken")
    with refused("unreadable-model"):
        loading.load(folder)
