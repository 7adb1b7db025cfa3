"""Losses by the names of their papers: the keys that belong to each, their defaults, and what cannot be together."""

from collections.abc import Iterator
from typing import Any

# Meng et al. 2024, section 3 and appendix B: beta 2 to 2.5 (10 for Llama 3 Instruct), gamma / beta 0.3 to 0.8; 0.5 where nothing is known.
SIMPO = {"beta": 2.0, "cpo_alpha": 0.0}
SIMPO_MARGIN = 0.5


def defaults(run: Any) -> dict[str, Any]:
    """Defaults of a run's keys that depend on its loss; `run` is a `config.Run`."""
    if run.objective != "cpo":
        return {}
    if run.loss_type != "simpo":
        return {"cpo_alpha": 1.0}
    return SIMPO | {"simpo_gamma": SIMPO_MARGIN * (run.beta or SIMPO["beta"])}


def without_idle(values: dict[str, Any]) -> dict[str, Any]:
    """A run's settings without the keys that its loss does not read."""
    return {key: value for key, value in values.items() if key != "simpo_gamma" or value is not None}


def refusals(run: Any) -> Iterator[str]:
    """Why a run's loss cannot be had with its other keys; nothing where it can."""
    if run.simpo_gamma is not None and run.loss_type != "simpo":
        yield "simpo_gamma has no effect here; it needs loss_type: simpo"
    if run.objective == "cpo" and run.loss_type in ("hinge", "ipo") and run.trainer_args.get("label_smoothing"):
        yield f"trainer_args.label_smoothing has no effect on loss_type: {run.loss_type}; take it out, or write sigmoid"
