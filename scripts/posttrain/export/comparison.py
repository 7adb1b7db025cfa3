"""What an export says against what the unquantised model said on the same rows: shares, ratios, metrics and verdicts.

Rows are those of the reference, see `reference`; what the export said of each has the same columns.
"""

from pathlib import Path
from typing import Any

import numpy as np

from posttrain.data import thoughts
from posttrain.data.messages import Row
from posttrain.evaluation import cases
from posttrain.evaluation.example_scores import clusters, columns, comparisons, key, measured
from posttrain.metrics import text_metrics
from posttrain.metrics.statistics import METRICS, Metric, preference, summary
from posttrain.runtime.errors import UserError

# A ratio of perplexities is the perplexity of the difference of log-probabilities.
RATIO = METRICS["perplexity"]
AGREEMENT = Metric(("agree", "tokens"), lambda sums, n: sums[0] / sums[1], higher_is_better=True, share=False)
SHARE = Metric(("same",), lambda sums, n: sums[0] / n, higher_is_better=True, share=True)


def likelihood(rows: list[Row], said: list[Row]) -> dict[str, dict]:
    """`perplexity_ratio` and `greedy_agreement` on the tokens of held-out answers, of pairs the chosen ones.

    Both are of all tokens together; their intervals resample prompts, whose rows belong together.
    """
    found = []
    for row, own in zip(rows, said, strict=True):
        counted = np.array(row["counted"])
        if row["side"] != "rejected":
            agree = np.equal(row["greedy"], own["greedy"])[counted].sum()
            difference = (np.array(own["log_probs"]) - np.array(row["log_probs"]))[counted].sum()
            same = {"agree": float(agree), "log_prob": float(difference), "tokens": float(counted.sum())}
            found.append({**where(row), **same})
    if not found:
        return {}
    tokens = {"tokens": int(sum(row["tokens"] for row in found))}
    return {
        name: summary(metric, columns(metric, found), clusters(found)) | tokens
        for name, metric in (("perplexity_ratio", RATIO), ("greedy_agreement", AGREEMENT))
    }


def same_answers(rows: list[Row], said: list[Row]) -> dict[str, dict]:
    """`same_answers`: the share of greedy answers that are equal, token by token."""
    found = [
        where(row) | {"same": float(row["output_ids"] == own["output_ids"])}
        for row, own in zip(rows, said, strict=True)
    ]
    return {"same_answers": summary(SHARE, columns(SHARE, found), clusters(found))} if found else {}


def same(ours: list[Any], theirs: list[Any]) -> dict[str, Any]:
    """The share of things that are equal: `value` and `n`."""
    return {"value": sum(map(lambda a, b: a == b, ours, theirs)) / len(ours), "n": len(ours)}


def where(row: Row) -> Row:
    """The columns that say which example a row is."""
    return {name: row.get(name) for name in ("suite", "dataset", "id", "prompt_group", "part")}


# ---- the run's own metrics


def examples(rows: list[Row], tokenizer: Any, suites: dict[str, dict]) -> list[Row]:
    """The rows with the numbers that metrics are computed from, one for each example, as an evaluation has them.

    Args:
        suites: of each `metrics` and `pattern`, or of cases the `path`.
    """
    found: dict[tuple, Row] = {}
    for row in rows:
        if row["kind"] == "scored":
            example = found.setdefault(key(row), where(row))
            example |= _likelihoods(row)
    for example in found.values():
        for name, column in (("prefers_chosen", "log_prob"), ("scores_chosen", "score")):
            if f"rejected_{column}" in example:
                example[name] = preference(example[f"chosen_{column}"], example[f"rejected_{column}"])
    return [*found.values(), *_answers([row for row in rows if row["kind"] == "answered"], tokenizer, suites)]


def _likelihoods(row: Row) -> Row:
    """The columns of one scored answer."""
    before = f"{row['side']}_" if row["side"] else ""
    if "score" in row:
        return {f"{before}score": row["score"]}
    total = float(np.array(row["log_probs"])[row["counted"]].sum())
    found = {f"{before}log_prob": total} if before else {}
    if row["side"] != "rejected":  # the perplexity of a preference dataset is its chosen answers'
        found |= {"log_prob": total, "tokens": float(sum(row["counted"]))}
    return found


def _answers(rows: list[Row], tokenizer: Any, suites: dict[str, dict]) -> list[Row]:
    """The columns of answers, by the metrics of their suites."""
    found = []
    for name, suite in suites.items():
        is_cases = suite["kind"] == "cases"
        own = [row for row in rows if row["suite"] == name and (is_cases or "reference" in row)]
        outputs = [text(tokenizer, row) for row in own]
        if is_cases:
            asked = cases.read(Path(suite["path"]))
            _check_asked(suite["path"], asked, own)
            scores = cases.score(asked, outputs)
            pairs = zip(own, outputs, scores, strict=True)
            found += [where(row) | {"output": output} | score for row, output, score in pairs]
            continue
        answers, references = list(map(thoughts.answer, outputs)), [row["reference"] for row in own]
        scores = text_metrics.score(suite["metrics"], answers, references, suite.get("pattern"))
        found += [where(row) | score for row, score in zip(own, scores, strict=True)]
    return found


def _check_asked(path: str, asked: list[cases.Case], rows: list[Row]) -> None:
    """Refuse answers to other prompts than the file's now: Snakemake may start a proof before the reference of changed cases.

    Raises:
        UserError: they are.
    """
    if [(case.id, case.turns[-1]["content"]) for case in asked] != [(row["id"], row["prompt"]) for row in rows]:
        problem = "its cases have changed since the trained model was asked"
        raise UserError("changed-file", path, problem, "run the same command again")


def text(tokenizer: Any, row: Row) -> str:
    """The text of an answer, thoughts included, without special tokens."""
    opened = thoughts.opened(tokenizer, row["prompt_ids"])
    return opened + thoughts.decode(tokenizer, row["output_ids"])


def metrics(ours: list[Row], theirs: list[Row]) -> tuple[dict[str, dict], dict[str, dict]]:
    """Value and interval of each metric of the export's examples, and its comparison with the unquantised model's."""
    values = {name: summary(metric, columns(metric, own), clusters(own)) for name, metric, own in measured(ours)}
    return values, comparisons(ours, {key(row): row for row in theirs}, same_parent=True)
