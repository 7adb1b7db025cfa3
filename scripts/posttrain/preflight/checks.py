"""The preflight's checks: mistakes that are cheap to find before a training and cost days after it.

A check is a function of the `Subject` and bears the name that a user writes in `allow:`. It returns nothing where all is well,
or a Finding: an error stops the run, a warning is told, a check that does not apply is skipped.
"""

import functools
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from posttrain.data.bins import bins
from posttrain.methods import METHODS
from posttrain.models.evaluation_needs import learns_positions
from posttrain.objectives import OBJECTIVES
from posttrain.runtime.errors import nearest

if TYPE_CHECKING:
    from posttrain.preflight.token_scan import Answers, Subject

FEW = 3  # rows that may have a fault of their own without being the dataset's
LOST = 0.05  # share of rows without a trained token left, or of prompts without room for an answer, that is an error
CUT = 0.25  # share of rows cut at max_length that is an error
NOTED = 0.01  # share below which cut and repeated rows are not worth a word
REPEATED = 0.1  # share of a dataset's rows that repeat others, above which somebody should look at where it comes from
SHARED = 0.01  # share of held-out rows that are trained on, above which a measurement means little
# (lowest, highest) learning rate of SFT and reward models; other objectives and methods: within FACTOR of the default.
LEARNING_RATES = {"lora": (1e-4, 5e-4), "qlora": (1e-4, 5e-4)}
FACTOR = 5
RANKS = {"lora": (8, 64), "qlora": (8, 64), "adalora": (8, 64), "vera": (64, 1024)}
GIB = 2**30


class Finding(NamedTuple):
    """What a check found."""

    severity: str
    """error, warning or skipped"""
    message: str
    """what is wrong, and what to write instead"""
    example: str = ""
    """a row of it: its place and its text, what is trained between ⟦ and ⟧"""


# ---- the tokens


def stop_token(run: "Subject") -> Finding | None:
    """Answers end with a trained stop token, or the model never learns to end; rows cut at max_length lose theirs rightly."""
    return _rows(
        run,
        lambda side: ~side.stopped & ~side.cut,
        f"an answer that does not end with a trained {_names(run)}, so that the model does not learn to stop; set the "
        "base's `eos_token:` to the token that its chat template writes after an answer, or give it another with `chat_template:`",
    )


def empty(run: "Subject") -> Finding | None:
    """Answers have text."""
    return _rows(
        run,
        lambda side: side.blank & ~side.cut,
        "an answer of white space or of the stop token alone; take them out of the data",
    )


def nothing_trained(run: "Subject") -> Finding | None:
    """Each row has a token that is trained."""
    return _rows(
        run,
        lambda side: side.trained == 0,
        "no token that is trained; take them out of the data, or write a larger max_length",
        always=True,
    )


def chosen_is_rejected(run: "Subject") -> Finding | None:
    """The two answers of a pair differ once they are tokens."""
    sides = run.tokens.answers
    if "rejected_ids" not in sides:
        return Finding("skipped", "the rows are no pairs")
    wrong = sides["chosen_ids"].digest == sides["rejected_ids"].digest
    return _finding(run, wrong, "a chosen answer that is the rejected one; take them out of the data", always=True)


def double_bos(run: "Subject") -> Finding | None:
    """Rows begin with one BOS; a template that writes it and a tokenizer that adds it give two."""
    advice = f"two {run.tokenizer.bos_token} at the beginning; take it out of the rows' text or of the chat template"
    if run.tokens is not None:
        return _finding(run, run.tokens.doubled, advice, always=True)
    bos = run.tokenizer.bos_token_id
    doubled = [bos is not None and ids[:2] == [bos, bos] for ids in run.prompts]
    return (
        Finding("error", f"{_share(sum(doubled), len(doubled))} of the prompts have {advice}") if any(doubled) else None
    )


