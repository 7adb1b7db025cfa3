"""The proof of an export: what the program that runs it says, measured against the unquantised model.

The program loads the export from disk. It is asked for the token ids and the rendering of held-out prompts and of some fixed ones, for
the likelihood of held-out answers, and for its own answers. What must not be missed stands in the configuration, `export.limits`.
"""

import json
import math
import time
from pathlib import Path
from typing import Any

from posttrain.data.messages import Row
from posttrain.evaluation import cases
from posttrain.export import comparison, questions
from posttrain.export.programs import Program
from posttrain.export.with_transformers import rendered
from posttrain.exports import EXPORTS
from posttrain.runtime.atomic import read_json
from posttrain.runtime.errors import UserError

TIMED = 3  # answers that are generated one after the other for `tokens_per_second`
# Limits that a measurement must not go beyond, and those that it must not stay below.
MOST, LEAST = ("perplexity_ratio", "size_bytes"), ("greedy_agreement", "same_tokens", "same_template")


def load(kind: str, folder: Path, base: Path, before: Path) -> Program:
    """The program that runs an export, with the export loaded from disk.

    Args:
        base: the model that an adapter belongs to.
        before: the manifest of that model.

    Raises:
        UserError: the program is not there, or cannot load the export.
    """
    row = EXPORTS[kind]
    if row.gguf:
        from posttrain.export.llama_cpp import LlamaCpp

        return LlamaCpp(next(folder.glob("*.gguf")))
    from posttrain.export.with_transformers import Transformers

    return (
        Transformers(folder, base=base, hashes=read_json(before)["files"]) if row.is_adapter else Transformers(folder)
    )


def measure(program: Program, spec: dict, rows: list[Row], tokenizer: Any, stops: list[int]) -> dict[str, Any]:
    """What a program says of the rows of a reference, against what the reference has.

    Args:
        spec: the proof's.
        rows: of the reference.
        tokenizer: the run's own.
        stops: the tokens that end an answer.

    Raises:
        UserError: the export says nothing, or what is no number.
    """
    said = ask(program, rows, spec, stops)
    refuse_nothing(spec["model"]["name"], rows, said)
    scored, theirs = of_kind("scored", rows, said)
    answered, outputs = of_kind("answered", rows, said)
    found = same_texts(program, tokenizer, answered)
    found |= comparison.likelihood(scored, theirs) if not _is_reward(rows) else {}
    found |= comparison.same_answers(answered, outputs)
    before, after = (comparison.examples(some, tokenizer, spec["suites"]) for some in (rows, said))
    values, against = comparison.metrics(after, before)
    found |= _cases(spec["suites"], before, after)
    return found | {"metrics": values, "against": {spec["model"]["name"]: against}}


def _cases(suites: dict[str, dict], before: list[Row], after: list[Row]) -> dict[str, Any]:
    """`cases`: of each suite of cases which are green and which are red, and whether the unquantised model was green (`before`)."""
    old, new = (cases.results(suites, examples) for examples in (before, after))
    for name, rows in new.items():
        for row, was in zip(rows, old[name], strict=True):
            row |= {"before": was["passed"], "failed_before": was["failed"], "answer_before": was["answer"]}
    return {"cases": new} if new else {}


def _is_reward(rows: list[Row]) -> bool:
    return any("score" in row for row in rows)


def of_kind(kind: str, rows: list[Row], said: list[Row]) -> tuple[list[Row], list[Row]]:
    """The rows of one kind, and what the export said of them."""
    pairs = [(row, own) for row, own in zip(rows, said, strict=True) if row["kind"] == kind]
    return [row for row, _ in pairs], [own for _, own in pairs]


def ask(program: Program, rows: list[Row], spec: dict, stops: list[int]) -> list[Row]:
    """The rows with what the program says in place of what the reference said."""
    said: list[Row] = [dict(row) for row in rows]
    scored = [row for row in said if row["kind"] == "scored"]
    if _is_reward(rows):
        scores = program.rewards([(*row["prompt_ids"], *row["answer_ids"]) for row in scored])
        for row, score in zip(scored, scores, strict=True):
            row["score"] = score
        return said
    found = program.score([(row["prompt_ids"], row["answer_ids"]) for row in scored])
    for row, one in zip(scored, found, strict=True):
        row |= {"log_probs": one.log_probs, "greedy": one.greedy}
    for suite, most in _longest(spec).items():
        some = [row for row in said if row["kind"] == "answered" and row["suite"] == suite]
        outputs = questions.answers(program, some, most, stops)
        for row, ids in zip(some, outputs, strict=True):
            row["output_ids"] = ids
    return said


