"""Checks of conversations with tools: what calls and results of tools are trained."""

import json
from typing import TYPE_CHECKING, Any

from posttrain.data import dataset_types
from posttrain.data.encoding import IGNORED
from posttrain.data.left_out import stands_in
from posttrain.data.messages import Row
from posttrain.preflight.findings import Finding, share

if TYPE_CHECKING:
    from posttrain.preflight.run_context import RunContext


def tool_results(run: "RunContext") -> Finding | None:
    """No result of a tool is trained: the model would learn to make results up."""
    with_results = [row for row in run.sample if any(turn["role"] == "tool" for turn in _turns(row))]
    if not with_results:
        return Finding("skipped", "no sampled row has a tool's result")
    inside = [row for row in with_results if any(_tool_turns(answer) for answer in _answers(row))]
    if inside:
        return Finding(
            "error",
            f"{share(len(inside), len(run.sample))} of the sampled rows have a tool's result inside an answer, which is trained whole; "
            "end the prompt with the result, and let the answer be the turn after it",
            f"{inside[0]['place']}",
        )
    encoded = run.encoded({row["id"] for row in with_results})
    trained = [row for row in with_results if not all(_untrained(run, row, one) for one in encoded.get(row["id"], ()))]
    if trained:
        return Finding(
            "error",
            f"results of tools are trained in {share(len(trained), len(run.sample))} of the sampled rows; give the base another "
            "`chat_template:`",
            f"{trained[0]['place']}",
        )
    return None


def counts(run: "RunContext") -> dict[str, int] | None:
    """What the sampled rows have of tools: `rows` that offer functions, `calls` and `tool_results`; None where they have none."""
    turns = [turn for row in run.sample for turn in _turns(row)]
    calls = sum(len(json.loads(turn.get("tool_calls") or "[]")) for turn in turns)
    offered = sum(bool(row.get("tools")) for row in run.sample)
    if not calls and not offered:
        return None
    results = len(_tool_turns(turns))
    return {"sampled": len(run.sample), "rows": offered, "calls": calls, "tool_results": results}


def sentence(found: dict[str, int]) -> str:
    """The same, for people."""
    return (
        f"Tools: {found['rows']} of {found['sampled']} sampled rows offer functions; they have {found['calls']} calls and "
        f"{found['tool_results']} results, and results are not trained."
    )


def _turns(row: Row) -> list[Row]:
    return list(dataset_types.of(row).all_turns(row))


def _answers(row: Row) -> list[list[Row]]:
    kind = dataset_types.of(row)
    return [] if kind.conversation else kind.answers(row)


def _tool_turns(turns: list[Row]) -> list[Row]:
    return [turn for turn in turns if turn["role"] == "tool"]


def _untrained(run: "RunContext", row: Row, tokens: dict[str, Any]) -> bool:
    """Whether the text that is not trained has each result; a row that was cut, or ends before it, does not tell."""
    if "labels" not in tokens or tokens["length"] >= run.spec["max_length"]:
        return True
    ids = [i for i, label in zip(tokens["input_ids"], tokens["labels"], strict=True) if label == IGNORED]
    text, whole = (" ".join(run.tokenizer.decode(some).split()) for some in (ids, tokens["input_ids"]))
    return all(
        stands_in(text, turn["content"]) or not stands_in(whole, turn["content"]) for turn in _tool_turns(_turns(row))
    )
