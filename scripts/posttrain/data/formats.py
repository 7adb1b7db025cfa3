"""The formats that a dataset's rows may be written in, and what each makes of a row.

A *format* is how rows are written, a *dataset type* is what they are, see `dataset_types`. A new format is a row of FORMATS and the
function that makes a normalised row's content of the fields it reads.
"""

import contextlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

from posttrain.data import messages
from posttrain.data.messages import Row, Turns, kind
from posttrain.runtime.errors import UserError


@dataclass(frozen=True)
class Format:
    """How rows are written."""

    dataset_type: str
    content: Callable[[Row, str], Row] | None
    """the columns of a normalised row, from the values of the fields and the row's place; None for trees of messages"""
    required: tuple[str, ...]
    """fields that a row must have; `a|b`: one of several, the first that it has"""
    optional: tuple[str, ...] = ()
    tree_of: str | None = None
    """the format of the rows that `message_trees` makes of a table of messages"""


def _text(values: Row, place: str) -> Row:
    return {"text": messages.text(values["text"], "text", place)}


def _labelled(values: Row, place: str) -> Row:
    label = values["label"]
    if isinstance(label, bool) or not isinstance(label, str | int) or not str(label).strip():
        raise UserError(
            "invalid-row", place, f"the label is the name or the number of a class, and this is {kind(label)}"
        )
    return _text(values, place) | {"label": str(label)}


def _segments(values: Row, place: str) -> Row:
    """Axolotl's text in segments, each trained or not."""
    segments = messages.from_json(values["segments"])
    if not isinstance(segments, list) or not segments:
        raise UserError(
            "invalid-row", place, f"the segments are a list of {{label, text}}, and this is {kind(segments)}"
        )
    text, trained = "", []
    for number, segment in enumerate(segments, 1):
        label = messages.boolean(segment.get("label")) if isinstance(segment, dict) else None
        if not isinstance(label, bool):
            raise UserError(
                "invalid-row", place, f"segment {number} needs a text and a label, true where it is trained, or false"
            )
        messages.check_text(segment.get("text"), f"text of segment {number}", place)
        end = len(text) + len(segment["text"])
        if label and segment["text"]:
            start = trained.pop()[0] if trained and trained[-1][1] == len(text) else len(text)
            trained.append([start, end])
        text += segment["text"]
    if not trained:
        raise UserError("invalid-row", place, "no segment is trained", "give one `label: true`, or take the row out")
    return {"text": messages.text(text, "text of all segments", place)} | (
        {} if trained == [[0, len(text)]] else {"trained": trained}
    )


def _messages(values: Row, place: str) -> Row:
    return {"messages": _whole(_conversation(values, "messages", place), place)}


def _sharegpt(values: Row, place: str) -> Row:
    return {"messages": _whole(_conversation(values, "conversations", place), place)}


def _prompt_completion(values: Row, place: str) -> Row:
    answer = messages.answer(values["completion"], "completion", place)
    return {"messages": _whole([*_prompt(values, place), *answer], place)}


def _alpaca(values: Row, place: str) -> Row:
    answer = messages.answer(values["output"], "output", place)
    return {"messages": _whole([*_prompt(values, place), *answer], place)}


def _ultrachat(values: Row, place: str) -> Row:
    texts = values["data"]
    if not isinstance(texts, list) or len(texts) < 2:
        raise UserError(
            "invalid-row",
            place,
            f"the data is a list of what user and assistant say in turn, and this is {kind(texts)}",
        )
    roles = ("user", "assistant")
    said = enumerate(texts)
    turns = [messages.turn(roles[i % 2], text, f"text {i + 1} of the data", place) for i, text in said]
    return {"messages": _whole(turns, place)}


def _preference(values: Row, place: str) -> Row:
    chosen, rejected = (messages.answers(values[side], side, place) for side in ("chosen", "rejected"))
    shared = _shared(chosen, rejected) if len(chosen) > 1 and len(rejected) > 1 else []
    if shared and chosen[0]["role"] != "assistant":  # the answers repeat their prompt
        prompt = _with_system(values, shared, place)
    elif any(name in values for name in _ASKING):
        shared, prompt = [], _prompt(values, place)
    else:
        prompt = _with_system(values, shared, place)
    return _pair(prompt, chosen[len(shared) :], rejected[len(shared) :], place)


