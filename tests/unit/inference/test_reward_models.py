"""What an answer is worth: the rules, the user's own, and a reward model that must read the same tokens."""

import math
import re
from pathlib import Path

import pytest
import torch
from conftest import refused

from posttrain.inference import reward_models, scoring
from posttrain.inference.reward_models import answer_format, final_number, function, reward_function
from posttrain.models import loading
from posttrain.runtime.errors import UserError

# ---- rules


@pytest.mark.parametrize(
    ("answer", "reference", "worth"),
    [
        ("so it is\n#### 72", "She sold 72.\n#### 72", 1),
        ("#### 1,000.0", "#### 1000", 1),
        ("It is 72.", "#### 72", 1),  # the last number, where none is marked
        ("#### 71", "#### 72", 0),
        ("#### 72 or 71", "#### 72", 1),
        ("#### 72\nQuestion: ...\n#### 5", "#### 72", 1),
        ("no number", "#### 72", 0),
        ("", "#### 72", 0),
        ("#### 72", "no number", 0),
        ("no number", "no number", 0),  # nothing is no right answer
        ("#### -3", "#### 3", 0),
        ("#### 0", "#### 0", 1),
    ],
)
def test_a_number_is_worth_1_where_it_is_the_references(answer, reference, worth):
    assert final_number(answer, reference) == worth


@pytest.mark.parametrize(("answer", "worth"), [("#### 7", 1), ("####7", 1), ("7", 0), ("#### seven", 0), ("", 0)])
def test_the_format_is_worth_1_whatever_the_number(answer, worth):
    assert answer_format(answer, "#### 8") == worth


def test_a_rule_is_found_by_its_name_or_in_the_users_file(in_folder):
    Path("rules").mkdir()
    Path("rules/mine.py").write_text("def short(answer, reference):\n    return -len(answer)\n")
    assert function("final_number") is final_number
    assert function("rules/mine.py:short")("four", "") == -4


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("rules.py:shrt", "rules.py has no function 'shrt'; did you mean 'short'?"),
        ("rules.py:LIMIT", "no function 'LIMIT'"),
    ],
)
def test_a_function_that_the_file_does_not_have_is_one_sentence(in_folder, name, sentence):
    Path("rules.py").write_text("LIMIT = 3\ndef short(answer, reference):\n    return 0\n")
    with pytest.raises(UserError) as error:
        function(name)
    assert sentence in str(error.value)


QUESTIONS = [{"prompt_ids": [5, 6], "reference": "#### 72"}, {"prompt_ids": [7], "reference": "#### 5"}]


def encoded(tokenizer, *texts: str) -> list[list[int]]:
    return [[*tokenizer(text)["input_ids"], tokenizer.eos_token_id] for text in texts]


def test_a_rule_reads_the_answer_without_its_stop_token_beside_its_own_reference(in_folder, random_tiny_tokenizer):
    Path("rules.py").write_text("def pair(answer, reference):\n    return 100 * len(answer) + len(reference)\n")
    answers = encoded(random_tiny_tokenizer, "#### 72", "5")
    assert reward_function({"function": "rules.py:pair"}, random_tiny_tokenizer)(QUESTIONS, answers) == [707, 106]
    assert reward_function({"function": "final_number"}, random_tiny_tokenizer)(QUESTIONS, answers) == [1, 1]
    assert reward_function({"function": "final_number"}, random_tiny_tokenizer)(QUESTIONS, answers[::-1]) == [0, 0]


