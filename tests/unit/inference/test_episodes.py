"""Episodes: whose tokens are whose, where they end, and what the model is told."""

import copy
from pathlib import Path

import pytest
from conftest import refused

from posttrain.inference.environments import Environment, Limits
from posttrain.inference.episodes import CUT, Player, result_tokens

HERMES = Path(__file__).resolve().parents[3] / "scripts/posttrain/models/templates/hermes.jinja"
CALL = '<tool_call>\n{"name": "calculate", "arguments": {"expression": "3 * 4"}}\n</tool_call>'
ROW = {"id": "a", "turns": [{"role": "user", "content": "Compute 3 * 4"}], "task": '{"answer": 12}'}


@pytest.fixture
def tokenizer(random_tiny_tokenizer):
    tokenizer = copy.deepcopy(random_tiny_tokenizer)
    tokenizer.chat_template = HERMES.read_text()
    return tokenizer


@pytest.fixture
def play(tokenizer):
    """The episode in which a model says these texts, one after the other."""

    def run(*said: str, ended=True, turns=8, tool_tokens=256, room=500, rows=(ROW,)):
        texts, asked = iter(said), []

        def generate(prompts, left):
            asked.append(prompts)
            ids = tokenizer(next(texts), add_special_tokens=False)["input_ids"]
            return [[*ids, tokenizer.eos_token_id] if ended else ids for _ in prompts]

        player = Player(
            Environment("calculator"), tokenizer, [tokenizer.eos_token_id], Limits(turns, tool_tokens, 5), 1
        )
        done = player.play(list(rows), [0] * len(rows), generate, room, 2000)
        return done[0], asked

    return run


def own(tokenizer, episode, mask: int) -> str:
    return tokenizer.decode([token for token, m in zip(episode.ids, episode.mask, strict=True) if m == mask])


def test_what_the_model_wrote_is_its_own_and_results_are_not(play, tokenizer):
    episode, asked = play(CALL, "That makes 12.")
    assert own(tokenizer, episode, 1) == f"{CALL}<|im_end|>That makes 12.<|im_end|>"
    between = "\n<|im_start|>tool\n<tool_response>\n12\n</tool_response><|im_end|>\n<|im_start|>assistant\n"
    assert own(tokenizer, episode, 0) == between
    assert asked[1] == [episode.prompt + episode.ids[: -len(tokenizer("That makes 12.")["input_ids"]) - 1]]
    assert (episode.turns, episode.calls, episode.errors, episode.reward) == (2, 1, 0, 1.0)
    assert episode.lines == [CALL, "[result] 12", "That makes 12."]


def test_all_of_it_is_the_conversation_as_the_template_renders_it(play, tokenizer):
    episode, _ = play(CALL, "12")
    call = '[{"name": "calculate", "arguments": {"expression": "3 * 4"}}]'
    turns = [
        *ROW["turns"],
        {"role": "assistant", "content": "", "tool_calls": call},
        {"role": "tool", "name": "calculate", "content": "12"},
        {"role": "assistant", "content": "12"},
    ]
    from posttrain.data.conversations import render

    text = render(tokenizer, turns, Environment("calculator").schemas)
    assert tokenizer.decode(episode.prompt + episode.ids) + "\n" == text


def test_an_error_is_told_and_can_be_recovered_from(play):
    wrong = CALL.replace("3 * 4", "3 *")
    episode, _ = play("<tool_call>{</tool_call>", wrong, CALL, "12")
    assert (episode.turns, episode.calls, episode.errors, episode.recovered, episode.reward) == (4, 3, 2, True, 1.0)
    assert episode.lines[3] == "[error] error: this is no arithmetic expression"
    assert not play(wrong, "12")[0].recovered


def test_an_episode_ends_with_its_turns_its_room_or_a_cut_answer(play):
    assert play(*[CALL] * 9, turns=3)[0].turns == 3
    short, _ = play(CALL, "12", room=60)
    assert short.turns == 1 and set(short.mask) == {1} and len(short.ids) <= 60
    cut, _ = play(CALL, "12", ended=False)
    assert (cut.turns, cut.calls, cut.reward) == (1, 0, 0.0)


def test_a_long_result_is_cut(play):
    episode, _ = play(CALL.replace("3 * 4", "7 ** 90"), "12", tool_tokens=5)
    assert episode.lines[1].endswith(CUT) and len(episode.lines[1]) < 40


def test_a_template_without_tool_results_is_one_sentence(random_tiny_tokenizer):
    silent = copy.deepcopy(random_tiny_tokenizer)
    silent.chat_template = silent.chat_template.replace(
        "message['content']", "(message['content'] if message['role'] != 'tool' else '')"
    )
    with refused("unusable-chat-template") as error:
        result_tokens(silent, [("calculate", "12")], "[]", [silent.eos_token_id])
    assert "does not add the results of tools" in str(error.value)


def test_a_prompt_that_reset_makes_too_long_is_one_sentence(tokenizer):
    row = ROW | {"task": '{"tables": {"a": [{"x": 1}]}, "answer": 1}'}
    player = Player(Environment("sqlite"), tokenizer, [tokenizer.eos_token_id], Limits(2, 9, 5), 1)
    with refused("too-long", "environment"):
        player.play([row], [0], lambda prompts, left: [[]], 10, 20)
