"""Tiny models of random weights, one of each family, and what each gives one sequence alone."""

import torch
from transformers import AutoConfig, AutoModelForCausalLM, set_seed

from posttrain.inference import scoring

SIZES = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "vocab_size": 384, "max_position_embeddings": 256, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
HEAD = SIZES | {"head_dim": 8}
WINDOW = {"sliding_window": 8, "layer_types": ["sliding_attention", "full_attention"]}
EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 2}
OPT = {
    "hidden_size": 32, "ffn_dim": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": 384,
    "max_position_embeddings": 256, "word_embed_proj_dim": 32, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
GPT2 = {"n_embd": 32, "n_layer": 2, "n_head": 2, "vocab_size": 384, "bos_token_id": 1, "eos_token_id": 2}
MAMBA = {"mamba_d_ssm": 64, "mamba_n_heads": 4, "mamba_d_head": 16, "mamba_n_groups": 1, "mamba_d_state": 16}
FAMILIES = {
    "llama": SIZES,
    "mistral": SIZES | {"sliding_window": 8},
    "qwen2": SIZES,
    "qwen3": HEAD,
    "gemma2": HEAD | {"sliding_window": 8, "final_logit_softcapping": 3.0, "query_pre_attn_scalar": 8},
    "gemma3_text": HEAD | WINDOW | {"query_pre_attn_scalar": 8},
    "phi3": SIZES,
    "smollm3": SIZES,
    "olmo2": SIZES,
    "granite": SIZES | {"logits_scaling": 4.0},
    "cohere": SIZES | {"logit_scale": 0.25},
    "gpt2": GPT2,
    "gpt_neox": SIZES,
    "opt": OPT,
    "falcon_h1": HEAD | MAMBA | {"mamba_chunk_size": 8, "lm_head_multiplier": 0.5},
    "lfm2": SIZES | {"layer_types": ["conv", "full_attention"], "block_multiple_of": 16},
    "mixtral": SIZES | EXPERTS,
    "qwen3_moe": HEAD | {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32},
    "gpt_oss": HEAD | WINDOW | EXPERTS | {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}},
}


class Numbers:
    """A tokenizer whose text is the ids themselves."""

    eos_token_id, pad_token_id, added_tokens_decoder = 2, 0, {}

    def decode(self, ids: list[int], skip_special_tokens: bool = False) -> str:
        return " ".join(map(str, ids))


def build(family: str):
    """A model of random weights, large enough that what a token sees shows."""
    set_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **FAMILIES[family])).eval()
    for parameter in model.parameters():
        if parameter.dim() > 1:
            parameter.data.mul_(4)
    return model


def alone(model, sequence: scoring.Sequence) -> float:
    """The log-probability of a sequence's labels, from the model's own logits."""
    ids, labels = sequence
    with torch.no_grad():
        values = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0].double().log_softmax(-1)
    return sum(values[i - 1, ids[i]].item() for i in range(1, len(ids)) if labels[i] != -100)