def repeated_rows(run: "Subject") -> Finding | None:
    """Few rows are the same tokens as another, and few were left out of the data since they repeat others."""
    import numpy as np

    _, first, copies = np.unique(run.tokens.digest, return_index=True, return_counts=True)
    again = len(run.tokens.digest) - len(first)
    if again > NOTED * len(run.tokens.digest):
        row = int(first[copies.argmax()])
        text = f"{_share(again, len(run.tokens.digest))} of the rows are the same tokens as another row; see what the data repeats"
        return Finding("warning", text, run.example(row))
    alike = sum(run.data["dropped"].get(kind, 0) for kind in ("repeated", "near duplicate"))
    if alike > REPEATED * run.data["rows"]:
        text = (
            f"{_share(alike, run.data['rows'])} of the data's rows repeated others and were left out; see dropped.jsonl"
        )
        return Finding("warning", text)
    near = run.data.get("near")
    if near and not near["left_out"] and near["same_answer"] > REPEATED * run.data["rows"]:
        text = (
            f"{_share(near['same_answer'], run.data['rows'])} of the data's rows are {near['similarity']:.0%} like an earlier one and "
            f"have its answer; write near_duplicates: {near['similarity']:g} under the dataset to leave them out"
        )
        return Finding("warning", text)
    return None


def truncation(run: "Subject") -> Finding | None:
    """max_length leaves most rows whole, and something to train on in nearly all."""
    counts = run.report["train"]
    rows = counts["rows"] + counts["dropped"]
    lost, cut = counts["dropped"] / rows, counts["cut"] / rows
    if not lost and cut <= NOTED:
        return None
    kept, lengths = _any(run, lambda side: side.cut), counts["lengths"]
    left_out = f", {_share(counts['dropped'], rows)} of them before any trained token" if lost else ""
    return Finding(
        "error" if lost > LOST or cut > CUT else "warning",
        f"max_length {run.spec['max_length']} cuts {_share(counts['cut'], rows)} of the rows{left_out}; "
        f"write max_length: {lengths['p99']} to keep 99 % of them whole (the longest has {lengths['max']} tokens), or shorten them",
        run.example(int(kept.argmax())) if kept.any() else "",
    )


def context_length(run: "Subject") -> Finding | None:
    """Rows fit into the positions that the base was trained for."""
    config = run.model.config
    context = config.get("max_position_embeddings") or config.get("n_positions")
    if not context:
        return Finding("skipped", "the model's config.json names no longest context")
    longest = run.longest + run.spec.get("virtual_tokens", 0)
    advice = f"the model's context of {context} tokens; write max_length: {context - run.spec.get('virtual_tokens', 0)}"
    if longest > context:
        return Finding("error", f"the longest row has {longest} tokens, more than {advice}")
    room = run.spec["max_length"] + run.spec.get("virtual_tokens", 0)
    if room > context and learns_positions(run.model.shapes):
        return Finding(
            "error", f"max_length {run.spec['max_length']} is beyond the positions that the model has learnt, {advice}"
        )
    if room > context:
        return Finding(
            "warning", f"max_length {run.spec['max_length']} is more than {advice}, though no row is as long yet"
        )
    return None


def architecture(run: "Subject") -> Finding | None:
    """The architecture has what the objective and the method need."""
    from posttrain.models import target_modules

    kind = run.model.config.get("model_type", "")
    if run.spec["objective"] == "reward" and not can_score(kind):
        return Finding(
            "error",
            f"transformers has no model of the type {kind} that gives a sequence one score, as a reward model does; write "
            "objective: dpo, or take a base of another type",
        )
    if why := target_modules.method_refusal(run.spec, run.model.config):
        return Finding("error", why)
    if run.spec["method"] == "ia3" and not run.spec["target_modules"] and not target_modules.ia3(run.model.matrices):
        return Finding(
            "error",
            f"where models of the type {kind} have keys and values is not known; write target_modules: [NAME, ...]",
        )
    return None


