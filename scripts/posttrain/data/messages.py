"""Turns of a conversation, out of the forms in which people's files have them.

A turn is `role` and `content`; the assistant's may have `tool_calls`, as JSON, `reasoning_content`, what it thought, and
`train: false`, where it is not trained on; a tool's `tool_call_id` and `name`.
"""

import json
import re
from typing import Any

from posttrain.runtime.errors import UserError, nearest

ROLES = ("system", "user", "assistant", "tool")
# The words that other formats have for them.
ALIASES = {
    "developer": "system",  # OpenAI's reasoning models
    **dict.fromkeys(("human", "prompter"), "user"),
    **dict.fromkeys(("gpt", "chatgpt", "bing", "bard", "model", "function_call"), "assistant"),
    **dict.fromkeys(("observation", "function", "function_response"), "tool"),
    **{role: role for role in ROLES},
}
THOUGHTS = ("reasoning_content", "thinking", "reasoning")  # fields of a turn; transformers knows the same
# Fields that say whether a turn is trained on: OpenAI's and Mistral's, and those that are usual with Axolotl.
TRAINED = ("weight", "train", "loss")
PARTS = ("text", "input_text", "output_text")  # kinds of a content's part that are text
FIELDS = {
    "system": {"role", "from", "content", "value"},
    "user": {"role", "from", "content", "value"},
    "assistant": {"role", "from", "content", "value", "tool_calls", "function_call", *THOUGHTS, *TRAINED},
    "tool": {"role", "from", "content", "value", "tool_call_id", "name"},
}

Row = dict[str, Any]
Turns = list[Row]


# ---- lists of turns


def turns(value: Any, name: str, place: str) -> Turns:
    """The turns of a list of messages, which may be JSON text, as in a cell of a CSV file.

    Args:
        name: the field that they stand in.

    Raises:
        UserError: it is no list, or a message in it is wrong.
    """
    value = from_json(value)
    if isinstance(value, str) and value.lstrip().startswith("["):
        raise UserError(
            "invalid-row", place, f"'{name}' is text that is not JSON", "write its messages as `json.dumps` does"
        )
    if not isinstance(value, list) or not value:
        raise UserError("invalid-row", place, f"'{name}' is a list of messages, and this is {kind(value)}")
    return [_message(turn, number, name, place) for number, turn in enumerate(value, 1)]


def from_json(value: Any) -> Any:
    """A list that is written as JSON text; anything else as it is."""
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            found = json.loads(value)
        except (ValueError, RecursionError):
            return value
        return found if isinstance(found, list) else value
    return value


def said_by(role: str, value: Any, name: str, place: str) -> Turns:
    """What a role says as text, or turns: a list of messages, also as JSON text."""
    if isinstance(value, str) and _MESSAGES.match(value):
        found = from_json(value)
        value = found if isinstance(found, list) else value
    if isinstance(value, list):
        return turns(value, name, place)
    return [turn(role, value, name, place)]


_MESSAGES = re.compile(r'\s*\[\s*\{\s*"(role|from|content|value)"\s*:')


def answers(value: Any, name: str, place: str) -> Turns:
    """An answer as text, as one turn, or as turns."""
    return turns([value], name, place) if isinstance(value, dict) else said_by("assistant", value, name, place)


def answer(value: Any, name: str, place: str) -> Turns:
    """The same, which ends with the assistant."""
    found = answers(value, name, place)
    ends_with(found, "assistant", name, place)
    return found


def turn(role: str, value: Any, name: str, place: str) -> Row:
    """One turn of a text that is not empty."""
    return {"role": role, "content": text(value, name, place)}


def transcript(value: Any, name: str, place: str) -> Turns:
    """The turns of a text of `Human:` and `Assistant:` (Bai et al. 2022)."""
    whole = text(value, name, place).lstrip()
    if not SPEAKER.match(whole):
        raise UserError(
            "invalid-row", place, f"the {name} does not begin with 'Human:' or 'Assistant:' on a line of its own"
        )
    pieces = SPEAKER.split(whole)[1:]
    roles = {"Human": "user", "Assistant": "assistant"}
    said = zip(pieces[::2], pieces[1::2], strict=True)
    found = [turn(roles[who], what.strip(), f"{name}, what the {who} says", place) for who, what in said]
    ends_with(found, "assistant", name, place)
    return found


SPEAKER = re.compile(r"(?:^|\n)[ \t]*(Human|Assistant): ?")


