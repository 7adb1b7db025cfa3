"""Learnt positions: rows that are padded on the left have the log-probabilities that they have alone."""

import pytest
import torch
from conftest import refused
from transformers import AutoConfig, AutoModelForCausalLM, set_seed
from trl.trainer.utils import add_fused_lm_head

from posttrain.inference import positions, scoring

SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "vocab_size": 96,
    "max_position_embeddings": 24,
}
SIZES |= {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
LEARNT = {
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 24, "vocab_size": 96},
    "gpt_neo": SIZES | {"num_layers": 2, "num_heads": 2, "attention_types": [[["global", "local"], 1]]},
    "gpt_bigcode": {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 24, "vocab_size": 96},
    "opt": SIZES | {"ffn_dim": 64, "word_embed_proj_dim": 32},
    "biogpt": SIZES | {"intermediate_size": 64},
}
COMPUTED = {
    "llama": SIZES | {"intermediate_size": 64},
    "gptj": {"n_embd": 32, "n_layer": 2, "n_head": 2, "rotary_dim": 8, "vocab_size": 96},
}


def build(name: str):
    set_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(name, **(LEARNT | COMPUTED)[name])).eval()
    for parameter in model.parameters():
        if parameter.dim() > 1:
            parameter.data.mul_(6)
    return model


@pytest.mark.parametrize("name", [*LEARNT, *COMPUTED])
def test_learnt_positions_are_counted(name):
    assert positions.learnt(build(name)) == (24 if name in LEARNT else None)


def fused(model, pad: int) -> torch.Tensor:
    """TRL's log-probabilities of a prompt's answer behind `pad` pad tokens."""
    ids = torch.tensor([[0] * pad + [5, 6, 7, 8, 9, 10]])
    labels = torch.tensor([[-100] * (pad + 3) + [8, 9, 10]])
    with torch.no_grad():
        output = model(input_ids=ids, attention_mask=(ids > 0).long(), labels=labels, fused_lm_head=True)
    return output.log_probs[0, -3:]


@pytest.mark.parametrize("name", [*LEARNT, *COMPUTED])
def test_behind_padding_a_row_has_its_own_log_probabilities(name):
    model = build(name)
    add_fused_lm_head(model)
    alone = fused(model, 0)
    if name in ("gpt2", "gpt_neo", "gpt_bigcode"):  # the others count from the mask themselves
        assert (fused(model, 5) - alone).abs().max() > 0.01
    positions.from_mask(model)
    torch.testing.assert_close(fused(model, 0), alone)
    torch.testing.assert_close(fused(model, 5), alone, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", LEARNT)
def test_answers_that_are_drawn_together_are_those_of_each_prompt_alone(name, random_tiny_tokenizer):
    model = build(name)
    positions.from_mask(model)
    prompts = [[5, 6, 7, 8, 9], [11, 12], [20]]
    options = {"do_sample": False, "max_new_tokens": 6}
    together = scoring.continue_prompts(model, random_tiny_tokenizer, prompts, [95], **options).tolist()
    for prompt, answer in zip(prompts, together, strict=True):
        assert scoring.continue_prompts(model, random_tiny_tokenizer, [prompt], [95], **options)[0].tolist() == answer


def test_more_tokens_than_learnt_positions_are_one_sentence():
    positions.check(build("gpt2"), 24, "dataset chats")
    positions.check(build("llama"), 1000, "dataset chats")
    with refused("too-long", "dataset chats"):
        positions.check(build("gpt2"), 25, "dataset chats")
