"""Checks of the tokens as they will be trained on."""

from typing import TYPE_CHECKING

from posttrain.methods import METHODS
from posttrain.models.context import learns_positions, max_positions
from posttrain.objectives import OBJECTIVES
from posttrain.preflight.findings import Finding, any_side, finding, rows_finding, share, stop_names

if TYPE_CHECKING:
    from posttrain.preflight.run_context import RunContext

MAX_LOST = (
    0.05  # share of rows without a trained token left, or of prompts without room for a completion, that is a warning
)
MAX_CUT = 0.25  # share of rows cut at max_length that is a warning
FEWEST_OF_A_CLASS, MAX_IMBALANCE = 8, 10  # rows of a class, and how many times as many another may have
NOTED = 0.01  # share from which cut and repeated rows are mentioned
MAX_REPEATED = 0.1  # share of a dataset's rows that repeat others, above which its source should be looked at


def stop_token(run: "RunContext") -> Finding | None:
    """Answers end with a trained stop token, or the model never learns to end; rows cut at max_length lose theirs rightly."""
    return rows_finding(
        run,
        lambda side: ~side.stopped & ~side.cut,
        f"an answer that does not end with a trained {stop_names(run)}, so that the model does not learn to stop; set the "
        "base's `eos_token:` to the token that its chat template writes after an answer, or give it another with `chat_template:`",
    )


def empty(run: "RunContext") -> Finding | None:
    """Answers have text."""
    return rows_finding(
        run,
        lambda side: side.blank & ~side.cut,
        "an answer of white space or of the stop token alone; take them out of the data",
    )


def nothing_trained(run: "RunContext") -> Finding | None:
    """Each row has a token that is trained."""
    return rows_finding(
        run,
        lambda side: side.trained == 0,
        "no token that is trained; take them out of the data, or write a larger max_length",
        always=True,
    )


def chosen_is_rejected(run: "RunContext") -> Finding | None:
    """The two answers of a pair differ once they are tokens."""
    sides = run.tokens.sides
    if "rejected_ids" not in sides:
        return Finding("skipped", "the rows are no pairs")
    wrong = sides["chosen_ids"].digest == sides["rejected_ids"].digest
    return finding(run, wrong, "a chosen answer that is the rejected one; take them out of the data", always=True)


def double_bos(run: "RunContext") -> Finding | None:
    """Rows begin with one BOS; a template that writes it and a tokenizer that adds it give two."""
    advice = f"two {run.tokenizer.bos_token} at the beginning; take it out of the rows' text or of the chat template"
    if run.tokens is not None:
        return finding(run, run.tokens.doubled, advice, always=True)
    bos = run.tokenizer.bos_token_id
    doubled = [bos is not None and ids[:2] == [bos, bos] for ids in run.prompts]
    return (
        Finding("error", f"{share(sum(doubled), len(doubled))} of the prompts have {advice}") if any(doubled) else None
    )


def repeated_rows(run: "RunContext") -> Finding | None:
    """Few rows are the same tokens as another, and few were left out of the data since they repeat others."""
    import numpy as np

    _, first, copies = np.unique(run.tokens.digest, return_index=True, return_counts=True)
    again = len(run.tokens.digest) - len(first)
    if again > NOTED * len(run.tokens.digest):
        row = int(first[copies.argmax()])
        text = f"{share(again, len(run.tokens.digest))} of the rows are the same tokens as another row; see what the data repeats"
        return Finding("warning", text, run.example(row))
    alike = sum(run.data["dropped"].get(kind, 0) for kind in ("repeated", "near duplicate"))
    if alike > MAX_REPEATED * run.data["rows"]:
        text = (
            f"{share(alike, run.data['rows'])} of the data's rows repeated others and were left out; see dropped.jsonl"
        )
        return Finding("warning", text)
    near = run.data.get("near")
    if near and not near["left_out"] and near["same_answer"] > MAX_REPEATED * run.data["rows"]:
        text = (
            f"{share(near['same_answer'], run.data['rows'])} of the data's rows are {near['similarity']:.0%} like an earlier one and "
            f"have its answer; write near_duplicates: {near['similarity']:g} under the dataset to leave them out"
        )
        return Finding("warning", text)
    return None


