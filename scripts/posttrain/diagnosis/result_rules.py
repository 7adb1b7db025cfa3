"""What a run's evaluation proves: the same as its parent, worse, forgetful; answers that do not end, repeat themselves or think."""

import math
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from posttrain.data import thoughts
from posttrain.diagnosis.evidence import Evidence, key, paired
from posttrain.diagnosis.findings import Finding
from posttrain.diagnosis.trends import bar, picture, share_bounds, short
from posttrain.evaluation import example_scores
from posttrain.methods import METHODS
from posttrain.metrics.statistics import FEWEST, metric, summary
from posttrain.objectives import OBJECTIVES

# of a corrected p-value: the verdicts of an evaluation have 5 %, and a diagnosis must not begin with chance
CERTAIN = 0.01
POINTS = 0.05  # of a share, from which a loss matters
PART = 0.1  # of any other metric
ALIKE = 0.005  # nats a token: a probability that differs by half a percent, less than bf16 arithmetic moves it
KNEW = 0.5  # of a uniform guess's loss: a parent above that knows nothing of a dataset, and cannot forget it
MOSTLY = 0.5  # of the answers, below which a fault is one of rows and not of the model
SQUEEZED = 0.2  # compressed size over size: English prose has 0.4 to 0.5, a sentence said ten times 0.1
LONG = 100  # characters of a text that can be told to repeat itself
THINKS, SILENT = 0.9, 0.1  # shares of texts with thoughts, between which nothing is certain


def find(found: Evidence) -> Iterator[Finding]:
    """The findings of a run's evaluation."""
    for rule in (same_as_parent, too_few):
        if finding := rule(found):
            yield finding
    yield from worse(found)
    yield from endless(found)
    for rule in (repetition, thinking):
        if finding := rule(found):
            yield finding


# ---- against the parent


def same_as_parent(found: Evidence) -> Finding | None:
    """A run whose probabilities and answers are those of its parent."""
    moved, texts = [], []
    for own, other in paired(found):
        for side, count in (("log_prob", "tokens"), ("chosen_log_prob", None), ("rejected_log_prob", None)):
            if own.get(side) is not None and other.get(side) is not None:
                moved.append(abs(own[side] - other[side]) / (own.get(count) or max(abs(other[side]), 1.0)))
        if own.get("output") is not None:
            texts.append(own["output"] == other.get("output"))
    if len(moved) < FEWEST or not found.spec:
        return None
    most = float(np.quantile(moved, 0.95))
    if most > ALIKE or not all(texts):
        return None
    parent = found.spec["from"]["name"]
    text = f"95% of {len(moved)} held-out completions have the probability that {parent} gives them, to within {short(most)} nats a token"
    if texts:
        text += f", and all {len(texts)} answers are word for word the same"
    changes = ({"learning_rate": float(f"{found.spec['learning_rate'] * 5:.0e}")}, {"epochs": 3})
    advice = "a higher learning rate, more epochs, or more parameters (rank, method)"
    return Finding("same-as-the-base", text, picture("change", sorted(moved)), advice, changes)


