"""Losses by the names of their papers: each against the paper's formula, with the defaults that the paper gives."""

# ruff: noqa: F811  (fixtures of another file's)

import json

import pytest
import torch
from conftest import refused
from torch.nn.functional import logsigmoid

import train_cpo
from posttrain.training import loop, losses, sampled
from posttrain.training.sampled import split
from posttrain.workflow.project import Project
from unit.scripts.test_train import BETA, pairs, sample, sides, train  # noqa: F401  (fixtures)

pytestmark = pytest.mark.usefixtures("in_folder", "signals", "fp32")

CPO = {"from": "base", "objective": "cpo", "data": "pairs"}


@pytest.fixture
def spec(configuration):
    """The spec of a run."""

    def resolved(table: dict) -> dict:
        return json.loads(Project(configuration({"runs.own": table})).spec("own"))

    return resolved


@pytest.mark.parametrize("loss_type", ["sigmoid", "hinge", "ipo", "simpo"])
def test_the_first_cpo_loss_is_the_papers_formula(train, loss_type, random_tiny_folder):
    table = CPO | {"loss_type": loss_type, "beta": BETA, "cpo_alpha": 0.5, "batch_size": 4, "warmup": 0}
    table |= {"simpo_gamma": 0.4} if loss_type == "simpo" else {}
    line, rows, _ = train(train_cpo, "cpo", pairs(), "preference", {"runs.cpo": table})
    totals = sides(rows, random_tiny_folder)
    sizes = [torch.tensor([len(row[f"{side}_ids"]) for row in rows]) for side in ("chosen", "rejected")]
    means = [total / size for total, size in zip(totals, sizes, strict=True)]
    total, mean = totals[0] - totals[1], means[0] - means[1]
    preference = {
        "sigmoid": -logsigmoid(BETA * total),
        "hinge": (1 - BETA * total).clamp(min=0),
        "ipo": (mean - 1 / (2 * BETA)).square(),
        "simpo": -logsigmoid(BETA * mean - 0.4),
    }[loss_type].mean()
    likelihood = -totals[0].sum() / sizes[0].sum()  # of the answers; the prompts are not trained
    assert line["nll_loss"] == pytest.approx(likelihood.item(), rel=1e-4)
    assert line["loss"] == pytest.approx((preference + 0.5 * likelihood).item(), rel=1e-4)
    assert line["rewards/margins"] == pytest.approx(
        (BETA * (mean if loss_type in ("ipo", "simpo") else total)).mean().item(), rel=1e-3
    )


def test_simpo_alone_is_the_papers_and_a_key_of_ones_own_stays(spec):
    keys = ("loss_type", "beta", "cpo_alpha", "simpo_gamma")
    given = [{}, {"loss_type": "simpo"}, {"loss_type": "simpo", "beta": 10}, {"loss_type": "simpo", "simpo_gamma": 3}]
    found = [{key: values[key] for key in keys if key in values} for values in map(spec, [CPO | own for own in given])]
    assert found == [
        {"loss_type": "sigmoid", "beta": 0.1, "cpo_alpha": 1.0},
        {"loss_type": "simpo", "beta": 2.0, "cpo_alpha": 0.0, "simpo_gamma": 1.0},
        {"loss_type": "simpo", "beta": 10.0, "cpo_alpha": 0.0, "simpo_gamma": 5.0},
        {"loss_type": "simpo", "beta": 2.0, "cpo_alpha": 0.0, "simpo_gamma": 3.0},
    ]


REFUSED = [  # run, code, place in it
    (CPO | {"simpo_gamma": 1}, "key-without-effect", "simpo_gamma"),
    (
        CPO | {"loss_type": "ipo", "trainer_args": {"label_smoothing": 0.1}},
        "key-without-effect",
        "trainer_args.label_smoothing",
    ),
    (CPO | {"beta": 0}, "invalid-value", "beta"),
    (CPO | {"loss_type": "sympo"}, "invalid-value", "loss_type"),
    (CPO | {"trainer_args": {"cpo_alpha": 1}}, "conflicting-keys", "trainer_args.cpo_alpha"),
    (CPO | {"objective": "dpo", "cpo_alpha": 1}, "key-without-effect", "cpo_alpha"),
]


@pytest.mark.parametrize(("table", "code", "place"), REFUSED)
def test_keys_that_the_loss_does_not_read_are_refused(table, code, place, spec):
    with refused(code, f"runs.own.{place}"):
        spec(table)


