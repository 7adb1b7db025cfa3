"""What is done to a base's weights before any run sees them: out of 4 or 8 bits, and room for new tokens.

Both end in new files. The weights of a local base are hard links to the user's own, which are removed here and never written.
"""

import tempfile
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from posttrain.models.base_folder import embeddings, load_tokenizer
from posttrain.models.base_inspection import first_line
from posttrain.runtime.atomic import read_json, write_json
from posttrain.runtime.console import say
from posttrain.runtime.errors import UserError

WEIGHTS = ("*.safetensors", "*.safetensors.index.json")
# Methods whose weights transformers computes on a CPU; the others keep what only their own kernels read.
DEQUANTISED = ("bitsandbytes", "mxfp4")


def method_of(folder: Path) -> str | None:
    """The scheme with which a model's weights are quantised, as its config.json says; None where they are not."""
    config = read_json(folder / "config.json")
    tables = [config, config.get("text_config")]
    found = [
        table[key]
        for table in tables
        if isinstance(table, dict)
        for key in ("quantization_config", "compression_config")
        if table.get(key)
    ]
    if not found:
        return None
    table = found[0] if isinstance(found[0], dict) else {}
    bits = any(table.get(key) for key in ("load_in_4bit", "load_in_8bit"))  # older files have no scheme
    return str(table.get("quant_method") or ("bitsandbytes" if bits else "unknown"))


def dequantise(folder: Path, name: str) -> None:
    """Write the weights of a quantised model in its own dtype, where they are quantised.

    Raises:
        UserError: the scheme is not one that can be undone here, or transformers cannot load the model.
    """
    scheme = method_of(folder)
    if scheme is None:
        return
    if scheme not in DEQUANTISED:
        raise UserError(
            "unreadable-model",
            f"base {name}",
            f"its weights are quantised by {scheme}, from which they cannot be computed back here",
            "take the model as it was before, or one that bitsandbytes or mxfp4 quantised",
        )
    model = _plain(_load_quantised(folder, scheme, name))
    replace(model, folder)
    say(f"{name}: the weights were quantised by {scheme}; they are computed back to {_name(model.dtype)}")


def _load_quantised(folder: Path, scheme: str, name: str) -> Any:
    from transformers import Mxfp4Config

    options = {"device_map": {"": "cpu"}}
    if scheme == "mxfp4":
        options["quantization_config"] = Mxfp4Config(dequantize=True)
    model = _load(folder, name, **options)
    return model.dequantize() if scheme == "bitsandbytes" else model


def _plain(model: Any) -> Any:
    """The same weights in a model that knows nothing of quantisation; the loaded one cannot be saved."""
    import torch

    config = model.config
    for table in (config, config.get_text_config()):
        if hasattr(table, "quantization_config"):
            del table.quantization_config
    with torch.device("meta"):
        plain = type(model)(config)
    plain.load_state_dict(model.state_dict(), assign=True, strict=False)
    plain.tie_weights()
    left = [key for key, parameter in plain.named_parameters() if parameter.is_meta]
    if left:
        raise UserError("unreadable-model", "", f"the dequantised model has no weights for {left[0]}")
    return plain.to(model.dtype)


def _load(folder: Path, name: str, **options: Any) -> Any:
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

    from posttrain.models.loading import is_reward

    family = AutoModelForSequenceClassification if is_reward(folder) else AutoModelForCausalLM
    try:
        return family.from_pretrained(folder, dtype="auto", use_safetensors=True, trust_remote_code=False, **options)
    except Exception as error:  # whatever a broken folder makes transformers raise
        traceback.print_exc()
        raise UserError(
            "unreadable-model", f"base {name}", f"its weights cannot be loaded: {first_line(error)}"
        ) from None


def replace(model: Any, folder: Path) -> None:
    """Put a model's weights and config.json in the place of the folder's; its other files stay."""
    from transformers import GenerationConfig

    if model.can_generate():
        model.generation_config = GenerationConfig()  # the folder's is kept; one with a fault could not be saved
    with tempfile.TemporaryDirectory(prefix=".model.", dir=folder.parent) as scratch:
        model.save_pretrained(scratch)
        for file in [file for pattern in WEIGHTS for file in folder.glob(pattern)]:
            file.unlink()
        for file in [file for pattern in (*WEIGHTS, "config.json") for file in Path(scratch).glob(pattern)]:
            file.chmod(0o644)
            file.replace(folder / file.name)


