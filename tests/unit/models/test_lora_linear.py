"""LoRA's layer in one step of autograd against PEFT's own layer."""

import copy

import pytest
import torch
from peft import LoraConfig, get_peft_model

from posttrain.models.frozen_update import FrozenUpdate
from posttrain.models.lora_linear import LowRank, add_low_rank

INPUT, OUTPUT = 10, 6


def layer(bias: bool = False, **settings) -> torch.nn.Module:
    """One of PEFT's layers on a frozen matrix, with an adapter that is not zero."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(INPUT, OUTPUT, bias=bias))
    model = get_peft_model(model, LoraConfig(**{"r": 3, "lora_alpha": 6, "target_modules": ["0"]} | settings))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)
    return model


def inputs() -> torch.Tensor:
    return torch.randn(2, 4, INPUT, generator=torch.Generator().manual_seed(1))


def results(model, bf16: bool = False) -> dict[str, torch.Tensor]:
    """What a model makes of the inputs, and all gradients of a weighted sum of it."""
    x = inputs().requires_grad_()
    torch.manual_seed(2)  # for the dropout
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        output = model(x)
    (output.float() * torch.linspace(-1, 2, output.numel()).view_as(output)).sum().backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return {"output": output, "input": x.grad} | gradients


def calls(monkeypatch) -> list:
    """Filled with the inputs of `LowRank`."""
    seen, apply = [], LowRank.apply
    monkeypatch.setattr(LowRank, "apply", lambda *args: seen.append(args) or apply(*args))
    return seen


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("settings", [{}, {"bias": True}, {"lora_dropout": 0.5}, {"use_rslora": True}])
def test_output_and_gradients_are_those_of_pefts_layer(settings, bf16, monkeypatch):
    ours = layer(**settings)
    theirs = copy.deepcopy(ours)
    add_low_rank(ours, torch.bfloat16 if bf16 else None)
    seen = calls(monkeypatch)
    found, expected = results(ours, bf16), results(theirs, bf16)
    assert len(seen) == 1
    assert found.keys() == expected.keys()
    for name, value in found.items():
        assert value.dtype == expected[name].dtype
        distance = (value - expected[name]).norm() / expected[name].norm()
        assert distance < (0.02 if bf16 else 1e-6)


def test_without_a_gradient_the_output_is_the_same():
    ours = layer(lora_dropout=0.5).eval()
    theirs = copy.deepcopy(ours)
    add_low_rank(ours, None)
    with torch.no_grad():
        torch.testing.assert_close(ours(inputs()), theirs(inputs()))


def test_gradients_agree_with_finite_differences():
    double = [torch.randn(size, dtype=torch.double) for size in ((4, 5), (3, 5), (3,), (2, 5), (3, 2))]
    x, weight, bias, a, b = double
    for part in (x, a, b):
        part.requires_grad_()
    assert torch.autograd.gradcheck(lambda x, a, b: LowRank.apply(x, None, weight, bias, a, b, 2.0), (x, a, b))
    dropped = torch.randn_like(x).requires_grad_()
    assert torch.autograd.gradcheck(lambda x, d, a, b: LowRank.apply(x, d, weight, bias, a, b, 2.0), (x, dropped, a, b))


@pytest.mark.parametrize("settings", [{"use_dora": True}, {"lora_bias": True, "bias": True}])
def test_a_layer_that_is_more_than_lora_stays_pefts(settings, monkeypatch):
    model = layer(**settings)
    seen = calls(monkeypatch)
    add_low_rank(model, torch.bfloat16)
    results(model)
    assert not seen
    assert {p.dtype for p in model.parameters()} == {torch.float32}


def test_a_switched_off_adapter_and_a_merged_one_are_left_to_peft(monkeypatch):
    model = layer()
    with_adapter = model(inputs())
    with model.disable_adapter():
        without = model(inputs())
    add_low_rank(model, None)
    seen = calls(monkeypatch)
    with model.disable_adapter():
        assert torch.equal(model(inputs()), without)
    model.base_model.merge_adapter()
    torch.testing.assert_close(model(inputs()), with_adapter)
    assert not seen


def test_types_that_torch_does_not_multiply_are_left_to_peft(monkeypatch):
    model = layer()
    model.base_model.model[0].base_layer.to(torch.bfloat16)
    add_low_rank(model, None)
    seen = calls(monkeypatch)
    assert model(inputs().to(torch.bfloat16)).dtype == torch.bfloat16
    assert not seen


def test_frozen_matrices_are_held_in_the_type_in_which_they_are_multiplied(random_tiny_model):
    model = get_peft_model(random_tiny_model, LoraConfig(target_modules="all-linear", task_type="CAUSAL_LM"))
    before = {name: parameter.data for name, parameter in model.named_parameters()}
    add_low_rank(model, torch.bfloat16)
    after = dict(model.named_parameters())
    halved = {name for name, parameter in after.items() if parameter.dtype == torch.bfloat16}
    assert halved == {name for name in after if name.endswith("base_layer.weight")}
    assert all(torch.equal(before[name].to(p.dtype), p.data) for name, p in after.items())
    assert all(before[name].data_ptr() != p.data_ptr() for name, p in after.items())


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("dropout", [0.0, 0.5])
@pytest.mark.parametrize("shapes", [[(OUTPUT, INPUT)], [(3, INPUT), (OUTPUT, 3)]], ids=["dense", "low rank"])
def test_what_the_parent_has_learnt_is_added_as_pefts_layer_adds_it(shapes, dropout, bf16, monkeypatch):
    torch.manual_seed(3)
    update = [torch.randn(shape) for shape in shapes]
    plain = torch.nn.Linear(INPUT, OUTPUT)
    whole = (update[1] @ update[0] if len(update) == 2 else update[0]) + plain.weight.data
    held = FrozenUpdate(plain, plain.weight.data, *update)
    torch.testing.assert_close(held(inputs()), torch.nn.functional.linear(inputs(), whole, plain.bias))
    ours = layer(lora_dropout=dropout, bias=True)
    ours.base_model.model[0].base_layer = held.requires_grad_(False)
    theirs = copy.deepcopy(ours)
    add_low_rank(ours, torch.bfloat16 if bf16 else None)
    seen = calls(monkeypatch)
    found, expected = results(ours, bf16), results(theirs, bf16)
    assert len(seen) == 1
    for name, value in found.items():
        assert (value - expected[name]).norm() / expected[name].norm() < (0.02 if bf16 else 1e-6)
