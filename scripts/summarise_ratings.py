"""Count what people said of two models' answers, say which is better, and make a preference dataset of it.

Reads files that rate.html exported; writes ratings.json (wins, ties, intervals, verdicts, agreement between raters) and
preferences.jsonl, which DPO can train on.

    python scripts/summarise_ratings.py --a sft_lora --b dpo_lora --ratings ratings-sft_lora~dpo_lora-anna.json \
        --output results/ratings/sft_lora~dpo_lora
"""

import json
from collections import Counter
from pathlib import Path

from posttrain.cli.table import columns
from posttrain.reports import ratings
from posttrain.runtime.atomic import whole_file, write_json
from posttrain.runtime.console import say
from posttrain.runtime.script import arguments, run


def main(options) -> None:
    rated = ratings.read(options.ratings, options.a, options.b)
    result = ratings.summary(rated, options.a, options.b)
    with whole_file(options.output / "preferences.jsonl") as path, path.open("w", encoding="utf-8") as file:
        for row in ratings.preferences(rated):
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
    write_json(options.output / "ratings.json", result)
    say(printed(result), "table")
    if twice := shown_differently(rated):
        say(
            f"{options.a}~{options.b}: {twice} prompts were rated with different answers, so a model has changed "
            "between the pages; leave out the files of the older page"
        )


def printed(result: dict) -> str:
    """The table for a person, a line a question."""
    a, b, count = result["a"], result["b"], len(result["raters"])
    lines = [["", f"{a} wins", f"{b} wins", "ties", f"share of {b}", "verdict", "alpha"]]
    for question, row in result["questions"].items():
        share = "-" if row["share"] is None else f"{row['share']:.0%} [{row['low']:.0%}, {row['high']:.0%}]"
        agreement = "-" if row["alpha"] is None else f"{row['alpha']:.2f}"
        lines.append([question, *(str(row[key]) for key in ("a", "b", "ties")), share, row["verdict"], agreement])
    return (
        f"{columns(lines)}\n\n{result['items']} items, {count} rater{'' if count == 1 else 's'}, "
        f"{result['preferences']} preferences. Verdicts are of {b} against {a}, corrected for their number (Holm).\n"
    )


def shown_differently(rated: list[ratings.Rating]) -> int:
    """How many examples were rated with more than one pair of answers."""
    shown = Counter(key[:3] for key in {ratings.item(rating) for rating in rated})
    return sum(count > 1 for count in shown.values())


if __name__ == "__main__":
    parser = arguments(__doc__, a=str, b=str, output=Path)
    parser.add_argument("--ratings", type=Path, nargs="+", required=True, help="files that rate.html exported")
    run(parser, main)
