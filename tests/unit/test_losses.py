"""Losses by the names of their papers: each against the paper's formula, with the defaults that the paper gives."""

# ruff: noqa: F811  (fixtures of another file's)

import json

import pytest
import torch
from torch.nn.functional import logsigmoid

import train_cpo
from posttrain.errors import UserError
from posttrain.project import Project
from unit.test_train import BETA, pairs, sides, train  # noqa: F401  (a fixture)

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


REFUSED = [
    (CPO | {"simpo_gamma": 1}, "simpo_gamma has no effect here; it needs loss_type: simpo"),
    (CPO | {"loss_type": "ipo", "trainer_args": {"label_smoothing": 0.1}}, "has no effect on loss_type: ipo"),
    (CPO | {"beta": 0}, "beta is 0; write a number above 0"),
    (CPO | {"loss_type": "sympo"}, "loss_type: 'sympo' is not allowed; did you mean 'simpo'?"),
    (CPO | {"trainer_args": {"cpo_alpha": 1}}, "'cpo_alpha' is set by the run's own keys; take it out"),
    (CPO | {"objective": "dpo", "cpo_alpha": 1}, "cpo_alpha has no effect here; it needs objective: cpo"),
]


@pytest.mark.parametrize(("table", "sentence"), REFUSED)
def test_keys_that_the_loss_does_not_read_are_refused(table, sentence, spec):
    with pytest.raises(UserError) as error:
        spec(table)
    assert sentence in str(error.value)
