"""Whether a run fits into a GPU's memory, from its keys and its model's shapes alone, and what would make it fit."""

import json
from typing import Any, NamedTuple

from posttrain.methods import METHODS
from posttrain.models.memory_estimate import GIB, answering, estimate, remedies, setting
from posttrain.models.memory_sharing import ALONE, Hardware
from posttrain.models.shapes import Model
from posttrain.objectives import OBJECTIVES
from posttrain.workflow.project import Project

GPUS = (8, 12, 16, 24, 32, 40, 48, 80, 96, 141, 192)  # GiB of GPUs that are sold
PROMPTS = 32  # answered at once


class Remedy(NamedTuple):
    """A change with which a run fits."""

    settings: dict[str, Any]
    """keys of the run to write"""
    words: str
    total: float
    """bytes"""


class Fit(NamedTuple):
    """What a run takes beside what there is."""

    need: dict[str, float]
    """bytes, see memory_estimate.estimate"""
    budget: float | None
    """bytes of the GPU; None where none is given"""
    remedy: Remedy | None
    """the smallest change that makes it fit, where it does not"""
    answering: float
    """bytes to answer PROMPTS prompts at once"""

    @property
    def fits(self) -> bool | None:
        """Whether it fits as it is; None without a budget."""
        return None if self.budget is None else self.need["total"] <= self.budget

    @property
    def smallest_gpu(self) -> int | None:
        """GiB of the smallest GPU on sale that it fits into as it is."""
        return next((size for size in GPUS if self.need["total"] <= size * GIB), None)


def spec_of(keys: dict[str, Any]) -> dict[str, Any]:
    """The spec of a run with these keys, and the defaults of all others; an objective that samples has a reward function.

    Raises:
        UserError: there is no such key, or its value is refused.
    """
    run = {"from": "base", "data": "rows", "objective": "sft"} | keys
    if OBJECTIVES.get(run["objective"]) and OBJECTIVES[run["objective"]].on_policy:
        run = {"reward": {"function": "answer_format"}} | run
    if OBJECTIVES.get(run["objective"]) and OBJECTIVES[run["objective"]].teacher:
        run = {"teacher": "base"} | run
    base = {"source": "hub", "model": "organisation/model", "revision": "main"}
    rows = {"hub": "organisation/rows", "revision": "main"}
    return json.loads(Project({"bases": {"base": base}, "datasets": {"rows": rows}, "runs": {"run": run}}).spec("run"))


def fits(
    spec: dict[str, Any],
    model: Model,
    budget: float | None,
    *,
    longest: int | None = None,
    trained_share: float = 1.0,
    hardware: Hardware = ALONE,
) -> Fit:
    """What a run takes on a GPU, whether that fits, and the smallest change with which it would.

    Args:
        spec: of the run, as `spec_of` makes it.
        budget: bytes of a GPU.
        longest: tokens of the longest row; default: `max_length`.
        trained_share: of the tokens that are trained; the default is the most that it can be.
        hardware: the processes that share the run.
    """
    bf16, longest = spec["precision"] != "fp32", longest or spec["max_length"]

    def needed(run: dict[str, Any]) -> dict[str, float]:
        return estimate(run, model, min(longest, run["max_length"]), trained_share, "gpu", bf16, hardware)

    need, remedy = needed(spec), None
    if budget is not None and need["total"] > budget:
        for words, changes in remedies(spec, longest):
            total = needed(spec | changes)["total"]
            if total <= budget:
                remedy = Remedy({setting(key): value for key, value in changes.items() if setting(key)}, words, total)
                break
    return Fit(need, budget, remedy, answering(model, PROMPTS, longest, "gpu", bf16))


def described(spec: dict[str, Any]) -> str:
    """The settings of a run that its memory depends on most, in words."""
    rows = spec["batch_size"] // spec["accumulation"]
    parts = [f"{spec['objective']} with {spec['method']}"]
    parts += [f"rank {spec['rank']}"] if spec.get("rank") and METHODS[spec["method"]].rank else []
    parts += [f"rows of {spec['max_length']:,} tokens, {rows} at once"]
    parts += ["gradient checkpointing"] if spec["gradient_checkpointing"] else []
    return ", ".join(parts)
