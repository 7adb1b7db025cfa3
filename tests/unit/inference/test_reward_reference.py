"""A reward function that compares with a reference is refused before training where rows have none."""

from pathlib import Path

from conftest import refused

from posttrain.inference import reward_reference


def check(function, shape="prompts"):
    reward_reference.check({"data": {"name": "rows"}, "reward": {"function": function}}, shape)


def test_one_of_ours_that_needs_a_reference_is_refused():
    with refused("wrong-dataset-type", "reward.function"):
        check("final_number")
    check("final_number", "messages")
    check("answer_format")
    reward_reference.check({"data": {"name": "rows"}}, "prompts")
    assert reward_reference.refusal("final_number", "rows", "prompts")
    assert reward_reference.refusal("final_number", "rows", "") is None


def test_a_function_of_the_users_is_tried_once(in_folder):
    Path("rule.py").write_text(
        "def length(answer, reference):\n    return len(answer)\n"
        "def overlap(answer, reference):\n    return len(set(answer.split()) & set(reference.split()))\n"
        "def broken(answer, reference):\n    raise KeyError('x')\n"
    )
    check("rule.py:length")
    check("rule.py:overlap", "preference")
    check("rule.py:broken")  # it fails with a reference as well: not for this reason
    with refused("wrong-dataset-type", "reward.function") as error:
        check("rule.py:overlap")
    assert "line 4: AttributeError: 'NoneType' object has no attribute 'split'" in error.value.problem
