"""Packages that are optional: a configuration that needs one that is not there is refused when it is read."""

import importlib.util

TRACKERS = {"tensorboard": ("tensorboard", "tensorboardX"), "wandb": ("wandb",), "trackio": ("trackio",)}


def missing_tracker(names: list[str]) -> str | None:
    """Why the first of some trackers cannot be had, or None."""
    for name in names:
        if not any(_is_there(package) for package in TRACKERS[name]):
            return f"also: {name} is not installed; run: pip install {name}"
    return None


def _is_there(package: str) -> bool:
    """Whether a package is installed; a folder of its name, such as the one that wandb writes, is none."""
    spec = importlib.util.find_spec(package)
    return spec is not None and spec.origin is not None
