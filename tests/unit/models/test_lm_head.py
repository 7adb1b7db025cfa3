"""The compact LM head against torch's own operations and against TRL's fused head."""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM, set_seed
from trl.trainer.utils import add_fused_lm_head

from posttrain.models.lm_head import LogProbs, add_compact_head, find

OUTPUTS = ("log_probs", "entropy", "is_top1")  # what TRL's SFTTrainer asks for


def inputs(n: int = 7, width: int = 5, vocabulary: int = 11, scale: float = 1.0) -> tuple:
    generator = torch.Generator().manual_seed(0)
    hidden = scale * torch.randn(n, width, generator=generator)
    weight = torch.randn(vocabulary, width, generator=generator)
    return hidden, weight, torch.randint(vocabulary, (n,), generator=generator)


def compact(hidden, weight, labels):
    """A plain head: no bias, no scale, no cap."""
    return LogProbs.apply(hidden, weight, labels, None, 1.0, None)


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
    values, is_top1 = compact(*inputs(scale=scale))
    expected, expected_top1 = reference(*inputs(scale=scale))
    torch.testing.assert_close(values.double(), expected, rtol=1e-5, atol=1e-5 * scale)
    assert is_top1.tolist() == expected_top1.tolist()
    assert values.dtype == torch.float32


@pytest.mark.parametrize("scale", [0.01, 1.0, 10.0])
def test_gradients_are_torchs_own(scale):
    ours = gradients(compact, *inputs(scale=scale))
    expected = gradients(reference, *inputs(scale=scale))
    for one, other in zip(ours, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5 * scale)


def test_gradients_agree_with_finite_differences():
    hidden, weight, labels = inputs()
    gradient = gradients(compact, hidden, weight, labels)[0]
    upstream, step = torch.linspace(-2, 3, len(labels)).double(), 1e-3
    for row, column in ((0, 0), (3, 2), (6, 4)):
        moved = torch.zeros_like(hidden)
        moved[row, column] = step
        up, down = (reference(hidden + sign * moved, weight, labels)[0] for sign in (1, -1))
        assert gradient[row, column].item() == pytest.approx(((up - down) @ upstream).item() / (2 * step), abs=1e-3)


def test_a_gradient_that_is_not_needed_is_not_computed():
    hidden, weight, labels = inputs()
    hidden.requires_grad_()
    log_probs, is_top1 = compact(hidden, weight, labels)
    log_probs.sum().backward()
    assert hidden.grad is not None
    assert weight.grad is None
    assert not is_top1.requires_grad


def test_no_position_is_no_log_probability():
    hidden, weight, labels = inputs(n=0)
    hidden.requires_grad_()
    log_probs, _ = compact(hidden, weight, labels)
    log_probs.sum().backward()
    assert (log_probs.shape, hidden.grad.shape) == ((0,), (0, 5))


def test_under_autocast_it_is_close_and_the_result_is_float32():
    hidden, weight, labels = inputs()
    with torch.autocast("cpu", torch.bfloat16):
        ours = compact(hidden, weight, labels)[0]
        gradient = gradients(compact, hidden, weight, labels)[0]
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
    monkeypatch.setattr("posttrain.models.lm_head.MAX_LOGITS", 100)
    output = random_tiny_model(**batch(), fused_lm_head=True)
    assert output.entropy.abs().max() > 0  # the compact head has none
    torch.testing.assert_close(output.log_probs, expected.log_probs)


# ---- what a model does after its head

SIZES = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 2,
    "vocab_size": 96, "max_position_embeddings": 64, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