def _hh_rlhf(values: Row, place: str) -> Row:
    chosen, rejected = (messages.transcript(values[side], side, place) for side in ("chosen", "rejected"))
    shared = _shared(chosen[:-1], rejected[:-1])
    return _pair(shared, chosen[len(shared) :], rejected[len(shared) :], place)


def _shared(chosen: Turns, rejected: Turns) -> Turns:
    """The turns that both begin with, up to the last that is not the assistant's: both answers may begin alike."""
    same = takewhile(lambda pair: pair[0] == pair[1], zip(chosen, rejected, strict=False))
    turns = [turn for turn, _ in same]
    while turns and turns[-1]["role"] == "assistant":
        turns.pop()
    return turns


def _unpaired(values: Row, place: str) -> Row:
    name = next((name for name in ("messages", "conversations") if name in values), None)
    if name:
        turns = _conversation(values, name, place)
        messages.ends_with(turns, "assistant", name, place)
        prompt, completion = turns[:-1], turns[-1:]
        if not prompt:
            raise UserError(
                "invalid-row", place, f"'{name}' has an answer and no prompt", "write what it answers before it"
            )
        messages.ends_with(prompt, "user", f"{name} before the answer", place)
    else:
        name = "completion" if "completion" in values else "output"
        prompt, completion = _prompt(values, place), messages.answer(values[name], name, place)
    messages.check_order([*prompt, *completion], place)
    answer = messages.whole(completion, name, place)
    return {"prompt": messages.asked(prompt), "completion": answer, "label": _label(values["label"], place)}


def _prompts(values: Row, place: str) -> Row:
    return {"prompt": messages.asked(_prompt(values, place))}


def _about_media(values: Row, place: str) -> Row:
    """A conversation about files."""
    return {
        "messages": _whole(_conversation(values, "messages" if "messages" in values else "conversations", place), place)
    }


def _tasks(values: Row, place: str) -> Row:
    task = values["task"]
    with contextlib.suppress(ValueError, RecursionError):  # then it is a text, and refused
        task = json.loads(task) if isinstance(task, str) else task
    if not isinstance(task, dict):
        hint = "write an object with what the environment's `reset` takes"
        raise UserError("invalid-row", place, f"the task is {kind(task)}", hint)
    written = json.dumps(task, ensure_ascii=False, sort_keys=True)
    messages.check_text(written, "task", place)
    return _prompts(values, place) | {"task": written}


def _seen(values: Row, place: str) -> Row:
    """A question about pictures, which come first where it does not say where they belong."""
    asked = messages.text(values["prompt"], "prompt", place)
    if "<image>" not in asked:
        images = messages.from_json(values.get("images", values.get("image")))
        asked = "<image>" * (len(images) if isinstance(images, list) else 1) + asked
    return _prompt_completion(values | {"prompt": asked}, place)


# ---- parts of rows


def _pair(prompt: Turns, chosen: Turns, rejected: Turns, place: str) -> Row:
    if not prompt:
        raise UserError("invalid-row", place, "chosen and rejected share no prompt", "write one, as the field 'prompt'")
    if prompt[-1]["role"] not in ("user", "tool"):
        raise UserError(
            "invalid-row",
            place,
            f"the prompt ends with the {prompt[-1]['role']}",
            "the last message must be the user's",
        )
    if chosen == rejected:
        raise UserError(
            "invalid-row", place, "chosen and rejected are the same", "a preference needs two different answers"
        )
    for side, answer in (("chosen", chosen), ("rejected", rejected)):
        if not answer:
            raise UserError("invalid-row", place, f"the {side} is only the prompt", "write the answer after it")
        messages.check_order([*prompt, *answer], place)
        messages.ends_with(answer, "assistant", side, place)
        messages.whole(answer, side, place)
    return {"prompt": messages.asked(prompt), "chosen": chosen, "rejected": rejected}


_ASKING = ("prompt", "conversations", "instruction", "messages")


def _prompt(values: Row, place: str) -> Turns:
    """The prompt: text, turns, or an instruction with its input and the turns before it."""
    name = next(name for name in _ASKING if name in values)
    turns = (
        _instruction(values, place) if name == "instruction" else messages.said_by("user", values[name], name, place)
    )
    turns = _with_system(values, turns, place)
    messages.ends_with(turns, "user", name, place)
    messages.check_order(turns, place)
    return turns


