"""Measure a model on held-out rows, and compare it with its parent and its base on the same rows.

Reads the evaluation's spec, the model, the datasets' tokens and rows, and the other models' examples; writes eval.json
(metrics with intervals, verdicts) and eval/examples.parquet (each example's scores and text).

    python scripts/evaluate_model.py --spec results/sft_lora/eval/spec.json --model results/sft_lora/model \
        --tokens results/tokens/smollm2 --output results/sft_lora/eval.json
"""

from pathlib import Path

from posttrain.examples import columns, comparisons, having, read_examples
from posttrain.stage import Clock, arguments, read_json, run, say, sha256, whole_file, write_json
from posttrain.statistics import METRICS, summary

SIDES = ("chosen", "rejected")


def main(options) -> None:
    from posttrain import models

    clock = Clock()
    spec = read_json(options.spec)
    name = options.output.parent.name
    model, tokenizer = models.load(options.model).eval(), models.tokenizer(options.model)
    if models.is_reward(options.model):
        examples = score_pairs(model, options.tokens, spec)
    else:
        examples = score(model, tokenizer, options.tokens, spec)
    others = {other["name"]: read_examples(other["name"]) for other in spec["against"]}
    add_margins(examples, others)
    result = {"run": name, "spec": sha256(options.spec), **summarise(examples, others)}
    result["seconds"] = clock.seconds()
    write_examples(options.output.with_suffix("") / "examples.parquet", examples)
    write_json(options.output, result)
    for metric, row in result["metrics"].items():
        verdicts = [
            f"{rows[metric]['verdict']} against {other}" for other, rows in result["against"].items() if metric in rows
        ]
        say(f"{name}: {metric} {row['value']:.3f} [{row['low']:.3f}, {row['high']:.3f}]  {', '.join(verdicts)}")
    training = options.output.parent / "train.json"
    if training.exists():
        log_to_mlflow(read_json(training), options.output)


def score(model, tokenizer, tokens: Path, spec: dict) -> list[dict]:
    """One dictionary for each held-out example of every dataset, with the columns that its shape allows."""
    import pyarrow.parquet as pq

    from posttrain import scoring

    examples, requests = [], []  # all answers are scored in one call, where equal ones meet
    for data in spec["data"]:
        folder = tokens / f"{data['name']},max_length={spec['max_length']}"
        encoded = pq.read_table(folder / "validation.parquet").slice(0, spec["limit"]).to_pylist()
        rows = [{"dataset": data["name"], "id": row["id"]} for row in encoded]
        for row, example in zip(encoded, rows, strict=True):
            if "completion_ids" in row:  # one answer and its label: nothing to compare it with
                continue
            if "prompt_ids" in row:
                requests += [(example, side, scoring.answer(row["prompt_ids"], row[f"{side}_ids"])) for side in SIDES]
            else:
                requests.append((example, "", (tuple(row["input_ids"]), tuple(row["labels"]))))
        if rows and read_json(folder / "report.json")["shape"] == "messages":
            answer_questions(model, tokenizer, rows, data["name"], spec)
        examples += rows
    scores = scoring.log_probs(model, [sequence for *_, sequence in requests], spec["batch_tokens"])
    for (example, side, _), (total, count) in zip(requests, scores, strict=True):
        example |= {f"{side}_log_prob": total} if side else {"log_prob": total, "tokens": float(count)}
    for example in examples:
        if "chosen_log_prob" in example:
            example["prefers_chosen"] = float(example["chosen_log_prob"] > example["rejected_log_prob"])
    return examples


def score_pairs(model, tokens: Path, spec: dict) -> list[dict]:
    """What a reward model gives both answers of every held-out pair."""
    import pyarrow.parquet as pq

    from posttrain import scoring

    examples = []
    for data in spec["data"]:
        folder = tokens / f"{data['name']},max_length={spec['max_length']}"
        if read_json(folder / "report.json")["shape"] != "preference":
            continue
        rows = pq.read_table(folder / "validation.parquet").slice(0, spec["limit"]).to_pylist()
        scores = scoring.pair_rewards(model, rows, spec["batch_tokens"])
        examples += [
            {
                "dataset": data["name"],
                "id": row["id"],
                "chosen_score": chosen,
                "rejected_score": rejected,
                "scores_chosen": float(chosen > rejected),
            }
            for row, (chosen, rejected) in zip(rows, scores, strict=True)
        ]
    return examples


def answer_questions(model, tokenizer, examples: list[dict], dataset: str, spec: dict) -> None:
    """Generate where every reference ends in GSM8K's `#### number`, and compare the final numbers."""
    from posttrain import rows, scoring, tokens
    from posttrain.rewards import MARKED, answer_format, final_number

    found = {row["id"]: row for row in rows.read(Path(f"results/data/{dataset}/validation.parquet"))}
    asked = [found[example["id"]] for example in examples]
    turns = [row["messages"] for row in asked]
    references = [conversation[-1]["content"] for conversation in turns]
    if not all(MARKED.search(reference) for reference in references):
        return
    prompts = [tokens.prompt_tokens(tokenizer, row["messages"][:-1], row.get("tools")) for row in asked]
    outputs = scoring.generate(model, tokenizer, prompts, spec["max_new_tokens"])
    for example, conversation, reference, output in zip(examples, turns, references, outputs, strict=True):
        example |= {
            "prompt": conversation[-2]["content"],
            "reference": reference,
            "output": output,
            "exact_match": final_number(output, reference),
            "format_followed": answer_format(output, reference),
        }


def add_margins(examples: list[dict], others: dict[str, dict]) -> None:
    """DPO's own accuracy: whether the log-probability rose more, against the parent, for chosen than for rejected."""
    parent = next(iter(others.values()), {})
    for example in examples:
        reference = parent.get((example["dataset"], example["id"]))
        if reference and "chosen_log_prob" in example:
            chosen = example["chosen_log_prob"] - reference["chosen_log_prob"]
            rejected = example["rejected_log_prob"] - reference["rejected_log_prob"]
            example["margin_prefers_chosen"] = float(chosen > rejected)


def summarise(examples: list[dict], others: dict[str, dict]) -> dict:
    """The `metrics` and `against` of eval.json."""
    metrics = {}
    for name, metric in METRICS.items():
        if ours := having(metric, examples):
            metrics[name] = summary(metric, columns(metric, ours))
    return {"metrics": metrics, "against": {other: comparisons(examples, rows) for other, rows in others.items()}}


def write_examples(path: Path, examples: list[dict]) -> None:
    """Write every example with every column; one that does not apply is null."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    numbers = (
        "log_prob tokens chosen_log_prob rejected_log_prob prefers_chosen margin_prefers_chosen exact_match "
        "format_followed chosen_score rejected_score scores_chosen"
    ).split()
    texts = ("dataset", "id", "prompt", "reference", "output")
    schema = pa.schema([(name, pa.string()) for name in texts] + [(name, pa.float64()) for name in numbers])
    with whole_file(path) as file:
        pq.write_table(pa.Table.from_pylist(examples, schema=schema), file)


def log_to_mlflow(training: dict, result: Path) -> None:
    """Add the evaluation to the MLflow run of the training stage, where there is one."""
    from posttrain import tracking

    if tracking.settings()["mlflow"] and training["mlflow_run_id"]:
        tracking.log_evaluation(training["mlflow_run_id"], result)


if __name__ == "__main__":
    run(arguments(__doc__, spec=Path, model=Path, tokens=Path, output=Path), main)
