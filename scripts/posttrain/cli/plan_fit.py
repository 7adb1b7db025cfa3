"""`posttrain plan --model MODEL`: whether a training of it fits into a GPU, and what would make it fit."""

import argparse
import json
from typing import TYPE_CHECKING, Any

from posttrain.runtime.errors import UserError

if TYPE_CHECKING:
    from posttrain.models.shapes import Model
    from posttrain.planning.fit import Fit

KEYS = ("objective", "method", "rank", "max_length", "batch_size")
PARTS = {
    "weights": "of the model and its adapters",
    "gradients": "4 bytes for each trained parameter",
    "optimiser": "two moments for each trained parameter: 8 bytes, 2 in 8 bits",
    "copies": "reference and reward models",
    "activations": "what the backward pass needs of the forward pass",
    "logits": "of the LM head, and their gradient",
    "cache": "keys and values while completions are sampled, before the backward pass",
    "overhead": "the CUDA context and kernels",
}


def run(options: argparse.Namespace) -> None:
    """Print the answer, for people or as JSON."""
    if options.targets:
        problem = f"--model asks about a model, and {options.targets[0]} is a target of the configuration"
        raise UserError("conflicting-keys", "posttrain plan", problem, "write one of them")
    if options.gpu_memory is not None and not 0 < options.gpu_memory < 1e5:
        raise UserError("invalid-value", "--gpu-memory", f"{options.gpu_memory:g} GiB is no size of a GPU", "write GiB")
    from posttrain.guidance import facts
    from posttrain.planning.fit import fits, spec_of

    keys = {key: getattr(options, key) for key in KEYS if getattr(options, key) is not None}
    spec = spec_of({"method": "lora"} | keys | dict(map(_pair, options.set)))
    model, note = facts.shapes_of(options.model)
    budget = None if options.gpu_memory is None else options.gpu_memory * 2**30
    found = fits(spec, model, budget)
    print(
        json.dumps(as_json(options.model, spec, model, found))
        if options.json
        else text(options.model + note, spec, model, found)
    )


def _pair(text: str) -> tuple[str, Any]:
    import yaml

    key, found, value = text.partition("=")
    if not found:
        raise UserError("invalid-override", "--set", f"'{text}' is not KEY=VALUE", "write such as packing=true")
    try:
        return key, yaml.safe_load(value)
    except yaml.YAMLError:
        raise UserError("invalid-override", "--set", f"'{value}' is not a value in YAML") from None


def as_json(source: str, spec: dict[str, Any], model: "Model", found: "Fit") -> dict[str, Any]:
    """The answer for programs; memory in bytes."""
    from posttrain.planning.fit import described

    remedy = found.remedy and {"settings": found.remedy.settings, "total": round(found.remedy.total)}
    return {
        "model": source,
        "parameters": model.parameters,
        "run": described(spec),
        "parts": {part: round(found.need[part]) for part in PARTS if part in found.need},
        "total": round(found.need["total"]),
        "gpu_memory": found.budget and round(found.budget),
        "fits": found.fits,
        "remedy": remedy,
        "smallest_gpu_gib": found.smallest_gpu,
        "answering": round(found.answering),
    }


def text(source: str, spec: dict[str, Any], model: "Model", found: "Fit") -> str:
    """The answer for people; memory in GiB."""
    from posttrain.planning.fit import PROMPTS, described

    kind = model.config.get("model_type", "")
    lines = [f"{source}: {kind}, {model.parameters / 1e9:.2f} billion parameters", described(spec), ""]
    shown = {part: words for part, words in PARTS.items() if found.need.get(part, 0) >= 2**20}
    lines += [f"{part:12} {_gib(found.need[part]):>8}  {words}" for part, words in shown.items()]
    lines += [f"{'total':12} {_gib(found.need['total']):>8}  GiB at the peak", "", *_verdict(found)]
    most = found.answering
    return "\n".join([*lines, f"Answering {PROMPTS} prompts at once, as evaluation does, takes {_gib(most)} GiB."])


def _verdict(found: "Fit") -> list[str]:
    room = f"a GPU of {found.smallest_gpu} GiB" if found.smallest_gpu else "no single GPU on sale"
    if found.fits is None:
        return [f"Large enough as it is: {room}."]
    budget = f"{found.budget / 2**30:g} GiB"
    if found.fits:
        return [f"It fits into {budget}."]
    if found.remedy:
        change = f"With `{found.remedy.words}` it takes {_gib(found.remedy.total)} GiB and fits."
        return [f"It does not fit into {budget}. {change}", f"Large enough as it is: {room}."]
    return [
        f"It does not fit into {budget}, with no setting of this run. Take a smaller model, or share it out over several GPUs.",
        f"Large enough as it is: {room}.",
    ]


def _gib(count: float) -> str:
    return f"{count / 2**30:.1f}"
