"""Have a judge compare a model's answers with another's, and add the win rates to its evaluation.

Reads the judge's spec, what the model was measured to be, its answers and the others'; asks about each pair in both orders; writes
eval.json (the measurements with the win rates) and judge/verdicts.jsonl. Replies are remembered in judge/replies.jsonl, so that an
interrupted job, or one whose judge went away, asks for the rest only.

    python scripts/judge_answers.py --spec results/dpo_lora/judge/spec.json --settings settings.json \
        --measured results/dpo_lora/eval/measured.json --examples results/dpo_lora/eval/examples.parquet \
        --others results/sft_lora/eval/examples.parquet --judges results/bases/smollm2 \
        --verdicts results/dpo_lora/judge/verdicts.jsonl --output results/dpo_lora/eval.json
"""

import argparse
import json
from pathlib import Path
from typing import Any, NamedTuple

from posttrain.data import thoughts
from posttrain.evaluation import judging, win_rate
from posttrain.evaluation.example_scores import clusters, key, read_examples
from posttrain.provenance.records import hashes, sealed
from posttrain.reports import ratings, verdict_lines
from posttrain.runtime.atomic import read_json, whole_file, write_json
from posttrain.runtime.console import Clock, say
from posttrain.runtime.errors import UserError
from posttrain.runtime.hashes import sha256
from posttrain.runtime.script import arguments, run

Asked = tuple[dict, judging.Pair]
"""An example and the pair of answers to its prompt."""


class Judged(NamedTuple):
    """One suite's pairs with their verdicts."""

    examples: list[dict]
    pairs: list[judging.Pair]
    verdicts: list[judging.Verdicts]


def main(options) -> None:
    clock = Clock()
    spec, settings, result = (read_json(file) for file in (options.spec, options.settings, options.measured))
    result |= {"judge": {}, "judge_spec": sha256(options.spec)}
    ours = read_examples(options.examples)
    others = {file.parent.parent.name: read_examples(file) for file in options.others}
    rows: list[dict] = []
    faults: list[UserError] = []
    for suite, how in spec["suites"].items():
        asked = answered(suite, ours, others[how["against"]["name"]])
        try:
            rows += judge_suite(result, suite, how, settings[suite], asked, options)
        except UserError as error:  # of one judge, which the next suite may not have
            faults.append(error)
    if faults:
        say(f"{result['run']}: its other measurements are in {options.measured}")
        raise faults[0]
    with whole_file(options.verdicts) as file:
        file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    result["judged"] = hashes(options.verdicts.parent, options.verdicts.name)
    result["seconds"] = round(result["seconds"] + clock.seconds(), 2)
    write_json(options.output, sealed(result))
    tell(result)
    if options.output.with_name("train.json").exists():
        from posttrain.training import mlflow_tracking

        mlflow_tracking.log_finished(options.output)


def judge_suite(result: dict, suite: str, how: dict, settings: dict, asked: list[Asked], options) -> list[dict]:
    """Add a suite's win rate, its comparison and its details to eval.json; returns the rows of verdicts.jsonl.

    Raises:
        UserError: its judge is not there, or gives no verdicts.
    """
    name, other = result["run"], how["against"]["name"]
    if not asked:
        say(f"{name}: there is nothing for suite {suite} to judge, because no held-out row asks anything")
        return []
    warn(name, suite, how)
    judge = judge_of(suite, how, settings, options.judges)
    found, row = compared(judge, instruction(settings), asked, options.verdicts.with_name("replies.jsonl"))
    metric = f"{suite}/win_rate"
    result["metrics"][metric], against = win_rate.win_rate(found.verdicts, clusters(found.examples))
    result["by_dataset"].setdefault(asked[0][0]["dataset"], {})[metric] = result["metrics"][metric]
    result["against"].setdefault(other, {})[metric] = against
    agreement = with_people(found, name, other, options.ratings)
    result["judge"][suite] = {"by": by(how), "against": other} | row | agreement
    return written(suite, other, found)


# ---- the judge


def judge_of(suite: str, how: dict, settings: dict, folders: list[Path]) -> judging.Judge:
    """The judge that a suite's spec names."""
    place = f"evaluation.suites.{suite}"
    if "by" in how:
        from posttrain.evaluation.local_judge import LocalJudge

        folder = {folder.name: folder for folder in folders}[how["by"]["name"]]
        return LocalJudge(folder, how["precision"], how["batch_tokens"], f"{place}.by")
    from posttrain.evaluation.endpoint_judge import EndpointJudge

    return EndpointJudge(settings, f"{place}.endpoint")


