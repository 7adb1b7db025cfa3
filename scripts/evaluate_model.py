"""Measure a model on held-out rows and by the configured suites, and compare it with its parent and its base.

Reads the evaluation's spec, the model, the datasets' tokens and rows, and the other models' examples; writes eval.json
(metrics with intervals, verdicts) and eval/examples.parquet (each example's scores and text). What the model generates is
remembered in eval/answers.jsonl, so that one more metric, or a killed evaluation, generates nothing again.

The model is the one that was trained, in float32 arithmetic unless `evaluation.precision` says otherwise. Where another type of its
weights ships, the likelihoods are measured with those as well, and eval.json has them under `shipped`.

    python scripts/evaluate_model.py --spec results/sft_lora/eval/spec.json --model results/sft_lora/merged \
        --shipped results/sft_lora/model --manifest results/sft_lora/merge.json --tokens results/tokens/smollm2 \
        --data results/data/snips --others results/smollm2/eval/examples.parquet --output results/sft_lora/eval.json
"""

import argparse
from pathlib import Path

from posttrain.cli.table import as_it_ships
from posttrain.cli.table import columns as printed
from posttrain.data import origins
from posttrain.evaluation import cases
from posttrain.evaluation.example_scores import (
    SOMETIMES,
    TEXTS,
    Examples,
    by_origin,
    clusters,
    columns,
    comparisons,
    key,
    measured,
    read_examples,
)
from posttrain.evaluation.safety import by_group
from posttrain.metrics.statistics import basis, preference, shown, summary, verdict
from posttrain.provenance.records import hashes, sealed
from posttrain.reports import cases as case_tables
from posttrain.reports import domains, overruled
from posttrain.runtime import processes
from posttrain.runtime.atomic import read_json, whole_file, write_json
from posttrain.runtime.console import Clock, say
from posttrain.runtime.hashes import sha256
from posttrain.runtime.script import arguments, run


def main(options) -> None:
    from posttrain.evaluation import classification, suites
    from posttrain.models import loading

    processes.join()
    clock = Clock()
    spec = read_json(options.spec)
    folder = options.examples.parent if options.examples else options.output.with_suffix("")
    name = folder.parent.name
    candidate = suites.Candidate(
        name,
        loading.for_inference(options.model, spec.get("precision", "fp32")),
        loading.tokenizer(options.model),
        options.tokens,
        folder / "answers.jsonl",
        sha256(options.manifest),
        spec,
        {folder.name: folder for folder in options.data},
        {folder.name: folder for folder in options.reward_models},
    )
    examples = scored(candidate, options.model) if loading.is_reward(options.model) else measure(candidate)
    candidate = candidate._replace(model=None)  # the next one may need its memory
    shipped = measure_shipped(candidate, options)
    if not processes.is_main():
        return
    others = {file.parent.parent.name: read_examples(file) for file in options.others}
    if labels := loading.classes(options.model):
        others[classification.MAJORITY] = classification.majority(candidate, examples, labels)
    add_margins(examples, others)
    result = {"run": name, "spec": sha256(options.spec), **summarise(examples, others)}
    if outside := spec.get("outside"):
        result["by_domain"] = by_domain(examples, others, outside)
    for dtype, rows in shipped.items():
        add_margins(rows, others)
        result["shipped"] = {"dtype": dtype, **summarise(rows, others)}
    if found := cases.results(spec["suites"], examples):
        result["cases"] = found
    result["seconds"] = clock.seconds()
    write_examples(folder / "examples.parquet", examples)
    result |= {"manifest": sha256(options.manifest), "written": hashes(folder, "examples.parquet")}
    write_json(options.output, sealed(result))
    tell(result)
    if (
        options.output.name == "eval.json" and (folder.parent / "train.json").exists()
    ):  # else a judge's job makes eval.json
        from posttrain.training import mlflow_tracking

        mlflow_tracking.log_finished(options.output)


def measure_shipped(candidate, options) -> dict[str, list[dict]]:
    """The examples with the likelihoods of the weights that ship, by their type, where it is another than what was trained."""
    from posttrain.evaluation import suites
    from posttrain.models import loading

    proof = read_json(options.manifest)
    shipped = proof.get("shipped")  # a base has no proof
    if shipped is None or shipped["dtype"] == proof["dtype"]:
        return {}
    model = loading.for_inference(options.shipped, candidate.spec.get("precision", "fp32"))
    shipping = candidate._replace(model=model)
    reward = loading.is_reward(options.shipped)
    return {shipped["dtype"]: scored(shipping, options.shipped) if reward else suites.likelihoods(shipping)}


def scored(candidate, folder: Path) -> list[dict]:
    """The examples of a model that scores sequences: a reward model, or a classifier."""
    from posttrain.evaluation import classification, suites
    from posttrain.models import loading

    labels = loading.classes(folder)
    return classification.predict(candidate, labels) if labels else suites.score_pairs(candidate)


def measure(candidate) -> list[dict]:
    """One dictionary for each example of the standard measurements and of every suite."""
    from posttrain.evaluation import suites

    say_overruled(candidate)
    examples, requests = suites.standard(candidate)
    for name, suite in candidate.spec["suites"].items():
        say(f"{candidate.name}: suite {name}", "detail")
        found, wanted = suites.measure(candidate, name, suite)
        examples += found
        requests += wanted
    suites.score(candidate, requests)  # all in one call, where equal ones meet
    return examples