EXPERTS = {"num_local_experts": 4, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
MAMBA = {"mamba_d_ssm": 64, "mamba_n_heads": 4, "mamba_d_head": 16, "mamba_d_state": 16, "mamba_n_groups": 1}
SHAPES = {  # model type, its settings, the scale and the cap that its logits go through
    "llama": ({}, (1, None)),
    "llama with a cap in its configuration that it never reads": ({"final_logit_softcapping": 30.0}, (1, None)),
    "gemma2": ({"head_dim": 16, "final_logit_softcapping": 2.0}, (1, 2.0)),
    "gemma2 without a cap": ({"head_dim": 16, "final_logit_softcapping": None}, (1, None)),
    "gemma3_text": ({"head_dim": 16, "final_logit_softcapping": 3.0}, (1, 3.0)),
    "recurrent_gemma": (
        {"logits_soft_cap": 2.0, "lru_width": 32, "block_types": ["recurrent", "attention"], "head_dim": 16},
        (1, 2.0),
    ),
    "cohere": ({"logit_scale": 0.25}, (0.25, None)),
    "cohere2": ({"logit_scale": 0.25, "head_dim": 16}, (0.25, None)),
    "granite": ({"logits_scaling": 8.0}, (0.125, None)),
    "falcon_h1": ({"lm_head_multiplier": 0.5, **MAMBA}, (0.5, None)),
    "gpt2": ({}, (1, None)),
    "gptj": ({"rotary_dim": 8}, (1, None)),  # a bias in the head
    "phi": ({}, (1, None)),  # the same
    "mixtral": (EXPERTS, (1, None)),
    "qwen3_moe": ({**EXPERTS, "head_dim": 16}, (1, None)),
    "olmo2": ({}, (1, None)),
}


def build(name: str, **settings):
    """A model of random weights, large enough that a cap shows, and a bias that is not 0."""
    set_seed(0)
    config = AutoConfig.for_model(name.split()[0], **(SIZES | SHAPES[name][0] | settings))
    model = AutoModelForCausalLM.from_config(config)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            parameter.data.mul_(3)
    if getattr(model.lm_head, "bias", None) is not None:
        torch.nn.init.normal_(model.lm_head.bias)
    return model


@pytest.mark.parametrize("name", SHAPES)
def test_the_scale_and_the_cap_are_measured_and_give_the_models_own_log_probabilities(name):
    model = build(name).train()
    model.base_model.eval()
    state = torch.random.get_rng_state()
    head = find(model)
    assert (head.scale, head.cap) == SHAPES[name][1]
    assert torch.equal(torch.random.get_rng_state(), state)
    assert (model.training, model.base_model.training) == (True, False)
    model.eval()
    ids = batch()["input_ids"] % 96
    logits = model(input_ids=ids).logits[:, :-1].flatten(0, 1)
    hidden = model.base_model(input_ids=ids).last_hidden_state[:, :-1].flatten(0, 1)
    labels = ids[:, 1:].flatten()
    upstream = torch.linspace(-2, 3, len(labels))
    theirs = logits.float().log_softmax(-1).gather(1, labels[:, None])[:, 0]
    ours, is_top1 = head.log_probs(hidden, labels)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    assert is_top1.tolist() == (logits.argmax(-1) == labels).tolist()
    names, parameters = zip(*model.named_parameters(), strict=True)
    gradients = [
        torch.autograd.grad((upstream * values).sum(), parameters, allow_unused=True) for values in (ours, theirs)
    ]
    for name, one, other in zip(names, *gradients, strict=True):
        assert (one is None) == (other is None), name
        if one is not None:
            torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4 * other.abs().max().item() + 1e-7, msg=name)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["llama", "gemma2", "granite", "phi"])
def test_the_scale_and_the_cap_are_measured_in_half_precision_too(name, dtype):
    head = find(build(name).to(dtype))
    assert (head.scale, head.cap) == SHAPES[name][1]


def test_a_model_that_makes_its_logits_in_another_way_has_no_head_that_is_understood(random_tiny_model):
    class Odd(type(random_tiny_model)):
        def forward(self, *args, **options):
            output = super().forward(*args, **options)
            output.logits = output.logits.sin()
            return output

    random_tiny_model.__class__ = Odd
    assert find(random_tiny_model) is None
    before = random_tiny_model.forward
    add_compact_head(random_tiny_model)
    assert random_tiny_model.forward == before


def test_a_head_that_is_packed_in_4_bits_is_not_read(random_tiny_model):
    packed = random_tiny_model.lm_head
    weight = packed.weight.data
    packed.forward = lambda hidden: hidden @ weight.T
    packed.weight = torch.nn.Parameter(torch.zeros(weight.numel() // 2, 1, dtype=torch.uint8), requires_grad=False)
    assert find(random_tiny_model) is None


@pytest.mark.parametrize("name", ["gemma2", "cohere", "granite", "falcon_h1", "phi"])
def test_scaled_capped_and_biased_models_train_with_the_compact_head_as_with_trls(name):
    model = build(name)
    add_fused_lm_head(model, outputs=OUTPUTS)
    rows = {key: value % 96 if key == "input_ids" else value for key, value in batch().items()}
    rows["labels"] = torch.where(rows["labels"] == -100, -100, rows["labels"] % 96)
    results = []
    for _ in range(2):
        model.zero_grad()
        output = model(**rows, fused_lm_head=True)
        (-output.log_probs.sum() / output.label_mask.sum()).backward()
        results.append((output, {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}))
        add_compact_head(model)  # the second time round
    (theirs, expected), (ours, gradients) = results
    assert ours.entropy.abs().max() == 0 < theirs.entropy.abs().max()
    torch.testing.assert_close(ours.log_probs, theirs.log_probs, rtol=1e-4, atol=1e-5)
    for key, gradient in expected.items():
        close = {"rtol": 1e-3, "atol": 1e-4 * gradient.abs().max().item() + 1e-7}
        torch.testing.assert_close(gradients[key], gradient, **close, msg=key)


@pytest.mark.parametrize("router", [False, True])
def test_a_mixture_has_the_compact_head_where_its_routers_loss_is_off(router):
    model = build("mixtral", output_router_logits=router)
    add_fused_lm_head(model, outputs=OUTPUTS)
    before = model.forward
    add_compact_head(model)
    assert (model.forward == before) == router
    rows = {"input_ids": batch()["input_ids"] % 96, "labels": batch()["input_ids"] % 96}
    asked = model(**rows, fused_lm_head=True, output_router_logits=True)  # as TRL's trainer asks for the router's loss
    assert asked.aux_loss > 0