def ends_with(found: Turns, role: str, name: str, place: str) -> None:
    """Refuse turns that end with another role; a prompt may end with a tool."""
    last = found[-1]["role"]
    if last != role and not (role == "user" and last == "tool"):
        raise UserError(
            "invalid-row", place, f"'{name}' ends with the {last}", f"the last message must be the {role}'s"
        )


def check_order(found: Turns, place: str) -> None:
    """User and assistant take turns, a tool answers the assistant, and a system message comes first."""
    for number, (before, turn) in enumerate(zip([None, *found], found, strict=False), 1):
        role = turn["role"]
        if role == "system" and before:
            raise UserError(
                "invalid-row", place, f"message {number} is the system's", "write it first, or as the user's"
            )
        if role == "tool" and (not before or before["role"] not in ("assistant", "tool")):
            raise UserError("invalid-row", place, f"message {number} is a tool's, but the assistant called no tool")
        if before and role == before["role"] and role in ("user", "assistant"):
            raise UserError(
                "invalid-row",
                place,
                f"messages {number - 1} and {number} are both the {role}'s",
                "join them, or write what came between",
            )


# ---- what of a conversation is trained


def trained(found: Turns, place: str) -> Turns:
    """A conversation up to its last turn that is trained: what comes after it would teach nothing.

    Raises:
        UserError: no turn is trained.
    """
    if all("train" not in turn for turn in found):
        return found
    last = max((i for i, turn in enumerate(found) if turn["role"] == "assistant" and "train" not in turn), default=None)
    if last is None:
        raise UserError(
            "invalid-row", place, "no message of the assistant is trained", "give one `weight: 1`, or take the row out"
        )
    return found[: last + 1]


def whole(found: Turns, name: str, place: str) -> Turns:
    """An answer that is trained whole, as a preference's is.

    Raises:
        UserError: a turn of it is not to be trained.
    """
    if any("train" in turn for turn in found):
        raise UserError(
            "invalid-row",
            place,
            f"a message of '{name}' is not to be trained, and a preference compares whole answers",
            f"take its {', '.join(TRAINED)} out",
        )
    return found


def asked(found: Turns) -> Turns:
    """A prompt, of which nothing is trained."""
    return [{key: value for key, value in turn.items() if key != "train"} for turn in found]


# ---- one message


def _message(message: Any, number: int, name: str, place: str) -> Row:
    here = f"message {number} of '{name}'"
    if isinstance(message, dict) and "from" in message and "role" not in message:
        message = {**message, "role": message["from"], "content": message.get("value")}
    if not isinstance(message, dict) or "role" not in message or not ("content" in message or _called(message)):
        raise UserError("invalid-row", place, f"{here} needs the fields role and content")
    said, calls = message["role"], _called(message)
    role = _role(said, here, place)
    if said.lower() == "function_call":
        called = objects(message["content"], f"function_call in {here}", place)
        calls = [{"type": "function", "function": call} for call in called]
        found = {"role": role, "content": "", "tool_calls": _calls(calls, here, place)}
    elif calls:
        if role != "assistant":
            raise UserError("invalid-row", place, f"{here} has tool_calls, and only the assistant calls tools")
        content = _joined(message.get("content") or "", f"content of message {number}", place)
        check_text(content, f"content of {here}", place)
        called = {"tool_calls": _calls(calls, f"tool_calls of {here}", place)}
        found = {"role": role, "content": content} | _thoughts(message, here, place) | called
    else:
        about = f"content of message {number}"
        found = turn(role, _joined(message["content"], about, place), about, place)
        found |= _thoughts(message, here, place) if role == "assistant" else {}
    for key in ("tool_call_id", "name") if role == "tool" else ():
        if message.get(key):
            found[key] = text(message[key], key, place)
    return found if role != "assistant" or _is_trained(message, here, place) else found | {"train": False}


def _called(message: Row) -> Any:
    """The calls of a message, of which OpenAI's older form has one; nothing where it has none."""
    older = message.get("function_call")
    return message.get("tool_calls") or ([{"type": "function", "function": older}] if isinstance(older, dict) else None)


def _role(said: Any, here: str, place: str) -> str:
    if not isinstance(said, str):
        raise UserError("invalid-row", place, f"the role of {here} is {kind(said)}", nearest("", ROLES))
    role = ALIASES.get(said.lower())
    if role is None:
        raise UserError("invalid-row", place, f"{here} has the role '{short(said)}'", nearest(short(said), ROLES))
    return role


