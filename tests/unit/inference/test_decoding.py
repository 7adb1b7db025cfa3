"""Greedy whatever a base's generation configuration says, and no answer beyond the context."""

import pytest
import torch
from families import Numbers, alone, build
from transformers import GenerationConfig

from posttrain.inference import decoding, scoring

pytestmark = pytest.mark.usefixtures("fp32")

PROMPTS = [[20, 21, 22, 23, 24, 25], [30], [40, 41, 42], [40, 41, 50]]
OTHERS = {
    "repetition_penalty": 1.5,
    "no_repeat_ngram_size": 2,
    "encoder_repetition_penalty": 1.5,
    "encoder_no_repeat_ngram_size": 2,
    "min_new_tokens": 9,
    "min_length": 30,
    "bad_words_ids": [[100]],
    "suppress_tokens": list(range(3, 380)),
    "begin_suppress_tokens": list(range(3, 380)),
    "forced_eos_token_id": 2,
    "exponential_decay_length_penalty": (1, 9.0),
    "sequence_bias": [[[33], 50.0]],
    "guidance_scale": 3.0,
    "num_beams": 3,
    "num_return_sequences": 2,
    "prompt_lookup_num_tokens": 2,
    "penalty_alpha": 0.6,
    "renormalize_logits": True,
}
SAMPLED = {"do_sample": True, "temperature": 2.0, "top_k": 3, "top_p": 0.5, "min_p": 0.1, "typical_p": 0.5}


def greedy(model, prompts: list[list[int]] = PROMPTS, longest: int = 8, **options) -> list[list[int]]:
    return [answer.ids for answer in scoring.generate_batch(model, Numbers(), prompts, longest, **options)]


@pytest.mark.parametrize("family", ["llama", "gpt2"])  # in spans, and in one
@pytest.mark.parametrize("key", OTHERS)
def test_nothing_of_the_configuration_changes_greedy_answers(family, key):
    model = build(family)
    expected = greedy(model)
    model.generation_config.update(**{key: OTHERS[key]}, **SAMPLED)
    assert greedy(model) == expected
    assert decoding.overruled(model) == {key: OTHERS[key]}
    assert getattr(model.generation_config, key) == OTHERS[key]


def test_a_plain_configuration_overrules_nothing():
    model = build("llama")
    model.generation_config = GenerationConfig(eos_token_id=[2, 7], **SAMPLED)
    assert decoding.overruled(model) == {}


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_a_penalty_is_transformers_own_for_each_prompt_alone(family):
    model = build(family)
    options = {
        "do_sample": False,
        "max_new_tokens": 12,
        "repetition_penalty": 1.3,
        "pad_token_id": 0,
        "eos_token_id": 2,
    }
    mask = torch.ones(1, 6).long()
    expected = [
        model.generate(input_ids=torch.tensor([p]), attention_mask=mask[:, : len(p)], **options)[0, len(p) :].tolist()
        for p in PROMPTS
    ]
    found = greedy(model, longest=12, penalty=1.3)
    assert found == [ids[: ids.index(2)] if 2 in ids else ids for ids in expected]
    assert found != greedy(model, longest=12)


def test_a_stop_text_of_the_configuration_ends_an_answer():
    model = build("llama")
    first = greedy(model)[0]
    model.generation_config.stop_strings = f" {first[3]}"
    cut = scoring.generate_batch(model, Numbers(), PROMPTS, 8)[0]
    assert (cut.text, cut.ended) == (" ".join(map(str, first[:3])), False)


@pytest.mark.parametrize("family", ["gpt2", "opt", "llama"])
def test_an_answer_ends_at_the_context_whatever_else_is_in_the_batch(family):
    model = build(family)
    context = decoding.context(model)
    assert context in (256, 1024)
    generator = torch.Generator().manual_seed(0)
    prompts = [
        torch.randint(3, 380, (n,), generator=generator).tolist() for n in (context - 2, 5, context, context - 9)
    ]
    found = greedy(model, prompts, 8)
    assert [len(ids) for ids in found] == [2, 8, 0, 8]
    assert found[1] == greedy(model, prompts[1:2], 8)[0]
    whole = scoring.answer(prompts[0], found[0])
    assert scoring.log_probs(model, [whole], 4096)[0][0] == pytest.approx(alone(model, whole), abs=1e-3)


def test_virtual_tokens_take_their_part_of_the_context():
    from peft import PromptTuningConfig, get_peft_model

    model = get_peft_model(build("gpt2"), PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=5)).eval()
    assert decoding.context(model) == 1019
    assert [len(ids) for ids in greedy(model, [[30] * 1017, [30, 31]], 4)] == [2, 4]


def test_without_a_context_an_answer_is_as_long_as_wanted():
    assert decoding.rooms([[1], [1] * 9], 5, None) == [5, 5]
    assert decoding.rooms([[1], [1] * 8, [1] * 12], 5, 10) == [5, 2, 0]
