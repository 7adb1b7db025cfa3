"""Cases: prompts that matter to the user, with what must and must not appear in the model's answer.

A file is a YAML list, an entry a case. What an answer is checked for are plain texts and regular expressions, as in a test of a
program: a case is green where every condition holds, else red. No model judges it, and nothing is averaged within a case. An
expected call of a tool is read from the answer in any of the forms of `metrics/call_forms.py`.
"""

import json
import re
import unicodedata
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from posttrain.data import messages, thoughts
from posttrain.metrics.call_forms import as_numbers, named_arguments
from posttrain.metrics.text_metrics import is_pattern
from posttrain.metrics.tool_calls import tool_arguments
from posttrain.runtime.errors import UserError, nearest

KEYS = "id prompt system tools call must must_not ignore_case max_new_tokens required note".split()
MAX_BYTES = 1 << 20  # of a file
EMPTY = "the answer is empty"
NO_CALL = "none"

Node = yaml.nodes.Node


class Condition(NamedTuple):
    """A text or a regular expression that an answer is searched for."""

    text: str
    is_pattern: bool = False

    def found(self, answer: str, ignore_case: bool) -> bool:
        """Whether it appears.

        Unicode is composed (NFC), so that Korean written in letters equals Korean in syllables. A text also appears where the
        answer breaks a line or has more blanks; `^` and `$` of a regular expression are the ends of the whole answer.
        """
        text, answer = (unicodedata.normalize("NFC", one) for one in (self.text, answer))
        if self.is_pattern:
            return re.search(text, answer, re.IGNORECASE if ignore_case else 0) is not None
        text, answer = (" ".join(one.split()) for one in (text, answer))
        return text.casefold() in answer.casefold() if ignore_case else text in answer


class Case(NamedTuple):
    """A prompt with its conditions."""

    id: str
    turns: list[messages.Row]
    tools: str | None
    """the functions that the model may call, as JSON"""
    call: list[messages.Row] | None
    """the calls that the answer consists of, `name` and perhaps `arguments`; none at all where it is empty"""
    must: list[Condition]
    must_not: list[Condition]
    ignore_case: bool
    max_new_tokens: int | None
    """None for the suite's"""
    required: bool
    note: str | None


def why(case: Case, output: str) -> list[str]:
    """The conditions that an answer misses, as sentences; none where the case is green. Thoughts before the answer do not count."""
    answer = thoughts.answer(output)
    if not answer.strip():
        return [EMPTY]
    missing = [one for one in case.must if not one.found(answer, case.ignore_case)]
    there = [one for one in case.must_not if one.found(answer, case.ignore_case)]
    return [
        *_missed_call(case.call, answer),
        *(f"nothing matches /{one.text}/" if one.is_pattern else f"'{one.text}' is missing" for one in missing),
        *(f"something matches /{one.text}/" if one.is_pattern else f"'{one.text}' appears" for one in there),
    ]


def _missed_call(expected: list[messages.Row] | None, answer: str) -> list[str]:
    """What is wrong with the calls of an answer."""
    if expected is None:
        return []
    found = named_arguments(answer)
    if found is None:
        return ["it tries to call a function, in no form that is read"]
    made, names = [name for name, _ in found], [call["name"] for call in expected]
    if sorted(made) != sorted(names):
        return [f"it calls {' and '.join(made) or 'nothing'}, not {' and '.join(names) or 'nothing'}"]
    made = dict(found)
    wanted = [{"arguments": as_numbers(made[call["name"]])} | call for call in expected]  # any, where none are written
    if tool_arguments(answer, json.dumps(wanted)) or not wanted:
        return []
    return [f"the arguments are {', '.join(json.dumps(as_numbers(given), ensure_ascii=False) for _, given in found)}"]


def score(cases: list[Case], outputs: Iterable[str]) -> list[dict[str, Any]]:
    """The columns of each case's answer: `passed`, 1 or 0, and `failed`, the missed conditions of a red one."""
    found = [why(case, output) for case, output in zip(cases, outputs, strict=True)]
    return [{"passed": float(not missed)} | ({"failed": "; ".join(missed)} if missed else {}) for missed in found]


