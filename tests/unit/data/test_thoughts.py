"""Where an answer begins after what a model thought, on texts and on tokens."""

from importlib.resources import files

import pytest

from posttrain.data import thoughts
from posttrain.data.thoughts import answer, split
from posttrain.data.tokens import render
from posttrain.metrics import text_metrics

TEMPLATES = files("trl") / "chat_templates"

GPT_OSS = "<|channel|>analysis<|message|>Half.<|end|><|start|>assistant<|channel|>final<|message|>24"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("24", "24"),
        ("  24\n", "  24\n"),
        ("<think>\n\n</think>\n\n24", "24"),
        ("\n<think>Half of 48.\n#### 23</think>24", "24"),
        ("Half of 48.\n</think>\n\n24", "24"),  # the prompt has the opening marker
        ("<think>\nHalf of 48 is", ""),  # cut
        ("<think>", ""),
        ("<think>a</think>\n<think>b</think> 24", "24"),
        ("Write <think> before and </think> after it.", "Write <think> before and </think> after it."),
        ("<think>a</think>Write <think>b</think>.", "Write <think>b</think>."),
        ("<think>a</think>", ""),
        ("[THINK]a[/THINK]24", "24"),
        ("<seed:think>a</seed:think>24", "24"),
        ("<|START_THINKING|>a<|END_THINKING|>24", "24"),
        ("<|channel>thought\na\n<channel|>24", "24"),
        (GPT_OSS, "24"),
        ("<|channel|>final<|message|>24", "24"),
        ("<|channel|>analysis<|message|>Half of", ""),
        (
            "<|channel|>analysis<|message|>a<|end|><|start|>assistant<|channel|>commentary to=functions.add <|constrain|>"
            'json<|message|>{"a": 1}',
            '<|start|>assistant<|channel|>commentary to=functions.add <|constrain|>json<|message|>{"a": 1}',
        ),
        ("", ""),
    ],
)
def test_an_answer_begins_after_the_thoughts(text, said):
    assert answer(text) == said
    thought, rest = split(text)
    assert (thought == "") == (rest == text)
    assert text.startswith(thought)
    assert text.endswith(rest)


def test_a_perfect_answer_of_a_model_that_thinks_has_full_marks():
    scores = text_metrics.score(["exact_match", "rougeL"], [answer("<think>\n\n</think>\n\n24")], ["24"], None)
    assert scores == [{"exact_match": 1.0, "rougeL": 1.0}]


@pytest.fixture
def tokenizer(random_tiny_tokenizer):
    """With Magistral's markers, which are special tokens, and Qwen's, which are none."""
    random_tiny_tokenizer.add_tokens(["[THINK]", "[/THINK]"], special_tokens=True)
    random_tiny_tokenizer.add_tokens(["<think>", "</think>"])
    return random_tiny_tokenizer


def ids(tokenizer, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False)["input_ids"]


@pytest.mark.parametrize("markers", ["[THINK] a[/THINK] 24", "<think> a</think> 24"])
def test_markers_stay_in_an_answer_s_text_and_other_special_tokens_do_not(tokenizer, markers):
    assert thoughts.decode(tokenizer, ids(tokenizer, f"{markers}<|im_end|>")) == markers


def test_without_markers_a_text_is_the_tokenizer_s(tokenizer):
    encoded = ids(tokenizer, "A pear.<|im_end|>\n")
    assert thoughts.decode(tokenizer, encoded) == tokenizer.decode(encoded, skip_special_tokens=True) == "A pear.\n"


@pytest.mark.parametrize(
    ("prompt", "opening"),
    [
        ("<|im_start|>assistant\n<think>\n", "<think>\n"),
        ("<|im_start|>assistant\n[THINK]", "[THINK]"),
        ("<|im_start|>assistant\n<think>\n\n</think>\n\n", ""),
        ("<|im_start|>assistant\n", ""),
    ],
)
def test_a_prompt_that_opens_the_thoughts_is_known_by_its_end(tokenizer, prompt, opening):
    assert thoughts.opened(tokenizer, ids(tokenizer, prompt)) == opening


@pytest.mark.parametrize(
    ("name", "opening"),
    [
        ("deepseek_r1_distill", "<think>\n"),
        ("qwen3", ""),
        ("qwen3_5_think", "<think>\n"),
        ("qwen3_5_nothink", ""),
        ("gptoss", ""),
    ],
)
def test_a_real_template_s_prompt_and_perfect_answer(tokenizer, name, opening):
    tokenizer.chat_template = (TEMPLATES / f"{name}.jinja").read_text()
    asked = [{"role": "user", "content": "What is half of 48?"}]
    prompt = render(tokenizer, asked, generate=True)
    whole = render(tokenizer, [*asked, {"role": "assistant", "content": "24"}])
    assert thoughts.opened(tokenizer, ids(tokenizer, prompt)) == opening
    written = f"Half.\n</think>\n\n24{tokenizer.eos_token}" if opening else whole.removeprefix(prompt)
    assert written != whole
    end = next(mark for mark in (tokenizer.eos_token, "<|im_end|>", "<|return|>") if mark in written)
    assert answer(opening + written.partition(end)[0]) == "24"