def _name(dtype: Any) -> str:
    return str(dtype).removeprefix("torch.")


# ---- new tokens


def add_tokens(folder: Path, special: list[str], name: str, words: Sequence[str] = ()) -> None:
    """Add tokens to the tokenizer, with embeddings that start as the mean of those of their pieces (Gee et al. 2022).

    config.json gets `new_tokens`, their ids: lora and qlora train these rows (see token_rows.py). Tokens that the tokenizer has
    and the embedding does not, because somebody has added them there alone, get their embeddings here too.

    Raises:
        UserError: a token has an embedding already, or the model cannot be given more.
    """
    import torch
    from transformers import AddedToken

    tokens = [*special, *words]
    tokenizer, rows = load_tokenizer(folder, name), embeddings(folder)
    known = [token for token in tokens if tokenizer.get_vocab().get(token, rows) < rows]
    if known:
        raise UserError(
            "token-without-embedding",
            f"base {name}",
            f"{'new_tokens' if known[0] in special else 'new_words'}: the tokenizer has '{known[0]}' already, with an embedding",
            "take it out of the list",
        )
    pieces = {token: _pieces(tokenizer, token, rows) for token in _without_embedding(tokenizer, rows, tokens)}
    tokenizer.add_tokens([AddedToken(token, special=token in special, normalized=False) for token in tokens])
    ids = {token: tokenizer.convert_tokens_to_ids(token) for token in pieces}
    model = _load(folder, name)
    size = max(rows, *(i + 1 for i in ids.values()))
    with torch.no_grad():
        means = [_means(layer, list(pieces.values()), rows) for layer in _tables(model)]
        if size > rows:
            model.resize_token_embeddings(size, mean_resizing=False)
        for layer, mean in zip(_tables(model), means, strict=True):
            for part, values in mean.items():
                getattr(layer, part)[list(ids.values())] = values.to(getattr(layer, part).dtype)
        shape = model(input_ids=torch.tensor([list(ids.values())])).logits.shape
    if shape[-1] not in (size, 1):
        raise UserError(
            "unsupported-model",
            f"base {name}",
            f"{'new_tokens' if special else 'new_words'}: a {type(model).__name__} cannot be given more tokens",
            "take them out",
        )
    replace(model, folder)
    tokenizer.save_pretrained(folder)
    chosen = sorted(ids[token] for token in tokens)
    write_json(folder / "config.json", read_json(folder / "config.json") | {"new_tokens": chosen})
    say(
        f"{name}: {len(tokens)} new tokens, {', '.join(tokens[:8])}; the model has embeddings for {size} tokens, before for {rows}"
    )


def _without_embedding(tokenizer: Any, rows: int, tokens: list[str]) -> list[str]:
    """`tokens`, and those that the tokenizer has beyond the embedding."""
    beyond = [token for token, i in tokenizer.get_vocab().items() if i >= rows]
    return list(dict.fromkeys([*tokens, *sorted(beyond)]))


def _pieces(tokenizer: Any, token: str, rows: int) -> list[int]:
    """Ids of the pieces of a token's text that have an embedding; a token that is one already is cut before its last character."""
    ids = tokenizer(token, add_special_tokens=False)["input_ids"]
    if any(i >= rows for i in ids):
        ids = [i for part in (token[:-1], token[-1:]) for i in tokenizer(part, add_special_tokens=False)["input_ids"]]
    return [i for i in ids if i < rows]


def _tables(model: Any) -> list[Any]:
    """The input embedding, and the LM head where it has weights of its own."""
    table, head = model.get_input_embeddings(), model.get_output_embeddings()
    return [table] if head is None or head.weight is table.weight else [table, head]


def _means(layer: Any, pieces: list[list[int]], rows: int) -> dict[str, Any]:
    """For each token the mean of its pieces' rows in float32; of all rows where it has no pieces.

    Returns:
        `weight` (tokens, d), and `bias` (tokens,) where the layer has one.
    """
    import torch

    parts = {
        part: getattr(layer, part).float() for part in ("weight", "bias") if getattr(layer, part, None) is not None
    }
    return {
        part: torch.stack([(values[ids] if ids else values[:rows]).mean(0) for ids in pieces])
        for part, values in parts.items()
    }