def can_score(model_type: str) -> bool:
    """Whether transformers has a sequence classifier of a type; read from its source, as imports cost."""
    import importlib.util

    folder = Path(importlib.util.find_spec("transformers").submodule_search_locations[0])
    source = (folder / "models/auto/modeling_auto.py").read_text()
    table = source.partition("MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES = ")[2].partition("\n)")[0]
    return f'("{model_type}", ' in table


def prompt_length(run: "Subject") -> Finding | None:
    """Prompts leave room for an answer."""
    if run.tokens is not None:
        return Finding("skipped", "only grpo, rloo and ppo write answers of their own")
    room = run.spec["max_length"] - run.spec["max_new_tokens"]
    long = [len(ids) for ids in run.prompts if len(ids) > room]
    if not long:
        return None
    return Finding(
        "error" if len(long) > LOST * len(run.prompts) else "warning",
        f"{_share(len(long), len(run.prompts))} of the prompts have more than max_length - max_new_tokens = {room} tokens and are "
        f"left out; write max_length: {max(long) + run.spec['max_new_tokens']}",
    )


def pad_token(run: "Subject") -> Finding | None:
    """The pad token is one that the model has.

    That it is the stop token is no risk here. TRL's collators for SFT, DPO, KTO and ORPO pad ids, labels and masks apart, by
    the rows' lengths; GRPO, RLOO and PPO mask by the answers' lengths. Only transformers' own collator for language models
    makes labels of the pad token -100, and nothing here uses it. A reward model reads its score at the last token that is
    not the pad token, so where that is the stop token, at the one before: in training, scoring and PPO alike.
    """
    token = run.tokenizer.pad_token_id
    token = run.tokenizer.eos_token_id if token is None else token
    if token < run.model.embeddings:
        return None
    name = run.tokenizer.pad_token or run.tokenizer.eos_token
    return Finding(
        "error",
        f"the pad token {name} has the id {token}, and the model has embeddings for {run.model.embeddings} tokens only; "
        "write pad_token: under the base, with one of the model's tokens",
    )


def embeddings(run: "Subject") -> Finding | None:
    """Every token that occurs in the rows, in the chat template or among the special tokens has an embedding."""
    import numpy as np

    rows = run.model.embeddings
    special = {run.tokenizer.bos_token_id, run.tokenizer.eos_token_id, *run.stops} - {None}
    template = str(run.tokenizer.chat_template or "")
    written = {i for i, token in run.tokenizer.added_tokens_decoder.items() if str(token) in template}
    read = run.tokens.ids if run.tokens is not None else np.array([i for ids in run.prompts for i in ids], int)
    places = {
        "the special tokens": special,
        "the tokens of the chat template": written,
        "those of the rows": read.tolist(),
    }
    beyond = {i: place for place, ids in places.items() for i in ids if i >= rows}
    if not beyond:
        return None
    first = min(beyond)
    tokens = [run.tokenizer.convert_ids_to_tokens(i) for i in sorted(beyond)]
    others = f" ({len(tokens) - 1} more of the tokens in use have none, such as {tokens[1]})" if tokens[1:] else ""
    added = all(i in run.tokenizer.added_tokens_decoder for i in beyond)
    advice = f"write new_tokens: [{', '.join(map(repr, tokens[:32]))}] under the base, or take them out"
    return Finding(
        "error",
        f"{tokens[0]}, which is among {beyond[first]}, has the id {first}, and the model has embeddings for {rows} tokens only"
        f"{others}; {advice if added else 'the tokenizer belongs to another model; put the one of this model into its folder'}",
    )


