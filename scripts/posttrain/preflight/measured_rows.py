"""What a run's evaluation will need of the rows that it measures, as far as it can be known before the run is trained."""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from posttrain.data import dataset_types, splits, thoughts
from posttrain.metrics import text_metrics, tool_calls
from posttrain.objectives import OBJECTIVES

if TYPE_CHECKING:
    from posttrain.preflight.run_context import RunContext

TOOL_METRICS = frozenset(("tool_name", "tool_arguments", "tool_arguments_f1"))
COARSE = 0.25  # smallest difference of a share that a few held-out rows show, above which they are told of
PLENTY = 100  # rows, which show smaller ones

Report = dict[str, Any]


def names(evaluation: dict[str, Any]) -> list[str]:
    """The datasets that an evaluation, by its spec, measures on."""
    suites = [suite["data"]["name"] for suite in evaluation.get("suites", {}).values() if "data" in suite]
    return list(dict.fromkeys([*(data["name"] for data in evaluation.get("data", ())), *suites]))


def read(folders: Iterable[Path], evaluation: dict[str, Any]) -> dict[str, Report]:
    """The data.json of each dataset that an evaluation measures on, by name, with what its suites need to know of the rows.

    That is `shots`, worked examples for a suite with shots, `calls`, held-out rows for a suite that compares tool calls, and
    for each metric that has a value for some rows only, by its name, the rows for which it has one.

    Args:
        folders: those of the datasets.
    """
    from posttrain.runtime.atomic import read_json

    folder_of = {folder.name: folder for folder in folders}
    found = {name: read_json(folder_of[name] / "data.json") for name in names(evaluation)}
    for suite in evaluation.get("suites", {}).values():
        if suite.get("shots") and suite["kind"] == "generation":
            name = suite["data"]["name"]
            found[name] = found[name] | {"shots": worked_examples(folder_of[name] / "train.parquet")}
        if not TOOL_METRICS.isdisjoint(suite.get("metrics", ())):
            name = suite["data"]["name"]
            found[name] = found[name] | {"calls": rows_with_calls(folder_of[name] / "validation.parquet")}
        if some := set(text_metrics.OF_SOME).intersection(suite.get("metrics", ())):
            name = suite["data"]["name"]
            found[name] = found[name] | rows_of(sorted(some), folder_of[name] / "validation.parquet")
    return found


def worked_examples(file: Path) -> int:
    """Rows of one question and one answer, whether a system prompt stands before them or not."""
    import pyarrow.compute as pc

    from posttrain.data.rows import batches

    count = 0
    for batch in batches(file, 4096, ("messages", "prompt", "chosen")):
        lengths = [pc.list_value_length(batch[name]) for name in batch.schema.names]
        turns = lengths[0] if len(lengths) == 1 else pc.add(*lengths)
        first = pc.struct_field(pc.list_element(batch[batch.schema.names[0]], 0), "role")
        said = pc.subtract(turns, pc.cast(pc.equal(first, "system"), turns.type))
        count += pc.sum(pc.equal(said, 2)).as_py() or 0
    return count


def rows_with_calls(file: Path) -> int:
    """Rows whose answer calls a tool, in `tool_calls` or as text."""
    from posttrain.data.rows import batches, without_nulls

    rows = (row for batch in batches(file, 4096) for row in without_nulls(batch.to_pylist()))
    completions = (next(iter(dataset_types.of(row).answers(row)), None) for row in rows)
    texts = (tool_calls.message_text(turns[-1]) for turns in completions if turns)
    return sum(bool(tool_calls.calls(thoughts.answer(text))) for text in texts)


def rows_of(metrics: list[str], file: Path) -> dict[str, int]:
    """For each of some metrics, the number of rows for which it has a value."""
    from posttrain.data.rows import batches, without_nulls

    counts = dict.fromkeys(metrics, 0)
    for batch in batches(file, 4096):
        for row in without_nulls(batch.to_pylist()):
            kind = dataset_types.of(row)
            answer = next(iter(kind.answers(row)), None)
            if answer:
                text = thoughts.answer(tool_calls.message_text(answer[-1]))
                (found,) = text_metrics.score(metrics, [text], [text], None, [kind.prompt(row)])
                counts |= {name: counts[name] + 1 for name in found}
    return counts