@pytest.mark.parametrize("opening", ["", "<think>\n"])
def test_a_rule_reads_no_thoughts(in_folder, random_tiny_tokenizer, opening):
    Path("rules.py").write_text("def pair(answer, reference):\n    return 100 * len(answer) + len(reference)\n")
    prompt = random_tiny_tokenizer(f"<|im_start|>assistant\n{opening}")["input_ids"]
    begin = "" if opening else "<think>\n"
    asked = [{"prompt_ids": prompt, "reference": "<think>\n\n</think>\n\n#### 72"}] * 2
    answers = encoded(random_tiny_tokenizer, f"{begin}72?\n</think>\n\n#### 7", f"{begin}It is #### 72")
    assert reward_function({"function": "rules.py:pair"}, random_tiny_tokenizer)(asked, answers) == [
        607,
        7,
    ]  # the second was cut
    assert reward_function({"function": "final_number"}, random_tiny_tokenizer)(asked, answers) == [0, 0]


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("None", "None"),
        ("'much'", "'much'"),
        ("'1'", "'1'"),
        ("[1, 2]", r"\[1, 2\]"),
        ("float('nan')", "nan"),
        ("-1e999", "-inf"),
    ],
)
def test_a_rule_that_returns_no_number_is_one_sentence(in_folder, random_tiny_tokenizer, body, said):
    Path("rules.py").write_text(f"def own(answer, reference):\n    return {body}\n")
    with refused("invalid-function", "reward.function") as error:
        reward_function({"function": "rules.py:own"}, random_tiny_tokenizer)(
            QUESTIONS, encoded(random_tiny_tokenizer, "a", "b")
        )
    assert re.search(said, error.value.problem)


@pytest.mark.parametrize("body", ["True", "1", "numpy.float32(1)", "torch.tensor(1)"])
def test_a_rule_may_return_any_kind_of_number(in_folder, random_tiny_tokenizer, body):
    Path("rules.py").write_text(f"import numpy, torch\ndef own(answer, reference):\n    return {body}\n")
    worth = reward_function({"function": "rules.py:own"}, random_tiny_tokenizer)(
        QUESTIONS, encoded(random_tiny_tokenizer, "a", "b")
    )
    assert worth == [1.0, 1.0]
    assert {type(value) for value in worth} == {float}


# ---- models

REWARD = Path("results/reward")


@pytest.mark.usefixtures("fp32")
@pytest.mark.parametrize("method", ["lora", "prefix"])
def test_a_reward_model_reads_the_prompt_and_the_answer(merge, random_tiny_tokenizer, method):
    merge("reward", method)
    answers = [[60, 61, 62], [70]]
    worth = reward_function({"from": {"name": "reward"}}, random_tiny_tokenizer, models={"reward": REWARD})(
        QUESTIONS, answers
    )
    model = loading.load(Path("results/reward/merged")).eval()
    with torch.no_grad():
        alone = [
            model(input_ids=torch.tensor([question["prompt_ids"] + answer])).logits[0, 0].item()
            for question, answer in zip(QUESTIONS, answers, strict=True)
        ]
    assert worth == pytest.approx(alone, abs=1e-5)
    assert not any(p.requires_grad for p in reward_models.load_reward_model(REWARD, random_tiny_tokenizer).parameters())


def test_a_judge_that_reads_other_tokens_is_one_sentence(merge, random_tiny_tokenizer):
    merge("reward")
    random_tiny_tokenizer.add_tokens(["another"])
    with refused("wrong-reward-model", "reward"):
        reward_function({"from": {"name": "reward"}}, random_tiny_tokenizer, models={"reward": REWARD})


def test_a_base_may_be_asked_too(random_run, random_tiny_tokenizer):
    """An implicit reward's reference can be one."""
    assert reward_models.load_reward_model(Path("results/bases/base"), random_tiny_tokenizer).config.architectures == [
        "LlamaForCausalLM"
    ]


@pytest.mark.usefixtures("fp32")
@pytest.mark.parametrize("batch_tokens", [1, 12, 4096])
def test_a_score_does_not_depend_on_the_batch(random_tiny_folder, batch_tokens):
    torch.manual_seed(0)
    model = loading.load(random_tiny_folder, reward=True).eval()
    rows = [tuple(range(5, 5 + n)) for n in (3, 9, 1, 4, 4, 7)]
    alone = [model(input_ids=torch.tensor([row])).logits[0, 0].item() for row in rows]
    assert scoring.rewards(model, rows, batch_tokens) == pytest.approx(alone, abs=1e-5)
    assert len({round(score, 4) for score in alone}) > 3
    assert scoring.rewards(model, [], batch_tokens) == []
    assert all(math.isfinite(score) for score in alone)