def new_tokens(run: "Subject") -> Finding | None:
    """The new tokens of the base are trained, and occur in the rows."""
    import numpy as np

    ids = run.model.config.get("new_tokens")
    if not ids:
        return Finding("skipped", "the base has no new tokens")
    method, objective = run.spec["method"], run.spec["objective"]
    row = METHODS[method]
    if not (row.low_rank or row.full) or (OBJECTIVES[objective].value_model and not row.full):
        what = objective if row.low_rank else method
        text = (
            f"{what} does not train the embeddings of the base's new tokens; train them first, by sft with method: lora"
        )
        return Finding("warning", text)
    missing = run.tokenizer.convert_ids_to_tokens(np.setdiff1d(ids, run.tokens.ids).tolist()) if run.tokens else []
    if missing:
        text = f"{', '.join(missing[:8])} of the base's new tokens occur in no row, so that nothing is learnt of them"
        return Finding("warning", text)
    return None


# ---- the rows and what becomes of them


def overlap(run: "Subject") -> Finding | None:
    """What a model is measured on is not trained on."""
    found = {name: result for name, result in run.overlap.items() if result["shared"]}
    if not found:
        return None
    error = any(result["exact"] or result["shared"] > SHARED * result["rows"] for result in found.values())
    counts = [
        f"{_share(result['shared'], result['rows'])} of the held-out rows of {name} ({result['exact']} word for word)"
        for name, result in found.items()
    ]
    first = next(iter(found.values()))["examples"][0]
    return Finding(
        "error" if error else "warning",
        f"the training rows contain {' and '.join(counts)}, so that what is measured there is memory; take them out of "
        "one side, overlap.json of the dataset names them",
        f"{first['place']} stands in {first['train_place']}:\n{first['text']}",
    )


def answer_in_prompt(run: "Subject") -> Finding | None:
    """Answers are not given away."""
    rows, first = run.leaks()
    if not rows:
        return None
    share = _share(rows, run.data["train"])
    text = f"in {share} of the rows the answer, of five words or more, stands word for word in its own prompt, first in {first}"
    return Finding("warning", f"{text}: the model learns to look it up; see whether that is the task")


def missing_bos(run: "Subject") -> Finding | None:
    """A chat template prints the BOS that the tokenizer puts before every other text."""
    tokenizer = run.tokenizer
    if run.data["shape"] == "text" or not tokenizer.chat_template or not run.texts:
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


def chat_template(run: "Subject") -> Finding | None:
    """Conversations have a template."""
    if run.data["shape"] == "text" or run.tokenizer.chat_template:
        return None
    return Finding(
        "warning",
        "the base has no chat template, so turns are joined by line ends, without roles, and answers closed by "
        f"{run.tokenizer.eos_token}; give the base a `chat_template:`, or train from its instruction-tuned sibling",
    )


def template_drops(run: "Subject") -> Finding | None:
    """Everything that is said, and each function that is called, is in the text that the chat template makes."""
    from posttrain.preflight.token_scan import elided

    lost: dict[str, list[tuple[dict, str]]] = {}
    for row, turns, text in run.texts:
        for kind in [*_lost(turns, text), *_lost_tools(row.get("tools"), text)]:
            lost.setdefault(kind, []).append((row, text))
    if not lost:
        return None
    kind, cases = max(lost.items(), key=lambda item: len(item[1]))
    row, text = cases[0]
    others = [name for name in lost if name != kind]
    also = f" (in others also {' and '.join(others)})" if others else ""
    return Finding(
        "error",
        f"the base's chat template leaves out {kind} in {_share(len(cases), len(run.texts))} of the sampled conversations{also}; "
        "give the base a template that knows it with `chat_template:`, or take it out of the rows",
        f"{row['place']}:\n{elided(text)}",
    )