def _longest(spec: dict) -> dict[str, int]:
    """The most tokens of an answer, by suite; without suites with data, of the answers to the run's own dataset too."""
    own = {name: suite["max_new_tokens"] for name, suite in spec["suites"].items()}
    return own if any("data" in suite for suite in spec["suites"].values()) else {"": spec["max_new_tokens"]} | own


def refuse_nothing(name: str, rows: list[Row], said: list[Row]) -> None:
    """Refuse an export that gives something that is no number, or no answer where the unquantised model gives one.

    Raises:
        UserError: it does.
    """
    numbers = [value for row in said for value in [*row.get("log_probs", ()), row.get("score", 0.0)]]
    if not all(map(math.isfinite, numbers)):
        count = sum(not math.isfinite(value) for value in numbers)
        problem = f"the export gives {count} of {len(numbers)} values on held-out rows that are no number"
        raise UserError("export-limit", name, problem, "export another kind, such as bf16")
    words = [sum(len(row["output_ids"]) > 1 for row in some if row["kind"] == "answered") for some in (rows, said)]
    if words[0] and not words[1]:
        problem = f"the export says nothing to any held-out prompt, and the trained model answers {words[0]} of them"
        raise UserError("export-limit", name, problem, "export another kind, such as bf16")


def same_texts(program: Program, tokenizer: Any, rows: list[Row]) -> dict[str, Any]:
    """`same_template` and `same_tokens`: of held-out prompts and of fixed ones, in several scripts and with tools.

    Without a chat template nothing is rendered, and the texts are the prompts themselves.
    """
    held_out = [(json.loads(row["turns"]), json.loads(row["tools"]) if row.get("tools") else None) for row in rows]
    if not tokenizer.chat_template:
        plain = [turns[-1]["content"] for turns, _ in [*held_out, *questions.PROBES]]
        return {"same_tokens": comparison.same(program.encode(plain), _ids(tokenizer, plain))}
    asked = held_out + [probe for probe in questions.PROBES if _takes(tokenizer, *probe)]
    expected = [rendered(tokenizer, *one) for one in asked]
    turns, tools = [turns for turns, _ in asked], [tools for _, tools in asked]
    return {
        "same_template": comparison.same(program.render(turns, tools), expected),
        "same_tokens": comparison.same(program.encode(expected), _ids(tokenizer, expected)),
    }


def _takes(tokenizer: Any, turns: list[dict], tools: list[dict] | None) -> bool:
    """Whether a chat template renders a conversation."""
    try:
        return bool(rendered(tokenizer, turns, tools))
    except Exception:  # whatever its author's program raises
        return False


def _ids(tokenizer: Any, texts: list[str]) -> list[list[int]]:
    return [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]


def speed(program: Program, rows: list[Row], spec: dict, stops: list[int]) -> float | None:
    """Tokens per second of the first answers, one after the other, reading the prompts included."""
    answered = [row for row in rows if row["kind"] == "answered"][:TIMED]
    longest, start, tokens = _longest(spec), time.perf_counter(), 0
    for row in answered:
        tokens += len(questions.answers(program, [row], longest[row["suite"]], stops)[0])
    return tokens / (time.perf_counter() - start) if answered else None


def check(name: str, kind: str, found: dict[str, Any], limits: dict[str, float]) -> None:
    """Refuse an export that misses a limit, or that answers a required case wrong.

    Raises:
        UserError: with the figures of each that is missed.
    """
    missed = []
    for limit, wanted in limits.items():
        row = found.get(limit)
        if row is None:  # such as the perplexity of a reward model
            continue
        value = row["value"] if isinstance(row, dict) else row
        if value > wanted if limit in MOST else value < wanted:
            interval = (
                f" ({row['low']:.3g} to {row['high']:.3g})" if "low" in (row if isinstance(row, dict) else ()) else ""
            )
            side = "at most" if limit in MOST else "at least"
            missed.append(f"{limit} is {value:,.4g}{interval}, and has to be {side} {wanted:,g}")
    missed += [
        f"the required case '{row['id']}' of {suite} is red: {row['failed']}"
        for suite, rows in found.get("cases", {}).items()
        for row in rows
        if row["required"] and not row["passed"]
    ]
    if missed:
        hint = "export a kind with more bits, or change export.limits or what is required of a case"
        raise UserError("export-limit", f"{name}: {kind}", "; ".join(missed), hint)
