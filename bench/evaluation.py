"""Our evaluation beside lm-eval's own Hugging Face back-end: the same tasks, requests, model and cores, in one process.

    python bench/evaluation.py

The model is the demo's SmolLM2-135M, made by the workflow; the rows are the shipped GSM8K ones. Four tasks: the end of a
solution among four (multiple choice), texts (rolling), questions answered in a chat, and after four worked examples, the same
for all as in lm-eval's gsm8k_cot. lm-eval's back-end gets for each task the batch size with which it was fastest on two cores,
of 1, 4, 8 and 16; its `auto` begins with 64 rows of 8192 tokens and their logits, which no CPU's memory holds. Printed for
each task: requests/s of both, their ratio, and how far the results are apart; last the geometric mean of the ratios, in which
each task counts the same, as `name ratio aim`.
"""

import argparse
import contextlib
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from statistics import geometric_mean

from aims import tell
from common import BASE, REPOSITORY, parser, project

sys.path.insert(0, str(REPOSITORY / "scripts"))

HEAD = "dataset_path: json\ndataset_kwargs: {data_files: {test: test.jsonl, train: train.jsonl}}\ntest_split: test\n"
TASKS = {
    "choice": """
output_type: multiple_choice
doc_to_text: "Question: {{question}}\\nAnswer:"
doc_to_choice: "{{endings}}"
doc_to_target: 0
metric_list: [{metric: acc}, {metric: acc_norm}]
""",
    "rolling": """
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{question}}\\n{{answer}}"
metric_list: [{metric: word_perplexity}, {metric: byte_perplexity}]
""",
    "chat": """
output_type: generate_until
doc_to_text: "{{question}}"
doc_to_target: "{{answer}}"
generation_kwargs: {until: ["\\n\\n"], max_gen_toks: 96, do_sample: false}
metric_list: [{metric: exact_match}]
""",
    "few_shot": """
output_type: generate_until
fewshot_split: train
fewshot_config: {sampler: first_n}
num_fewshot: 4
doc_to_text: "Question: {{question}}\\nAnswer:"
doc_to_target: "{{answer}}"
generation_kwargs: {until: ["Question:", "\\n\\n"], max_gen_toks: 96, do_sample: false}
metric_list: [{metric: exact_match}]
""",
}
BATCH = {"choice": 8, "rolling": 1, "chat": 8, "few_shot": 8}  # lm-eval's, the fastest of 1, 4, 8 and 16


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--model", type=Path, help="the folder of a model, instead of the demo's")
    options.add_argument("--tasks", nargs="+", default=list(TASKS), choices=list(TASKS))
    options.add_argument("--batch-size", type=int, help="lm-eval's, instead of its best ones")
    options = options.parse_args()
    project()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        model_folder = (options.model or BASE).resolve()
        write_tasks(folder)
        with contextlib.chdir(folder):
            compare(model_folder, options)


def write_tasks(folder: Path) -> None:
    """The task files, and their rows with the last step of four solutions, the right one first."""
    for split in ("train", "test"):
        lines = (REPOSITORY / f"examples/data/gsm8k_{split}.jsonl").read_text().splitlines()
        rows = [json.loads(line) for line in lines]
        steps = [row["answer"].splitlines()[-2] for row in rows]
        for i, row in enumerate(rows):
            row["endings"] = [steps[(i + k) % len(steps)] for k in range(4)]
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "tasks").mkdir()
    for name, text in TASKS.items():
        (folder / f"tasks/{name}.yaml").write_text(f"task: {name}\n{HEAD}{text}")


def compare(model_folder: Path, options: argparse.Namespace) -> None:
    """Run both back-ends on every task, and print what they need and whether they agree."""
    import logging
    from functools import partial

    import datasets

    from posttrain.evaluation import harness
    from posttrain.inference import scoring
    from posttrain.models import loading

    logging.disable(logging.WARNING)
    datasets.config.HF_DATASETS_CACHE = Path("cache")
    model, tokenizer = loading.load(model_folder).eval(), loading.tokenizer(model_folder)
    ours = harness.Engine(model, tokenizer, 1024, partial(scoring.generate, model, tokenizer))
    timed(ours, "rolling", 2)  # the first steps are slow
    ratios = []
    for name in options.tasks:
        size = options.batch_size or BATCH[name]
        theirs = harness.HFLM(pretrained=model, tokenizer=tokenizer, batch_size=size)
        other, slow = timed(theirs, name)
        found, fast = timed(ours, name)
        count = sum(len(sample["arguments"]) for sample in other)
        ratios.append(slow / fast)
        rates = f"ours {count / fast:.2f}/s, lm-eval {count / slow:.2f}/s with a batch size of {size}"
        print(f"{name}: {count} requests, {rates}: {ratios[-1]:.2f}; {agreement(found, other)}", flush=True)
    tell("evaluation requests/s, ours / lm-eval hf", geometric_mean(ratios))


def timed(engine, name: str, limit: int = 20) -> tuple[list[dict], float]:
    """The samples that an engine gives for a task, and the seconds it needs."""
    from posttrain.evaluation import harness

    tasks = harness.load([name], Path("tasks"))
    with Path(os.devnull).open("w") as silent, contextlib.redirect_stderr(silent), contextlib.redirect_stdout(silent):
        start = time.perf_counter()
        results = harness.evaluate(engine, tasks, limit, None, chat=name == "chat")
        return results["samples"][name], time.perf_counter() - start


def agreement(ours: list[dict], theirs: list[dict]) -> str:
    """How far the results of the same requests are apart."""
    pairs = [pair for a, b in zip(ours, theirs, strict=True) for pair in zip(a["resps"], b["resps"], strict=True)]
    if isinstance(pairs[0][0][0], str):
        same = sum(a == b for a, b in pairs)
        return f"{same} of {len(pairs)} answers are the same"
    values = [tuple(r[0][0] if isinstance(r[0], tuple) else r[0] for r in pair) for pair in pairs]
    furthest = max(abs(a - b) / abs(b) for a, b in values)
    return f"log-likelihoods differ by {furthest:.1e} of their size at most"


if __name__ == "__main__":
    main()
