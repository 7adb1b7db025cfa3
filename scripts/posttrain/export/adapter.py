"""The export `adapter`: what training added, as PEFT loads it, and the hash of the base that it belongs to.

A run that starts from another run adds to that run's merged model, which only its owner has. Where the runs of a chain are plain
LoRA, their adapters are written as one, over the model that the first of them started from: one base then serves all of them.
posttrain.json says which model that is, by the SHA-256 of its weights, and README.md which servers take the adapter.
"""

from pathlib import Path
from typing import Any

import torch

from posttrain.export import adapter_servers
from posttrain.export.sources import Sources
from posttrain.methods import METHODS, only_adds
from posttrain.models import adapters, combined_lora, loading
from posttrain.objectives import OBJECTIVES
from posttrain.runtime.atomic import link, read_json, write_json
from posttrain.runtime.console import say
from posttrain.runtime.errors import UserError
from posttrain.runtime.hashes import visible_files

EXACT, ROUNDING = 0.01, 2**-22  # largest distance, as a share of what training changed, and of the weights themselves


def write(sources: Sources, folder: Path) -> None:
    """Write the adapter of a run into `folder`.

    Args:
        sources: `stages` are the runs whose adapters become one, `parent` the model that it belongs to.

    Raises:
        UserError: base and adapter do not give the trained model.
    """
    spec, base = sources.spec, _base(sources, read_json(sources.stages[0].parent / "spec.json"))
    config = read_json(sources.trained / combined_lora.CONFIG)
    if len(sources.stages) > 1 or (only_adds(spec) and not combined_lora.is_uniform(config)):
        combined_lora.combine(sources.stages, folder, base["name"])
    else:
        link(sources.trained / combined_lora.WEIGHTS, folder / combined_lora.WEIGHTS)
        write_json(folder / combined_lora.CONFIG, config | {"base_model_name_or_path": base["name"]})
    _carry(sources.model, folder)
    config = read_json(folder / combined_lora.CONFIG)
    record = {
        "run": sources.trained.parent.name,
        "stages": [stage.parent.name for stage in sources.stages],
        "reward": OBJECTIVES[spec["objective"]].scores,
        "base": base,
        "servers": adapter_servers.servers(config, folder / combined_lora.WEIGHTS, base),
    }
    write_json(folder / adapters.FILE, record)
    if METHODS[spec["method"]].mergeable:
        record["weights"] = check(sources, folder)
        write_json(folder / adapters.FILE, record)
    (folder / "README.md").write_text(adapter_servers.card(record, config, spec))


def _base(sources: Sources, first: dict[str, Any]) -> dict[str, Any]:
    """What posttrain.json says of the base: a name without a path, the hashes of its weights, how it is held.

    The id on the hub is the name only where the weights are those on the hub: a base with new tokens has others.

    Args:
        first: the spec of the first run that is part of the adapter.
    """
    before, run = read_json(sources.before), METHODS[first["method"]]
    changed = "new_tokens" in read_json(sources.parent / "config.json")
    hub = before.get("base_model") if "source" in before and not changed else None
    in_4_bits = run.four_bit and first.get("merge_into") != "original"
    return {
        "name": hub or sources.parent.parent.name,
        "is_run": "source" not in before,
        "files": adapters.weights(before["files"]),
        "held": {"method": first["method"], "precision": loading.precision(first["precision"])} if in_4_bits else None,
    }


def _carry(model: Path, folder: Path) -> None:
    """Take tokenizer, chat templates and generation configuration: those of the base on the hub may differ from the run's."""
    for file in visible_files(model):
        own = ".safetensors" in file.name or file.name in ("README.md", "config.json", combined_lora.CONFIG)
        if not own and "base" not in file.relative_to(model).parts:
            link(file, folder / file.relative_to(model))


def check(sources: Sources, folder: Path) -> dict[str, float]:
    """Compare the weights of base and adapter, merged, with those of the trained model.

    Returns:
        `relative`, their distance as a share of what training changed, and `rounding`, as a share of the weights.

    Raises:
        UserError: they are not the same model.
    """
    found = adapters.record(folder)
    trained = loading.load(sources.model, torch.float32, device="cpu").state_dict()
    effect, size = _distance(adapters.load_base(sources.parent, found), trained)
    with_adapter = adapters.load(sources.parent, folder, hashes=read_json(sources.before)["files"])
    off, _ = _distance(with_adapter.merge_and_unload(), trained)
    distance = {"relative": off / effect if effect else 0.0, "rounding": off / size}
    say(
        f"{found['run']}: base and adapter are {distance['relative']:.2g} of what training changed from the trained model"
    )
    if not (distance["relative"] <= EXACT or distance["rounding"] <= ROUNDING):  # NaN is neither
        raise UserError(
            "export-limit",
            found["run"],
            f"the weights of base and adapter are {distance['relative']:.1%} of what training changed away from the trained model",
            "export the merged model instead",
        )
    return distance


def _distance(model: Any, trained: dict[str, torch.Tensor]) -> tuple[float, float]:
    """Distance of a model's weights from the trained ones, and the size of those (Euclidean norms)."""
    ours = model.to("cpu").state_dict()
    off = sum((ours[name] - wanted).double().square().sum().item() for name, wanted in trained.items())
    size = sum(wanted.double().square().sum().item() for wanted in trained.values())
    return off**0.5, size**0.5
