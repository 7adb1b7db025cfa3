"""A conversation with a model: its answers are those of evaluation, shown as they grow, and end early where they must."""

import pytest
from conftest import refused

from posttrain.data import tokens
from posttrain.inference import scoring
from posttrain.inference.chat import Partner, Reply

TURNS = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Name a fruit, please."}]


@pytest.fixture
def partner(random_tiny_model, random_tiny_tokenizer):
    return lambda temperature=0.0, longest=12: Partner(
        random_tiny_model.eval(), random_tiny_tokenizer, temperature, longest
    )


def nothing(text: str) -> None:
    """Show nothing."""


def test_an_answer_is_that_of_evaluation_and_grows_as_it_is_shown(partner, random_tiny_model, random_tiny_tokenizer):
    shown = []
    reply = partner().reply(TURNS, shown.append)
    prompt = tokens.prompt_tokens(random_tiny_tokenizer, TURNS)
    assert reply.text == scoring.generate(random_tiny_model, random_tiny_tokenizer, [prompt], 12)[0] != ""
    assert reply.note == "cut after 12 tokens; --max-new-tokens allows more"
    assert len(shown) == 12
    assert all(later.startswith(earlier) for earlier, later in zip(shown, [*shown[1:], reply.text], strict=True))


def test_a_stop_token_ends_an_answer_without_a_note(partner, random_tiny_model, random_tiny_tokenizer):
    prompt = tokens.prompt_tokens(random_tiny_tokenizer, TURNS)
    (answer,) = scoring.generate_batch(random_tiny_model, random_tiny_tokenizer, [prompt], 12)
    stop = answer.ids[5]
    random_tiny_model.generation_config.eos_token_id = [stop]
    first = answer.ids.index(stop)
    assert partner().reply(TURNS, nothing) == Reply(random_tiny_tokenizer.decode(answer.ids[:first]), "")


def test_a_stop_text_of_the_models_own_ends_an_answer_and_is_not_in_it(partner, random_tiny_model):
    whole = partner().reply(TURNS, nothing).text
    random_tiny_model.generation_config.stop_strings = [whole[3:5]]
    reply = partner().reply(TURNS, nothing)
    assert whole.startswith(reply.text) and whole[3:5] not in reply.text and reply.note == ""


def test_ctrl_c_keeps_what_was_said(partner):
    whole = partner().reply(TURNS, nothing).text
    shown = []

    def show(text: str) -> None:
        shown.append(text)
        if len(shown) == 4:
            raise KeyboardInterrupt

    reply = partner().reply(TURNS, show)
    assert reply.note == "stopped"
    assert whole.startswith(reply.text) and 0 < len(reply.text) < len(whole)


def test_a_temperature_draws_other_answers(partner):
    assert len({partner(temperature=2.0).reply(TURNS, nothing).text for _ in range(4)}) > 1


def test_a_conversation_that_fills_the_context_is_told(partner, random_tiny_model, random_tiny_tokenizer):
    prompt = len(tokens.prompt_tokens(random_tiny_tokenizer, TURNS))
    random_tiny_model.config.max_position_embeddings = prompt + 3
    reply = partner().reply(TURNS, nothing)
    assert reply.note == f"cut: the model's context of {prompt + 3} tokens is full"
    random_tiny_model.config.max_position_embeddings = prompt
    with refused("context-full") as error:
        partner().reply(TURNS, nothing)
    assert str(error.value).startswith(
        f"the conversation has {prompt} tokens, and the model reads and writes {prompt} at"
    )