def results(suites: dict[str, dict], examples: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """The cases of each suite of the kind, green or red: `id`, `prompt`, `answer`, `passed`, `failed`, `required`, and any `note`.

    Args:
        suites: of a spec.
        examples: with `suite`, `id`, `output` and the columns of `score`.
    """
    found = {}
    for name, suite in suites.items():
        if suite["kind"] == "cases":
            own = {row["id"]: row for row in examples if row["suite"] == name and "passed" in row}
            found[name] = [
                {
                    "id": case.id,
                    "prompt": conversation_text(case.turns),
                    "answer": thoughts.answer(own[case.id]["output"]),
                }
                | {"passed": bool(own[case.id]["passed"]), "failed": own[case.id].get("failed")}
                | {"required": case.required}
                | ({"note": case.note} if case.note else {})
                for case in read(Path(suite["path"]))
                if case.id in own
            ]
    return {name: rows for name, rows in found.items() if rows}


def conversation_text(turns: list[messages.Row]) -> str:
    """What people and judges read of a prompt: its one turn as it is, or else each turn after its role."""
    if len(turns) == 1:
        return turns[0]["content"]
    return "\n\n".join(f"{turn['role'].capitalize()}: {turn['content']}" for turn in turns)


# ---- the file


def read(path: Path, folder: Path = Path()) -> list[Case]:
    """The cases of a file, in their order.

    Args:
        folder: what the path is relative to.

    Raises:
        UserError: the file is no YAML list, or a case is wrong; the place is the file and the line.
    """
    raw = (folder / path).read_bytes()
    if len(raw) > MAX_BYTES:
        raise _wrong(str(path), f"it is larger than {MAX_BYTES:,} bytes", "write fewer cases, or several files")
    try:
        root = yaml.compose(raw.decode("utf-8-sig"), yaml.SafeLoader)
    except UnicodeDecodeError as error:
        raise UserError(
            "not-utf8", str(path), f"not UTF-8 at byte {error.start + 1}", "save the file as UTF-8"
        ) from None
    except yaml.MarkedYAMLError as error:
        mark, hint = error.problem_mark or error.context_mark, "write texts with : ? # , [ or { in quotes"
        raise UserError(
            "invalid-yaml", f"{path} line {mark.line + 1}", f"it is not YAML: {error.problem}", hint
        ) from None
    except (yaml.YAMLError, RecursionError) as error:
        raise UserError("invalid-yaml", str(path), f"it is not YAML: {str(error).splitlines()[0]}") from None
    if not isinstance(root, yaml.SequenceNode) or not root.value:
        hint = "write `- prompt: ...` with `must: [...]` below it"
        raise _wrong(str(path), "it is not a list of cases" if root else "it is empty", hint)
    cases: list[Case] = []
    places: dict[str, str] = {}
    for number, node in enumerate(root.value, 1):
        case = _case(path, node, number)
        if case.id in places:
            hint = "give each case an id of its own"
            raise _wrong(_place(path, node), f"the id '{case.id}' is already used in {places[case.id]}", hint)
        places[case.id] = f"line {_line(node)}"
        cases.append(case)
    return cases


def _case(path: Path, node: Node, number: int) -> Case:
    fields = _fields(path, node)
    place = _place(path, node)
    if "prompt" not in fields:
        raise _wrong(place, "the case has no prompt", "write `prompt: ...`")
    case = Case(
        id=_text(path, fields["id"], "id") if "id" in fields else str(number),
        turns=_turns(path, fields),
        tools=_tools(path, fields["tools"]) if "tools" in fields else None,
        call=_call(path, fields) if "call" in fields else None,
        must=_conditions(path, fields, "must"),
        must_not=_conditions(path, fields, "must_not"),
        ignore_case=_boolean(path, fields, "ignore_case"),
        max_new_tokens=_count(path, fields, "max_new_tokens"),
        required=_boolean(path, fields, "required"),
        note=_text(path, fields["note"], "note") if "note" in fields else None,
    )
    if not case.must and not case.must_not and case.call is None:
        raise _wrong(
            place, "the case has no condition", "write `must:` or `must_not:` with a list of texts, or `call:`"
        )
    return case


def _fields(path: Path, node: Node) -> dict[str, Node]:
    """The keys of a case and their values."""
    if not isinstance(node, yaml.MappingNode):
        raise _wrong(_place(path, node), "the case is not a table", "write `- prompt: ...` with `must: [...]` below it")
    fields: dict[str, Node] = {}
    for key, value in node.value:
        name, place = str(key.value), _place(path, key)
        if name not in KEYS:
            raise _wrong(place, f"a case has no key '{name}'", nearest(name, KEYS))
        if name in fields:
            raise _wrong(place, f"the key '{name}' is written twice", "remove one of the two")
        fields[name] = value
    return fields


def _turns(path: Path, fields: dict[str, Node]) -> list[messages.Row]:
    """The conversation that the model continues; the system prompt is its first message."""
    prompt = fields["prompt"]
    place = f"{_place(path, prompt)}: prompt"
    value = _text(path, prompt, "prompt") if isinstance(prompt, yaml.ScalarNode) else _value(path, prompt, "prompt")
    system = _text(path, fields["system"], "system") if "system" in fields else None
    try:
        turns = messages.asked(messages.said_by("user", value, "prompt", place))
        if system and any(turn["role"] == "system" for turn in turns):
            hint = "remove one of the two"
            raise _wrong(_place(path, fields["system"]), "`system` is there, and `prompt` has a system message", hint)
        turns = [messages.turn("system", system, "system", place), *turns] if system else turns
        messages.check_order(turns, place)
        messages.ends_with(turns, "user", "prompt", place)
    except UserError as error:
        raise _wrong(error.place, error.problem, error.hint) from None
    return turns


def _tools(path: Path, node: Node) -> str:
    place = f"{_place(path, node)}: tools"
    try:
        tools = messages.objects(_value(path, node, "tools"), "value", place)
    except UserError as error:
        raise _wrong(error.place, error.problem, error.hint) from None
    return json.dumps(tools, ensure_ascii=False)


def _call(path: Path, fields: dict[str, Node]) -> list[messages.Row]:
    """The expected calls: one, a list of them, or the word `none`."""
    node = fields["call"]
    place, hint = f"{_place(path, node)}: call", "write {name: ..., arguments: {...}}, a list of those, or none"
    value = _value(path, node, "call")
    if value == NO_CALL:
        return []
    try:
        found = messages.objects(value, "value", place)
    except UserError as error:
        raise _wrong(place, error.problem, hint) from None
    tools = json.loads(_tools(path, fields["tools"])) if "tools" in fields else None
    known = tools and [tool.get("function", tool).get("name") for tool in tools]
    for call in found:
        if not call.keys() <= {"name", "arguments"} or not isinstance(call.get("name"), str):
            raise _wrong(place, "it is no call", hint)
        if not isinstance(call.get("arguments", {}), dict):
            raise _wrong(place, f"the arguments of {call['name']} are not a table", hint)
        if known is not None and call["name"] not in known:
            raise _wrong(place, f"'{call['name']}' is not among the case's tools", nearest(call["name"], known))
    if not found:
        raise _wrong(place, "it is empty", hint)
    return found


def _conditions(path: Path, fields: dict[str, Node], key: str) -> list[Condition]:
    """The conditions of a list, or of one text or pattern alone."""
    if key not in fields:
        return []
    node = fields[key]
    return [_condition(path, one, key) for one in (node.value if isinstance(node, yaml.SequenceNode) else [node])]


def _condition(path: Path, node: Node, key: str) -> Condition:
    if isinstance(node, yaml.ScalarNode):
        return Condition(_text(path, node, key))
    place, hint = f"{_place(path, node)}: {key}", "write a text, or {regex: '...'}"
    if not isinstance(node, yaml.MappingNode) or [name.value for name, _ in node.value] != ["regex"]:
        raise _wrong(place, "a condition is neither a text nor a table with the one key `regex`", hint)
    pattern = _text(path, node.value[0][1], key)
    if fault := is_pattern(unicodedata.normalize("NFC", pattern)):
        raise _wrong(place, f"'{pattern}' is not a regular expression: {fault}", "see Python's re")
    return Condition(pattern, is_pattern=True)


def _text(path: Path, node: Node, key: str) -> str:
    """The text of a value as it is written: `42` and `yes` are texts as well, since a prompt or an answer has no other type."""
    if not isinstance(node, yaml.ScalarNode):
        raise _wrong(f"{_place(path, node)}: {key}", "it is not a text", "write it on the key's line, or in quotes")
    if not node.value.strip() or (node.style is None and node.tag.endswith(":null")):
        raise _wrong(f"{_place(path, node)}: {key}", "it is empty", "write a text, or remove the key")
    return node.value


def _boolean(path: Path, fields: dict[str, Node], key: str) -> bool:
    value = _value(path, fields[key], key) if key in fields else False
    if not isinstance(value, bool):
        raise _wrong(f"{_place(path, fields[key])}: {key}", "it is neither true nor false", "write true or false")
    return value


def _count(path: Path, fields: dict[str, Node], key: str) -> int | None:
    value = _value(path, fields[key], key) if key in fields else None
    if key in fields and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
        raise _wrong(
            f"{_place(path, fields[key])}: {key}", "it is not a number of tokens", "write a whole number above 0"
        )
    return value


def _value(path: Path, node: Node, key: str) -> Any:
    """A value as YAML has it, plain values only."""
    try:
        return yaml.constructor.SafeConstructor().construct_document(node)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        reason = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise _wrong(
            f"{_place(path, node)}: {key}", f"it is not a plain value: {reason}", "write text or a list"
        ) from None


def _place(path: Path, node: Node) -> str:
    return f"{path} line {_line(node)}"


def _line(node: Node) -> int:
    return node.start_mark.line + 1


def _wrong(place: str, problem: str, hint: str) -> UserError:
    return UserError("invalid-case", place, problem, hint)
