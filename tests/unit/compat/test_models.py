"""Internals of transformers, tokenizers, bitsandbytes and TRL's fused head are as compat/ takes them to be."""

import inspect

import torch
from bitsandbytes.nn import Linear4bit
from tokenizers import ByteLevelBPETokenizer, Tokenizer
from transformers import LlamaConfig
from trl.trainer.utils import FusedCausalLMOutput

from posttrain.compat import transformers_internals as internals
from posttrain.compat.forward_patches import replace_forward
from posttrain.compat.trl_fused_head import fused_output


def test_a_model_tells_its_attention(random_tiny_model):
    assert internals.attention_of(random_tiny_model.config) == "sdpa"
    assert internals.attention_of(LlamaConfig(attn_implementation="eager")) == "eager"


def test_neutral_values_of_a_generation_change_nothing():
    neutral = internals.neutral_generation()
    assert (neutral["num_beams"], neutral["do_sample"], neutral["repetition_penalty"]) == (1, False, 1.0)


def test_bitsandbytes_has_the_attribute_that_is_set():
    assert "support_avx512bf16_for_cpu" in inspect.getsource(Linear4bit)
    layer = Linear4bit(64, 64)
    layer.support_avx512bf16_for_cpu = True
    internals.keep_4_bit_layout(torch.nn.Sequential(layer))
    assert layer.support_avx512bf16_for_cpu is False


def test_a_trained_tokenizer_holds_the_one_that_transformers_takes():
    assert isinstance(internals.raw_tokenizer(ByteLevelBPETokenizer()), Tokenizer)


def test_only_one_module_is_changed_and_shows_the_given_signature():
    one, other = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)

    def doubled(self, *args, **kwargs):
        return 2 * torch.nn.Linear.forward(self, *args, **kwargs)

    replace_forward(one, doubled, signature=torch.nn.Linear.forward)
    other.load_state_dict(one.state_dict())
    x = torch.ones(1, 2)
    torch.testing.assert_close(one(x), 2 * other(x))
    assert list(inspect.signature(one.forward).parameters) == ["input"]


def test_the_result_of_trls_fused_head_has_these_fields():
    trained = torch.tensor([[False, True], [True, True]])
    output = fused_output(torch.tensor([-1.0, -2.0, -3.0]), torch.tensor([True, False, True]), trained)
    assert isinstance(output, FusedCausalLMOutput)
    assert output.loss == 2 and output.log_probs.tolist() == [[0, -1], [-2, -3]]
    assert output.is_top1.tolist() == [[False, True], [False, True]] and output.label_mask is trained