def say_overruled(candidate) -> None:
    """Name what of the model's generation configuration would change greedy answers, and is off."""
    from posttrain.inference import decoding

    off = decoding.overruled(candidate.model)
    if "repetition_penalty" in candidate.spec:
        off.pop("repetition_penalty", None)
    if off:
        named = ", ".join(f"{key} {value}" for key, value in off.items())
        how = "; `evaluation.repetition_penalty` turns the penalty on" if "repetition_penalty" in off else ""
        say(f"{candidate.name}: answers are greedy, without the generation configuration's {named}{how}")


def tell(result: dict) -> None:
    """Say what was found, a line a metric."""
    lines = [["", "value", "95% interval", "of", *(f"against {other}" for other in result["against"])]]
    for metric, row in result["metrics"].items():
        low, high = shown(metric, row["low"]), shown(metric, row["high"])
        verdicts = [verdict(rows[metric]) if metric in rows else "" for rows in result["against"].values()]
        lines.append([metric, shown(metric, row["value"]), f"{low} to {high}", basis(row), *verdicts])
        for name, own in origins.apart(result, metric).items():
            lines.append([f"  of {name}", shown(metric, own["value"]), *[""] * (2 + len(verdicts))])
    touching = overruled.sentences(overruled.of(result["run"], *result["against"]))
    more = [*domains.lines(result), *case_tables.red(result), *touching, *as_it_ships(result)]
    say("\n".join([result["run"], printed(lines), *more]), "detail")
    say(", ".join(f"{metric} {value}" for metric, value, *_ in lines[1:4]), "summary")


def add_margins(examples: list[dict], others: dict[str, dict]) -> None:
    """DPO's own accuracy: whether the log-probability rose more, against the parent, for chosen than for rejected."""
    parent = next(iter(others.values()), {})
    for example in examples:
        reference = parent.get(key(example))
        if reference and "chosen_log_prob" in example:
            chosen = example["chosen_log_prob"] - reference["chosen_log_prob"]
            rejected = example["rejected_log_prob"] - reference["rejected_log_prob"]
            example |= {"margin": chosen - rejected, "margin_prefers_chosen": preference(chosen, rejected)}


def summarise(examples: list[dict], others: dict[str, Examples]) -> dict:
    """The `metrics`, `by_dataset` and `against` of eval.json.

    Where a dataset is a mixture there is `by_part` as well, and where a suite asked about groups of people, `groups`.
    """
    found = by_origin(examples)
    parts = {name: {part: summaries(rows) for part, rows in own.items() if part} for name, own in found.items()}
    parts = {name: own for name, own in parts.items() if own}
    groups = by_group(examples)
    return (
        {"metrics": summaries(examples)}
        | {"by_dataset": {name: summaries(own[""]) for name, own in found.items()}}
        | ({"by_part": parts} if parts else {})
        | {"against": {other: comparisons(examples, rows) for other, rows in others.items()}}
        | ({"groups": groups} if groups else {})
    )


def by_domain(examples: list[dict], others: dict[str, Examples], outside: list[str]) -> dict[str, dict]:
    """The metrics and the verdicts of the standard measurements, inside the domain and outside of it."""
    standard = [example for example in examples if not example["suite"]]
    found = {}
    for place in ("inside", "outside"):
        rows = [example for example in standard if (example["dataset"] in outside) == (place == "outside")]
        found[place] = {
            "data": list(dict.fromkeys(example["dataset"] for example in rows)),
            "metrics": summaries(rows),
            "against": {other: comparisons(rows, theirs) for other, theirs in others.items()},
        }
    return found


def summaries(examples: list[dict]) -> dict[str, dict]:
    """Value, interval and n of every metric that the examples hold."""
    return {name: summary(metric, columns(metric, ours), clusters(ours)) for name, metric, ours in measured(examples)}


def write_examples(path: Path, examples: list[dict]) -> None:
    """Write every example with every column; one that does not apply is null."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    kinds = {name: pa.string() for name in TEXTS}
    for example in examples:
        for name, value in example.items():
            kind = pa.string() if name in SOMETIMES else pa.float64()
            kinds.setdefault(name, pa.list_(kind) if isinstance(value, list) else kind)
    with whole_file(path) as file:
        pq.write_table(pa.Table.from_pylist(examples, schema=pa.schema(kinds.items())), file)


def parser() -> argparse.ArgumentParser:
    options = arguments(__doc__, spec=Path, model=Path, shipped=Path, manifest=Path, tokens=Path, output=Path)
    for name, words in (
        ("data", "the folders of the datasets"),
        ("others", "the examples.parquet of the models to compare with, the parent first"),
        ("reward-models", "the folders of the reward models of suites"),
    ):
        options.add_argument(f"--{name}", type=Path, nargs="*", default=[], help=words)
    options.add_argument(
        "--examples", type=Path, help="the examples.parquet to write; by default in the folder OUTPUT without .json"
    )
    return options


if __name__ == "__main__":
    run(parser(), main, replicas=True)
