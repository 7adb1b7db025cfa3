"""Read what the checks look at."""

from argparse import Namespace
from functools import cache, partial
from pathlib import Path
from typing import Any

from posttrain.data import conversations, licences, profile, unknown_keys
from posttrain.inference import reward_reference
from posttrain.models import machine, processors, shapes
from posttrain.models.memory_sharing import Hardware
from posttrain.objectives import data_refusal
from posttrain.preflight import measured_rows, media_marks, token_scan
from posttrain.preflight.run_context import RENDERED, RunContext
from posttrain.runtime.atomic import read_json
from posttrain.runtime.errors import UserError

PROMPTS = 1000  # prompts that are tokenised where there are no tokens


def build_context(
    options: Namespace, tokens: Path | None, facts: dict[str, Any], evaluation: dict[str, Any] | None = None
) -> RunContext:
    """Read what the checks look at.

    Args:
        options: paths: `spec`, `parent`, `data` and `measured`, see check_run.py.
        tokens: folder of the run's tokens; None where the objective is on-policy.
        facts: the run's context.json: `licences`, `chains`, `use`, `judges` and `hardware`.
        evaluation: spec of the run's evaluation.

    Raises:
        UserError: the rows are of a type that the objective, or its reward function, cannot use.
    """
    spec, data = read_json(options.spec), read_json(options.data / "data.json")
    if refusal := data_refusal(spec["objective"], spec["data"]["name"], data["shape"]):
        advice = unknown_keys.advice(data["shape"], data.get("unknown", {}))
        raise UserError("wrong-dataset-type", "", refusal, advice)
    reward_reference.check(spec, data["shape"])
    tokenizer = load_tokenizer(options.parent)
    stops = conversations.stops(options.parent, tokenizer)
    train = options.data / "train.parquet"

    reader = cache(partial(processors.reader, options.parent))

    def example(number: int) -> str:
        row = token_scan.row(tokens / "train.parquet", number)
        words = media_marks.in_words(reader(tokens), row)
        return f"{token_scan.place(train, row['id'])}:\n{token_scan.marked(tokenizer, row, words)}"

    hardware = Hardware(**facts.get("hardware", {}))
    return RunContext(
        spec=spec,
        model=shapes.read_model(options.parent),
        tokenizer=tokenizer,
        stops=stops,
        data=data,
        overlap=read_json(options.data / "overlap.json"),
        token_report=read_json(tokens / "report.json") if tokens else None,
        tokens=token_scan.scan(tokens / "train.parquet", tokenizer, stops, spec["max_length"]) if tokens else None,
        sample=token_scan.sample(train, RENDERED if tokens else PROMPTS),
        memory=machine.of_one_process(machine.available(), hardware.processes),
        hardware=hardware,
        licences=licences.with_cards(facts["licences"]),
        chains=facts["chains"],
        use=facts["use"],
        example=example,
        leaks=partial(leaks, train),
        encoded=partial(token_scan.of_rows, tokens / "train.parquet" if tokens else None),
        evaluation=evaluation or {},
        base=facts.get("base", ""),
        teachers=facts.get("teachers", []),
        teacher=(load_tokenizer(Path(facts["teacher"])), shapes.read_model(Path(facts["teacher"])))
        if facts.get("teacher")
        else None,
        measured=measured_rows.read(options.measured, evaluation or {}),
        judges={suite: load_tokenizer(Path(model)) for suite, model in facts.get("judges", {}).items()},
    )


def leaks(train: Path) -> tuple[int, str | None]:
    """How many rows have their answer in their prompt, and where the first one stands."""
    total, first = 0, None
    for batch in profile.batches([train]):
        found = profile.answers_in_prompts(profile.columns_of(batch))
        first = first or (batch["place"][found[0]].as_py() if found else None)
        total += len(found)
    return total, first


def load_tokenizer(folder: Path) -> Any:
    """The parent's tokenizer; one in a tokenizer.json needs none of the classes whose imports take seconds.

    Raises:
        UserError: it has no end-of-sequence token.
    """
    if (folder / "tokenizer.json").exists():
        from transformers import PreTrainedTokenizerFast as Tokenizer
    else:
        from transformers import AutoTokenizer as Tokenizer
    tokenizer = Tokenizer.from_pretrained(folder)
    if tokenizer.eos_token is None:
        raise UserError(
            "no-eos-token", str(folder), "the tokenizer has no eos_token, so a model cannot learn to stop", "set one"
        )
    return tokenizer