def _lost(turns: list[dict], text: str) -> list[str]:
    """What a template has left out of a conversation."""
    flat, lost = " ".join(text.split()), []
    for number, turn in enumerate(turns):
        said = turn["content"] or ""
        if number < len(turns) - 1:  # templates of reasoning models take earlier thoughts out, as they are meant to
            said = re.sub(r"<think>.*?</think>", "", said, flags=re.DOTALL)
        if not all(_stands_in(flat, part) for part in re.split("</?think>", said)):
            lost.append(f"what the {turn['role']} says")
        calls = json.loads(turn["tool_calls"]) if turn.get("tool_calls") else []
        if any(call.get("function", call)["name"] not in text for call in calls):
            lost.append("the name of a called function")
    return list(dict.fromkeys(lost))


def _stands_in(flat: str, said: str) -> bool:
    """Whether a text has what is said, as it is or as JSON, whatever its white space."""
    forms = (said, *(json.dumps(said, ensure_ascii=ascii)[1:-1] for ascii in (True, False)))
    return any(" ".join(form.split()) in flat for form in forms)


def _lost_tools(tools: str | None, text: str) -> list[str]:
    names = [tool.get("function", tool).get("name") for tool in json.loads(tools)] if tools else []
    return ["the functions that may be called (tools)"] if any(name and name not in text for name in names) else []


def system_prompt(run: "Subject") -> Finding | None:
    """No system prompt that the template writes by itself is trained into the model."""
    from posttrain.data import system_prompts
    from posttrain.preflight.token_scan import elided

    if run.data["shape"] == "text":
        return Finding("skipped", "a text has no system prompt")
    own = system_prompts.of_template(run.tokenizer)
    without = [row for row, turns in run.asked if turns[0]["role"] != "system"]
    if own is None or not without:
        return None
    where = "each dataset of the mixture" if run.data.get("format") == "mix" else "the dataset"
    return Finding(
        "warning",
        f"{_share(len(without), len(run.asked))} of the sampled rows have no system prompt, and the base's chat template writes one of "
        f"its own: {' '.join(elided(own).split())!r}; write `system:` under {where}, with your own words or with these",
    )


def dropped_thoughts(run: "Subject") -> Finding | None:
    """What the assistant thought (`reasoning_content`) is in the text that is trained."""
    thinks = [(row, turns[-1], text) for row, turns, text in run.texts if turns[-1].get("reasoning_content")]
    lost = [row for row, turn, text in thinks if not _stands_in(" ".join(text.split()), turn["reasoning_content"])]
    if not lost:
        return None if thinks else Finding("skipped", "no answer has reasoning_content")
    return Finding(
        "warning",
        f"the base's chat template leaves out the reasoning_content of {_share(len(lost), len(run.texts))} of the sampled answers, "
        f"first in {lost[0]['place']}, so thoughts are not trained; give the base a `chat_template:` that prints them",
    )


# ---- the settings


def packing(run: "Subject") -> Finding | None:
    """Packed rows do not see each other.

    Transformers tells the rows apart by their position ids, whatever the attention; models that have no such masks cannot. What is
    read off the source here is measured on the model itself when training begins, see `packing.check`.
    """
    if not run.spec.get("packing"):
        return Finding("skipped", "no rows are packed")
    kind = run.model.config.get("model_type", "")
    if not masks_packed_rows(kind):
        text = (
            f"models of the type {kind} have no attention for packed rows, which would see each other; take packing out"
        )
        return Finding("error", text)
    return None


def masks_packed_rows(model_type: str) -> bool:
    """Whether a model of a type keeps packed rows apart; read from transformers' source, as imports cost.

    Its mask is made of the positions, and nothing else goes from a token to the next: no convolution, no state.
    """
    import importlib.util

    models = Path(importlib.util.find_spec("transformers").submodule_search_locations[0]) / "models"
    files = [
        file
        for name in {model_type, model_type.removesuffix("_text")}
        for file in (models / name).glob("modeling_*.py")
    ]
    text = "".join(file.read_text() for file in files)
    calls = re.findall(r"(?:mask_kwargs = \{|create_causal_mask\(|mask_function\()[^})]*", text)
    return any("position_ids" in call for call in calls) and not re.search("conv_state|ssm_state", text)


