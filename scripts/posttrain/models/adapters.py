"""Folders of exported adapters: the base that each belongs to, and loading them over it and over no other.

PEFT loads an adapter over any model whose matrices have the same shapes, and the answers are then wrong without an error. So an
exported adapter has `posttrain.json` beside `adapter_config.json`, with the SHA-256 of the weights that it belongs to.
"""

from pathlib import Path
from typing import Any

import torch

from posttrain.models import loading
from posttrain.runtime.atomic import read_json
from posttrain.runtime.errors import UserError
from posttrain.runtime.hashes import sha256

FILE = "posttrain.json"
NO_ADAPTER = "__base__"  # PEFT's name for a row that the base answers
# Fields of a LoRA's configuration with which a row needs more than the product of its two matrices. PEFT holds what they add in
# wrappers that act by the model's active adapter, not by a row's.
SPECIAL = (
    *("use_dora", "modules_to_save", "trainable_token_indices", "target_parameters", "lora_bias", "arrow_config"),
    *(
        "alora_invocation_tokens",
        "use_bdlora",
        "velora_config",
        "monteclora_config",
        "kasa_config",
        "layer_replication",
    ),
)

# Values of init_lora_weights with which PEFT leaves the base's weights as they are when it loads an adapter.
UNCHANGED_BASE = (True, False, None, "gaussian", "eva", "orthogonal")


def beyond_lora(config: dict[str, Any]) -> str | None:
    """What an adapter is besides plain LoRA, by its adapter_config.json; None for one that can share a batch with others."""
    if config["peft_type"] != "LORA":
        return f"peft_type: {config['peft_type']}"
    if config.get("bias", "none") != "none":
        return f"bias: {config['bias']}"
    if (
        config.get("init_lora_weights") not in UNCHANGED_BASE
    ):  # PEFT changes the weights of the base, which others share
        return f"init_lora_weights: {config['init_lora_weights']}"
    return next((key for key in SPECIAL if config.get(key)), None)


def weights(files: dict[str, str]) -> dict[str, str]:
    """Of the hashes of a model's files, those of its weights."""
    return {
        name: value for name, value in files.items() if name.endswith(".safetensors") and name != "update.safetensors"
    }


def record(adapter: Path) -> dict[str, Any]:
    """What an exported adapter says of itself: `base` with `name`, `files`, and `held` where the base is held in 4 bits.

    Raises:
        UserError: it was not exported.
    """
    if not (adapter / FILE).is_file():
        raise UserError(
            "wrong-base",
            f"{adapter}",
            f"it has no {FILE}, so nothing says which base the adapter belongs to",
            "export the run's adapter: snakemake results/RUN/export/adapter",
        )
    return read_json(adapter / FILE)


def check_base(adapter: Path, base: Path, hashes: dict[str, str] | None = None) -> dict[str, Any]:
    """Refuse a base that is not the one an adapter belongs to; returns the adapter's record.

    Args:
        hashes: SHA-256 of the base's files, by their names, where a manifest has them; else the weights are read.

    Raises:
        UserError: the weights differ, or the adapter does not say what it belongs to.
    """
    found = record(adapter)
    given = weights(hashes) if hashes else {file.name: sha256(file) for file in sorted(base.glob("*.safetensors"))}
    if weights(given) != found["base"]["files"]:
        raise UserError(
            "wrong-base",
            f"{adapter}",
            f"the adapter belongs to {found['base']['name']}, and the weights in {base} are others",
            "load it over the model whose weights have the SHA-256 that its posttrain.json names",
        )
    return found


def load_base(base: Path, found: dict[str, Any], dtype: Any = torch.float32) -> Any:
    """The base of an adapter, as the adapter's record says that it is held.

    Args:
        found: what `check_base` returned.
    """
    held = found["base"].get("held")
    if held:  # in 4 bits and computed back, as the parent was while the adapter was trained
        spec = {"method": held["method"], "precision": held["precision"], "peft_args": {}}
        return loading.dequantised(loading.parent(base, spec, found["reward"])).to(dtype).eval()
    arithmetic = "bf16" if dtype == torch.bfloat16 else "fp32"
    return loading.load(base, dtype, reward=found["reward"], arithmetic=arithmetic).eval()


def load(base: Path, adapter: Path, dtype: Any = torch.float32, hashes: dict[str, str] | None = None) -> Any:
    """The PEFT model of a base and an exported adapter.

    Raises:
        UserError: see `check_base`.
    """
    return loading.add_adapter(load_base(base, check_base(adapter, base, hashes), dtype), adapter).eval()


def load_several(
    base: Path, adapters: dict[str, Path], dtype: Any = torch.float32, base_name: str | None = None
) -> tuple[Any, dict[str, str]]:
    """One base with several plain LoRA adapters, for batches in which each row has its own (PEFT's `adapter_names`).

    Args:
        adapters: folders by the names that people call them.
        base_name: what people call the base without an adapter.

    Returns:
        The PEFT model, and PEFT's name of each of people's names, which may have characters that PEFT refuses.

    Raises:
        UserError: see `check_base`; an adapter that is more than LoRA, needs the base in another form than the
            first, or has its name.
    """
    from peft import PeftModel

    if base_name in adapters:
        raise UserError("unsupported-adapter", base_name, "the base and an adapter have the same name")
    hashes = {file.name: sha256(file) for file in sorted(base.glob("*.safetensors"))}
    records = {name: check_base(folder, base, hashes) for name, folder in adapters.items()}
    for name, folder in adapters.items():
        if special := beyond_lora(read_json(folder / "adapter_config.json")):
            raise UserError(
                "unsupported-adapter",
                name,
                f"it is more than plain LoRA ({special}), and PEFT mixes only that in one batch",
                "serve its merged model by itself",
            )
    forms = {name: (found["base"].get("held"), found["reward"]) for name, found in records.items()}
    for name, form in forms.items():
        if form != next(iter(forms.values())):
            raise UserError(
                "unsupported-adapter",
                name,
                f"it needs the base in another form than {next(iter(forms))}, in 4 bits or with another head",
                "load its merged model by itself",
            )
    internal = {name: f"adapter_{i}" for i, name in enumerate(adapters)}
    first, *others = adapters
    model = load_base(base, records[first], dtype)
    model = PeftModel.from_pretrained(model, adapters[first], adapter_name=internal[first], torch_device=loading.DEVICE)
    for name in others:
        model.load_adapter(adapters[name], adapter_name=internal[name], torch_device=loading.DEVICE)
    return model.eval(), internal | ({base_name: NO_ADAPTER} if base_name else {})
