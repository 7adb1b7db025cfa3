"""What the backward pass needs of a layer: the count beside what PyTorch saves."""

import families
import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM

from posttrain.compat.transformers_internals import as_in_files
from posttrain.models import activations
from posttrain.models.memory_estimate import adapted
from posttrain.models.shapes import described

LENGTH, NEAR = 128, 0.15
WIDE = {
    "hidden_size": 128,
    "intermediate_size": 320,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 512,
}
OWN = {
    "gpt2": {"n_embd": 128, "n_head": 4, "vocab_size": 512, "attn_pdrop": 0.0, "resid_pdrop": 0.0},
    "opt": {
        "hidden_size": 128,
        "ffn_dim": 320,
        "word_embed_proj_dim": 128,
        "num_attention_heads": 4,
        "vocab_size": 512,
    },
    **dict.fromkeys(("qwen3", "gemma3_text", "gpt_oss"), WIDE | {"head_dim": 32}),
    "gemma2": WIDE | {"head_dim": 32, "query_pre_attn_scalar": 32},
    "qwen3_moe": WIDE | {"head_dim": 32, "moe_intermediate_size": 160},
}
HYBRID = ("falcon_h1", "lfm2")  # their convolutions and states are not counted
MIXTURES = ("mixtral", "qwen3_moe", "gpt_oss")  # PEFT's all-linear would adapt their experts, and ours does not


def build(family: str, layers: int, dtype: torch.dtype):
    sizes = families.FAMILIES[family] | OWN.get(family, WIDE)
    sizes |= {"n_layer" if family == "gpt2" else "num_hidden_layers": layers}
    sizes |= {"layer_types": ["full_attention"] * layers} if "layer_types" in sizes else {}
    sizes |= {"sliding_window": 512} if "sliding_window" in sizes else {}
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **sizes), dtype=dtype)


def saved(model, bf16: bool) -> int:
    """Bytes that the backward pass needs of two rows, one of them with padding; what small tensors hold is left out."""
    ids = torch.arange(2 * LENGTH).view(2, LENGTH) % 60 + 3
    mask = torch.ones_like(ids)
    mask[1, -5:] = 0
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    found = {}

    def pack(tensor):
        if tensor.untyped_storage().data_ptr() not in weights and tensor.numel() >= 8 * ids.numel():
            found[tensor.untyped_storage().data_ptr()] = (tensor.untyped_storage().nbytes(), tensor)
        return tensor

    causal = model.get_base_model() if hasattr(model, "peft_config") else model
    with (
        torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor),
        torch.autocast("cpu", torch.bfloat16, enabled=bf16),
    ):
        kept = causal.base_model(ids, attention_mask=mask, use_cache=False)
    assert kept is not None
    return sum(size for size, _ in found.values())


@pytest.mark.parametrize("method", ["lora", "full"])
@pytest.mark.parametrize("family", [name for name in families.FAMILIES if name not in HYBRID])
def test_a_layer_keeps_what_is_counted(family, method):
    if method == "lora" and family in MIXTURES:
        pytest.skip("PEFT's all-linear is not ours")
    bf16, dtype = method == "lora", torch.bfloat16 if method == "lora" else torch.float32
    spec = {"method": method, "objective": "sft", "peft_args": {}}
    spec |= {"dropout": 0, "rank": 2, "target_modules": "all-linear"} if method == "lora" else {}
    totals = []
    for layers in (2, 4):
        model = build(family, layers, dtype)
        shapes = {name: tuple(tensor.shape) for name, tensor in as_in_files(model).items()}
        size = sum(parameter.numel() for parameter in model.parameters()) * dtype.itemsize
        read = described(model.config.to_dict(), shapes, size)
        if method == "lora":
            model = get_peft_model(model, LoraConfig(r=2, target_modules="all-linear"))
        totals.append(saved(model.train(), bf16))
    traced = (totals[1] - totals[0]) / 2 / (2 * LENGTH)
    counted = activations.of_a_layer(spec, read, adapted(spec, read), LENGTH, activations.How("gpu", dtype.itemsize))
    assert abs(counted / traced - 1) < NEAR, (counted, traced)


def test_ligers_layers_keep_less():
    model = described(
        build("llama", 2, torch.float32).config.to_dict(), {"m.0.a.weight": (320, 128), "e": (512, 128)}, 0
    )
    spec = {"method": "full", "objective": "sft"}
    plain, liger = (
        activations.of_a_layer(spec, model, [], 64, activations.How("gpu", 2, True, liger)) for liger in (False, True)
    )
    assert liger < 0.9 * plain