def target_modules(run: "Subject") -> Finding | None:
    """The names of modules in a run are names of the model's."""
    from posttrain.models import target_modules
    from posttrain.models.memory_estimate import targeted

    if why := target_modules.parameters_refusal(run.spec, run.model.shapes):
        return Finding("error", why)
    arguments, wanted = run.spec.get("peft_args", {}), run.spec.get("target_modules")
    modules = [name.removesuffix(".weight") for name, shape in run.model.shapes.items() if len(shape) > 1]
    modules += ["lm_head"] * ("lm_head" not in modules)  # a tied one is in no file
    ends = list(dict.fromkeys(name.split(".")[-1] for name in modules))
    for target in wanted if isinstance(wanted, list) else [wanted] if wanted else []:
        try:
            found = targeted(run.spec, modules, target if isinstance(wanted, list) else None)
        except re.error as error:
            return Finding("error", f"'{target}' is no regular expression: {error}")
        if not found:
            advice = f"PEFT takes a list of names, write [{wanted}]" if wanted in ends else nearest(target, ends)
            return Finding("error", f"'{target}' matches no module of the model; {advice}")
        why = target_modules.refusal(run.spec, target, found, modules, run.model.config, run.model.tied)
        if why and wanted != "all-linear":  # which leaves out what cannot be had
            return Finding("error", why)
    named = {prefix for name in run.model.shapes for prefix in _prefixes(name)} | {"score", "lm_head"}
    for part in arguments.get("modules_to_save") or []:
        if not any(name.endswith(part) for name in named):
            return Finding(
                "error", f"peft_args.modules_to_save: the model has no module '{part}'; {nearest(part, ends)}"
            )
    layers = arguments.get("layers_to_transform")
    beyond = [n for n in ([layers] if isinstance(layers, int) else layers or []) if n >= run.model.layers]
    if beyond:
        last = run.model.layers - 1
        return Finding("error", f"peft_args.layers_to_transform: there is no layer {beyond[0]}; the last one is {last}")
    return None if wanted else Finding("skipped", f"{run.spec['method']} has places of its own")


def _prefixes(parameter: str) -> list[str]:
    """The modules that a parameter is in: `model`, `model.layers`, ..."""
    parts = parameter.split(".")
    return [".".join(parts[:i]) for i in range(1, len(parts))]


def learning_rate(run: "Subject") -> Finding | None:
    """The learning rate is one with which the method usually learns."""
    method, given = run.spec["method"], run.spec["learning_rate"]
    answers = OBJECTIVES[run.spec["objective"]].from_demonstrations
    default = METHODS[method].learning_rates[not answers]
    low, high = (LEARNING_RATES.get(method) if answers else None) or (default / FACTOR, default * FACTOR)
    if low * 0.999 <= given <= high * 1.001:  # a fifth of a default is not exact
        return None
    what = "so high that the loss may jump" if given > high else "so low that little is learnt"
    usual = f"{run.spec['objective']} by {method} usually has {low:.3g} to {high:.3g}, by default {default:.3g}"
    return Finding("warning", f"learning_rate {given:.3g} is {what}; {usual}")


def patterns(run: "Subject") -> Finding | None:
    """The patterns of `freeze`, `train` and `learning_rates` match parameters, and leave some to train."""
    from posttrain.models import parameter_patterns

    if not any(run.spec.get(key) for key in parameter_patterns.KEYS):
        return Finding("skipped", "no parameter is named")
    why = parameter_patterns.refusal(run.spec, parameter_patterns.foreseen(run.spec, run.model))
    return Finding("error", why) if why else None


def rank(run: "Subject") -> Finding | None:
    """The rank is one that the method usually has."""
    low, high = RANKS.get(run.spec["method"], (0, 0))
    given = run.spec.get("rank")
    if not high or low <= given <= high:
        return None if high else Finding("skipped", f"{run.spec['method']} has no rank")
    what = "more parameters than usual, and memory" if given > high else "few parameters to learn with"
    return Finding("warning", f"rank {given} means {what}; {run.spec['method']} usually has {low} to {high}")


