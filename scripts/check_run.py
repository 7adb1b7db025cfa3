"""Check a run before it trains: its tokens as they will be trained on, its settings, its memory, its licences.

Reads the run's spec and its evaluation's, the parent's configuration, tokenizer and the headers of its weights, the rows with
their summary and overlaps, and their tokens (none where the run answers prompts itself); writes preflight.json and
preflight.txt, or where an error stops the run, the same under results/logs/preflight/.

    python scripts/check_run.py --spec results/sft_lora/spec.json --parent results/bases/smollm2/model \
        --data results/data/snips --tokens results/tokens/smollm2/snips,max_length=1024 \
        --context results/sft_lora/context.json --evaluation results/sft_lora/eval/spec.json \
        --measured results/data/snips --output results/sft_lora
"""

import argparse
import os
import textwrap
from functools import partial
from pathlib import Path
from typing import Any

from posttrain.preflight import checks
from posttrain.runtime.atomic import read_json, whole_file, write_json
from posttrain.runtime.console import say
from posttrain.runtime.errors import UserError
from posttrain.runtime.script import arguments, run

SAMPLE, PROMPTS = 200, 1000  # rows that are rendered; prompts that are tokenised where there are no tokens


def main(options) -> None:
    os.environ["USE_TORCH"] = "0"  # importing torch takes longer than all the checks
    context = read_json(options.context)
    tokens = Path(options.tokens) if options.tokens else None
    name = options.output.name
    subject = look_at(options, tokens, context, read_json(options.evaluation) if options.evaluation else {})
    try:
        results = checks.check(subject, context["allow"])
        examples = rows(subject)
    except UserError as error:
        raise UserError(f"{name}: dataset {subject.spec['data']['name']}: {error}") from None
    errors = [result for result in results if result["result"] == "error"]
    need = {key: round(value / checks.GIB, 3) for key, value in checks.needed(subject, subject.spec).items()}
    there = {"unit": "GiB", "on": subject.memory.name, "there": round(subject.memory.total / checks.GIB, 3)}
    report = {"run": name, "passed": not errors, "checks": results, "memory": need | there}
    report |= {"trained": trained(subject.spec)}
    failed = options.output.parent / "logs" / "preflight" / name  # Snakemake deletes what a failed job leaves
    file = failed if errors else options.output / "preflight"
    write(file, report | {"licences": context["licences"]}, examples)
    for result in results:
        if result["result"] in ("warning", "allowed"):
            label = "WARNING" if result["result"] == "warning" else f"{result['severity']}, allowed"
            say(f"{name}: {result['name']}: {label}: {result['message']}")
    if errors:
        raise UserError(*refusal(name, errors, f"{file}.txt").splitlines())
    for suffix in ("json", "txt"):
        Path(f"{failed}.{suffix}").unlink(missing_ok=True)


def write(file: Path, report: dict, examples: list[tuple[str, str]]) -> None:
    """Write `file`.json and `file`.txt."""
    write_json(Path(f"{file}.json"), report)
    with whole_file(Path(f"{file}.txt")) as text:
        text.write_text(page(report, examples), encoding="utf-8")


def look_at(options, tokens: Path | None, context: dict, evaluation: dict | None = None):
    """Read what the checks look at: a survey.Subject; `evaluation` is the spec of the run's.

    Raises:
        UserError: the rows are of a shape that the objective, or its reward function, cannot use.
    """
    from posttrain.data import conversations, licences, unknown_keys
    from posttrain.inference import reward_reference
    from posttrain.models import memory_estimate
    from posttrain.objectives import data_refusal
    from posttrain.preflight import measured_rows, token_scan

    spec, data = read_json(options.spec), read_json(options.data / "data.json")
    refusal = data_refusal(spec["objective"], spec["data"]["name"], data["shape"])
    if refusal:
        advice = unknown_keys.advice(data["shape"], data.get("unknown", {}))
        raise UserError("; ".join(filter(None, [refusal, advice])))
    reward_reference.check(spec, data["shape"])
    tokenizer = load_tokenizer(options.parent)
    stops = conversations.stops(options.parent, tokenizer)
    train = options.data / "train.parquet"

    def example(number: int) -> str:
        row = token_scan.row(tokens / "train.parquet", number)
        return f"{token_scan.place(train, row['id'])}:\n{token_scan.marked(tokenizer, row)}"

    return token_scan.Subject(
        spec=spec,
        model=memory_estimate.read_model(options.parent),
        tokenizer=tokenizer,
        stops=stops,
        data=data,
        overlap=read_json(options.data / "overlap.json"),
        report=read_json(tokens / "report.json") if tokens else None,
        tokens=token_scan.survey(tokens / "train.parquet", tokenizer, stops, spec["max_length"]) if tokens else None,
        sample=token_scan.sample(train, SAMPLE if tokens else PROMPTS),
        memory=memory_estimate.available(),
        licences=licences.with_cards(context["licences"]),
        chains=context["chains"],
        use=context["use"],
        example=example,
        leaks=partial(leaks, train),
        evaluation=evaluation or {},
        measured=measured_rows.read(options.measured, evaluation or {}),
        judges={suite: load_tokenizer(Path(model)) for suite, model in context.get("judges", {}).items()},
    )


