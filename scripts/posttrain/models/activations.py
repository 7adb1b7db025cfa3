"""What the backward pass of a decoder needs of its forward pass, in bytes of a token, counted from what each operation saves.

Korthikanti et al. 2023 (arXiv:2205.05198, section 4.1) count a layer of GPT-3 with 16-bit values; here the count is of transformers'
layers as they are: norms in float32 (`LlamaRMSNorm.forward`), attention by `scaled_dot_product_attention`, which saves queries, keys,
values and its result, and no matrix of scores (Dao et al. 2022, arXiv:2205.14135), a gated feed-forward block, and PEFT's adapters.
Of a token, with s bytes a value (2 in bfloat16, 4 in float32):

    norms           4 bytes of each input, which is normalised in float32, and s of a LayerNorm's; of trained RMSNorms as much again
    attention       s (queries + keys + values + result), keys and values repeated for each head of the queries, as where rows
                    have padding; s length, the mask
    eager attention of Gemma 2 and gpt-oss: the scores of each head, several times
    feed-forward    3 s width where the block is gated, else s width; of a mixture for each expert that a token goes to, with its
                    input and its output
    trained matrix  s inputs
    LoRA            s inputs of each matrix; with dropout, its mask as well

`tests/unit/models/test_activations.py` compares this with what PyTorch says that it saves. Convolutions and states of hybrid models
(LFM2, Falcon-H1) are not counted.
"""

import math
import re
from typing import Any, NamedTuple

from posttrain.methods import METHODS
from posttrain.models.shapes import Model
from posttrain.models.target_modules import CONV1D

# Vectors of a feed-forward block whose activation function is written out: NewGELUActivation, GptOssExperts.
UNFUSED = {"gpt2": 4, "gpt_oss": 6}


class How(NamedTuple):
    """How a forward pass is computed."""

    device: str
    """`cpu` or `gpu`"""
    size: int
    """bytes of a value"""
    casts: bool = False
    """what flows between layers is wider than what is multiplied, so that each matrix has a copy of its input of its own"""
    liger: bool = False
    """Liger's norms and feed-forward blocks, which compute again in the backward pass what they can"""


class Layer(NamedTuple):
    """Widths of a decoder layer, on average."""

    hidden: int
    queries: int
    """of all heads together"""
    keys: int
    wide: int
    """of the feed-forward block that a token goes through; of a mixture, of all its experts together"""
    experts: int
    """that a token goes through; 0 without a mixture"""
    norms: float
    """values that are normalised"""
    centred: bool
    """by LayerNorm"""
    gated: bool
    """the feed-forward block has two matrices at its beginning"""


def layer(model: Model) -> Layer:
    """The widths of a model's layers, by its configuration, or else by its shapes."""
    config, hidden = model.config, model.hidden
    heads = config.get("num_attention_heads") or config.get("n_head") or 1
    head = config.get("head_dim") or hidden // heads
    keys = (config.get("num_key_value_heads") or heads) * head
    experts = config.get("num_experts_per_tok") or 0
    wide = config.get("moe_intermediate_size") if experts else None
    wide = (
        wide or config.get("intermediate_size") or config.get("n_inner") or config.get("ffn_dim") or model.intermediate
    )
    norms = 0
    for name, shape in model.shapes.items():
        if len(shape) == 1 and re.search(r"\.\d+\..*(norm|ln)[^.]*\.weight$", name):
            own = {"q_norm": heads * head, "k_norm": keys}.get(name.split(".")[-2])
            norms += own if own and shape[0] == head else shape[0]
    centred = any(re.search(r"\.\d+\..*(norm|ln)[^.]*\.bias$", name) for name in model.shapes)
    block = sum(math.prod(shape) for shape in model.matrices.values() if wide in shape or 2 * wide in shape)
    gated = bool(experts) or block > 2.5 * model.layers * hidden * wide
    norms = norms / model.layers or 2 * hidden
    return Layer(hidden, heads * head, keys, wide * (experts or 1), experts, norms, centred, gated)


def inputs(model: Model, names: list[str]) -> float:
    """The widths of the inputs of these matrices, summed over them and divided by the number of layers."""
    side = 0 if model.config.get("model_type") in CONV1D else -1
    return sum(model.matrices[name][side] for name in names) / model.layers


def of_a_layer(spec: dict[str, Any], model: Model, adapted: list[str], length: int, how: How) -> float:
    """Bytes of a token in a layer.

    Args:
        adapted: the matrices that have an adapter.
        length: tokens of a row.
        how: it is computed.
    """
    method, at, size = METHODS[spec["method"]], layer(model), how.size
    norms = (4 if how.casts else size) if at.centred else 8 if method.full and not how.liger else 4
    vectors = UNFUSED.get(model.config.get("model_type"), (2 if how.liger else 3) if at.gated else 1)
    token = norms * at.norms + size * (4 * at.queries + vectors * at.wide + 2 * at.experts * at.hidden)
    token += size * length * (not spec.get("packing")) + _scores(model, length, size)
    if method.full:
        several = 5 if how.casts else 2  # queries, keys, values, and the two sides of a gated block
        return token + size * (several * at.hidden + at.wide)
    own = inputs(model, adapted)
    if method.low_rank and spec.get("dropout"):
        mask = (
            1 if how.device == "gpu" else 4 if how.casts or method.four_bit else size
        )  # a CPU's is as wide as what it masks
        return token + own * (mask + size)
    if method.low_rank or method.initial_rank > 1:
        alone = how.casts or how.device == "gpu"  # else matrices with the same input keep it once
        return token + size * (own if alone else min(own, 2 * at.hidden + at.queries + at.wide))
    if method.wraps_blocks:
        return token + size * 2 * at.hidden
    return token + (size * (2 * at.hidden + at.wide) if method.mergeable else 0)


def _scores(model: Model, length: int, size: int) -> float:
    """Of attention that keeps the scores of all tokens."""
    heads = model.config.get("num_attention_heads") or 1
    if model.config.get("attn_logit_softcapping"):
        return 8 * heads * length
    return size * heads * length if model.config.get("model_type") == "gpt_oss" else 0