def worse(found: Evidence) -> Iterator[Finding]:
    """Metrics that are worse than the parent's: of what the run was trained for, and of anything else."""
    pairs = paired(found)
    if not pairs or OBJECTIVES[found.spec["objective"]].scores:
        return
    groups: dict[bool, list[tuple[dict, dict]]] = {True: [], False: []}
    known = _known(found)
    for own, other in pairs:
        if own["dataset"] in found.own or own["dataset"] in known:
            groups[own["dataset"] in found.own].append((own, other))
    for is_own, some in groups.items():
        rows = example_scores.comparisons([own for own, _ in some], {key(other): other for _, other in some})
        before = {
            name: summary(kind, example_scores.columns(kind, its))["value"]
            for name, kind, its in example_scores.measured([other for _, other in some])
        }
        lost = [
            _lost(found, name, row)
            for name, row in rows.items()
            if _is_worse(found, name, row, before.get(name, 0.0), is_own)
        ]
        if not lost:
            continue
        text = f"worse than {found.spec['from']['name']}: {'; '.join(lost)}"
        slower = {"learning_rate": float(f"{found.spec['learning_rate'] / 5:.0e}")}
        if is_own:
            advice = "a lower learning rate; if the training loss fell, fewer epochs or more rows"
            yield Finding("worse-than-the-parent", text, _metric_picture(rows), advice, (slower, {"epochs": 1}))
        else:
            advice = "a lower learning rate, a method with fewer parameters (lora), or a mixture with rows of the old kind (datasets.mix)"
            changes = (slower, *([{"method": "lora"}] if METHODS[found.spec["method"]].full else []))
            yield Finding("forgetting", text, _metric_picture(rows), advice, changes)


def _known(found: Evidence) -> set[str]:
    """The datasets of which the parent knew something that could be forgotten: none of random weights."""
    sums: dict[str, list[float]] = {}
    for row in found.parent_examples:
        one = sums.setdefault(row["dataset"], [0.0, 0.0])
        if row.get("log_prob") is not None:
            one[0], one[1] = one[0] - row["log_prob"], one[1] + row["tokens"]
    most = KNEW * math.log(found.vocabulary or math.inf)
    return {name for name, (loss, tokens) in sums.items() if not found.is_from_random and not loss > most * tokens}


def _is_worse(found: Evidence, name: str, row: dict[str, Any], before: float, is_own: bool) -> bool:
    """Whether a metric that was `before` on the same examples got worse by more than chance, and by enough to matter."""
    if row["verdict"] != "worse" or row["p"] >= CERTAIN:
        return False
    last = name.split("/")[-1]
    if is_own and last not in _trained_for(found):  # a preference stage may cost likelihood, which is its price
        return False
    if metric(last).share:
        return abs(row["difference"]) >= POINTS
    return abs(row["difference"]) >= PART * abs(before)


def _trained_for(found: Evidence) -> tuple[str, ...]:
    if OBJECTIVES[found.spec["objective"]].mean_of == "tokens":
        return ("perplexity",)
    return ("preference_accuracy",) if "preference" in OBJECTIVES[found.spec["objective"]].data else ("reward",)


def _lost(found: Evidence, name: str, row: dict[str, Any]) -> str:
    difference = (
        f"{100 * row['difference']:+.0f} points" if metric(name.split("/")[-1]).share else f"{row['difference']:+.3g}"
    )
    return f"{name} {difference} (p = {row['p']:.1g})"


def _metric_picture(rows: dict[str, dict[str, Any]]) -> str:
    """A mark for each metric: ▲ better, ▼ worse, · no evidence."""
    marks = {"better": "▲", "worse": "▼"}
    return " ".join(f"{marks.get(row['verdict'], '·')} {name}" for name, row in list(rows.items())[:8])


def too_few(found: Evidence) -> Finding | None:
    """An evaluation on so few examples that no verdict is possible."""
    metrics = found.evaluation.get("metrics", {})
    counts = [row.get("clusters", row["n"]) for row in metrics.values()]
    if not counts or max(counts) >= FEWEST:
        return None
    text = f"every metric is measured on {max(counts)} examples or fewer, and below {FEWEST} there is no verdict, whatever was learnt"
    advice = "hold out more rows (validation under the dataset), or evaluate more of them (evaluation.limit)"
    return Finding("too-little-data", text, "", advice)


# ---- answers


