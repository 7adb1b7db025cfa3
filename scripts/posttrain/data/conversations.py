"""The text of a conversation as the base's chat template writes it, and which characters of it the model answers with.

An answer is what comes after the text that asks for it, in training, in preference pairs and in generation alike. A conversation
whose turns are all rendered as they are asked for is one text; where the template rewrites earlier turns (it drops their thoughts, or
closes only the last turn), every answer has a text of its own: the conversation up to it.
"""

import contextlib
import functools
import json
import re
from collections.abc import Sequence
from datetime import date
from os.path import commonprefix
from pathlib import Path
from typing import Any, NamedTuple

from posttrain.compat.transformers_internals import compiled_template
from posttrain.data.messages import Row
from posttrain.data.thoughts import BLOCKS
from posttrain.runtime.errors import UserError
from posttrain.runtime.resource_limits import limited

DATE = "2025-01-01"  # what a chat template prints as today's date, so that a row has the same tokens tomorrow
# What a chat template is given for each conversation, beside the special tokens.
TEMPLATE_ARGUMENTS = ("messages", "tools", "documents", "add_generation_prompt", "strftime_now", "raise_exception")
# Of one conversation's rendering: a template is a program of the base's author.
RENDER_SECONDS, RENDER_BYTES, RENDER_CHARACTERS = 10, 1 << 30, 16_000_000

# Thoughts before an answer: the blocks that are stripped from answers, and messages in a channel of their own (gpt-oss, Muse).
_CHANNELS = {"<|channel|>analysis<|message|>": "<|end|>", "to=self<|message|>": "<|eom|>"}
_THOUGHT = re.compile(
    "|".join(rf"\s*{re.escape(first)}.*?{re.escape(last)}\n*" for first, last in (BLOCKS | _CHANNELS).items()),
    re.DOTALL,
)
_CLOSING = re.compile(r".*?</think>\n*", re.DOTALL)
_OPENED = re.compile(r"\s*<think>\s*\Z")
_NONE = re.compile(r"<think>\s*</think>\s*\Z")
_INSIDE = re.compile(r"\s*<think>(.*?)</think>\s*", re.DOTALL)
_QUESTION = [{"role": "user", "content": "Question"}]
_CALL = {"name": "lookup", "arguments": {"word": "value"}}

Turns = list[dict[str, Any]]


class Passage(NamedTuple):
    """A text to train on."""

    text: str
    spans: list[tuple[int, int]]
    """first and last character of each answer in it"""


# ---- rendering


def render(tokenizer: Any, turns: Turns, tools: str | None = None, generate: bool = False) -> str:
    """The text of a conversation; with `generate`, up to where the text of the assistant's next turn begins.

    A template that has no generation prompt gets what it prints before an assistant's text, so that a model is always asked to
    write a text and never a role. A tokenizer without a chat template gets the contents one after the other, the assistant's
    closed by EOS.

    Args:
        tools: the functions that may be called, as JSON.

    Raises:
        UserError: the template fails, or goes beyond the limits of time, memory and size.
    """
    template = tokenizer.chat_template
    if not template:
        ends = {"assistant": tokenizer.eos_token}
        return "".join(turn["content"] + ends.get(turn["role"], "\n") for turn in turns)
    text = _rendered(tokenizer, for_template(tokenizer, turns), tools, generate)
    return text + _header(tokenizer, str(template)) if generate else text


def for_template(tokenizer: Any, turns: Turns) -> Turns:
    """The turns of a row as its tokenizer's chat template takes them."""
    return [_for_template(tokenizer, turn) if turn["role"] == "assistant" else turn for turn in turns]


