"""What people said of two models' answers: read from their files, counted, tested, and made into preferences.

The three questions are those of Askell et al. 2021 (A General Language Assistant as a Laboratory for Alignment). A rating
is a row of a file that rate.html exports; an item is one prompt with the two answers that were shown.
"""

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

from scipy import stats

from posttrain.metrics.statistics import FEWEST, LEVEL, detectable_share, holm
from posttrain.runtime.errors import UserError

QUESTIONS = ("helpfulness", "harmlessness", "honesty")
ANSWERS = ("a", "b", "tie")
ITEM = ("suite", "dataset", "id", "prompt", "answer_a", "answer_b")  # a model that changed since gives another item
TEXTS = ("a", "b", "rater", *ITEM)
AS_EXPORTED = "give the file as rate.html exported it"

Rating = dict[str, str]


# ---- read


def read(paths: Iterable[Path], a: str, b: str) -> list[Rating]:
    """All ratings of one pair of models, sorted; of a rater's several of one item, the last.

    Raises:
        UserError: a file is not as the page exports it, or none rates the pair.
    """
    paths = list(paths)
    rated = of_pair(paths, a, b)
    if not rated:
        pairs = sorted({f"{rating['a']}~{rating['b']}" for path in paths for rating in _rows(path)})
        found = f"they rate {', '.join(pairs)}" if pairs else "there is no rating in them"
        hint = f"export one from results/ratings/{a}~{b}/rate.html"
        raise UserError("missing-ratings", "ratings", f"no file rates {a}~{b}, {found}", hint)
    return rated


def of_pair(paths: Iterable[Path], a: str, b: str) -> list[Rating]:
    """As `read`, but none where no file rates the pair.

    Raises:
        UserError: a file is not as the page exports it.
    """
    last = {}
    for path in paths:
        for rating in _rows(path):
            if (rating["a"], rating["b"]) == (a, b):
                last[(*item(rating), rating["rater"])] = rating
    return [last[key] for key in sorted(last)]


def item(rating: Rating) -> tuple[str, ...]:
    """What was rated: the example and both answers."""
    return tuple(rating[key] for key in ITEM)


def _rows(path: Path) -> Iterator[Rating]:
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
    except OSError:
        raise UserError("missing-file", "ratings", f"there is no file '{path}'", "check the path") from None
    except (ValueError, RecursionError):
        raise UserError("invalid-rating", str(path), "the file is not JSON", AS_EXPORTED) from None
    if not isinstance(rows, list):
        raise UserError("invalid-rating", str(path), "the file is not a list of ratings", AS_EXPORTED)
    for number, row in enumerate(rows, 1):
        _check(row, f"{path} item {number}")
        yield row


def _check(row: Any, place: str) -> None:
    if not isinstance(row, dict):
        hint = f"write an object with {', '.join((*TEXTS, *QUESTIONS))}"
        raise UserError("invalid-rating", place, "the rating is not a JSON object", hint)
    for key in (*TEXTS, *QUESTIONS):
        if key not in row:
            raise UserError("invalid-rating", place, f"'{key}' is missing", AS_EXPORTED)
    for key in TEXTS:
        if not _is_text(row[key]):
            raise UserError("invalid-rating", place, f"'{key}' is not text", "write a string")
    if not row["rater"].strip():
        raise UserError("invalid-rating", place, "'rater' is empty", "write who rated")
    for key in QUESTIONS:
        if row[key] not in ANSWERS:
            problem = f"'{key}' is {json.dumps(row[key])[:40]}"
            raise UserError("invalid-rating", place, problem, 'write "a", "b" or "tie"')


def _is_text(value: Any) -> bool:
    try:
        value.encode()
    except (AttributeError, UnicodeEncodeError):  # half of a surrogate pair cannot be written again
        return False
    return True


# ---- count


def summary(ratings: list[Rating], a: str, b: str) -> dict[str, Any]:
    """The values of ratings.json: of each question wins, ties, b's share of the wins, its verdict, the raters' agreement.

    p is the sign test's, corrected over the questions (Holm 1979); the verdict is of b against a.
    """
    decided = majorities(ratings)
    questions = {question: _counts([answers[question] for answers in decided.values()]) for question in QUESTIONS}
    corrected = holm([row["p"] for row in questions.values()])
    for (question, row), p in zip(questions.items(), corrected, strict=True):
        row |= {"p": p, **_verdict(row, p), "alpha": alpha(units(ratings, question))}
    raters = Counter(rating["rater"] for rating in ratings)
    return {
        "a": a,
        "b": b,
        "items": len(decided),
        "raters": dict(sorted(raters.items())),
        "questions": questions,
        "preferences": len(preferences(ratings)),
    }


