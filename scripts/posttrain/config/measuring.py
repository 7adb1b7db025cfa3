"""The keys of a run that measure held-out rows during training: `early_stopping`, `keep`, `measure_every`, `measure_rows`."""

from collections.abc import Iterator
from typing import Any

from posttrain.config.fields import Mistake
from posttrain.methods import METHODS
from posttrain.objectives import OBJECTIVES
from posttrain.runtime import user_code
from posttrain.runtime.errors import nearest
from posttrain.training import early_stopping

KEYS = ("early_stopping", "keep", "measure_every", "measure_rows")


def is_measured(run: Any) -> bool:
    """Whether a run measures held-out rows during training."""
    return run.early_stopping is not None or run.keep == "best" or run.measure_every is not None


def keeps_best(run: Any) -> bool:
    """Whether a run keeps its best step: if `keep` says so, and without `keep`, if it may stop early."""
    return (run.keep or ("best" if run.early_stopping is not None else "last")) == "best"


def settings(run: Any) -> dict[str, Any]:
    """The keys for a run's spec, each only if it acts."""
    if not is_measured(run):
        return {}
    values = {} if run.early_stopping is None else {"early_stopping": _table(run)}
    values |= {"keep": "best"} if keeps_best(run) else {}
    return values | {
        key: getattr(run, key) for key in ("measure_every", "measure_rows") if getattr(run, key) is not None
    }


def _table(run: Any) -> dict[str, Any]:
    table, metric = run.early_stopping, _metric(run)
    values = {"metric": metric, "patience": table.patience, "min_change": table.min_change}
    longest = (
        {"max_new_tokens": table.max_new_tokens or early_stopping.MAX_NEW_TOKENS} if _needs_length(run, metric) else {}
    )
    return values | longest


def _metric(run: Any) -> str:
    return run.early_stopping.metric or next(iter(OBJECTIVES[run.objective].measures))


def _needs_length(run: Any, metric: str) -> bool:
    """Whether no other key limits the length of the completions that are measured."""
    objective = OBJECTIVES[run.objective]
    return metric not in objective.measures and not objective.on_policy


def own_metric(run: Any) -> str | None:
    """The `FILE.py:NAME` of a run's metric, if it is the user's own."""
    metric = run.early_stopping.metric if run.early_stopping is not None else None
    return metric if metric and user_code.is_own(metric) else None


def mistakes(run: Any) -> Iterator[Mistake]:
    """Why a run's keys of this kind cannot be combined with its other keys."""
    if run.measure_rows is not None and not is_measured(run):
        hint = "it needs early_stopping, keep: best or measure_every"
        yield Mistake("key-without-effect", "measure_rows", "it has no effect here", hint)
    if not is_measured(run):
        return
    if not METHODS[run.method].early_stopping and (keeps_best(run) or run.early_stopping is not None):
        key = "keep" if run.early_stopping is None else "early_stopping"
        problem = f"{run.method} reaches its final rank only at the end of training, so no earlier step can be kept"
        yield Mistake("unsupported-combination", key, problem, "remove it, or write method: lora")
    if run.early_stopping is not None:
        yield from _wrong_metric(run)
    if run.max_steps is not None:
        planned = early_stopping.plan({"objective": run.objective} | settings(run))
        for sentence in early_stopping.too_short(planned, run.max_steps, "max_steps"):
            key = "measure_every" if sentence.startswith("measure_every") else "early_stopping"
            yield Mistake.told("conflicting-keys", key, sentence.removeprefix(f"{key}: ").removeprefix(f"{key} "))


def _wrong_metric(run: Any) -> Iterator[Mistake]:
    objective, metric, table = OBJECTIVES[run.objective], _metric(run), run.early_stopping
    generates = not objective.scores
    own = objective.measures
    if metric not in own and not (generates and (metric in early_stopping.OF_ANSWERS or user_code.is_own(metric))):
        problem = f"{run.objective} does not measure '{metric}'" + (
            "" if generates else ", because its model generates no text"
        )
        hint = nearest(metric, [*own, *(early_stopping.OF_ANSWERS if generates else ())])
        yield Mistake("unknown-name", "early_stopping.metric", problem, hint)
    elif table.max_new_tokens is not None and not _needs_length(run, metric):
        hint = "write the run's max_new_tokens" if objective.on_policy else f"{metric} generates nothing, so remove it"
        yield Mistake("key-without-effect", "early_stopping.max_new_tokens", "it has no effect here", hint)
    elif _needs_length(run, metric) and run.max_length <= (
        longest := table.max_new_tokens or early_stopping.MAX_NEW_TOKENS
    ):
        problem = (
            f"{run.max_length} is the length of a prompt with its completion, so early_stopping.max_new_tokens {longest} leaves no "
            "room for a prompt"
        )
        yield Mistake("conflicting-keys", "max_length", problem, "write a smaller early_stopping.max_new_tokens")
