"""A run's name with its overrides, such as `dpo_lora,rank=4,peft_args.use_dora=true`: how they are written, read and applied.

A list is written with `+` between its items, `target_modules=q_proj+v_proj`, and with one behind it where it has a single
item, `target_modules=q_proj+`. A key of a table is written with a dot, and the value `default` takes what the file says out.
"""

import datetime
import re
from collections.abc import Iterator
from typing import Any

import yaml

from posttrain.config.schema import Run, keys_of, meant
from posttrain.runtime.errors import UserError, nearest

VALUE = r"[A-Za-z0-9_.+-]+"
KEY = r"[a-z_]+(?:\.[A-Za-z0-9_]+)*"
OVERRIDES = rf"(?:,{KEY}={VALUE})*"
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?")

OUT = object()  # the value that takes a key out, so that its default holds
OUT_TEXT = "default"

# An override of one of these says that the file's value of the others is not meant.
INSTEAD_OF = {
    "epochs": ("max_steps",),
    "max_steps": ("epochs",),
    "reward.from": ("reward.function",),
    "reward.function": ("reward.from", "reward.kind", "reward.sequence"),
}


# ---- names


def text(value: Any) -> str:
    """The one way to write a value in a name; `parsed` reads it back as the same value."""
    if value is None or value is OUT:
        return "null" if value is None else OUT_TEXT
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        written = repr(int(value)) if value.is_integer() and abs(value) < 1e15 else repr(value)
        return written.replace("e+", "e")
    if isinstance(value, list):
        return "+".join(map(text, value)) + ("+" if len(value) == 1 else "")
    return str(value)


def parsed(written: str) -> Any:
    """The value that a name says.

    Raises:
        ValueError: it is no value, such as a date that is none.

    >>> parsed("q_proj+v_proj"), parsed("q_proj+"), parsed("1e-4"), parsed("true")
    (['q_proj', 'v_proj'], ['q_proj'], '1e-4', True)
    """
    if written == OUT_TEXT:
        return OUT
    if "+" not in written or NUMBER.fullmatch(written):
        return _scalar(written)
    items = written.removesuffix("+").split("+")
    numbers = [_number(item) for item in items]
    return [_scalar(item) if number is None else number for item, number in zip(items, numbers, strict=True)]


def _scalar(written: str) -> Any:
    if not written:
        raise ValueError("an item of a list is empty")
    try:
        value = yaml.safe_load(written)
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from None
    return written if isinstance(value, datetime.date) else value


def _number(written: str) -> float | None:
    """A number that YAML 1.1 takes for text, such as `1e-4`; None for any other value."""
    return float(written) if "e" in written and NUMBER.fullmatch(written) else None


# ---- a target's overrides


def read(written: list[str], run: dict[str, Any], place: str, file: str) -> dict[str, Any]:
    """The overrides of a name, `KEY=VALUE` each.

    Args:
        run: the run's table of the file.
        place: what an error's sentence opens with.
        file: the configuration's name, for the sentence.

    Raises:
        UserError: one has another form, or a key that a run does not have or that makes another run.
    """
    fields = keys_of(Run)
    changed: dict[str, Any] = {}
    for override in written:
        key, equals, value = override.partition("=")
        if not equals or not re.fullmatch(VALUE, value) or ".." in value:
            raise UserError(
                f"{place}: '{override}' is no override; write KEY=VALUE, with letters, digits and . _ + - in the value"
            )
        first = key.partition(".")[0]
        if first not in fields:
            raise UserError(
                f"{place}: a run has no key '{first}'; {meant('runs', first, run) or nearest(first, fields)}"
            )
        if first in ("objective", "from"):
            raise UserError(f"{place}: '{first}' makes another run; write one under runs: in {file}")
        if first == "allow":
            raise UserError(
                f"{place}: 'allow' changes no result, so it makes no other run; write it under runs: in {file}"
            )
        if not re.fullmatch(KEY, key):
            raise UserError(f"{place}: '{key}' is no key; write letters, digits, _ and, before a table's key, a dot")
        if key in changed:
            raise UserError(f"{place}: '{key}' is given twice; write it once")
        try:
            changed[key] = parsed(value)
        except ValueError:
            raise UserError(f"{place}: '{value}' is no value for '{key}'; write a number or a word") from None
        if key == "target_modules" and re.fullmatch(r"\w+", value):  # as a regular expression it could match no module
            changed[key] = [value]
    return changed