def by(how: dict) -> str:
    """Who judges, in words."""
    return how["by"]["name"] if "by" in how else f"{how['endpoint']['model']} at {how['endpoint']['base_url']}"


def instruction(settings: dict) -> str:
    """What the judge is told to prefer."""
    return (
        Path(settings["instruction"]).read_text(encoding="utf-8") if "instruction" in settings else judging.INSTRUCTION
    )


def warn(name: str, suite: str, how: dict) -> None:
    """Say where the judge is kin to what it judges."""
    if how.get("related"):
        judge, other = how["by"]["name"], how["against"]["name"]
        own = "is one of the two" if judge in (name, other) else f"has the same base as {' and '.join(how['related'])}"
        say(
            f"{name}: the judge of suite {suite}, {judge}, {own}, and models tend to prefer answers that are like their own "
            "(self-preference); a judge of another family, or people, would say more"
        )


# ---- pairs


def answered(suite: str, ours: dict, theirs: dict) -> list[Asked]:
    """The suite's examples that both have answered, each with the pair of answers without thoughts."""
    return [
        (row, judging.Pair(row["prompt"], *(thoughts.answer(side[key(row)]["output"]) for side in (ours, theirs))))
        for row in ours.values()
        if row["suite"] == suite and key(row) in theirs
    ]


def compared(judge: judging.Judge, told: str, asked: list[Asked], replies: Path) -> tuple[Judged, dict]:
    """The verdicts on pairs, and what says how far to trust them."""
    examples, pairs = [row for row, _ in asked], [pair for _, pair in asked]
    found, said, new = judging.verdicts(judge, told, pairs, replies)
    say(f"{new} of {len(said)} verdicts asked for, the others were known", "detail")
    costs = [judge.cost(reply) for reply in said]
    return Judged(examples, pairs, found), win_rate.details(found, pairs, said, costs, clusters(examples))


def written(suite: str, other: str, found: Judged) -> list[dict]:
    """The rows of verdicts.jsonl."""
    return [
        {"suite": suite, "dataset": row["dataset"], "id": row["id"], "against": other}
        | pair._asdict()
        | verdicts._asdict()
        | {"win": verdicts.win}
        for row, pair, verdicts in zip(found.examples, found.pairs, found.verdicts, strict=True)
    ]


def with_people(found: Judged, name: str, other: str, files: list[Path]) -> dict[str, Any]:
    """How far people who rated the same answers agree; nothing where nobody did.

    Raises:
        UserError: a file is not as the rating page exports it.
    """
    rated = {
        **people(ratings.of_pair(files, name, other), ours="a"),
        **people(ratings.of_pair(files, other, name), ours="b"),
    }
    both = [
        (verdicts.win, rated[at])
        for row, pair, verdicts in zip(found.examples, found.pairs, found.verdicts, strict=True)
        if (at := (row["dataset"], row["id"], pair.ours, pair.theirs)) in rated
    ]
    return win_rate.agreement([ours for ours, _ in both], [theirs for _, theirs in both])


def people(rated: list[ratings.Rating], ours: str) -> dict[tuple[str, ...], float]:
    """What most raters prefer of each pair, by dataset, id, our answer and the other's: 1 ours, 0 the other's, a half neither."""
    theirs = "b" if ours == "a" else "a"
    found = {}
    for item, answers in ratings.majorities(rated).items():
        of = dict(zip(ratings.ITEM, item, strict=True))
        at = (of["dataset"], of["id"], of[f"answer_{ours}"], of[f"answer_{theirs}"])
        found[at] = {ours: 1.0, theirs: 0.0}.get(ratings.preferred(answers), 0.5)
    return found


def tell(result: dict) -> None:
    """Say what was found, a line a suite."""
    lines = verdict_lines.judged(result)
    for line in lines:
        say(line, "detail")
    say("; ".join(lines) if lines else f"{result['run']}: nothing to judge", "summary")


def parser() -> argparse.ArgumentParser:
    paths = ("spec", "settings", "measured", "examples", "verdicts", "output")
    options = arguments(__doc__, **dict.fromkeys(paths, Path))
    for name, words in (
        ("others", "the examples.parquet of the models to compare with"),
        ("judges", "the folders of the bases and runs that judge"),
        ("ratings", "files that rate.html exported"),
    ):
        options.add_argument(f"--{name}", type=Path, nargs="*", default=[], help=words)
    return options


if __name__ == "__main__":
    run(parser(), main)
