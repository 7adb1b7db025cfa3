"""A model's shapes from its config.json alone: transformers builds the architecture on the meta device, where no weight exists."""

import json
import logging
from pathlib import Path
from typing import Any

from posttrain.models.base_inspection import check_config, first_line
from posttrain.models.shapes import Model, described
from posttrain.runtime.errors import UserError
from posttrain.runtime.resource_limits import limited

SECONDS, MEMORY = 120, 8 << 30  # to build an architecture; 36,945 tensors of a 235B mixture take 2 s and 1 GiB


def model_of(source: str | Path) -> Model:
    """The model that a config.json describes, with the same shapes and names as its safetensors files have.

    Weights that are quantised are counted as `make_base` computes them back, in the type that config.json names.

    Args:
        source: a config.json, a folder that holds one, a folder in the layout of the hub's cache, or a hub id, of which only
            config.json is downloaded, where it is not in the cache.

    Raises:
        UserError: there is no config.json, or transformers itself has no language model of its type.
    """
    file = config_file(str(source))
    try:
        config = json.loads(file.read_text())
    except (ValueError, RecursionError) as error:
        raise UserError("unreadable-model", f"{file}", f"not valid JSON: {first_line(error)}") from None
    if not isinstance(config, dict):
        raise UserError("unreadable-model", f"{file}", "it does not hold a JSON object")
    check_config(config, file.name, str(source))
    config.pop("quantization_config", None)
    tensors = _tensors(file, config.get("model_type"), str(source))
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    return described(config, shapes, sum(tensor.nbytes for tensor in tensors.values()))


def config_file(source: str) -> Path:
    """The config.json of `source`, see `model_of`."""
    path = Path(source).expanduser()
    if path.is_file():
        return path
    if path.is_dir():
        return _in_folder(path)
    if source.startswith((".", "/", "~")) or source.count("/") > 1:
        raise UserError("missing-file", source, "there is no such file or folder")
    return _of_hub(source)


def _in_folder(folder: Path) -> Path:
    snapshots = sorted((folder / "snapshots").glob("*/config.json"))
    revision = folder / "refs/main"
    main = folder / "snapshots" / revision.read_text().strip() / "config.json" if revision.exists() else None
    for file in (folder / "config.json", main, *snapshots):
        if file is not None and file.exists():
            return file
    raise UserError("missing-file", f"{folder}", "there is no config.json", "name a model's folder, or its config.json")


def _of_hub(model: str) -> Path:
    from huggingface_hub import hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    logging.getLogger("huggingface_hub.utils._http").setLevel(logging.ERROR)  # it tells of each retry
    try:
        cached = try_to_load_from_cache(model, "config.json")
        return Path(cached if isinstance(cached, str) else hf_hub_download(model, "config.json"))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError):
        raise UserError(
            "missing-file",
            model,
            "its config.json is neither a local file, nor in the hub's cache, nor on the hub",
            "check the id, the network and HF_TOKEN, name a local config.json, or write a size such as 8B",
        ) from None


def _tensors(file: Path, kind: Any, source: str) -> dict[str, Any]:
    """What `save_pretrained` would write, without values: tied weights once, experts and other parts named as in files."""
    for name in ("torchao", "torch.utils._pytree"):  # they warn of kernels for GPUs, which nothing here needs
        logging.getLogger(name).setLevel(logging.ERROR)
    import torch
    from transformers import CONFIG_MAPPING, AutoConfig, AutoModelForCausalLM
    from transformers.utils import logging as transformers_logging

    from posttrain.compat.transformers_internals import as_in_files

    transformers_logging.set_verbosity_error()
    if kind not in CONFIG_MAPPING:
        raise UserError("unreadable-model", source, f"transformers itself has no architecture named {kind}")
    with limited(f"{source}: building its architecture", SECONDS, MEMORY):
        try:
            built = AutoConfig.from_pretrained(file, trust_remote_code=False)
            with torch.device("meta"):
                model = AutoModelForCausalLM.from_config(built, dtype=_dtype(built), trust_remote_code=False)
            return as_in_files(model)
        except (TimeoutError, MemoryError):
            raise
        except Exception as error:  # whatever a configuration makes transformers raise
            raise UserError(
                "unreadable-model",
                source,
                f"transformers makes no language model of its config.json (model_type {kind}): {first_line(error)}",
            ) from None


def _dtype(config: Any) -> Any:
    """Of the weights: float32 where nothing says it, as transformers loads them."""
    import torch

    return config.dtype or config.get_text_config().dtype or torch.float32
