"""What training and evaluating each model took: seconds, energy, memory."""

import math
from typing import Any

from posttrain.reports.formatting import short

WATTS_PER_THREAD = 10  # a desktop's or server's processor of 65 to 350 W, by its threads
WATTS_OF_GPU = {
    "H200": 700, "H100": 700, "A100": 400, "V100": 300, "L40": 350, "A40": 300, "A10": 150, "L4": 72, "T4": 70,
    "4090": 450, "3090": 350,
}  # fmt: skip
WATTS_OF_OTHER_GPU = 300

Model = dict[str, Any]


def cost(models: list[Model], context: dict[str, Any]) -> dict[str, Any]:
    """Seconds, kWh and memory of training and evaluating each model, the sums, and where the energy comes from.

    A base's evaluation does not record its machine; it is taken to be the first run's.
    """
    provenances = [model["provenance"] for model in models if model["kind"] == "run"]
    rows = []
    for model in models:
        times = {"train": model["train"]["seconds"] if "train" in model else 0, "eval": model["eval"]["seconds"]}
        power = context["watts"] or _watts(model.get("provenance", provenances[0]))
        seconds = sum(times.values())
        rows.append({"name": model["name"], **times, "seconds": seconds, "kwh": kwh(power, seconds), **_memory(model)})
    return {
        "rows": rows,
        "total": {key: math.fsum(row[key] for row in rows) for key in ("train", "eval", "seconds", "kwh")},
        "assumption": _assumption(context["watts"], provenances),
        "estimated": not context["watts"],
        "price": context["price_per_hour"],
        "currency": context["currency"],
    }


def _memory(model: Model) -> dict[str, Any]:
    train = model.get("train", {})
    return {"memory": train.get("memory_gib"), "memory_of": train.get("memory_of")}


def kwh(watts: float, seconds: float) -> float:
    """Energy of a machine that draws `watts`."""
    return watts * seconds / 3.6e6


def money(price_per_hour: float | None, seconds: float) -> float | None:
    """What a machine of this price costs; None where no price is known."""
    return None if price_per_hour is None else seconds / 3600 * price_per_hour


def watts(threads: int, gpu: str | None) -> float:
    """What a machine draws, about, with a GPU of this name."""
    return WATTS_PER_THREAD * threads + _gpu_watts(gpu)


def _watts(provenance: dict[str, Any]) -> float:
    return watts(provenance["training"]["threads"], provenance["machine"]["gpu"])


def _gpu_watts(gpu: str | None) -> float:
    if gpu is None:
        return 0
    return next((watts for name, watts in WATTS_OF_GPU.items() if name in gpu), WATTS_OF_OTHER_GPU)


def _assumption(watts: float | None, provenances: list[dict[str, Any]]) -> str:
    """Where the energy comes from, as a sentence."""
    if watts:
        return f"Energy: {short(watts)} W, as the configuration says, for every hour."
    gpus = sorted({provenance["machine"]["gpu"] for provenance in provenances} - {None})
    cards = "".join(f", and {_gpu_watts(gpu)} W for {gpu}" for gpu in gpus)
    return f"Energy is estimated: {WATTS_PER_THREAD} W for each thread that trains{cards}, for every hour."