def _joined(content: Any, name: str, place: str) -> Any:
    """The text of a list of text parts, a line's end between them; anything else as it is."""
    if not isinstance(content, list) or not content:
        return content
    texts = []
    for number, part in enumerate(content, 1):
        part = {"type": "text", "text": part} if isinstance(part, str) else part
        if not isinstance(part, dict) or part.get("type", "text") not in PARTS or not isinstance(part.get("text"), str):
            of = f" of the type {short(part['type'])}" if isinstance(part, dict) and part.get("type") else ""
            raise UserError(
                "invalid-row",
                place,
                f"part {number} of the {name}{of} has no text",
                "write parts {type: text, text: ...}",
            )
        texts.append(part["text"])
    return "\n".join(texts)


def _is_trained(message: Row, here: str, place: str) -> bool:
    """Whether a turn is trained: none of its fields says no.

    Raises:
        UserError: a field says something else than yes or no.
    """
    result = True
    for key in TRAINED:
        value = message.get(key)
        if value is None:
            continue
        if isinstance(value, str):
            value = _WRITTEN.get(value.lower(), value)
        if not isinstance(value, bool | int | float) or value not in (0, 1):
            raise UserError(
                "invalid-row",
                place,
                f"the {key} of {here} is {short(value)}",
                "a message is trained or it is not, write 1 or 0 (true or false)",
            )
        result = result and bool(value)
    return result


_WRITTEN = {"true": True, "false": False, "1": True, "0": False}  # as CSV has them


def _thoughts(message: Row, here: str, place: str) -> Row:
    """What the assistant thought, under one of the names that it has in people's files."""
    name = next((name for name in THOUGHTS if message.get(name) not in (None, "")), None)
    if name is None:
        return {}
    check_text(message[name], f"{name} of {here}", place)
    return {"reasoning_content": message[name]} if message[name].strip() else {}


def _calls(value: Any, name: str, place: str) -> str:
    """Calls as JSON, of functions with their arguments, as OpenAI's messages have them."""
    calls = objects(value, name, place)
    functions = [call.get("function", call) for call in calls]
    if not all(isinstance(function, dict) and isinstance(function.get("name"), str) for function in functions):
        raise UserError("invalid-row", place, f"a call in {name} needs the function's name and arguments")
    return json.dumps(calls, ensure_ascii=False)


def objects(value: Any, name: str, place: str) -> list[dict]:
    """One object or a list of them; a string is that as JSON."""
    try:
        value = json.loads(value) if isinstance(value, str) else value
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    except (ValueError, RecursionError, TypeError):
        raise UserError("invalid-row", place, f"the {name} is not JSON", "write a list of objects") from None
    found = value if isinstance(value, list) else [value]
    if not all(isinstance(item, dict) for item in found):
        raise UserError("invalid-row", place, f"the {name} is {kind(value)}", "write a list of objects")
    return found


# ---- values


def text(value: Any, name: str, place: str) -> str:
    """A text that is not empty."""
    check_text(value, name, place)
    if not value.strip():
        raise UserError("invalid-row", place, f"the {name} is empty", "give it text or take the row out")
    return value


def check_text(value: Any, name: str, place: str) -> None:
    """Refuse what is no text, or text that is no Unicode."""
    if not isinstance(value, str):
        raise UserError("invalid-row", place, f"the {name} is {kind(value)}", "write a string")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise UserError(
            "invalid-row", place, f"the {name} holds half of a surrogate pair", "write the whole character"
        ) from None


def boolean(value: Any) -> Any:
    """A yes or no as a boolean, also one that is written as text or as 1 and 0; anything else as it is."""
    if isinstance(value, str):
        return _WRITTEN.get(value.lower(), value)
    return bool(value) if not isinstance(value, list | dict) and value in (0, 1) else value


def short(name: Any) -> str:
    """A name or a value out of the file, for a sentence of one line."""
    said = " ".join(str(name).split())
    return said if len(said) <= 40 else f"{said[:39]}…"


def kind(value: Any) -> str:
    """What kind of value it is, in JSON's words."""
    names = {dict: "an object", list: "a list", str: "a string", bool: "a boolean", int: "a number", float: "a number"}
    if value is None or value == []:
        return "null" if value is None else "an empty list"
    return names.get(type(value), f"of the type {type(value).__name__}")