def memory(run: "Subject") -> Finding | None:
    """The training fits into memory."""
    there = run.memory
    need = needed(run, run.spec)
    if need["total"] <= there.free:
        return None
    error = need["least"] > there.total
    now = f"of {there.total / GIB:.1f} GiB, {there.free / GIB:.1f} GiB are free on {there.name}"
    what = (
        f"weights, gradients and optimiser states alone take {need['least'] / GIB:.1f} GiB"
        if error
        else f"training takes about {need['total'] / GIB:.1f} GiB, {need['activations'] / GIB:.1f} GiB of them activations"
    )
    return Finding("error" if error else "warning", f"{what}, and {now}; {_what_fits(run)}")


def needed(run: "Subject", spec: dict) -> dict[str, float]:
    """The estimate of a run's memory with the settings of `spec`."""
    from posttrain.models.memory_estimate import estimate

    bf16 = run.memory.bf16 if spec["precision"] == "auto" else spec["precision"] == "bf16"
    share = run.spec["max_new_tokens"] / run.longest if run.report is None else _trained_share(run.report["train"])
    longest = spec["max_length"] if spec.get("packing") else min(run.longest, spec["max_length"])
    return estimate(spec, run.model, longest, share, run.memory.device, bf16)


def _what_fits(run: "Subject") -> str:
    """The first change of the settings with which the training would fit."""
    from posttrain.models.memory_estimate import remedies

    for text, changes in remedies(run.spec, run.longest):
        need = needed(run, run.spec | changes)
        if need["total"] <= run.memory.free:
            return f"with {text} it would take {need['total'] / GIB:.1f} GiB"
    return "no setting of this run makes it fit; take a smaller base or a larger machine"


def _trained_share(counts: dict[str, int]) -> float:
    return min(1.0, counts["trained_tokens"] / max(1, counts["tokens"]))


def licence(run: "Subject") -> Finding | None:
    """The licences of everything that the model is made of allow its use."""
    from posttrain.data.licences import forbids, is_known

    forbidding = [part for part, name in run.licences.items() if forbids(name, run.use)]
    if forbidding:
        part = forbidding[0]
        chain = " -> ".join([part, *run.chains[part]])
        text = f"{chain}: the licence of {part}, {run.licences[part]}, forbids use: {run.use}; replace {part}, or write use: research"
        return Finding("error", text)
    unstated = [part for part, name in run.licences.items() if not name]
    strange = [f"{part} ({name})" for part, name in run.licences.items() if name and not is_known(name)]
    told = [f"{', '.join(unstated)} has no licence that is stated"] if unstated else []
    told += [f"the licence of {', '.join(strange)} is not known here"] if strange else []
    advice = "read what it allows, and write its name as `licence:` in the configuration"
    return Finding("warning", f"{', and '.join(told)}; {advice}") if told else None


def evaluation(run: "Subject") -> Finding | None:
    """What the run's evaluation will need is there, before the training is paid for."""
    from posttrain.models import evaluation_needs
    from posttrain.preflight import measured_rows

    if not run.evaluation:
        return Finding("skipped", "nothing is known of an evaluation")
    errors = evaluation_needs.errors(run) + measured_rows.errors(run)
    told = errors or evaluation_needs.warnings(run)
    return Finding("error" if errors else "warning", "; ".join(told)) if told else None


def held_out(run: "Subject") -> Finding | None:
    """The held-out rows are enough to tell two models apart."""
    from posttrain.preflight import measured_rows

    if not run.evaluation:
        return Finding("skipped", "nothing is known of an evaluation")
    told = measured_rows.unmeasured(run)
    return Finding("warning", "; ".join(told)) if told else None


