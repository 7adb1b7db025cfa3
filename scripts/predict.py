"""Complete every row of a dataset with a model.

Reads the predictions' spec, the model and the dataset's rows; writes one line a row, in the dataset's order: `id`, `place`, `prompt`
(the text of the last turn that asks), `completion`, and `finish`, which is `stop` or `length`. A row that cannot be answered has an
`error` instead. Prompts are written as in training and evaluation, and decoding is greedy.

What was generated is remembered beside the output, in answers.sqlite, by the model, the prompt's tokens and the settings: a killed
job goes on where it was, and an unchanged row is never generated twice, whatever rows are beside it. Rows are read and written in
windows, so that memory does not grow with the dataset.

    python scripts/predict.py --spec results/sft_lora/predictions/snips/spec.json --model results/sft_lora/merged \
        --manifest results/sft_lora/merge.json --data results/data/snips --output results/sft_lora/predictions/snips.jsonl
"""

import contextlib
import json
from collections import Counter
from itertools import islice
from pathlib import Path

from posttrain.data.dataset_types import DATASET_TYPES
from posttrain.data.whole_datasets import WholeDataset
from posttrain.runtime import processes
from posttrain.runtime.atomic import read_json, whole_file
from posttrain.runtime.console import progress, say
from posttrain.runtime.errors import UserError
from posttrain.runtime.hashes import sha256
from posttrain.runtime.script import arguments, run


def main(options) -> None:
    from posttrain.inference.answer_store import AnswerStore
    from posttrain.inference.completion import complete

    processes.join()
    spec, data = read_json(options.spec), WholeDataset(options.data)
    name = f"{options.output.parents[1].name} on {options.data.name}"
    check_type(options.data.name, data.report["shape"])
    asking = load(options, spec)
    store = AnswerStore(options.output.with_name("answers.sqlite"))
    take_over(store, options.output.parents[1] / "eval/answers.jsonl")
    total = min(len(data), spec["limit"] or len(data))

    def tell_progress(done: int) -> None:
        progress(f"{name}: {done}/{total} rows", done, total)

    counts, first_error = Counter(), ""
    with output(options.output) as write:
        for window in complete(asking, islice(data, total), store, tell_progress):
            write(window.lines)
            counts["generated"] += window.generated
            counts.update(line.get("finish", "error") for line in window.lines)
            errors = (f"{line['place']}: {line['error']}" for line in window.lines if "error" in line)
            first_error = first_error or next(errors, "")
        if not counts["stop"] + counts["length"]:
            raise UserError(
                "no-prompts",
                f"dataset {options.data.name}",
                f"none of its {total} rows can be answered; the first: {first_error}",
            )
    tell(name, counts, total, first_error, options.output)


def load(options, spec: dict):
    """The model, and how it is asked; the answer to a prompt is named as the evaluation names it, which answers alike."""
    from posttrain.evaluation import generation_cache
    from posttrain.inference import decoding, scoring
    from posttrain.inference.completion import Asking
    from posttrain.models import loading

    precision, penalty, longest = spec["precision"], spec["repetition_penalty"], spec["max_new_tokens"]
    model, tokenizer = loading.for_inference(options.model, precision), loading.tokenizer(options.model)
    stops = scoring.stop_tokens(model, tokenizer)
    key = generation_cache.model_key(sha256(options.manifest), precision, stops, decoding.context(model))
    settings = [generation_cache.VERSION, key, penalty, longest, ()]

    def name(prompt, files):
        return generation_cache.name_of(prompt, settings, files)

    return Asking(model, tokenizer, longest, penalty, name, options.data)


def check_type(dataset: str, dataset_type: str) -> None:
    """Refuse a dataset whose rows no model here can complete.

    Raises:
        UserError: they are texts.
    """
    row = DATASET_TYPES[dataset_type]
    if not row.turns:
        problem = f"its rows are of the type {dataset_type}, which have no prompt to complete"
        raise UserError("no-prompts", f"dataset {dataset}", problem, "name a dataset of prompts or conversations")


def take_over(store, file: Path) -> None:
    """Add what the model's evaluation has generated; answers to other settings have other names."""
    from posttrain.evaluation import generation_cache

    if processes.is_main():
        store.add(generation_cache.read(file))


@contextlib.contextmanager
def output(path: Path):
    """What writes lines to the file that takes the place of `path` at the end; the first process alone writes."""
    if not processes.is_main():
        yield lambda lines: None
        return
    with whole_file(path) as beside, beside.open("w", encoding="utf-8") as file:
        yield lambda lines: file.writelines(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)


def tell(name: str, counts: Counter, total: int, first_error: str, file: Path) -> None:
    """Say what became of the rows."""
    known = total - counts["error"] - counts["generated"]
    said = f"{total} rows: {counts['generated']} answers generated, {known} known or asked twice"
    if counts["length"]:
        said += f", {counts['length']} cut at max_new_tokens or at the end of the context"
    say(f"{name}: {said}", "summary")
    if counts["error"]:
        say(f"{name}: {counts['error']} rows have an error instead, see {file}; the first: {first_error}")


if __name__ == "__main__":
    run(arguments(__doc__, spec=Path, model=Path, manifest=Path, data=Path, output=Path), main, replicas=True)
