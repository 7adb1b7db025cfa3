"""Answers are remembered by model, prompt and settings, and a kill loses one batch."""

import json

import pytest

from posttrain.evaluation import generation_cache
from posttrain.evaluation.generation_cache import read
from posttrain.inference import scoring
from posttrain.inference.scoring import Answer

pytestmark = pytest.mark.usefixtures("fp32")

PROMPTS = [[20, 21, 22], [30], [40, 41], [30], [50, 51, 52, 53]]


class Asked:
    """What is generated, in place of a model: how many tokens a prompt has; it counts what it was asked."""

    def __init__(self, dies_after: int = 100):
        self.batches: list[list[list[int]]] = []
        self.dies_after = dies_after

    def generate_batch(self, model, tokenizer, prompts, max_new_tokens, stop, penalty, files):
        if len(self.batches) == self.dies_after:
            raise KeyboardInterrupt
        self.batches.append(prompts)
        return [Answer(f"{len(prompt)} tokens, {prompt}", prompt, len(prompt) > 1) for prompt in prompts]


@pytest.fixture
def ask(in_folder, monkeypatch):
    """Ask for answers with settings that a test changes; returns them and the batches that were generated."""

    def asked(
        prompts=PROMPTS, at_once=2, dies_after=100, max_new_tokens=8, stop=(), key="model", penalty=1.0, by_batch=False
    ):
        generator = Asked(dies_after)
        monkeypatch.setattr(scoring, "PROMPTS", at_once)
        monkeypatch.setattr(scoring, "generate_batch", generator.generate_batch)
        file = in_folder / "eval/answers.jsonl"
        try:
            given = generation_cache.answers(None, None, prompts, max_new_tokens, stop, file, key, penalty, by_batch)
            return given, generator.batches
        except KeyboardInterrupt:
            return None, generator.batches

    return asked


def test_the_answers_are_those_of_generate_in_the_order_asked(in_folder, random_tiny_model, random_tiny_tokenizer):
    model = random_tiny_model.eval()
    outputs = generation_cache.answers(
        model, random_tiny_tokenizer, PROMPTS, 5, (), in_folder / "answers.jsonl", "model"
    )
    assert [output.text for output in outputs] == scoring.generate(model, random_tiny_tokenizer, PROMPTS, 5)
    assert len(read(in_folder / "answers.jsonl")) == 4


def test_a_second_call_never_calls_the_model(in_folder, random_tiny_model, random_tiny_tokenizer):
    file = in_folder / "answers.jsonl"
    first = generation_cache.answers(random_tiny_model.eval(), random_tiny_tokenizer, PROMPTS, 5, (), file, "model")
    assert generation_cache.answers(None, None, PROMPTS, 5, (), file, "model") == first
    assert generation_cache.answers(None, None, PROMPTS[::-1][:2], 5, (), file, "model") == first[::-1][:2]


def test_equal_prompts_are_answered_once(ask):
    outputs, batches = ask()
    assert sorted(prompt for batch in batches for prompt in batch) == [[20, 21, 22], [30], [40, 41], [50, 51, 52, 53]]
    assert outputs == [Answer(f"{len(prompt)} tokens, {prompt}", prompt, len(prompt) > 1) for prompt in PROMPTS]


@pytest.mark.parametrize("change", [{"key": "another"}, {"max_new_tokens": 9}, {"stop": ("\n",)}, {"penalty": 1.1}])
def test_another_model_and_other_settings_find_nothing(ask, change):
    ask()
    assert sum(map(len, ask(**change)[1])) == 4
    assert ask()[1] == []
    assert ask(**change)[1] == []


def test_where_a_batch_changes_answers_only_those_of_the_same_batch_are_taken(ask):
    _, first = ask(by_batch=True)
    assert first == [[[50, 51, 52, 53], [20, 21, 22]], [[40, 41], [30]]]
    given, second = ask(prompts=[*PROMPTS, [60]], by_batch=True)
    assert second == [[[60]]]  # the two batches are as before
    _, third = ask(prompts=[*PROMPTS, [42, 43, 44]], by_batch=True)
    assert third == [[[42, 43, 44], [40, 41]], [[30]]]
    assert ask(by_batch=True) == (given[:-1], [])


def test_a_prompt_that_comes_later_is_all_that_is_generated(ask):
    ask()
    assert ask(prompts=[*PROMPTS, [60]])[1] == [[[60]]]


def test_a_kill_loses_one_batch_and_the_others_stay_as_they_were(ask):
    expected, batches = ask(key="not killed")
    assert ask(dies_after=1)[0] is None
    outputs, after = ask()
    assert (outputs, after) == (expected, batches[1:])


def test_a_line_that_a_kill_has_torn_is_generated_again(ask, in_folder):
    expected, _ = ask()
    file = in_folder / "eval/answers.jsonl"
    whole = file.read_bytes()
    for torn in (1, 20, len(whole.splitlines()[-1])):
        file.write_bytes(whole[:-torn])
        outputs, batches = ask()
        assert (outputs, sum(map(len, batches))) == (expected, 1)
        assert file.read_bytes() == whole
    assert all(json.loads(line).keys() == {"prompt", "output", "ids", "ended"} for line in whole.splitlines())


def test_lines_of_an_older_version_are_passed_over(ask, in_folder):
    file = in_folder / "eval/answers.jsonl"
    file.parent.mkdir()
    file.write_text('{"prompt": "0a", "output": "24"}\n')
    assert read(file) == {}
    ask()
    assert len(read(file)) == 4


def test_nothing_to_ask_makes_no_file(ask, in_folder):
    assert ask(prompts=[]) == ([], [])
    assert not (in_folder / "eval").exists()


def test_answers_that_another_process_of_a_killed_job_gave_are_taken_over(ask, in_folder):
    expected, _ = ask()
    file = in_folder / "eval/answers.jsonl"
    first, *others = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(first)
    file.with_name("answers.1.jsonl").write_bytes(b"".join(others[:2]))
    file.with_name("answers.2.jsonl").write_bytes(others[2][:-3])  # torn
    outputs, batches = ask()
    assert (outputs, sum(map(len, batches))) == (expected, 1)
    assert [left.name for left in file.parent.iterdir()] == ["answers.jsonl"]
    assert sorted(file.read_bytes().splitlines(keepends=True)) == sorted([first, *others])
    assert ask() == (expected, [])
