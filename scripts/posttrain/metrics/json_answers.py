"""Answers that are JSON (RFC 8259): whether they are, and whether they are the same value as the reference.

A Markdown code fence around the value, marked `json` or not, is allowed, and nothing else is. NaN and Infinity, which Python
reads, are not JSON.
"""

import json
import re
from collections.abc import Hashable
from decimal import Decimal, InvalidOperation
from typing import Any

FENCED = re.compile(r"```(?:json)?[ \t]*\n(.*?)```", re.DOTALL | re.IGNORECASE)


def is_json(output: str, reference: str) -> float:
    """1 where the output is one JSON value, else 0."""
    try:
        # a number is left as text: Python converts none of more than 4300 digits
        json.loads(unfenced(output), parse_constant=_no_constant, parse_int=str)
    except (ValueError, RecursionError):  # a model that repeats itself nests as deeply as it may
        return 0.0
    return 1.0


def json_equal(output: str, reference: str) -> float:
    """1 where output and reference are the same JSON value, whatever the order of their keys, else 0."""
    try:
        return float(canonical(parse(output)) == canonical(parse(reference)))
    except (ValueError, RecursionError):
        return 0.0


def unfenced(text: str) -> str:
    """What stands in the code fence around a text; the text where there is none."""
    fenced = FENCED.fullmatch(text.strip())
    return fenced[1] if fenced else text


def parse(text: str) -> Any:
    """The JSON value of a text, perhaps in a code fence, with numbers as `Decimal`.

    Raises:
        ValueError: it is not JSON, or an object gives a key twice, which readers understand differently.
        RecursionError: it is nested too deeply.
    """
    return json.loads(
        unfenced(text),
        parse_constant=_no_constant,
        parse_int=_number,
        parse_float=_number,
        object_pairs_hook=_object,
    )


def canonical(value: Any) -> Hashable:
    """A form of a JSON value that is equal for equal values: keys in any order, `1` and `1.0` equal, `1`, `"1"` and `true` not."""
    if isinstance(value, dict):
        return "object", frozenset((key, canonical(item)) for key, item in value.items())
    if isinstance(value, list):
        return "array", tuple(map(canonical, value))
    return type(value).__name__, value


def _no_constant(name: str) -> None:
    raise ValueError(name)


def _number(digits: str) -> Decimal:
    try:
        return Decimal(digits)
    except InvalidOperation:  # an exponent of more than 18 digits
        raise ValueError(digits) from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key is given twice")
    return found
