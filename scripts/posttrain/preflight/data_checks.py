"""Checks of the rows, of what the chat template makes of them, and of licences."""

from typing import TYPE_CHECKING

from posttrain.data import left_out
from posttrain.data.dataset_types import DATASET_TYPES
from posttrain.preflight.findings import Finding, share

if TYPE_CHECKING:
    from posttrain.preflight.run_context import RunContext

MAX_SHARED = 0.01  # share of the held-out rows in the training rows that is a warning; more is an error


def overlap(run: "RunContext") -> Finding | None:
    """What a model is measured on is not trained on."""
    found = {name: result for name, result in run.overlap.items() if result["shared"]}
    if not found:
        return None
    error = any(result["exact"] or result["shared"] > MAX_SHARED * result["rows"] for result in found.values())
    counts = [
        f"{share(result['shared'], result['rows'])} of the held-out rows of {name} ({result['exact']} word for word)"
        for name, result in found.items()
    ]
    first = next(iter(found.values()))["examples"][0]
    return Finding(
        "error" if error else "warning",
        f"the training rows contain {' and '.join(counts)}, so that what is measured there is memory; take them out of "
        "one side, overlap.json of the dataset names them",
        f"{first['place']} stands in {first['train_place']}:\n{first['text']}",
    )


def answer_in_prompt(run: "RunContext") -> Finding | None:
    """Answers are not given away."""
    rows, first = run.leaks()
    if not rows:
        return None
    text = f"in {share(rows, run.data['train'])} of the rows the completion, of five words or more, occurs word for word in its own prompt"
    return Finding(
        "warning", f"{text}, first in {first}: the model learns to look it up; check whether that is the task"
    )


def missing_bos(run: "RunContext") -> Finding | None:
    """A chat template prints the BOS that the tokenizer puts before every other text."""
    tokenizer = run.tokenizer
    if not DATASET_TYPES[run.data["shape"]].turns or not tokenizer.chat_template or not run.texts:
        return Finding("skipped", "no chat template is used")
    opening = tokenizer("a")["input_ids"][:1]
    if opening != [tokenizer.bos_token_id] or run.texts[0][2].startswith(tokenizer.bos_token):
        return None
    return Finding(
        "warning",
        f"the tokenizer puts {tokenizer.bos_token} before every text, and the base's chat template does not print it, so that the "
        "model sees conversations without it here and wherever they are not tokenised as plain text; if the base was trained with "
        "it, give the base a `chat_template:` that begins with {{ bos_token }}",
    )


def chat_template(run: "RunContext") -> Finding | None:
    """Conversations have a template."""
    if not DATASET_TYPES[run.data["shape"]].turns or run.tokenizer.chat_template:
        return None
    return Finding(
        "warning",
        "the base has no chat template, so turns are joined by line ends, without roles, and answers closed by "
        f"{run.tokenizer.eos_token}; give the base a `chat_template:`, or train from its instruction-tuned sibling",
    )


def template_drops(run: "RunContext") -> Finding | None:
    """Everything that is said, and each function that is called, is in the text that the chat template makes."""
    from posttrain.preflight.token_scan import elided

    lost: dict[str, list[tuple[dict, str]]] = {}
    for row, turns, text in run.texts:
        for kind in left_out.left_out(turns, row.get("tools"), text):
            lost.setdefault(kind, []).append((row, text))
    if not lost:
        return None
    kind, cases = max(lost.items(), key=lambda item: len(item[1]))
    row, text = cases[0]
    others = [name for name in lost if name != kind]
    also = f" (in others also {' and '.join(others)})" if others else ""
    return Finding(
        "error",
        f"the base's chat template leaves out {kind} in {share(len(cases), len(run.texts))} of the sampled conversations{also}; "
        f"{left_out.advice([kind])}, or take it out of the rows",
        f"{row['place']}:\n{elided(text)}",
    )


def system_prompt(run: "RunContext") -> Finding | None:
    """No system prompt that the template writes by itself is trained into the model."""
    from posttrain.data import system_prompts
    from posttrain.preflight.token_scan import elided

    if not DATASET_TYPES[run.data["shape"]].turns:
        return Finding("skipped", "a text has no system prompt")
    own = system_prompts.of_template(run.tokenizer)
    without = [row for row, turns in run.asked if turns[0]["role"] != "system"]
    if own is None or not without:
        return None
    where = "each dataset of the mixture" if run.data.get("format") == "mix" else "the dataset"
    return Finding(
        "warning",
        f"{share(len(without), len(run.asked))} of the sampled rows have no system prompt, and the base's chat template writes one of "
        f"its own: {' '.join(elided(own).split())!r}; write `system:` under {where}, with your own words or with these",
    )


def dropped_thoughts(run: "RunContext") -> Finding | None:
    """What the assistant thought (`reasoning_content`) is in the text that is trained."""
    thinks = [(row, turns[-1], text) for row, turns, text in run.texts if turns[-1].get("reasoning_content")]
    lost = [
        row for row, turn, text in thinks if not left_out.stands_in(" ".join(text.split()), turn["reasoning_content"])
    ]
    if not lost:
        return None if thinks else Finding("skipped", "no answer has reasoning_content")
    return Finding(
        "warning",
        f"the base's chat template leaves out the reasoning_content of {share(len(lost), len(run.texts))} of the sampled answers, "
        f"first in {lost[0]['place']}, so thoughts are not trained; give the base a `chat_template:` that prints them",
    )


def licence(run: "RunContext") -> Finding | None:
    """The licences of everything that the model is made of allow its use."""
    from posttrain.data.licences import forbids, forbids_teaching, is_known

    forbidding = [part for part, name in run.licences.items() if forbids(name, run.use)]
    if forbidding:
        part = forbidding[0]
        chain = " -> ".join([part, *run.chains[part]])
        text = f"{chain}: the licence of {part}, {run.licences[part]}, forbids use: {run.use}; replace {part}, or write use: research"
        return Finding("error", text)
    own = run.licences.get(f"bases.{run.base}")
    for part in run.teachers:
        if forbids_teaching(run.licences.get(f"bases.{part}"), own):
            text = f"the licence of bases.{part}, {run.licences[f'bases.{part}']}, forbids to train other models on what it says; "
            return Finding("error", text + "take another teacher, or a student that is made of it")
    unstated = [part for part, name in run.licences.items() if not name]
    strange = [f"{part} ({name})" for part, name in run.licences.items() if name and not is_known(name)]
    told = [f"{', '.join(unstated)} has no licence that is stated"] if unstated else []
    told += [f"the licence of {', '.join(strange)} is not known here"] if strange else []
    advice = "read what it allows, and write its name as `licence:` in the configuration"
    return Finding("warning", f"{', and '.join(told)}; {advice}") if told else None
