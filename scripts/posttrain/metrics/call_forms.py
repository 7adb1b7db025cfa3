"""The forms in which models write calls of tools, as the chat templates that TRL ships have them.

    {"name": "GetWeather", "arguments": {"city": "Oslo"}}                                    also with `parameters` (Llama 3.1)
    {"type": "function", "function": {"name": "GetWeather", "arguments": "{\\"city\\": ...}"}}    OpenAI; arguments are JSON text
    [GetWeather(city="Oslo")]                                                                Python (Llama 3.2, Gemma 3)
    <tool_call>{"name": "GetWeather", "arguments": {...}}</tool_call>                        Hermes, Qwen
    <tool_call><function=GetWeather><parameter=city>Oslo</parameter></function></tool_call>  Qwen3-Coder, Nemotron 3
    <tool_call>GetWeather<arg_key>city</arg_key><arg_value>Oslo</arg_value></tool_call>      GLM-4
    [TOOL_CALLS][{"name": "GetWeather", "arguments": {...}}]                                 Mistral
    [TOOL_CALLS]GetWeather[ARGS]{"city": "Oslo"}                                             Mistral, later
    <|tool_call_start|>[GetWeather(city="Oslo")]<|tool_call_end|>                            LFM2
    <|tool_call>call:GetWeather{city:<|"|>Oslo<|"|>}<tool_call|>                             Gemma 4
    <｜tool▁call▁begin｜>function<｜tool▁sep｜>GetWeather ```json {"city": "Oslo"} ```<｜tool▁call▁end｜>   DeepSeek-V3
    to=functions.GetWeather<|message|>{"city": "Oslo"}                                       gpt-oss
    <atem:invoke name="GetWeather"><atem:parameter name="city">Oslo</atem:parameter></atem:invoke>        Muse

The first three are the whole answer, perhaps in a code fence; the first two may be in a list, for several calls, and in an OpenAI
message, `{"tool_calls": [...]}`. Text may stand around the others. Anything else that is attempted, such as a call that is cut off, is
not a call.
"""

# ruff: noqa: RUF001, RUF002  (DeepSeek writes its tokens with these characters)

import ast
import json
import re
from collections.abc import Callable
from decimal import Decimal
from typing import Any, NamedTuple

from posttrain.metrics.json_answers import parse

Named = tuple[str, dict[str, Any]]
"""A tool and its arguments; numbers are `Decimal`"""

TAG, END = "<tool_call>", "</tool_call>"
ARGUMENTS = ("arguments", "parameters")
FIELDS = {"id", "index", "type"}  # of a call, beside its name and its arguments
MESSAGE = {"role", "content", "tool_calls"}
WHOLE = ("{", "[", "```")  # with which an answer begins that may be a call as a whole


class Written(str):
    """A value of an argument in a form that has no types: `3` may be a number or a text."""

    __slots__ = ()

    def typed(self, text: bool) -> Any:
        """The value, where it is known whether it is a text; else JSON where it is JSON."""
        if text:
            return str(self)
        try:
            return parse(str(self))
        except (ValueError, RecursionError):
            return str(self)


def named_arguments(text: str) -> list[Named] | None:
    """The calls in an answer, none where it is plain text; None where it attempts a call, or JSON, and fails."""
    form = next((form for form in FORMS if any(mark in text for mark in form.marks)), None)
    try:
        if form is not None:
            bodies = form.block.findall(text)
            rest = form.block.sub("", text)
            if any(mark in rest for mark in form.marks):
                return None
            return [call for body in bodies for call in form.read(body)]
        stripped = text.strip()
        if stripped.startswith("```tool_code"):
            return _python(re.fullmatch(r"```tool_code\s*\n(.*?)```", stripped, re.DOTALL)[1])
        if not stripped.startswith(WHOLE):
            return []
        if _PYTHON_LIST.match(stripped):
            return _python(stripped)
        return _of_json(text)
    except (ValueError, RecursionError, TypeError, SyntaxError, MemoryError):  # of ast: nested too deeply
        return None


# ---- JSON