def leaks(train: Path) -> tuple[int, str | None]:
    """How many rows have their answer in their prompt, and where the first one stands."""
    from posttrain.data import profile

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
        raise UserError(f"{folder}: the tokenizer has no eos_token, so a model cannot learn to stop; set one")
    return tokenizer


# ---- for people


def rows(subject) -> list[tuple[str, str]]:
    """The first, the longest and the shortest row, or prompt: what it is, and its place and text."""
    has_tokens = subject.tokens is not None
    lengths = subject.tokens.lengths.tolist() if has_tokens else [len(ids) for ids in subject.prompts]
    kinds: dict[int, list[str]] = {}
    for kind, at in (("first", 0), ("longest", lengths.index(max(lengths))), ("shortest", lengths.index(min(lengths)))):
        kinds.setdefault(at, []).append(kind)
    what, text = ("row", subject.example) if has_tokens else ("prompt of the sample", subject.asks)
    return [(f"{' and '.join(names)} {what}, {lengths[at]} tokens", text(at)) for at, names in kinds.items()]


def page(report: dict, examples: list[tuple[str, str]]) -> str:
    """preflight.txt: one line a check, the memory, and rows in which the trained tokens can be told from the others."""
    verdict = "passed" if report["passed"] else "stopped"
    lines = [f"Preflight of {report['run']}: {verdict}", ""]
    for result in report["checks"]:
        lines.append(f"{result['result']:8} {result['name']:19} {result['message']}".rstrip())
        lines += [indented(result["example"])] if result["example"] else []
    need = report["memory"]
    parts = ", ".join(
        f"{key} {need[key]:.2f}" for key in ("weights", "gradients", "optimiser", "activations", "logits")
    )
    lines += ["", f"Memory: about {need['total']:.1f} of {need['there']:.1f} GiB on {need['on']} ({parts}).", ""]
    lines += [
        f"Rows: what is trained ({report['trained']}) stands between ⟦ and ⟧; white space is as it is, the middle of long texts is "
        "left out.",
        "",
    ]
    for title, text in examples:
        lines += [f"--- {title}", text, ""]
    return "\n".join(lines)


def trained(spec: dict) -> str:
    """What of a run's conversations is trained, for people."""
    if spec["objective"] != "sft":
        return "the answer"
    turns = "the assistant's last turn" if spec.get("assistant_turns") == "last" else "all turns of the assistant"
    return turns if spec.get("train_thoughts", True) else f"{turns}, without thoughts"


def refusal(name: str, errors: list[dict], file: str) -> str:
    """What stopped a run: each error with the row that shows it, and how to overrule them, where that helps."""
    told = [f"{error['name']}: {error['message']}\n{indented(error['example'])}".rstrip() for error in errors]
    names = [error["name"] for error in errors]
    overruled = [check for check in names if check not in checks.REFUSED_AGAIN]
    mended = " and ".join(check for check in names if check in checks.REFUSED_AGAIN)
    offer = f"write `allow: [{', '.join(overruled)}]` to train it all the same" if overruled else ""
    offer += (f", once {mended} is mended" if mended else "") + "; " if offer else ""
    return "\n".join([f"{name} is not trained:", *told, f"{offer}all that was checked is in {file}"])


def indented(text: str) -> str:
    """A text under the line that it belongs to."""
    return textwrap.indent(text, "    ", lambda line: True)


def parser() -> argparse.ArgumentParser:
    options = arguments(__doc__, spec=Path, parent=Path, data=Path, context=Path, output=Path)
    options.add_argument(
        "--tokens", nargs="?", default="", const="", help="folder that tokenize_data wrote, if the run has one"
    )
    options.add_argument(
        "--measured", type=Path, nargs="*", default=[], help="the folders of the datasets that the run is measured on"
    )
    options.add_argument("--evaluation", type=Path, help="the spec of the run's evaluation")
    return options


if __name__ == "__main__":
    run(parser(), main)
