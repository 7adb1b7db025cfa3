"""Tensors stay on the device of their inputs, checked without a GPU: torch's device "meta" computes only shapes."""

import pytest
import torch

from posttrain.models import lm_head


@pytest.mark.parametrize("weight_moves", [False, True])
def test_log_probs_and_their_gradients_are_where_the_hidden_states_are(weight_moves):
    hidden = torch.empty(6, 8, device="meta", requires_grad=True)
    weight = torch.empty(32, 8, device="meta", requires_grad=weight_moves)
    values, is_top1 = lm_head.LogProbs.apply(
        hidden, weight, torch.zeros(6, dtype=torch.long, device="meta"), None, 0.5, 30.0
    )
    values.sum().backward()
    moving = [hidden, weight] if weight_moves else [hidden]
    assert {tensor.device.type for tensor in (values, is_top1, *(t.grad for t in moving))} == {"meta"}
    assert (values.dtype, is_top1.dtype) == (torch.float32, torch.bool)


def test_a_gpu_that_does_not_tell_how_busy_it_is_stops_nothing(monkeypatch):
    from posttrain.training import callbacks

    def silent():
        raise ModuleNotFoundError("nvidia-ml-py does not seem to be installed")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "utilization", silent)
    assert callbacks.gpu_percent() is None