# ---- variants of GRPO

GRPO = {"from": "base", "objective": "grpo", "data": "chats", "batch_size": 8, "max_new_tokens": 4, "warmup": 0}
GRPO |= {"reward": {"function": "rules.py:rule"}}


@pytest.fixture
def made(monkeypatch, sample):
    """TRL's trainer as train_grpo.py makes it of a run with some keys."""

    def make(**keys):
        built = []
        with monkeypatch.context() as only, pytest.raises(StopIteration):
            only.setattr(loop, "fit", lambda build, options, folder, spec: next(iter(built.append(build(spec)) or [])))
            sample("grpo", 4, **keys)
        return built[0]

    return make


def losses_of(variant: str, logps: torch.Tensor, old: torch.Tensor, advantages: torch.Tensor, mask: torch.Tensor):
    """The papers' losses (minimised) of answers (n, t), each with one advantage (n,)."""
    ratio, worth = (logps - old).exp(), advantages[:, None]
    if variant == "gspo":  # Zheng et al. 2025, equations 5 and 7
        ratio = (((logps - old) * mask).sum(1) / mask.sum(1)).exp()
        return -torch.min(ratio * advantages, ratio.clamp(1 - 3e-4, 1 + 4e-4) * advantages).mean()
    if variant == "dapo":  # Yu et al. 2025, equation 8
        return -(torch.min(ratio * worth, ratio.clamp(0.8, 1.28) * worth) * mask).sum() / mask.sum()
    if variant == "cispo":  # MiniMax 2025, equation 4
        return -(ratio.clamp(max=5.0).detach() * worth * logps * mask).sum() / mask.sum()
    token = torch.min(ratio * worth, ratio.clamp(0.8, 1.2) * worth)  # Liu et al. 2025, a constant in place of a length
    return -(token * mask).sum() / (len(mask) * 4)


