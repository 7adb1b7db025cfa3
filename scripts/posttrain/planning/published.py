"""Published shapes of decoders, for a model of which only the size is known, and the `Model` that memory is estimated from."""

import functools
import math
import re
from typing import NamedTuple

from posttrain.models.shapes import Model


class Shape(NamedTuple):
    """A decoder of the Llama family as its config.json describes it."""

    name: str
    hidden: int
    intermediate: int
    layers: int
    heads: int
    key_value_heads: int
    head: int
    vocabulary: int
    tied: bool
    biases: bool
    """of queries, keys and values"""


SHAPES = {
    "135M": Shape("HuggingFaceTB/SmolLM2-135M-Instruct", 576, 1536, 30, 9, 3, 64, 49152, True, False),
    "0.6B": Shape("Qwen/Qwen3-0.6B", 1024, 3072, 28, 16, 8, 128, 151936, True, False),
    "1B": Shape("meta-llama/Llama-3.2-1B-Instruct", 2048, 8192, 16, 32, 8, 64, 128256, True, False),
    "1.7B": Shape("HuggingFaceTB/SmolLM2-1.7B-Instruct", 2048, 8192, 24, 32, 32, 64, 49152, True, False),
    "3B": Shape("meta-llama/Llama-3.2-3B-Instruct", 3072, 8192, 28, 24, 8, 128, 128256, True, False),
    "4B": Shape("Qwen/Qwen3-4B", 2560, 9728, 36, 32, 8, 128, 151936, True, False),
    "7B": Shape("Qwen/Qwen2.5-7B-Instruct", 3584, 18944, 28, 28, 4, 128, 152064, False, True),
    "8B": Shape("meta-llama/Llama-3.1-8B-Instruct", 4096, 14336, 32, 32, 8, 128, 128256, False, False),
    "14B": Shape("Qwen/Qwen3-14B", 5120, 17408, 40, 40, 8, 128, 151936, False, False),
    "32B": Shape("Qwen/Qwen2.5-32B-Instruct", 5120, 27648, 64, 40, 8, 128, 152064, False, True),
    "65B": Shape("huggyllama/llama-65b", 8192, 22016, 80, 64, 64, 128, 32000, False, False),
    "70B": Shape("meta-llama/Llama-3.1-70B-Instruct", 8192, 28672, 80, 64, 8, 128, 128256, False, False),
}
FAR = 1.6  # how many times larger or smaller than the nearest shape a model may be
UNITS = {"m": 1e-3, "b": 1.0, "t": 1e3}
# A size in a name, such as 1.7B, 135M or 8x7B; not the 4b of `4bit`, nor the active parameters of 30B-A3B.
SIZE = re.compile(r"(?<![A-Za-z0-9.])(?:(\d+)x)?(\d+(?:\.\d+)?)\s*([mbt])(?![a-z])", re.IGNORECASE)


def named(text: str) -> float | None:
    """The size that a name states, in 1e9 parameters; the largest of several.

    >>> named("SmolLM2-1.7B"), named("135M"), named("Mixtral-8x7B-v0.1"), named("Qwen3-30B-A3B"), named("llama-3-8b-bnb-4bit")
    (1.7, 0.135, 56.0, 30.0, 8.0)
    >>> named("phi-4")
    """
    sizes = [int(times or 1) * float(number) * UNITS[unit.lower()] for times, number, unit in SIZE.findall(text)]
    return max(sizes, default=None)


def nearest(size: float) -> Shape | None:
    """The shape whose size is nearest to `size`, in 1e9 parameters; None where none is near."""
    if not size > 0:
        return None
    far = {shape: abs(math.log(model(shape).parameters / 1e9 / size)) for shape in SHAPES.values()}
    shape = min(far, key=far.get)
    return shape if far[shape] <= math.log(FAR) else None


class Remembered(Model):
    """A model that works out once what the estimates of many settings ask for."""

    parameters = functools.cached_property(Model.parameters.fget)
    matrices = functools.cached_property(Model.matrices.fget)
    modules = functools.cached_property(Model.modules.fget)


@functools.cache
def model(shape: Shape) -> Model:
    """The model of a shape with weights in bfloat16."""
    queries, others = shape.heads * shape.head, shape.key_value_heads * shape.head
    matrices = {
        "self_attn.q_proj": (queries, shape.hidden),
        "self_attn.k_proj": (others, shape.hidden),
        "self_attn.v_proj": (others, shape.hidden),
        "self_attn.o_proj": (shape.hidden, queries),
        "mlp.gate_proj": (shape.intermediate, shape.hidden),
        "mlp.up_proj": (shape.intermediate, shape.hidden),
        "mlp.down_proj": (shape.hidden, shape.intermediate),
    }
    layer = {f"{name}.weight": size for name, size in matrices.items()}
    layer |= {f"{name}_layernorm.weight": (shape.hidden,) for name in ("input", "post_attention")}
    if shape.biases:
        layer |= {f"self_attn.{name}_proj.bias": (matrices[f"self_attn.{name}_proj"][0],) for name in "qkv"}
    shapes = {f"model.layers.{i}.{name}": size for i in range(shape.layers) for name, size in layer.items()}
    embeddings = ("model.embed_tokens.weight", *(() if shape.tied else ("lm_head.weight",)))
    shapes |= dict.fromkeys(embeddings, (shape.vocabulary, shape.hidden)) | {"model.norm.weight": (shape.hidden,)}
    size = 2 * sum(map(math.prod, shapes.values()))
    config = {
        "model_type": "llama",
        "dtype": "bfloat16",
        "hidden_size": shape.hidden,
        "intermediate_size": shape.intermediate,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.key_value_heads,
        "head_dim": shape.head,
        "vocab_size": shape.vocabulary,
        "tie_word_embeddings": shape.tied,
    }
    return Remembered(config, shapes, size, shape.layers, shape.hidden, shape.intermediate, shape.vocabulary)
