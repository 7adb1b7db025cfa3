"""Evaluations: forgetting, answers that do not end or repeat themselves, the same as the parent."""

import pytest

from posttrain.diagnosis import result_rules

from .made import SPEC, falling, noise, run


def codes(found):
    return [finding.code for finding in result_rules.find(found)]


def example(i, dataset, loss, output="an answer"):
    return {
        "suite": "",
        "dataset": dataset,
        "id": f"{dataset}{i}",
        "log_prob": -10 * loss,
        "tokens": 10.0,
        "output": output,
        "reference": "right",
    }


def evaluated(own=1.0, other=2.0, parent=(2.0, 2.0), n=40, outputs=("an answer", "another")):
    """A run with that loss on its own rows and on others, from a parent with those."""
    found = run(SPEC, loss=falling(30))
    small = noise(n, 0.1)
    for examples, losses, text in (
        (found.examples, (own, other), outputs[0]),
        (found.parent_examples, parent, outputs[1]),
    ):
        for dataset, loss in zip(("rows", "general"), losses, strict=True):
            examples += [
                example(i, dataset, loss + (small[i] if examples is found.examples else 0), text) for i in range(n)
            ]
    found.vocabulary = 50000
    found.evaluation = {"metrics": {"perplexity": {"value": 2.718**own, "n": n}}, "against": {}, "by_dataset": {}}
    return found


def test_a_better_model_has_no_finding():
    assert codes(evaluated()) == []


def test_forgetting():
    assert codes(evaluated(other=3.0)) == ["forgetting"]
    assert codes(evaluated(other=2.04)) == []  # worse beyond chance, and by little
    unknown = evaluated(other=8.0, parent=(2.0, 7.0))  # of 10.8 that guessing has
    assert codes(unknown) == []
    random = evaluated(other=3.0)
    random.is_from_random = True
    assert codes(random) == []


def test_worse_at_its_own_task():
    (finding,) = result_rules.find(evaluated(own=3.0))
    assert finding.code == "worse-than-the-parent" and "perplexity" in finding.sentence
    found = evaluated(own=3.0)
    found.evaluation["metrics"]["perplexity"]["value"] = 1e6  # of datasets that nobody trained on
    assert codes(found) == ["worse-than-the-parent"]


def test_the_same_as_its_parent():
    found = evaluated(own=2.0, outputs=("an answer", "an answer"))
    for row in found.examples:
        row["log_prob"] = -20.0 - 1e-4
    (finding,) = result_rules.find(found)
    assert finding.code == "same-as-the-base" and "all 80 answers" in finding.sentence
    found.examples[0]["output"] = "something else"
    assert codes(found) == []


@pytest.mark.parametrize(
    ("reference", "ended", "found"),
    [("short", False, ["stop-token-not-learnt"]), ("long " * 60, False, ["answers-cut"]), ("short", True, [])],
)
def test_answers_that_run_to_the_limit(reference, ended, found):
    evidence = evaluated()
    answer = {"suite": "say", "reference": reference, "output": "x" * 200, "tokens": 50, "limit": 50, "ended": ended}
    evidence.answers = [dict(answer) for _ in range(20)]
    assert codes(evidence) == found


def test_repetition():
    again = "the same words " * 30
    assert codes(evaluated(outputs=(again, "once"))) == ["repetition"]
    assert codes(evaluated(outputs=(again, again))) == []  # so did the parent


def answers(found, outputs):
    found.answers = [
        {"suite": "", "reference": None, "output": text, "tokens": 9, "limit": 90, "ended": True} for text in outputs
    ]
    return found


def test_thinking():
    found = answers(evaluated(), ["right"] * 20)
    found.thinking = 1.0
    assert codes(found) == ["thinking-mismatch"]
    found.spec = SPEC | {"train_thoughts": False}
    assert codes(found) == []
    found = answers(evaluated(), ["<think>so</think>right"] * 20)
    found.thinking = 0.0
    assert codes(found) == ["thinking-mismatch"]
    assert codes(answers(evaluated(), ["<think>on and on"] * 20)) == ["thinking-mismatch"]


def test_too_few_examples():
    assert codes(evaluated(n=8)) == ["too-little-data"]