@pytest.mark.parametrize("variant", losses.VARIANTS)
def test_a_variants_loss_and_gradient_are_the_papers(made, variant):
    trainer = made(variant=variant)
    torch.manual_seed(0)
    answers, mask = (
        torch.randint(5, 300, (4, 4)),
        torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0], [1, 1, 1, 0], [1, 0, 0, 0]]),
    )
    prompts, advantages = torch.randint(5, 300, (4, 3)), torch.tensor([1.5, -0.5, -2.0, 1.0])
    ids = torch.cat([prompts, answers], 1)
    model = trainer.model.train()

    def log_probs() -> torch.Tensor:
        logits = model(ids, attention_mask=torch.cat([torch.ones_like(prompts), mask], 1)).logits[:, 2:-1]
        return logits.log_softmax(-1).gather(2, answers[..., None])[..., 0]

    old = log_probs().detach() + 0.5 * torch.randn(4, 4)
    inputs = {"prompt_ids": prompts, "prompt_mask": torch.ones_like(prompts), "completion_ids": answers}
    inputs |= {"completion_mask": mask, "advantages": advantages, "old_per_token_logps": old}
    # TRL scales what it divides by the tokens of a rollout to the share of a step in it.
    inputs["num_items_in_batch"] = mask.sum() * trainer.args.steps_per_generation
    trainer.current_gradient_accumulation_steps = 1
    gradients = []
    wanted = losses_of(variant, log_probs(), old, advantages, mask)
    for loss in (trainer._compute_loss(model, inputs), wanted):
        model.zero_grad()
        loss.backward()
        moving = [parameter.grad.flatten() for parameter in model.parameters() if parameter.grad is not None]
        gradients.append(torch.cat(moving))
        assert loss.item() == pytest.approx(wanted.item(), rel=1e-4)
    assert gradients[1].norm() > 1e-3
    assert torch.allclose(gradients[0], gradients[1], rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize(
    ("variant", "expected"),
    [(None, ("group", False, 0.0)), ("dapo", ("group", True, 0.0)), ("dr_grpo", ("none", False, 0.0))],
)
def test_what_a_variant_does_before_the_loss_is_the_papers(made, variant, expected):
    args = made(**({"variant": variant} if variant else {})).args
    assert (args.scale_rewards, args.mask_truncated_completions, args.beta) == expected


def test_dapo_says_how_many_answers_it_left_out(sample, monkeypatch):
    said = []
    monkeypatch.setattr(sampled, "say", said.append)
    lines, _ = sample("grpo", 4, variant="dapo", minibatches=1)
    assert [line["completions/clipped_ratio"] for line in lines] == [1, 1]
    assert [line["grad_norm"] for line in lines] == [0, 0]
    assert said == [
        "grpo: 100% of the completions were truncated at max_new_tokens: 4, and dapo leaves them out of the loss; write a larger "
        "max_new_tokens, or trainer_args: {mask_truncated_completions: false}"
    ]


def test_the_fields_of_ones_own_go_before_a_variants(made):
    trainer = made(variant="gspo", beta=0.1, minibatches=2, trainer_args={"epsilon": 0.5})
    assert (trainer.epsilon_low, trainer.epsilon_high, trainer.beta) == (0.5, 4e-4, 0.1)
    assert (trainer.args.steps_per_generation, trainer.args.per_device_train_batch_size) == (2, 4)


def test_a_spec_has_the_variant_and_the_minibatches_only_where_they_are_not_the_default(spec):
    plain, gspo = spec(GRPO), spec(GRPO | {"variant": "gspo"})
    assert not {"variant", "minibatches"} & plain.keys()
    assert plain == spec(GRPO | {"variant": None, "minibatches": 1})
    assert {key: gspo[key] for key in gspo if key not in plain} == {"variant": "gspo", "minibatches": 4}
    assert (plain["loss_type"], gspo["loss_type"]) == ("dapo", "grpo")


@pytest.mark.parametrize(("objective", "max_steps", "rollouts"), [("grpo", 3, 2), ("grpo", None, 2), ("rloo", 4, 2)])
def test_minibatches_are_steps_over_the_same_answers(sample, objective, max_steps, rollouts):
    keys = {"max_steps": max_steps} if max_steps else {}
    lines, calls = sample(objective, 3, minibatches=2, **keys)
    assert (len(lines), len(calls)) == (max_steps or 4, 8 * rollouts)
    assert ["reward" in line for line in lines] == [step % 2 == 0 for step in range(len(lines))]
    assert all(line["grad_norm"] > 0 for line in lines)


def test_the_rows_of_a_step_are_those_of_its_rollout(made):
    trainer = made(minibatches=2)
    ids = trainer.train_dataset["id"]
    found = [loop.rows_of_step(trainer, "chats", step) for step in (1, 2, 3, 4)]
    assert found == [ids[:2], ids[:2], ids[2:4], ids[2:4]] and len(set(ids)) == 4


def test_a_rollout_that_ran_out_of_memory_goes_on_in_smaller_parts():
    parts = [{"ids": torch.arange(4 * i, 4 * i + 4), "n": torch.tensor(9), "no": None, "t": [*"abcd"]} for i in (0, 1)]
    assert split(parts, 2) is parts
    smaller = split(parts, 4)
    assert [part["ids"].tolist() for part in smaller] == [[0, 1], [2, 3], [4, 5], [6, 7]]
    assert [part["t"] for part in smaller] == [["a", "b"], ["c", "d"]] * 2
    assert {(part["n"].item(), part["no"]) for part in smaller} == {(9, None)}


GRPO_REFUSED = [  # keys, code, place in the run
    ({"loss_type": "cispo"}, "invalid-value", "loss_type"),
    ({"variant": "gspo", "loss_type": "dapo"}, "conflicting-keys", "loss_type"),
    ({"variant": "gspo", "num_mini_batches": 1}, "conflicting-keys", "num_mini_batches"),
    (
        {"variant": "dapo", "batch_size": 4, "gradient_accumulation_steps": 2},
        "conflicting-keys",
        "num_mini_batches",
    ),
    ({"objective": "rloo", "variant": "gspo"}, "key-without-effect", "variant"),
    ({"objective": "gspo"}, "invalid-value", "objective"),
    ({"objective": "simpo"}, "invalid-value", "objective"),
    ({"epsilon_high": 0.28}, "unknown-key", "epsilon_high"),
    ({"trainer_args": {"steps_per_generation": 4}}, "conflicting-keys", "trainer_args.steps_per_generation"),
    ({"variant": "gpso"}, "invalid-value", "variant"),
]


@pytest.mark.parametrize(("keys", "code", "place"), GRPO_REFUSED)
def test_a_variant_beside_what_it_cannot_have_is_refused(keys, code, place, spec):
    with refused(code, f"runs.own.{place}"):
        spec(GRPO | keys)