def applied(raw: dict[str, Any], changed: dict[str, Any]) -> dict[str, Any]:
    """A run's table of the file with overrides in it; keys that exclude an override's are taken out."""
    given = [key for key, value in changed.items() if value is not None and value is not OUT]
    dropped = {other: OUT for key in given for other in INSTEAD_OF.get(key, ()) if other not in changed}
    values = dict(raw)
    for key, value in (dropped | changed).items():
        _set(values, key, value)
    return values


def _set(values: dict[str, Any], key: str, value: Any) -> None:
    """Set `key`, which may lead into tables, or take it out."""
    first, dot, rest = key.partition(".")
    if dot:
        inner = values.get(first)
        if value is OUT and not isinstance(inner, dict):
            return
        values[first] = dict(inner) if isinstance(inner, dict) else {}
        _set(values[first], rest, value)
    elif value is OUT:
        values.pop(first, None)
    else:
        values[first] = value


def of(run: Run, key: str, value: Any) -> Any:
    """The value of a run's key that an override sets to `value`: the default where it has one, and in the key's own type."""
    first, *inner = key.split(".")
    own = run.settings()
    found = own[first] if first in own else getattr(run, first)
    if inner and value is OUT:
        return OUT
    for name in inner:
        if hasattr(found, "model_dump"):
            found = found.model_dump(by_alias=True)
        found = found.get(name) if isinstance(found, dict) else None
    return found


# ---- a sweep's points


def of_point(point: dict[str, Any], raw: dict[str, Any], place: str) -> dict[str, str]:
    """The overrides of a sweep's point as a name has them: tables key by key, what the point leaves out of them as `default`.

    Args:
        point: keys and values as the file has them.
        raw: the swept run's table of the file.
        place: what an error's sentence opens with; the key follows.

    Raises:
        UserError: a key or a value that cannot stand in the name of a file.
    """
    return {key: _written(key, value, f"{place}.{key}") for key, value in flat(point, raw).items()}


def flat(point: dict[str, Any], raw: dict[str, Any]) -> dict[str, Any]:
    """The same with the values themselves."""
    return {name: inner for key, value in point.items() for name, inner in _flat(key, value, raw.get(key))}


def _flat(key: str, value: Any, before: Any) -> Iterator[tuple[str, Any]]:
    if not isinstance(value, dict):
        yield key, value
        return
    before = before if isinstance(before, dict) else {}
    for name in [*before, *(name for name in value if name not in before)]:
        inner = f"{key}.'{name}'" if "." in str(name) else f"{key}.{name}"  # a dot would lead into another table
        yield from _flat(inner, value.get(name, OUT), before.get(name))


def _written(key: str, value: Any, place: str) -> str:
    written = text(value)
    items = value if isinstance(value, list) else [value]
    if not re.fullmatch(KEY, key):
        raise UserError(
            f"{place}: '{key}' cannot stand in the name of a run's folder; write a run of its own under runs:"
        )
    safe = re.fullmatch(VALUE, written) and ".." not in written and (value is OUT or OUT_TEXT not in items)
    if not safe or any("+" in text(item) or isinstance(item, list | dict) for item in items):
        raise UserError(
            f"{place}: {value!r:.200} cannot stand in the name of a run's folder, which takes letters, digits and . _ -, and "
            "lists of such; write a run of its own under runs: for each value"
        )
    return written
