"""The compact LM head against torch's own operations and against TRL's fused head."""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from trl.trainer.utils import add_fused_lm_head

from posttrain.head import LogProbs, add_compact_head, plain

OUTPUTS = ("log_probs", "entropy", "is_top1")  # what TRL's SFTTrainer asks for


def inputs(n: int = 7, width: int = 5, vocabulary: int = 11, scale: float = 1.0) -> tuple:
    generator = torch.Generator().manual_seed(0)
    hidden = scale * torch.randn(n, width, generator=generator)
    weight = torch.randn(vocabulary, width, generator=generator)
    return hidden, weight, torch.randint(vocabulary, (n,), generator=generator)


def reference(hidden, weight, labels):
    """The same in float64, by torch's own operations."""
    logits = hidden.double() @ weight.double().T
    return logits.log_softmax(-1).gather(1, labels[:, None])[:, 0], logits.argmax(-1) == labels


def gradients(function, hidden, weight, labels) -> tuple:
    """Gradients of a weighted sum of the log-probabilities with respect to hidden states and weight."""
    hidden, weight = hidden.clone().requires_grad_(), weight.clone().requires_grad_()
    log_probs, _ = function(hidden, weight, labels)
    upstream = torch.linspace(-2, 3, len(labels)).to(log_probs.dtype)
    return torch.autograd.grad((upstream * log_probs).sum(), (hidden, weight))


@pytest.mark.parametrize("scale", [0.01, 1.0, 100.0])  # at 100 a softmax without its maximum taken off overflows
def test_log_probabilities_are_torchs_own(scale):
    values, is_top1 = LogProbs.apply(*inputs(scale=scale))
    expected, expected_top1 = reference(*inputs(scale=scale))
    torch.testing.assert_close(values.double(), expected, rtol=1e-5, atol=1e-5 * scale)
    assert is_top1.tolist() == expected_top1.tolist()
    assert values.dtype == torch.float32


@pytest.mark.parametrize("scale", [0.01, 1.0, 10.0])
def test_gradients_are_torchs_own(scale):
    ours = gradients(LogProbs.apply, *inputs(scale=scale))
    expected = gradients(reference, *inputs(scale=scale))
    for one, other in zip(ours, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5 * scale)


def test_gradients_agree_with_finite_differences():
    hidden, weight, labels = inputs()
    gradient = gradients(LogProbs.apply, hidden, weight, labels)[0]
    upstream, step = torch.linspace(-2, 3, len(labels)).double(), 1e-3
    for row, column in ((0, 0), (3, 2), (6, 4)):
        moved = torch.zeros_like(hidden)
        moved[row, column] = step
        up, down = (reference(hidden + sign * moved, weight, labels)[0] for sign in (1, -1))
        assert gradient[row, column].item() == pytest.approx(((up - down) @ upstream).item() / (2 * step), abs=1e-3)


def test_a_gradient_that_is_not_needed_is_not_computed():
    hidden, weight, labels = inputs()
    hidden.requires_grad_()
    log_probs, is_top1 = LogProbs.apply(hidden, weight, labels)
    log_probs.sum().backward()
    assert hidden.grad is not None
    assert weight.grad is None
    assert not is_top1.requires_grad


def test_no_position_is_no_log_probability():
    hidden, weight, labels = inputs(n=0)
    hidden.requires_grad_()
    log_probs, _ = LogProbs.apply(hidden, weight, labels)
    log_probs.sum().backward()
    assert (log_probs.shape, hidden.grad.shape) == ((0,), (0, 5))


def test_under_autocast_it_is_close_and_the_result_is_float32():
    hidden, weight, labels = inputs()
    with torch.autocast("cpu", torch.bfloat16):
        ours = LogProbs.apply(hidden, weight, labels)[0]
        gradient = gradients(LogProbs.apply, hidden, weight, labels)[0]
    assert (ours.dtype, gradient.dtype) == (torch.float32, torch.float32)
    torch.testing.assert_close(ours.double(), reference(hidden, weight, labels)[0], atol=0.1, rtol=0.02)
    torch.testing.assert_close(gradient, gradients(reference, hidden, weight, labels)[0], atol=0.1, rtol=0.05)


# ---- on a model