def _of_json(text: str) -> list[Named]:
    """The calls of a JSON text.

    Raises:
        ValueError: it is something else.
    """
    value = parse(text)
    if isinstance(value, dict) and "tool_calls" in value and value.keys() <= MESSAGE:
        value = value["tool_calls"]
    found = value if isinstance(value, list) else [value]
    if not found:
        raise ValueError("no call")
    return [_call(one) for one in found]


def _call(value: Any) -> Named:
    if not isinstance(value, dict):
        raise ValueError("a call is an object")
    function = value.get("function", value)
    if function is not value and not (value.keys() <= {"function", *FIELDS} and isinstance(function, dict)):
        raise ValueError("a call has a function")
    given = [name for name in ARGUMENTS if name in function]
    if len(given) > 1 or not function.keys() <= {"name", *given, *FIELDS}:
        raise ValueError("a call has a name and arguments")
    name, arguments = function.get("name"), function[given[0]] if given else {}
    if isinstance(arguments, str):
        arguments = parse(arguments)
    if not isinstance(name, str) or not isinstance(arguments, dict):
        raise ValueError("a call has a name and an object of arguments")
    return name, arguments


# ---- tags


def _in_tags(body: str) -> list[Named]:
    """What stands between Hermes' tags: JSON, or one call in XML or in GLM's form."""
    body = body.strip()
    if body.startswith(("{", "[", "```")):
        return _of_json(body)
    if body.startswith("<function="):
        return [_in_xml(found) for found in _whole(_FUNCTION, body)]
    name, _, rest = body.partition("<arg_key>")
    pairs = _whole(_GLM_ARGUMENT, f"<arg_key>{rest}") if rest else []
    if not re.fullmatch(r"[\w.-]+", name.strip()):
        raise ValueError("no name")
    return [(name.strip(), _written(pairs))]


def _in_xml(found: tuple[str, str]) -> Named:
    name, body = found
    return name, _written(_whole(_PARAMETER, body))


def _whole(pattern: re.Pattern, text: str) -> list[tuple[str, str]]:
    """All that matches, where nothing but white space stands around it."""
    if pattern.sub("", text).strip():
        raise ValueError("text within a call")
    return pattern.findall(text)


def _written(pairs: list[tuple[str, str]]) -> dict[str, Any]:
    if len({name for name, _ in pairs}) < len(pairs):
        raise ValueError("an argument is given twice")
    return {name.strip(): Written(_LINES.sub("", value)) for name, value in pairs}


# ---- Python


def _python(text: str) -> list[Named]:
    """The calls of a list in Python, or of one call in each line; arguments have names and plain values."""
    body = ast.parse(text.strip(), mode="exec").body
    expressions = [line.value for line in body if isinstance(line, ast.Expr)]
    if len(expressions) < len(body) or not body:
        raise ValueError("a statement")
    if len(expressions) == 1 and isinstance(expressions[0], ast.List):
        expressions = expressions[0].elts
    if not expressions:
        raise ValueError("no call")
    return [_python_call(one) for one in expressions]


def _python_call(call: ast.expr) -> Named:
    if not isinstance(call, ast.Call) or call.args or any(one.arg is None for one in call.keywords):
        raise ValueError("no call, or an argument without a name")
    arguments = {one.arg: _json_value(ast.literal_eval(one.value)) for one in call.keywords}
    return ast.unparse(call.func), arguments


def _json_value(value: Any) -> Any:
    """A value of Python's as `parse` reads it from JSON."""
    return parse(json.dumps(value, allow_nan=False))


# ---- one model each


def _mistral(body: str) -> list[Named]:
    """`name[ARGS]{...}`, with an id before the arguments or not; a list in the older form."""
    if body.lstrip().startswith("["):
        return _of_json(body)
    name, _, arguments = body.partition("[ARGS]")
    return [_named(name.partition("[CALL_ID]")[0], parse(arguments))]


def _gemma(body: str) -> list[Named]:
    """`call:name{key:<|"|>text<|"|>,other:3}`: JSON without quotes around names, and with a token for those around texts."""
    name, _, arguments = body.strip().partition("{")
    as_json = _GEMMA_PART.sub(
        lambda part: json.dumps(part[1]) if part[1] is not None else f"{part[2]}{json.dumps(part[3])}:", "{" + arguments
    )
    return [_named(name.removeprefix("call:"), parse(as_json))]


