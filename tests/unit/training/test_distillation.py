"""The divergence from a teacher against the papers' formulas, and what it is computed from."""

import math

import pytest
import torch

from posttrain.data.tokens import IGNORED
from posttrain.inference import distributions
from posttrain.training import distillation

N, V = 7, 23
BETAS, TEMPERATURES = (0.0, 0.3, 1.0), (1.0, 2.5)


@pytest.fixture
def both():
    """Logits of a model and of a teacher, in float64."""
    generator = torch.Generator().manual_seed(3)
    return tuple(3 * torch.randn(N, V, dtype=torch.float64, generator=generator) for _ in range(2))


def plain(model, teacher, beta, temperature):
    """Agarwal et al. 2024, eq. 1, with probabilities written out; times temperature^2 (Hinton et al. 2015, section 2.1)."""
    q, p = ((logits / temperature).softmax(-1) for logits in (model, teacher))

    def kl(a, b):
        return (a * (a / b).log()).sum()

    if beta in (0, 1):
        return temperature**2 * (kl(p, q) if beta == 0 else kl(q, p))
    mixture = beta * p + (1 - beta) * q
    return temperature**2 * (beta * kl(p, mixture) + (1 - beta) * kl(q, mixture))


def with_gradient(loss, model, *others):
    model = model.clone().requires_grad_()
    value = loss(model, *others)
    value.backward()
    return value.item(), model.grad


@pytest.mark.parametrize("temperature", TEMPERATURES)
@pytest.mark.parametrize("beta", BETAS)
def test_loss_and_gradient_are_those_of_the_formula(both, beta, temperature):
    expected, expected_gradient = with_gradient(plain, *both, beta, temperature)
    found, gradient = with_gradient(distillation.divergence, *both, beta, temperature)
    assert found == pytest.approx(expected, rel=1e-12)
    torch.testing.assert_close(gradient, expected_gradient)


@pytest.mark.parametrize("temperature", TEMPERATURES)
@pytest.mark.parametrize("beta", BETAS)
@pytest.mark.parametrize("count", [V, V + 9])
def test_the_whole_vocabulary_stored_is_the_same_as_all_logits(both, beta, temperature, count):
    model, teacher = both
    top = distributions.top(teacher, count, temperature)
    whole, gradient = with_gradient(distillation.divergence, model, teacher, beta, temperature)
    stored, of_stored = with_gradient(distillation.divergence, model, top, beta, temperature)
    assert stored == pytest.approx(whole, rel=1e-12)
    torch.testing.assert_close(of_stored, gradient)


@pytest.mark.parametrize("beta", BETAS)
@pytest.mark.parametrize("count", [1, 5, V - 1])
def test_of_fewer_tokens_all_others_are_one_outcome(both, beta, count):
    model, teacher = both
    ids = teacher.topk(count).indices

    def coarse(logits):
        probabilities = logits.softmax(-1)
        kept = probabilities.gather(-1, ids)
        return torch.cat([kept, probabilities.scatter(-1, ids, 0).sum(-1, keepdim=True)], -1).log()

    def expected(model):
        return plain(coarse(model), coarse(teacher), beta, 1.0)

    value, gradient = with_gradient(expected, model)
    found, of_found = with_gradient(distillation.divergence, model, distributions.top(teacher, count, 1.0), beta, 1.0)
    assert found == pytest.approx(value, rel=1e-10)
    torch.testing.assert_close(of_found, gradient)
    assert found <= plain(model, teacher, beta, 1.0).item()  # data processing inequality


def test_a_teacher_with_spare_embeddings_is_compared_without_them(both):
    model, teacher = both
    spare = torch.cat([teacher, torch.full((N, 4), 50.0, dtype=torch.float64)], -1)
    assert distillation.divergence(model, spare, 0.0, 1.0) == distillation.divergence(model, teacher, 0.0, 1.0)


def test_stored_tokens_are_the_likeliest_and_the_rest_is_what_is_left(both):
    top = distributions.top(both[1], 4, 2.0)
    probabilities = (both[1] / 2).softmax(-1)
    assert torch.equal(top.ids, probabilities.topk(4).indices)
    torch.testing.assert_close(top.log_probs.exp(), probabilities.topk(4).values)
    torch.testing.assert_close(top.log_probs.exp().sum(-1) + top.rest.exp(), torch.ones(N, dtype=torch.float64))
    assert distributions.top(both[1], V, 1.0).rest.eq(-math.inf).all()


ROWS = [
    {"input_ids": [5, 6, 7, 8], "labels": [IGNORED, IGNORED, 7, 8]},
    {"input_ids": [9, 4, 3], "labels": [IGNORED, 4, IGNORED]},
]


def test_logits_are_those_before_each_trained_token(random_tiny_model):
    batch, model = distributions.pad(ROWS, 0), random_tiny_model.eval()
    with torch.no_grad():
        found = distributions.logits(model, batch)
        expected = [
            model(input_ids=torch.tensor([[5, 6, 7]])).logits[0, 1:],
            model(input_ids=torch.tensor([[9]])).logits[0],
        ]
    torch.testing.assert_close(found, torch.cat(expected), rtol=1e-4, atol=1e-5)


def test_what_is_stored_is_joined_in_the_order_of_the_labels():
    stored = [
        {"ids": [1, 2, 3, 4], "log_probs": [-0.1, -0.2, -0.3, -0.4], "rest": [-5.0, -6.0]},
        {"ids": [8, 9], "log_probs": [-0.8, -0.9], "rest": [-7.0]},
    ]
    batch = distillation.Collator(0, 2)([row | more for row, more in zip(ROWS, stored, strict=True)])
    assert batch["teacher_ids"].tolist() == [[1, 2], [3, 4], [8, 9]]
    assert batch["teacher_rest"].tolist() == [-5.0, -6.0, -7.0]
    assert batch["labels"].tolist() == [[IGNORED, IGNORED, 7, 8], [IGNORED, 4, IGNORED, IGNORED]]
    assert batch["attention_mask"].sum(1).tolist() == [4, 3]


def test_prompts_and_ends():
    assert distillation.prompt([5, 6, 7], [IGNORED, IGNORED, 7]) == [5, 6]
    assert distillation.prompt([5, 6], [5, 6]) == []
    assert distillation.until_end([4, 2, 9], [2]) == [4, 2]
    assert distillation.until_end([4, 9], [2]) == [4, 9]