def _for_template(tokenizer: Any, turn: dict[str, Any]) -> dict[str, Any]:
    """An assistant's turn with its calls and thoughts where the template looks for them, and without what is ours."""
    template = str(tokenizer.chat_template)
    if "train" in turn:
        turn = {key: value for key, value in turn.items() if key != "train"}
    if "tool_calls" in turn:
        turn = turn | {"tool_calls": calls(turn["tool_calls"], _takes_text(tokenizer, template))}
    inside = None if "reasoning_content" in turn else _INSIDE.match(turn["content"])
    if inside and inside[1].strip() and _prints_thoughts(tokenizer, template):
        turn = turn | {"reasoning_content": inside[1].strip("\n"), "content": turn["content"][inside.end() :]}
    return turn


def _rendered(tokenizer: Any, turns: Turns, tools: str | None = None, generate: bool = False) -> str:
    functions = json.loads(tools) if tools else None
    with limited("the base's chat template", RENDER_SECONDS, RENDER_BYTES):
        try:
            pin_date(tokenizer, functions)
            text = tokenizer.apply_chat_template(turns, tools=functions, tokenize=False, add_generation_prompt=generate)
        except (TimeoutError, MemoryError):
            raise
        except Exception as error:  # whatever its author's program raises
            raise UserError(
                "unusable-chat-template",
                "",
                f"the base's chat template refuses a conversation: {str(error) or type(error).__name__}",
                "give the base another one with `chat_template:`, or take out of the rows what it refuses",
            ) from None
    if len(text) > RENDER_CHARACTERS:
        raise UserError(
            "unusable-chat-template",
            "",
            f"the base's chat template makes {len(text):,} characters of a conversation",
            "give it another",
        )
    return text


def template_date(tokenizer: Any) -> str:
    """What the chat template prints as today's date, YYYY-MM-DD."""
    return tokenizer.init_kwargs.get("chat_template_date", DATE)


def pin_date(tokenizer: Any, tools: list | None) -> None:
    """Let the template print the base's date, or tokens would depend on the day.

    An argument would not do: transformers makes text of everything that a template is given, functions too.
    """
    template = tokenizer.get_chat_template(tools=tools)
    if "strftime_now" in template:
        pinned = date.fromisoformat(template_date(tokenizer))
        compiled_template(template).globals["strftime_now"] = pinned.strftime


def calls(text: str, as_text: bool = False) -> list[dict]:
    """Tool calls as OpenAI's messages have them, from JSON.

    Args:
        as_text: whether arguments are JSON in a string, as OpenAI writes them, or objects, as most templates want them.
    """
    found = []
    for call in json.loads(text):
        function = dict(call.get("function", call))
        arguments = function.get("arguments")
        if as_text and not isinstance(arguments, str | None):
            function["arguments"] = json.dumps(arguments, ensure_ascii=False)
        if not as_text and isinstance(arguments, str):
            with contextlib.suppress(ValueError):  # a text that the function takes as it is
                function["arguments"] = json.loads(arguments)
        found.append({"type": "function"} | (call if "function" in call else {}) | {"function": function})
    return found


@functools.lru_cache(maxsize=16)
def _takes_text(tokenizer: Any, template: str) -> bool:
    """Whether the template joins arguments to text as they are (DeepSeek's do), and so needs JSON."""

    def shown(arguments: Any) -> str:
        call = {"id": "call12345", "type": "function", "function": _CALL | {"arguments": arguments}}
        return _rendered(tokenizer, [*_QUESTION, {"role": "assistant", "content": "", "tool_calls": [call]}])

    try:
        if str(_CALL["arguments"]) not in shown(_CALL["arguments"]):
            return False
    except UserError:
        pass
    try:
        shown(json.dumps(_CALL["arguments"]))
    except UserError:  # then it is something else that the template minds
        return False
    return True


@functools.lru_cache(maxsize=16)
def _prints_thoughts(tokenizer: Any, template: str) -> bool:
    """Whether the template knows a turn's `reasoning_content`; transformers also gives it the field's other names."""
    try:
        return "Thought" in _rendered(tokenizer, [*_QUESTION, _says("Answer") | {"reasoning_content": "Thought"}])
    except UserError:  # then the row at hand is refused as well
        return False