def _deepseek(body: str) -> list[Named]:
    _, _, called = body.partition("<｜tool▁sep｜>")
    name, _, arguments = called.partition("\n")
    return [_named(name, parse(arguments))]


def _gpt_oss(found: tuple[str, str]) -> list[Named]:
    return [_named(found[0], parse(found[1]))]


def _named(name: str, arguments: Any) -> Named:
    if not name.strip() or not isinstance(arguments, dict):
        raise ValueError("a call has a name and an object of arguments")
    return name.strip(), arguments


def _muse(found: tuple[str, str]) -> list[Named]:
    return [(found[0], _written(_whole(_ATEM_PARAMETER, found[1])))]


_LINES = re.compile(r"\A\n|\n\Z")
_FUNCTION = re.compile(r"<function=([^>\s]+)>(.*?)</function>", re.DOTALL)
_PARAMETER = re.compile(r"<parameter=([^>\s]+)>(.*?)</parameter>", re.DOTALL)
_ATEM_PARAMETER = re.compile(r'<atem:parameter name="([^"]+)">(.*?)</atem:parameter>', re.DOTALL)
_GLM_ARGUMENT = re.compile(r"<arg_key>(.*?)</arg_key>\s*<arg_value>(.*?)</arg_value>", re.DOTALL)
_GEMMA_PART = re.compile(r'<\|"\|>(.*?)<\|"\|>|([{,]\s*)([A-Za-z_][\w.-]*)\s*:', re.DOTALL)
_PYTHON_LIST = re.compile(r"\[\s*[A-Za-z_][\w.]*\(")


class Form(NamedTuple):
    """A form with marks of its own, around which text may stand."""

    marks: tuple[str, ...]
    """of which each belongs to a call; a model may have them as special tokens"""
    block: re.Pattern
    """a block with its content as groups"""
    read: Callable[[Any], list[Named]]
    """the calls of a block's content"""


FORMS = (
    Form((TAG, END), re.compile(rf"{TAG}(.*?){END}", re.DOTALL), _in_tags),
    Form(("<function=", "</function>"), _FUNCTION, lambda found: [_in_xml(found)]),
    Form(("[TOOL_CALLS]",), re.compile(r"\[TOOL_CALLS\]((?:(?!\[TOOL_CALLS\]).)+)", re.DOTALL), _mistral),
    Form(
        ("<|tool_call_start|>", "<|tool_call_end|>"),
        re.compile(r"<\|tool_call_start\|>(.*?)<\|tool_call_end\|>", re.DOTALL),
        _python,
    ),
    Form(("<|tool_call>", "<tool_call|>"), re.compile(r"<\|tool_call>(.*?)<tool_call\|>", re.DOTALL), _gemma),
    Form(
        ("<｜tool▁call▁begin｜>", "<｜tool▁call▁end｜>"),
        re.compile(r"<｜tool▁call▁begin｜>(.*?)<｜tool▁call▁end｜>", re.DOTALL),
        _deepseek,
    ),
    Form(
        ("to=functions.",),
        re.compile(
            r"to=functions\.([\w.-]+)[^{]*?<\|message\|>(.*?)(?:<\|call\|>|<\|end\|>|<\|start\|>assistant|\Z)",
            re.DOTALL,
        ),
        _gpt_oss,
    ),
    Form(
        ("<atem:invoke", "</atem:invoke>"),
        re.compile(r'<atem:invoke name="([^"]+)">(.*?)</atem:invoke>', re.DOTALL),
        _muse,
    ),
)
# What a text keeps although a tokenizer has it as a special token: without it a call could not be told from text.
MARKS = (*(mark for form in FORMS for mark in form.marks), '<|"|>', "<｜tool▁sep｜>", "[ARGS]", "[CALL_ID]")


def as_numbers(value: Any) -> Any:
    """A value with Python's numbers instead of `Decimal`, and texts without a type as they would be read."""
    if isinstance(value, Written):
        return as_numbers(value.typed(text=False))
    if isinstance(value, Decimal):
        return int(value) if value.as_tuple().exponent == 0 else float(value)
    if isinstance(value, dict):
        return {key: as_numbers(one) for key, one in value.items()}
    return [as_numbers(one) for one in value] if isinstance(value, list) else value