def endless(found: Evidence) -> Iterator[Finding]:
    """Answers that run to the limit, suite by suite: because the model does not end them, or because the limit is too small."""
    suites: dict[str, list[dict[str, Any]]] = {}
    for answer in found.answers:
        if answer["reference"]:
            suites.setdefault(answer["suite"], []).append(answer)
    for suite, rows in suites.items():
        cut = sum(not row["ended"] for row in rows)
        if len(rows) < FEWEST or share_bounds(cut, len(rows))[0] <= MOSTLY:
            continue
        limit = rows[0]["limit"]
        per_token = sum(len(row["output"]) for row in rows) / max(sum(row["tokens"] for row in rows), 1)
        needed = sorted(len(row["reference"]) / max(per_token, 0.1) for row in rows)
        where = f"{cut} of {len(rows)} answers{f' of {suite}' if suite else ''} run to the limit of {limit} tokens"
        drawn = bar("cut", cut / len(rows))
        if needed[len(rows) // 2] > limit:
            text = f"{where}, and half of the references have about {needed[len(rows) // 2]:.0f} tokens or more"
            place = f"evaluation.suites.{suite}.max_new_tokens" if suite else "evaluation.max_new_tokens"
            yield Finding("answers-cut", text, drawn, f"write {place}: {round(1.5 * needed[-1])}")
        elif needed[int(0.9 * len(rows))] < limit:
            text = f"{where}, although 90% of the references would end after {needed[int(0.9 * len(rows))]:.0f} tokens"
            advice = (
                "set eos_token of the base to what its chat template writes after an answer, or give it another "
                "chat_template; see the check "
                "stop_token in preflight.txt. Where that is right, the model has not learnt enough: more epochs"
            )
            yield Finding("stop-token-not-learnt", text, drawn, advice, ({"epochs": 3},))


def _repeats(text: str) -> bool:
    data = text.encode()
    return len(data) >= LONG and len(zlib.compress(data, 9)) < SQUEEZED * len(data)


def repetition(found: Evidence) -> Finding | None:
    """Answers that say the same again and again, where the parent's do not."""
    texts = [
        (own["output"], other["output"]) for own, other in paired(found) if own.get("output") and other.get("output")
    ]
    if len(texts) < FEWEST:
        return None
    own, other = (sum(_repeats(pair[i]) for pair in texts) for i in (0, 1))
    if share_bounds(own, len(texts))[0] <= MOSTLY or other / len(texts) >= MOSTLY / 2:
        return None
    text = f"{own} of {len(texts)} answers repeat themselves; of {found.spec['from']['name']} it is {other}"
    changes = ({"learning_rate": float(f"{found.spec['learning_rate'] / 5:.0e}")}, {"epochs": 1})
    return Finding(
        "repetition", text, bar("repeat", own / len(texts)), "a lower learning rate or fewer epochs", changes
    )


def thinking(found: Evidence) -> Finding | None:
    """Answers that think where the training rows do not, or the reverse; and thoughts that do not end."""
    outputs = [answer["output"] for answer in found.answers]
    if len(outputs) < FEWEST:
        return None
    think = [bool(thoughts.split(text)[0]) for text in outputs]
    open_ended = sum(is_thought and not thoughts.answer(text) for is_thought, text in zip(think, outputs, strict=True))
    if share_bounds(open_ended, len(outputs))[0] > MOSTLY:
        text = f"{open_ended} of {len(outputs)} answers are thoughts that do not end within the limit, so that nothing is answered"
        advice = "a larger evaluation.max_new_tokens, or rows whose thoughts are shorter"
        return Finding("thinking-mismatch", text, bar("no answer", open_ended / len(outputs)), advice)
    trained, used = found.thinking, sum(think) / len(outputs)
    if trained is None or not found.spec.get("train_thoughts", True):
        return None
    if not (trained >= THINKS and used <= SILENT) and not (trained <= SILENT and used >= THINKS):
        return None
    text = f"{trained:.0%} of the training answers think before they answer, and {used:.0%} of {len(outputs)} answers in the evaluation"
    advice = (
        "train and ask with one template: one that opens a thought in both, or in neither (chat_template of the base)"
    )
    return Finding("thinking-mismatch", text, f"{bar('trained', trained)}   {bar('in use', used)}", advice)
