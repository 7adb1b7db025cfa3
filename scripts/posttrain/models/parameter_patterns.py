"""The keys `freeze`, `train` and `learning_rates`: which of a run's parameters are trained, and how fast, by patterns of their names.

A pattern is the name of a part of the model, see `parts`, or a regular expression that matches one or more whole parts of a
parameter's name between its dots: `layers.[0-3]` means
`model.layers.2.mlp.up_proj.weight`, and not `model.layers.20.mlp.up_proj.weight`. Of an adapter the parameters are its own, named
for their layer: `model.layers.2.mlp.up_proj.lora_A.default.weight`.

Nothing here imports torch or needs a model: the preflight asks the same by the names alone.
"""

import re
from collections.abc import Iterator
from functools import cache

from posttrain.models import parts
from posttrain.runtime.errors import nearest

KEYS = ("freeze", "train", "learning_rates")
ADVICE = {
    "freeze": "write the names of the parameters to freeze",
    "train": "take it out, or write the names of the parameters to train",
    "learning_rates": "write learning_rate",
}
ANY = "zzz.zzz.zzz"  # a name that only a pattern for all parameters matches

Names = tuple[str, ...]
"""what a parameter is called; a tied LM head has the embedding's name and its own"""


def patterns(spec: dict, key: str) -> list[str]:
    """The patterns under a key of a run's spec; none where it is not set."""
    return list(spec.get(key) or [])


@cache
def _compiled(pattern: str) -> re.Pattern:
    return re.compile(rf"(^|\.)(?:{pattern})(\.|$)")


def is_meant(pattern: str, names: Names) -> bool:
    """Whether a pattern means the parameter of these names.

    >>> is_meant("layers.[0-3]", ("model.layers.2.mlp.up_proj.weight",))
    True
    >>> is_meant("layers.[0-3]", ("model.layers.20.mlp.up_proj.weight",))
    False
    """
    if pattern in parts.PARTS:
        return any(parts.part_of(name) == pattern for name in names)
    return any(_compiled(pattern).search(name) for name in names)


def is_trained(spec: dict, names: Names) -> bool:
    """Whether the parameter of these names is trained: its part is, `train` means it, where that is set, and `freeze` does not."""
    if parts.part_of(names[0]) not in parts.trained(spec):
        return False
    requested = patterns(spec, "train")
    frozen = any(is_meant(pattern, names) for pattern in patterns(spec, "freeze"))
    return not frozen and (not requested or any(is_meant(pattern, names) for pattern in requested))


def refusals(values: dict) -> Iterator[str]:
    """What is wrong with a run's patterns, whatever the model; `values` are the run's keys."""
    for key in KEYS:
        for pattern in patterns(values, key):
            try:
                re.compile(pattern)
            except re.error as error:
                yield f"{key}: '{pattern}' is not a regular expression: {error}"
                return
            if not pattern or (pattern not in parts.PARTS and is_meant(pattern, (ANY,))):
                yield f"{key}: '{pattern}' matches every parameter; {ADVICE[key]}"


def refusal(spec: dict, parameters: list[Names]) -> str | None:
    """Why the patterns of a run cannot be followed, by the names of the parameters that it would train without them."""
    there = {parts.part_of(names[0]) for names in parameters}
    missing = next((part for part in spec.get("train_parts") or () if part not in there), None)
    if missing:
        return f"train_parts: {spec['method']} finds no {missing} in the model; it has {' and '.join(sorted(there))}"
    for key in KEYS:
        for pattern in patterns(spec, key):
            meant = [is_meant(pattern, names) for names in parameters]
            if not any(meant):
                modules = {
                    part for names in parameters for name in names for part in name.split(".") if part.isidentifier()
                }
                return (
                    f"{key}: '{pattern}' matches no parameter that {spec['method']} trains; {nearest(pattern, modules)}"
                )
            if all(meant):
                return f"{key}: '{pattern}' matches every parameter that {spec['method']} trains; {ADVICE[key]}"
    trained = [names for names in parameters if is_trained(spec, names)]
    if not trained:
        return "freeze and train leave no parameter to train; write fewer patterns under freeze"
    rates = patterns(spec, "learning_rates")
    for pattern in rates:
        if not any(is_meant(pattern, names) for names in trained):
            return f"learning_rates: '{pattern}' matches only parameters that are frozen; take it out"
    for names in trained:
        both = [pattern for pattern in rates if is_meant(pattern, names)]
        if len(both) > 1:
            return (
                f"learning_rates: '{both[0]}' and '{both[1]}' both match {names[0]}; write patterns that have no parameter in "
                "common"
            )
    return None
