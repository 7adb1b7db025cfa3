"""What of DeepSpeed's ZeRO-3 the clearing of gradients relies on, read from its source, since an import takes seconds."""

from importlib.util import find_spec
from pathlib import Path

import pytest


def test_a_steps_first_backward_pass_overwrites_gradients_and_later_ones_add():
    found = find_spec("deepspeed")
    if found is None:
        pytest.skip("DeepSpeed is not installed")
    source = (Path(found.origin).parent / "runtime/zero/stage3.py").read_text()
    assert "self.grad_partitions_flat_buffer: Tensor = torch.zeros(" in source
    assert "self.__param_id_to_grad_partition[param.ds_id] = self.grad_partitions_flat_buffer.narrow(" in source
    assert "if self.micro_step_id == 0:  # don't accumulate\n                grad_buffer.copy_(" in source