def _instruction(values: Row, place: str) -> Turns:
    history = messages.from_json(values.get("history", []))
    if not isinstance(history, list) or not all(isinstance(pair, list) and len(pair) == 2 for pair in history):
        raise UserError(
            "invalid-row", place, f"the history is a list of [question, answer], and this is {kind(history)}"
        )
    turns = []
    for pair in history:
        roles = zip(("user", "assistant"), pair, strict=True)
        turns += [messages.turn(role, said, "history", place) for role, said in roles]
    asked = [messages.text(values[key], key, place) for key in ("instruction", "input") if key in values]
    return [*turns, messages.turn("user", "\n".join(asked), "instruction", place)]


def _conversation(values: Row, name: str, place: str) -> Turns:
    return _with_system(values, messages.turns(values[name], name, place), place)


def _with_system(values: Row, turns: Turns, place: str) -> Turns:
    """The turns after the row's own system prompt, which may stand before them already."""
    if "system" not in values:
        return turns
    system = messages.turn("system", values["system"], "system", place)
    if turns and turns[0]["role"] == "system":
        if turns[0] != system:
            raise UserError(
                "invalid-row", place, "the field 'system' and the first message are two system prompts", "take one out"
            )
        return turns
    return [system, *turns]


def _whole(turns: Turns, place: str) -> Turns:
    """A conversation: it ends with the assistant, nobody speaks twice, and something of it is trained."""
    messages.ends_with(turns, "assistant", "messages", place)
    messages.check_order(turns, place)
    return messages.trained(turns, place)


def _label(value: Any, place: str) -> bool:
    label = messages.boolean(value)
    if not isinstance(label, bool):
        raise UserError(
            "invalid-row",
            place,
            f"the label is {kind(value)}",
            "write true for a wanted answer, false for an unwanted one",
        )
    return label


# ---- the table


_ASKS = ("input", "history", "system", "tools")
_TREE = (("message_id", "parent_id", "text", "role"), ("rank", "deleted"))

# In the order in which they are tried on rows whose format is not given.
FORMATS: dict[str, Format] = {
    "oasst": Format("messages", None, *_TREE, tree_of="messages"),
    "oasst_pairs": Format("preference", None, *_TREE, tree_of="preference"),
    "image_preference": Format(
        "image_preference",
        _preference,
        ("chosen", "rejected"),
        ("prompt|conversations|instruction|messages", "images|image", *_ASKS),
    ),
    "llava": Format("image_messages", _about_media, ("messages|conversations",), ("images|image", "system", "tools")),
    "audio": Format("audio_messages", _about_media, ("messages|conversations",), ("audios|audio", "system", "tools")),
    "hh_rlhf": Format("preference", _hh_rlhf, ("chosen", "rejected")),
    "preference": Format(
        "preference", _preference, ("chosen", "rejected"), ("prompt|conversations|instruction|messages", *_ASKS)
    ),
    "unpaired_preference": Format(
        "unpaired_preference",
        _unpaired,
        ("messages|conversations|prompt|instruction", "label"),
        ("completion|output", *_ASKS),
    ),
    "image_prompt_completion": Format(
        "image_messages", _seen, ("images|image", "prompt", "completion"), ("system", "tools")
    ),
    "messages": Format("messages", _messages, ("messages",), ("system", "tools")),
    "sharegpt": Format("messages", _sharegpt, ("conversations",), ("system", "tools")),
    "alpaca": Format("messages", _alpaca, ("instruction", "output"), _ASKS),
    "prompt_completion": Format("messages", _prompt_completion, ("prompt", "completion"), ("system", "tools")),
    "tasks": Format("tasks", _tasks, ("prompt|messages|conversations|instruction", "task"), _ASKS[:-1]),
    "segments": Format("text", _segments, ("segments",)),
    "labelled_text": Format("labelled_text", _labelled, ("text", "label")),
    "ultrachat": Format("messages", _ultrachat, ("data",)),
    "text": Format("text", _text, ("text",)),
    "prompts": Format("prompts", _prompts, ("prompt|messages|conversations|instruction",), _ASKS),
}
FIELDS = tuple(dict.fromkeys("|".join("|".join((*row.required, *row.optional)) for row in FORMATS.values()).split("|")))
# The field of the completion to the prompt in these, where a label says whether it is desirable.
COMPLETION_OF = {"prompt": "completion", "instruction": "output"}