def truncation(run: "RunContext") -> Finding | None:
    """max_length leaves most rows whole, and something to train on in nearly all."""
    counts = run.token_report["train"]
    rows = counts["rows"] + counts["dropped"]
    lost, cut = counts["dropped"] / rows, counts["cut"] / rows
    if not lost and cut <= NOTED:
        return None
    is_cut, lengths = any_side(run, lambda side: side.cut), counts["lengths"]
    left_out = f", {share(counts['dropped'], rows)} of them before any trained token" if lost else ""
    return Finding(
        "error" if lost > MAX_LOST or cut > MAX_CUT else "warning",
        f"max_length {run.spec['max_length']} cuts {share(counts['cut'], rows)} of the rows{left_out}; "
        f"write max_length: {lengths['p99']} to keep 99 % of them whole (the longest has {lengths['max']} tokens), or shorten them",
        run.example(int(is_cut.argmax())) if is_cut.any() else "",
    )


def context_length(run: "RunContext") -> Finding | None:
    """Rows fit into the positions that the base was trained for."""
    positions = max_positions(run.model.config)
    if not positions:
        return Finding("skipped", "the model's config.json does not name the length of its context")
    longest = run.longest + run.spec.get("virtual_tokens", 0)
    advice = (
        f"the model's context of {positions} tokens; write max_length: {positions - run.spec.get('virtual_tokens', 0)}"
    )
    if longest > positions:
        return Finding("error", f"the longest row has {longest} tokens, more than {advice}")
    room = run.spec["max_length"] + run.spec.get("virtual_tokens", 0)
    if room > positions and learns_positions(run.model.shapes):
        return Finding(
            "error", f"max_length {run.spec['max_length']} is beyond the positions that the model has learnt, {advice}"
        )
    if room > positions:
        return Finding(
            "warning", f"max_length {run.spec['max_length']} is more than {advice}, though no row is as long yet"
        )
    return None


def prompt_length(run: "RunContext") -> Finding | None:
    """Prompts leave room for an answer."""
    if run.tokens is not None:
        return Finding("skipped", "only on-policy objectives sample completions of their own")
    room = run.spec["max_length"] - run.spec["max_new_tokens"]
    long = [len(ids) for ids in run.prompts if len(ids) > room]
    if not long:
        return None
    return Finding(
        "error" if len(long) > MAX_LOST * len(run.prompts) else "warning",
        f"{share(len(long), len(run.prompts))} of the prompts have more than max_length - max_new_tokens = {room} tokens and are "
        f"left out; write max_length: {max(long) + run.spec['max_new_tokens']}",
    )


def classes(run: "RunContext") -> Finding | None:
    """There are several classes, each with rows to learn it from, and held-out rows have no other."""
    if not OBJECTIVES[run.spec["objective"]].classifier:
        return Finding("skipped", "the rows have no classes")
    train, held_out = (run.token_report[split].get("classes", {}) for split in ("train", "validation"))
    if len(train) < 2:
        return Finding(
            "error", f"all rows have the label {', '.join(train)}; a classifier needs rows of two classes at least"
        )
    if unknown := sorted(held_out.keys() - train.keys()):
        return Finding(
            "error",
            f"held-out rows have the label {unknown[0]}, which no training row has; write another `validation:`",
        )
    rarest, most = (choose(sorted(train), key=train.get) for choose in (min, max))
    if train[rarest] < FEWEST_OF_A_CLASS or train[most] > MAX_IMBALANCE * train[rarest]:
        return Finding(
            "warning",
            f"{rarest} has {train[rarest]} rows and {most} {train[most]}; compare class_macro_f1, in which each class weighs the same, and "
            "add rows of the rare ones",
        )
    return None


def pad_token(run: "RunContext") -> Finding | None:
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


def embeddings(run: "RunContext") -> Finding | None:
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


def new_tokens(run: "RunContext") -> Finding | None:
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