def errors(run: "RunContext") -> list[str]:
    """What would end the evaluation in an error, or leave a suite without a number, once the training is paid for."""
    found = []
    for name, suite in run.evaluation["suites"].items():
        data = run.measured.get(suite.get("data", {}).get("name"))
        if data is None:
            continue
        place, dataset = f"evaluation.suites.{name}", suite["data"]["name"]
        fitting = dataset_types.for_suites(suite["kind"])
        if data["shape"] not in fitting:
            found.append(
                f"{place}.data: {suite['kind']} needs rows of type {' or '.join(fitting)}, and {dataset} is {data['shape']}"
            )
        elif not data["validation"]:
            found.append(f"{place}.data: {dataset} holds out no rows; write {_larger(data)}, or a file of rows")
        elif suite.get("shots", 0) > data.get("shots", suite.get("shots", 0)):
            found.append(
                f"{place}: num_fewshot is {suite['shots']}, and {dataset} has {data['shots']} training rows of one question and one "
                "answer; write fewer"
            )
        elif data.get("calls") == 0 and not TOOL_METRICS.isdisjoint(suite.get("metrics", ())):
            found.append(
                f"{place}.metrics: {', '.join(sorted(TOOL_METRICS & {*suite['metrics']}))} compare tool calls, and no held-out row "
                f"of {dataset} has one; docs/evaluation.md says which forms are read"
            )
        empty = [name for name in text_metrics.OF_SOME if name in suite.get("metrics", ()) and data.get(name) == 0]
        if empty:
            found.append(
                f"{place}.metrics: {', '.join(empty)}: no held-out row of {dataset} is of that kind; remove it"
            )
    return found


def unmeasured(run: "RunContext") -> list[str]:
    """Why nothing, or little, will be known of the trained model."""
    measured = {
        data["name"]: run.measured[data["name"]] for data in run.evaluation["data"] if data["name"] in run.measured
    }
    objective = OBJECTIVES[run.spec["objective"]]
    suites = ("classes",) if objective.classifier else ("preference",)
    suites = suites if objective.scores else ("perplexity", "preference")
    fitting = dataset_types.for_suites(*suites)
    nowhere = all(data["shape"] not in fitting for data in measured.values())
    found = []
    for name, data in measured.items():
        rows = min(data["validation"], run.evaluation["limit"])
        if data["shape"] not in fitting:
            if nowhere or name == run.spec["data"]["name"]:
                found.append(
                    f"nothing is measured on {name}, whose rows are {data['shape']}; name a dataset of {' or '.join(fitting)} under "
                    "evaluation.data"
                )
        elif not rows:
            found.append(
                f"{name} holds out no rows, so nothing is measured on it; write {_larger(data)}, or a file of rows"
            )
        elif min(rows, data.get("held_out_prompts", rows)) < PLENTY and (
            why := _coarse(name, data, rows, run.evaluation["limit"])
        ):
            found.append(why)
    return found


def _larger(data: Report) -> str:
    """The key to write; a mixture and a selection have what their datasets hold out."""
    return (
        f"a larger `validation:` under {'it' if 'parts' not in data and 'part' not in data else 'what it is made of'}"
    )


def _coarse(name: str, data: Report, rows: int, limit: int) -> str | None:
    """The sentence on rows that show large differences only."""
    prompts = data.get("held_out_prompts", data["validation"])
    least = (
        data["detectable"]
        if rows == data["validation"] and "detectable" in data
        else splits.detectable(min(rows, prompts))
    )
    if least is not None and least <= COARSE:
        return None
    more = (
        f"evaluation.limit measures {rows} of the {data['validation']} held-out rows of {name}; write a larger one"
        if limit < data["validation"]
        else f"{name} holds out {rows} rows; write {_larger(data)}, or more rows"
    )
    first, _, advice = more.partition(";")
    asked = f" of {prompts} prompt{'' if prompts == 1 else 's'}" if prompts < rows else ""
    return f"{first}{asked}, {splits.in_words(least)};{advice}"
