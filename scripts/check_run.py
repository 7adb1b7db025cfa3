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
from pathlib import Path

from posttrain.models.memory_estimate import GIB
from posttrain.objectives import OBJECTIVES
from posttrain.preflight import checks, tool_checks
from posttrain.preflight.settings_checks import needed
from posttrain.runtime.atomic import read_json, whole_file, write_json
from posttrain.runtime.console import say
from posttrain.runtime.errors import UserError
from posttrain.runtime.script import arguments, run


def main(options) -> None:
    os.environ["USE_TORCH"] = "0"  # importing torch takes longer than all the checks
    from posttrain.preflight.context import build_context

    facts = read_json(options.context)
    tokens = Path(options.tokens) if options.tokens else None
    name = options.output.name
    context = build_context(options, tokens, facts, read_json(options.evaluation) if options.evaluation else {})
    try:
        results = checks.check(context, facts["allow"])
        examples = rows(context)
    except UserError as error:
        raise UserError(error.code, name, f"dataset {context.spec['data']['name']}: {error}") from None
    errors = [result for result in results if result["result"] == "error"]
    need = {key: round(value / GIB, 3) for key, value in needed(context, context.spec).items()}
    there = {"unit": "GiB", "on": context.memory.name, "there": round(context.memory.total / GIB, 3)}
    report = {"run": name, "passed": not errors, "checks": results, "memory": need | there}
    report |= {"trained": trained(context.spec)}
    if of_tools := tool_checks.counts(context):
        report["tools"] = of_tools
    failed = options.output.parent / "logs" / "preflight" / name  # Snakemake deletes what a failed job leaves
    file = failed if errors else options.output / "preflight"
    write(file, report | {"licences": facts["licences"]}, examples)
    for result in results:
        if result["result"] in ("warning", "allowed"):
            label = "WARNING" if result["result"] == "warning" else f"{result['severity']}, allowed"
            say(f"{name}: {result['name']}: {label}: {result['message']}")
    if errors:
        raise UserError("preflight-failed", name, refusal(errors, f"{file}.txt").splitlines())
    for suffix in ("json", "txt"):
        Path(f"{failed}.{suffix}").unlink(missing_ok=True)


def write(file: Path, report: dict, examples: list[tuple[str, str]]) -> None:
    """Write `file`.json and `file`.txt."""
    write_json(Path(f"{file}.json"), report)
    with whole_file(Path(f"{file}.txt")) as text:
        text.write_text(page(report, examples), encoding="utf-8")


# ---- for people


def rows(context) -> list[tuple[str, str]]:
    """The first, the longest and the shortest row, or prompt: what it is, and its place and text."""
    has_tokens = context.tokens is not None
    lengths = context.tokens.lengths.tolist() if has_tokens else [len(ids) for ids in context.prompts]
    kinds: dict[int, list[str]] = {}
    for kind, at in (("first", 0), ("longest", lengths.index(max(lengths))), ("shortest", lengths.index(min(lengths)))):
        kinds.setdefault(at, []).append(kind)
    what, text = ("row", context.example) if has_tokens else ("prompt of the sample", context.asks)
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
    lines += [tool_checks.sentence(report["tools"]), ""] if "tools" in report else []
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
    if OBJECTIVES[spec["objective"]].classifier:
        return "the label"
    if OBJECTIVES[spec["objective"]].splits_long_rows:
        return "the whole text"
    if "assistant_turns" not in OBJECTIVES[spec["objective"]].keys:
        return "the answer"
    turns = "the assistant's last turn" if spec.get("assistant_turns") == "last" else "all turns of the assistant"
    return turns if spec.get("train_thoughts", True) else f"{turns}, without thoughts"


def refusal(errors: list[dict], file: str) -> str:
    """What stopped a run: each error with the row that shows it, and how to overrule them, where that helps."""
    told = [f"{error['name']}: {error['message']}\n{indented(error['example'])}".rstrip() for error in errors]
    names = [error["name"] for error in errors]
    overruled = [check for check in names if not checks.CHECKS[check].refused_again]
    mended = " and ".join(check for check in names if checks.CHECKS[check].refused_again)
    offer = f"write `allow: [{', '.join(overruled)}]` to train it all the same" if overruled else ""
    offer += (f", once {mended} is mended" if mended else "") + "; " if offer else ""
    return "\n".join(["it is not trained:", *told, f"{offer}all that was checked is in {file}"])


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
