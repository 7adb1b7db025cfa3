"""Check a run before it trains: its tokens as they will be trained on, its settings, its memory, its licences.

Reads the run's spec, the parent's configuration, tokenizer and the headers of its weights, the rows with their summary and
overlaps, and their tokens (`--tokens ""` where the run answers prompts itself); writes preflight.json and preflight.txt, or
where an error stops the run, the same under results/logs/preflight/.

    python scripts/check_run.py --spec results/sft_lora/spec.json --parent results/bases/smollm2/model \
        --data results/data/gsm8k --tokens results/tokens/smollm2/gsm8k,max_length=1024 \
        --context '{"allow": ["overlap"], "use": "research", "licences": {"bases.smollm2": "apache-2.0"}}' \
        --output results/sft_lora
"""

import json
import os
from pathlib import Path
from typing import Any

from posttrain import checks
from posttrain.errors import UserError
from posttrain.stage import arguments, read_json, run, say, whole_file, write_json

SAMPLE, PROMPTS = 200, 1000  # rows that are rendered; prompts that are tokenised where there are no tokens


def main(options) -> None:
    os.environ["USE_TORCH"] = "0"  # importing torch takes longer than all the checks
    context = json.loads(options.context)
    tokens = Path(options.tokens) if options.tokens else None
    subject = look_at(options, tokens, context)
    name = options.output.name
    results = checks.check(subject, context["allow"])
    errors = [result for result in results if result["result"] == "error"]
    need = checks.needed(subject, subject.spec)
    report = {
        "run": name,
        "passed": not errors,
        "checks": results,
        "memory": {key: round(value / checks.GIB, 3) for key, value in need.items()}
        | {"unit": "GiB", "on": subject.memory.name, "there": round(subject.memory.total / checks.GIB, 3)},
        "licences": context["licences"],
    }
    failed = options.output.parent / "logs" / "preflight"  # Snakemake deletes what a failed job leaves
    folder, stem = (failed, name) if errors else (options.output, "preflight")
    text = page(report, rows(subject))
    write_json(folder / f"{stem}.json", report)
    with whole_file(folder / f"{stem}.txt") as file:
        file.write_text(text, encoding="utf-8")
    for result in results:
        if result["result"] in ("warning", "allowed"):
            label = "WARNING" if result["result"] == "warning" else f"{result['severity']}, allowed"
            say(f"{name}: {result['name']}: {label}: {result['message']}")
    if errors:
        raise UserError(refusal(name, errors, folder / f"{stem}.txt"))
    for suffix in ("json", "txt"):
        (failed / f"{name}.{suffix}").unlink(missing_ok=True)


def look_at(options, tokens: Path | None, context: dict):
    """Read what the checks look at: a survey.Subject."""
    from posttrain import licences, memory, profiling, survey

    spec = read_json(options.spec)
    tokenizer = load_tokenizer(options.parent)
    stops = stop_tokens(options.parent, tokenizer)
    train = options.data / "train.parquet"

    def example(number: int) -> str:
        row = survey.row(tokens / "train.parquet", number)
        return f"{survey.place(train, row['id'])}: {survey.marked(tokenizer, row)}"

    def leaks() -> tuple[int, str | None]:
        total, first = 0, None
        for batch in profiling.batches([train]):
            found = profiling.answers_in_prompts(profiling.columns_of(batch))
            first = first or (batch["place"][found[0]].as_py() if found else None)
            total += len(found)
        return total, first

    return survey.Subject(
        spec=spec,
        model=memory.read_model(options.parent),
        tokenizer=tokenizer,
        stops=stops,
        data=read_json(options.data / "data.json"),
        overlap=read_json(options.data / "overlap.json"),
        report=read_json(tokens / "report.json") if tokens else None,
        tokens=survey.survey(tokens / "train.parquet", tokenizer, stops, spec["max_length"]) if tokens else None,
        sample=survey.sample(train, SAMPLE if tokens else PROMPTS),
        memory=memory.available(),
        licences=licences.with_cards(context["licences"]),
        use=context["use"],
        example=example,
        leaks=leaks,
    )


def load_tokenizer(folder: Path) -> Any:
    """The parent's tokenizer; a tokenizer.json needs none of the classes whose imports take seconds."""
    if (folder / "tokenizer.json").exists():
        from transformers import PreTrainedTokenizerFast

        return PreTrainedTokenizerFast.from_pretrained(folder)
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder)


def stop_tokens(folder: Path, tokenizer: Any) -> list[int]:
    """The tokens that end an answer, as in scoring.stop_tokens."""
    file = folder / "generation_config.json"
    ends = read_json(file).get("eos_token_id") if file.exists() else None
    return sorted({tokenizer.eos_token_id, *(ends if isinstance(ends, list) else [ends])} - {None})


# ---- for people


def rows(subject) -> list[tuple[str, str]]:
    """The first, the longest and the shortest row, or prompt: what it is, and its text."""
    from posttrain import survey
    from posttrain.tokens import render

    has_tokens = subject.tokens is not None
    lengths = subject.tokens.lengths.tolist() if has_tokens else [len(ids) for ids in subject.prompts]
    numbers = {"first": 0, "longest": lengths.index(max(lengths)), "shortest": lengths.index(min(lengths))}
    if has_tokens:
        return [(f"{kind} row, {lengths[i]} tokens", subject.example(i)) for kind, i in numbers.items()]
    found = []
    for kind, i in numbers.items():
        row, turns = subject.asked[i]
        text = survey.elided(render(subject.tokenizer, turns, row.get("tools"), generate=True))
        found.append((f"{kind} prompt of the sample, {lengths[i]} tokens", f"{row['place']}: {text}"))
    return found


def page(report: dict, examples: list[tuple[str, str]]) -> str:
    """preflight.txt: one line a check, the memory, and rows in which the trained tokens can be told from the others."""
    verdict = "passed" if report["passed"] else "stopped"
    lines = [f"Preflight of {report['run']}: {verdict}", ""]
    for result in report["checks"]:
        lines.append(f"{result['result']:8} {result['name']:19} {result['message']}".rstrip())
        lines += [f"         {result['example']}"] if result["example"] else []
    need = report["memory"]
    parts = ", ".join(
        f"{key} {need[key]:.2f}" for key in ("weights", "gradients", "optimiser", "activations", "logits")
    )
    lines += ["", f"Memory: about {need['total']:.1f} of {need['there']:.1f} GiB on {need['on']} ({parts}).", ""]
    lines += [
        "Rows: what is trained stands between ⟦ and ⟧; white space is as it is, the middle of long texts is left out.",
        "",
    ]
    for title, text in examples:
        lines += [f"--- {title}", text, ""]
    return "\n".join(lines)


def refusal(name: str, errors: list[dict], file: Path) -> str:
    """What stopped a run: each error with the row that shows it, and how to overrule them."""
    found = [
        f"{error['name']}: {error['message']}" + (f"\n    {error['example']}" if error["example"] else "")
        for error in errors
    ]
    names = ", ".join(error["name"] for error in errors)
    return f"{name} is not trained: " + "\n".join(
        [*found, f"Write `allow: [{names}]` to train it all the same; see {file}"]
    )


if __name__ == "__main__":
    run(arguments(__doc__, spec=Path, parent=Path, data=Path, tokens=str, context=str, output=Path), main)
