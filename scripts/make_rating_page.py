"""Make the page on which people rate two models' answers side by side, without knowing whose is whose.

Reads both models' examples; writes one page, which needs no network, keeps what the rater says in the browser and exports it.

    python scripts/make_rating_page.py --a sft_lora --b dpo_lora --limit 50 \
        --examples results/sft_lora/eval/examples.parquet results/dpo_lora/eval/examples.parquet \
        --output results/ratings/sft_lora~dpo_lora/rate.html
"""

import hashlib
import json
from pathlib import Path

from posttrain.data import thoughts
from posttrain.evaluation.example_scores import Examples, read_examples
from posttrain.reports import html
from posttrain.reports.ratings import QUESTIONS
from posttrain.runtime.atomic import whole_file
from posttrain.runtime.console import say
from posttrain.runtime.errors import UserError
from posttrain.runtime.script import arguments, run

LIMIT = 50


def main(options) -> None:
    pairs = answered_by_both(*map(read_examples, options.examples))
    items = shuffled([pair for pair in pairs if differ(pair)], f"{options.a}~{options.b}")
    equal = len(pairs) - len(items)
    if not items:
        raise nothing_to_rate(options.a, options.b, equal)
    shown = items[: options.limit]
    with whole_file(options.output) as file:
        file.write_text(page(options.a, options.b, shown, equal), encoding="utf-8")
    say(
        f"{options.a}~{options.b}: {len(shown)} of {len(items)} items to rate, {equal} with equal answers left out",
        "summary",
    )


def answered_by_both(a: Examples, b: Examples) -> list[dict[str, str]]:
    """The examples that both models generated an answer for, by suite, dataset and id; thoughts are left out."""
    return [
        {
            "suite": row["suite"],
            "dataset": row["dataset"],
            "id": row["id"],
            "prompt": row["prompt"],
            "answer_a": thoughts.answer(row["output"]),
            "answer_b": thoughts.answer(b[key]["output"]),
        }
        for key, row in a.items()
        if row["output"] is not None and key in b and b[key]["output"] is not None
    ]


def differ(pair: dict[str, str]) -> bool:
    """Whether a person can see a difference between the answers."""
    return pair["answer_a"].split() != pair["answer_b"].split()


def shuffled(pairs: list[dict[str, str]], seed: str) -> list[dict]:
    """The pairs in an order, and each with a side for b, that their ids and the seed determine: `b_left`."""

    def drawn(pair: dict[str, str]) -> bytes:
        return hashlib.sha256(json.dumps([seed, pair["suite"], pair["dataset"], pair["id"]]).encode()).digest()

    return [pair | {"b_left": drawn(pair)[-1] % 2 == 1} for pair in sorted(pairs, key=drawn)]


def page(a: str, b: str, items: list[dict], equal: int) -> str:
    """The page; `page` in its data is the hash of what is rated on it."""
    data = {"a": a, "b": b, "items": items}
    digest = hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()[:16]
    return html.render("rate.html", data=data | {"page": digest, "questions": QUESTIONS}, count=len(items), equal=equal)


def nothing_to_rate(a: str, b: str, equal: int) -> UserError:
    """The error for a pair with nothing to rate."""
    if equal:
        problem = f"{a} and {b} gave the same answer to all {equal} prompts, so there is nothing to rate"
        return UserError("nothing-to-rate", f"{a}~{b}", problem, "compare other models")
    problem = f"{a} and {b} have no prompt that both answered, so there is nothing to rate"
    return UserError("nothing-to-rate", f"{a}~{b}", problem, "configure a generation suite under evaluation.suites")


if __name__ == "__main__":
    parser = arguments(__doc__, a=str, b=str, output=Path)
    parser.add_argument("--examples", type=Path, nargs=2, required=True, help="examples.parquet of a and of b")
    parser.add_argument("--limit", type=int, default=LIMIT, help=f"items on the page, {LIMIT} unless said")
    run(parser, main)
