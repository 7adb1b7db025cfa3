"""What a chat template leaves out of a conversation: a template that knows no tools drops functions, calls and results in silence."""

import json
import re
from typing import Any

from posttrain.data.messages import Turns

TOOLS, CALL = "the functions that may be called (tools)", "a call of a function"
ADVICE = "give the base a template that knows it with `chat_template:`"
TOOL_ADVICE = "give the base a template that knows tools with `chat_template:`, such as hermes or qwen3"


def left_out(turns: Turns, tools: str | None, text: str) -> list[str]:
    """Kinds of what is said, called or offered that the text of a conversation does not have.

    Args:
        turns: as normalised rows have them, or as a template takes them.
        tools: the functions, as JSON.
        text: what the template made of the conversation.
    """
    flat, lost = " ".join(text.split()), []
    for number, turn in enumerate(turns):
        said = turn["content"] or ""
        if number < len(turns) - 1:  # templates of reasoning models take earlier thoughts out, as they are meant to
            said = re.sub(r"<think>.*?</think>", "", said, flags=re.DOTALL)
        if not all(stands_in(flat, part) for part in re.split("</?think>", said)):
            lost.append("what a tool answers" if turn["role"] == "tool" else f"what the {turn['role']} says")
        if any(not _has_call(flat, call.get("function", call)) for call in _calls(turn)):
            lost.append(CALL)
    names = [tool.get("function", tool).get("name") for tool in json.loads(tools)] if tools else []
    if any(name and name not in text for name in names):
        lost.append(TOOLS)
    return list(dict.fromkeys(lost))


def advice(kinds: list[str]) -> str:
    """What to do about it."""
    return TOOL_ADVICE if any(kind in (TOOLS, CALL, "what a tool answers") for kind in kinds) else ADVICE


def stands_in(flat: str, said: str) -> bool:
    """Whether a text (without double blanks) has what is said, as it is or as JSON, whatever its white space."""
    forms = (said, *(json.dumps(said, ensure_ascii=ascii)[1:-1] for ascii in (True, False)))
    return any(" ".join(form.split()) in flat for form in forms)


def _calls(turn: dict[str, Any]) -> list[dict[str, Any]]:
    called = turn.get("tool_calls") or []
    return json.loads(called) if isinstance(called, str) else called


def _has_call(flat: str, function: dict[str, Any]) -> bool:
    """Whether a call's name and the names and texts of its arguments are there."""
    arguments = function.get("arguments") or {}
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except ValueError:
            arguments = {}
    pairs = arguments.items() if isinstance(arguments, dict) else ()
    texts = [function["name"], *(key for key, _ in pairs), *(value for _, value in pairs if isinstance(value, str))]
    return all(stands_in(flat, text) for text in texts)