def measuring(run: "Subject") -> Finding | None:
    """What a run is measured on while it trains is there, is enough, and is not what it is evaluated on."""
    from posttrain.training import early_stopping

    if early_stopping.plan(run.spec) is None:
        return Finding("skipped", "nothing is measured while the run trains")
    splits = ("train", "validation")
    rows, unseen = (run.data[name] if run.report is None else run.report[name]["rows"] for name in splits)
    if run.spec.get("packing"):
        rows = len(bins(run.tokens.lengths.tolist(), run.spec["max_length"]))
    steps = early_stopping.steps(run.spec, rows, run.data["shape"] == "preference")
    names = [data["name"] for data in run.evaluation.get("data", [])]
    evaluated = run.evaluation["limit"] if run.spec["data"]["name"] in names else 0
    if why := early_stopping.no_answers(run.spec, run.data["shape"]):
        return Finding("error", why)
    found = list(early_stopping.faults(run.spec, steps, unseen, evaluated))
    errors = [text for severity, text in found if severity == "error"]
    told = errors or [text for _, text in found]
    return Finding("error" if errors else "warning", "; ".join(told)) if told else None


# ---- what findings have in common


def _rows(run: "Subject", wrong: Callable[["Answers"], Any], what: str, always: bool = False) -> Finding | None:
    """A finding about rows of which one side or another is wrong."""
    return _finding(run, _any(run, wrong), what, always)


def _any(run: "Subject", wrong: Callable[["Answers"], Any]) -> Any:
    """(rows,) whether one side or another is wrong."""
    return functools.reduce(lambda a, b: a | b, map(wrong, run.tokens.answers.values()))


def _finding(run: "Subject", wrong: Any, what: str, always: bool = False) -> Finding | None:
    """An error where more than a FEW rows are wrong, or all, or `always`; else a warning."""
    count, rows = int(wrong.sum()), len(wrong)
    if not count:
        return None
    error = always or count > FEW or count == rows
    text = f"{_share(count, rows)} of the rows have {what}"
    return Finding("error" if error else "warning", text, run.example(int(wrong.argmax())))


def _share(count: int, of: int) -> str:
    """`3 (0.3 %)`, to be followed by what it is a share of."""
    return f"{count:,} ({100 * count / max(1, of):.3g} %)"


def _names(run: "Subject") -> str:
    return " or ".join(run.tokenizer.convert_ids_to_tokens(run.stops))


OF_TOKENS = (stop_token, empty, nothing_trained, chosen_is_rejected, repeated_rows, truncation)
CHECKS = (
    *OF_TOKENS,
    double_bos,
    pad_token,
    embeddings,
    new_tokens,
    context_length,
    prompt_length,
    overlap,
    answer_in_prompt,
    missing_bos,
    chat_template,
    template_drops,
    system_prompt,
    dropped_thoughts,
    packing,
    architecture,
    target_modules,
    patterns,
    learning_rate,
    rank,
    memory,
    licence,
    held_out,
    evaluation,
    measuring,
)
NAMES = tuple(check.__name__ for check in CHECKS)
REFUSED_AGAIN = ("target_modules", "patterns")  # training asks the model itself, and refuses as well


def check(run: "Subject", allow: list[str]) -> list[dict[str, str]]:
    """The results of all checks, in their order: `name`, `severity` of what was found, `result`, `message` and `example`."""
    results = []
    for function in CHECKS:
        needless = run.tokens is None and function in OF_TOKENS
        found = Finding("skipped", "the run trains on its own answers") if needless else function(run)
        name = function.__name__
        result = {"name": name, "severity": None, "result": "passed", "message": "", "example": ""}
        if found:
            overruled = name in allow and found.severity != "skipped"
            severity = None if found.severity == "skipped" else found.severity
            result |= {"severity": severity, "result": "allowed" if overruled else found.severity}
            result |= {"message": found.message, "example": found.example}
        results.append(result)
    return results