@functools.lru_cache(maxsize=16)
def _header(tokenizer: Any, template: str) -> str:
    """What the template prints before an assistant's text, where its generation prompt does not; white space belongs to the text."""
    try:
        plain = _rendered(tokenizer, _QUESTION)
        if _rendered(tokenizer, _QUESTION, generate=True) != plain:
            return ""
        before = commonprefix([_rendered(tokenizer, [*_QUESTION, _says(word)]) for word in "AB"])  # noqa: RUF071  (characters are meant)
    except UserError:  # the row at hand will say why, if it is not only this question
        return ""
    header = before.removeprefix(plain)
    return header.rstrip(" ") if before.startswith(plain) and header.strip() else ""


# ---- what ends an answer


def stops(folder: Path, tokenizer: Any) -> list[int]:
    """The tokens that end an answer of the model in `folder`: the tokenizer's EOS and those of generation_config.json, sorted."""
    file = Path(folder) / "generation_config.json"
    ends = json.loads(file.read_text()).get("eos_token_id") if file.exists() else None
    return sorted({tokenizer.eos_token_id, *(ends if isinstance(ends, list) else [ends])} - {None})


class Ending(NamedTuple):
    """How the chat template ends an assistant's turn."""

    token: int
    """the stop token that ends it; EOS where none does, or there is no template"""
    missing: bool
    """whether the template leaves the last turn without it: nothing follows the text"""


def turn_end(tokenizer: Any, stops: Sequence[int]) -> int:
    """The stop token with which the chat template ends an assistant's turn; EOS where none does, or there is no template.

    Where a turn has no end of its own (GLM-4) it is the stop token with which the next one begins.
    """
    return ending(tokenizer, stops).token


def ending(tokenizer: Any, stops: Sequence[int]) -> Ending:
    """How the chat template ends an assistant's turn, where these are the stop tokens."""
    return _ending(tokenizer, str(tokenizer.chat_template or ""), frozenset(stops))


@functools.lru_cache(maxsize=16)
def _ending(tokenizer: Any, template: str, stops: frozenset[int]) -> Ending:
    turns = [*_QUESTION, _says("Answer")]
    try:
        last, more = (_rendered(tokenizer, said) if template else "" for said in (turns, [*turns, *_QUESTION]))
    except UserError:
        last = more = ""
    after, then = (text.rpartition("Answer")[2] if "Answer" in text else None for text in (last, more))
    ids = [tokenizer(text or "", add_special_tokens=False)["input_ids"] for text in (after, then)]
    found = next((token for tokens in ids for token in tokens if token in stops), tokenizer.eos_token_id)
    return Ending(found, missing=after == "")


# ---- answers


def passages(tokenizer: Any, turns: Turns, tools: str | None = None, assistant_turns: str = "all") -> list[Passage]:
    """The texts in which a conversation's answers are trained: one, or where the template rewrites turns one for each answer.

    Turns with `train: false` are part of the text, and not trained.

    Args:
        assistant_turns: whether `all` that the assistant says is trained, or its `last` turn.

    Raises:
        UserError: an answer cannot be told from what asks for it.
    """
    said = _trained(turns)
    said = said[-1:] if assistant_turns == "last" else said
    text = render(tokenizer, turns, tools)
    spans = []
    for i in said:
        before = _asked(tokenizer, turns[:i], tools, text)
        through = text if i + 1 == len(turns) else render(tokenizer, turns[: i + 1], tools)
        if not (text.startswith(before) and text.startswith(through)):
            return [Passage(*answered(tokenizer, turns[:i], turns[i : i + 1], tools)) for i in said]
        spans.append((len(before), len(through)))
    return [Passage(text, spans)]


def _trained(turns: Turns) -> list[int]:
    """The numbers of the assistant's turns that are trained."""
    return [i for i, turn in enumerate(turns) if turn["role"] == "assistant" and turn.get("train", True)]