def batch() -> dict[str, torch.Tensor]:
    """Three rows, one of them padded, with prompts that are not trained and an untrained middle."""
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(3, 290, (3, 12), generator=generator)
    labels = ids.clone()
    labels[0, :5] = labels[1, :2] = labels[1, 6:8] = labels[2, 9:] = -100
    mask = torch.ones_like(ids)
    mask[2, 9:] = 0
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def with_lora(model):
    torch.manual_seed(0)
    wrapped = get_peft_model(model, LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM"))
    for name, parameter in wrapped.named_parameters():
        if "lora_B" in name:  # zero at first, and then so would be every gradient of A
            torch.nn.init.normal_(parameter, std=0.1)
    return wrapped


def loss_and_gradients(model) -> tuple:
    """TRL's loss of the batch, the model's output, and the gradients of everything that is trained."""
    model.zero_grad()
    output = model(**batch(), fused_lm_head=True)
    loss = -output.log_probs.sum() / output.label_mask.sum()
    loss.backward()
    return loss.item(), output, {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.fixture(params=["full", "lora"])
def pair(request, random_tiny_model):
    """The loss, output and gradients with TRL's head and with the compact one, of one model."""
    model = random_tiny_model
    trained = with_lora(model) if request.param == "lora" else model
    add_fused_lm_head(model, outputs=OUTPUTS)
    theirs = loss_and_gradients(trained)
    trl_forward = model.forward
    add_compact_head(model)
    assert model.forward != trl_forward
    return theirs, loss_and_gradients(trained)


def test_the_loss_and_every_gradient_are_those_of_trls_head(pair):
    (loss, _, theirs), (our_loss, _, ours) = pair
    assert our_loss == pytest.approx(loss, rel=1e-5)
    assert ours.keys() == theirs.keys()
    assert any(gradient.abs().max() > 1e-4 for gradient in theirs.values())
    for name, gradient in theirs.items():
        torch.testing.assert_close(ours[name], gradient, rtol=1e-4, atol=1e-6, msg=name)


def test_the_output_is_that_of_trls_head(pair):
    (_, theirs, _), (_, ours, _) = pair
    torch.testing.assert_close(ours.loss, theirs.loss)
    torch.testing.assert_close(ours.log_probs, theirs.log_probs)
    assert torch.equal(ours.label_mask, theirs.label_mask)
    assert torch.equal(ours.is_top1.bool() & ours.label_mask, theirs.is_top1.bool() & theirs.label_mask)
    assert ours.log_probs[~ours.label_mask].abs().max() == 0


def test_calls_that_do_not_ask_for_the_fused_head_get_logits(random_tiny_model):
    expected = random_tiny_model(**batch())
    add_fused_lm_head(random_tiny_model, outputs=OUTPUTS)
    add_compact_head(random_tiny_model)
    output = random_tiny_model(**batch())
    torch.testing.assert_close(output.logits, expected.logits)
    torch.testing.assert_close(output.loss, expected.loss)


def test_a_batch_that_is_too_large_keeps_trls_head(random_tiny_model, monkeypatch):
    add_fused_lm_head(random_tiny_model, outputs=OUTPUTS)
    expected = random_tiny_model(**batch(), fused_lm_head=True)
    add_compact_head(random_tiny_model)
    monkeypatch.setattr("posttrain.head.LARGEST", 100)
    output = random_tiny_model(**batch(), fused_lm_head=True)
    assert output.entropy.abs().max() > 0  # the compact head has none
    torch.testing.assert_close(output.log_probs, expected.log_probs)


@pytest.mark.parametrize("setting", ["final_logit_softcapping", "logit_scale", "logits_scaling"])
def test_an_architecture_that_does_more_to_its_logits_keeps_trls_head(random_tiny_model, setting):
    assert plain(random_tiny_model)
    setattr(random_tiny_model.config, setting, 30.0)
    assert not plain(random_tiny_model)
    before = random_tiny_model.forward
    add_compact_head(random_tiny_model)
    assert random_tiny_model.forward == before


def test_a_head_with_a_bias_keeps_trls_head(random_tiny_model):
    random_tiny_model.lm_head.bias = torch.nn.Parameter(torch.zeros(random_tiny_model.config.vocab_size))
    assert not plain(random_tiny_model)