def majorities(ratings: list[Rating]) -> dict[tuple[str, ...], dict[str, str]]:
    """What more than half of an item's raters said to each question; a tie where no answer has so many."""
    return {
        key: {question: _majority([rating[question] for rating in group]) for question in QUESTIONS}
        for key, group in _by_item(ratings)
    }


def units(ratings: list[Rating], question: str) -> list[list[str]]:
    """The answers to one question, a list an item."""
    return [[rating[question] for rating in group] for _, group in _by_item(ratings)]


def _by_item(ratings: list[Rating]) -> list[tuple[tuple[str, ...], list[Rating]]]:
    return [(key, list(group)) for key, group in groupby(sorted(ratings, key=item), key=item)]


def _majority(answers: list[str]) -> str:
    answer, count = Counter(answers).most_common(1)[0]
    return answer if 2 * count > len(answers) else "tie"


def _counts(answers: list[str]) -> dict[str, Any]:
    """Wins and ties of items, b's share of the wins with its exact interval (Clopper and Pearson 1934), the sign test's p."""
    counts = Counter(answers)
    row = {"a": counts["a"], "b": counts["b"], "ties": counts["tie"]}
    wins = row["a"] + row["b"]
    if not wins:
        return row | {"share": None, "low": None, "high": None, "p": 1.0}
    test = stats.binomtest(row["b"], wins)
    interval = test.proportion_ci(LEVEL, method="exact")
    share, low, high = (float(value) for value in (row["b"] / wins, interval.low, interval.high))
    return row | {"share": share, "low": low, "high": high, "p": float(test.pvalue)}


def _verdict(row: dict[str, Any], p: float) -> dict[str, Any]:
    """The verdict of b; without evidence, the lead (wins less losses, as a share of the items) that so many would show."""
    wins = row["a"] + row["b"]
    items = wins + row["ties"]
    if p < 1 - LEVEL and items >= FEWEST:
        return {"verdict": "better" if row["b"] > row["a"] else "worse"}
    return {"verdict": "no evidence", "detectable": detectable_share(items, wins) if items >= FEWEST else None}


def alpha(units: list[list[str]]) -> float | None:
    """Krippendorff's alpha for nominal answers, a list an item, of as many raters as rated it.

    1 - observed / expected disagreement over the pairs of answers within items (Krippendorff 2011, Computing
    Krippendorff's Alpha-Reliability, section C): 1 is full agreement, 0 that of chance. None where no item has two
    raters, and where all said the same of everything, so that nothing could be disagreed about.
    """
    units = [unit for unit in units if len(unit) > 1]
    totals = Counter(answer for unit in units for answer in unit)
    n = sum(totals.values())
    expected = n * n - sum(count * count for count in totals.values())
    if not expected:
        return None
    observed = sum(
        (len(unit) ** 2 - sum(count * count for count in Counter(unit).values())) / (len(unit) - 1) for unit in units
    )
    return 1 - (n - 1) * observed / expected


# ---- prefer


def preferences(ratings: list[Rating]) -> list[dict[str, list[dict[str, str]]]]:
    """The items of which one answer is preferred, in the format `preference`; an empty answer trains nothing."""
    rows = []
    for key, answers in majorities(ratings).items():
        of = dict(zip(ITEM, key, strict=True))
        winner = preferred(answers)
        if winner and of["prompt"].strip() and of["answer_a"].strip() and of["answer_b"].strip():
            loser = "b" if winner == "a" else "a"
            prompt = [{"role": "user", "content": of["prompt"]}]
            chosen, rejected = ([{"role": "assistant", "content": of[f"answer_{side}"]}] for side in (winner, loser))
            rows.append({"prompt": prompt, "chosen": chosen, "rejected": rejected})
    return rows


def preferred(answers: dict[str, str]) -> str | None:
    """The answer that wins more of the three questions, or helpfulness where both win one, unless it loses harmlessness.

    A helpful answer that harms is no example to follow, and the harmless one beside it may help nobody: such an item
    prefers none.
    """
    counts = Counter(answers.values())
    winner = answers["helpfulness"] if counts["a"] == counts["b"] else max(("a", "b"), key=counts.__getitem__)
    return winner if winner != "tie" and answers["harmlessness"] in (winner, "tie") else None