def answered(
    tokenizer: Any, prompt: Turns, answer: Turns, tools: str | None = None
) -> tuple[str, list[tuple[int, int]]]:
    """The text of a prompt and its answer, which begins with the text that asks for it, and the answer's characters.

    Some templates open a thought when they ask and print none in a finished turn (DeepSeek-R1), or an empty one in other words
    (Nemotron 3). What a model is asked stands, and the row's own thoughts, or none, close it.

    Raises:
        UserError: the answer cannot be told from what asks for it.
    """
    whole = render(tokenizer, [*prompt, *answer], tools)
    before = _asked(tokenizer, prompt, tools, whole)
    if whole.startswith(before):
        return whole, [(len(before), len(whole))]
    opened = _OPENED.search(before)
    shared = len(commonprefix([before, whole]))  # noqa: RUF071  (characters are meant)
    if not opened or shared < opened.start():
        raise UserError("unusable-chat-template", "", *_refusal(before))
    tag = before.index("<think>", opened.start())
    rest = whole[shared if shared >= tag + len("<think>") else min(shared, tag) :]
    if not _closes(rest):
        rest = f"{_thoughts_of(answer[0])}\n</think>\n\n" + rest.lstrip("\n")
    return before + rest, [(len(before), len(before) + len(rest))]


def _refusal(before: str) -> tuple[str, str]:
    """The problem, and what to do."""
    if _NONE.search(before):
        return (
            "the base's chat template asks for an answer without thoughts, and the rows have thoughts",
            "give the base `chat_template_kwargs:` with which it asks for thoughts, such as {enable_thinking: true}, or take them out "
            "of the rows",
        )
    return (
        "the base's chat template asks for an answer in words that the finished conversation does not have, so the trained tokens "
        "cannot be told from the others",
        "give the base a template that only appends with `chat_template:` (a file, or the name of one that TRL ships), or settings "
        "with which it does with `chat_template_kwargs:`, such as {enable_thinking: false}",
    )


def finished(tokenizer: Any, turns: Turns, tools: str | None = None) -> str:
    """The text in which a conversation's last turn, the assistant's, is trained."""
    return answered(tokenizer, turns[:-1], turns[-1:], tools)[0]


def _asked(tokenizer: Any, turns: Turns, tools: str | None, whole: str) -> str:
    """What asks for the turn after these; before the first turn, what `whole` has before the assistant's text."""
    if turns:
        return render(tokenizer, turns, tools, generate=True)
    # No template renders an empty conversation.
    others = [render(tokenizer, [_says(word)], tools) for word in "AB"]
    return commonprefix([*others, whole])  # noqa: RUF071  (characters are meant)


def _says(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def _closes(text: str) -> bool:
    """Whether a text begins inside a thought."""
    opened, closed = (text.find(mark) for mark in ("<think>", "</think>"))
    return closed >= 0 and not 0 <= opened < closed


def _thoughts_of(turn: dict[str, Any]) -> str:
    before, closed, _ = turn["content"].partition("</think>")  # an answer that was generated may begin inside a thought
    inside = before.lstrip().removeprefix("<think>") if closed else ""
    return (turn.get("reasoning_content") or inside).strip("\n")


def thoughts(text: str, start: int, end: int) -> int:
    """Where the thoughts with which an answer begins end, and the line ends after them; `start` where there are none.

    What asks for the answer may have opened them. Marks later in an answer are part of what it says.

    Args:
        start, end: first and last character of the answer in the text.
    """
    if _OPENED.search(text, 0, start) and _closes(text[start:end]):
        start = _CLOSING.match(text, start, end).end()
    while found := _THOUGHT.match(text, start, end):
        start = found.end()
    return start


def up_to(row: Row, id: str) -> Row:
    """A conversation up to the answer that the id of a training row names, see `tokens.tokenise`: `{id}.{k}`, or all of it."""
    _, _, answer = id.partition(".")
    if not answer:
        return row
    said = _trained(row["messages"])
    return row | {"messages": row["messages"][: said[int(answer)] + 1]}
