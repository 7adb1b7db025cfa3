"""A run's name with overrides, such as `dpo_lora,rank=4,peft_args.use_dora=true`: how they are written, read and applied.

A list is written with `+` between its items, `target_modules=q_proj+v_proj`, and with one behind it where it has a single
item, `target_modules=q_proj+`. A key of a table is written with a dot, and the value `default` removes what the file says.

In the names of folders, keys have their names in specs (see aliases.py), so that results are found under the names they were
built with. All spellings are read.
"""

import datetime
import re
from collections.abc import Iterator
from typing import Any

import yaml
from pydantic import BaseModel

from posttrain.config import aliases
from posttrain.config.fields import keys_of
from posttrain.config.messages import meant, spellings
from posttrain.config.runs import Run
from posttrain.runtime.errors import UserError, nearest

VALUE = r"[A-Za-z0-9_.+-]+"
KEY = r"[a-z_]+(?:\.[A-Za-z0-9_]+)*"
OVERRIDES = rf"(?:,{KEY}={VALUE})*"
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?")

OUT = object()  # the value that removes a key, so that its default applies
OUT_TEXT = "default"

# An override of one of these removes the others, if the file has them.
INSTEAD_OF = {
    "epochs": ("max_steps",),
    "max_steps": ("epochs",),
    "reward.from": ("reward.function",),
    "reward.function": ("reward.from", "reward.kind", "reward.sequence"),
}


# ---- names


def text(value: Any) -> str:
    """A value as it is written in a name; `parsed` reads it back as the same value."""
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
    """The value that is written in a name.

    Raises:
        ValueError: it is not a value, such as an invalid date.

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
    """A number that YAML 1.1 reads as text, such as `1e-4`; None for any other value."""
    return float(written) if "e" in written and NUMBER.fullmatch(written) else None


# ---- a target's overrides


def read(written: list[str], run: dict[str, Any], place: str) -> dict[str, Any]:
    """The overrides in a name, `KEY=VALUE` each.

    Args:
        run: the run's table in the file.
        place: the target, for errors.

    Returns:
        Values by the keys' names in specs, which are those in folders' names.

    Raises:
        UserError: an override has another form, or a key that a run does not have or that would make another run.
    """
    changed: dict[str, Any] = {}
    for override in written:
        key, equals, value = override.partition("=")
        if not equals or not re.fullmatch(VALUE, value) or ".." in value:
            hint = "write KEY=VALUE, with letters, digits and . _ + - in the value"
            raise UserError("invalid-override", place, f"'{override}' is not an override", hint)
        _check_key(key, run, place)
        key = _in_spec(key)
        if key in changed:
            raise UserError("conflicting-keys", place, f"'{key}' is given twice", "write it once")
        try:
            changed[key] = parsed(value)
        except ValueError:
            hint = "write a number or a word"
            raise UserError("invalid-override", place, f"'{value}' is not a value for '{key}'", hint) from None
        if key == "target_modules" and re.fullmatch(r"\w+", value):  # as a regular expression it could match no module
            changed[key] = [value]
    return changed


def _check_key(key: str, run: dict[str, Any], place: str) -> None:
    """Refuse a key that a run does not have, or that makes another run."""
    first, fields = key.partition(".")[0], spellings(Run)
    if first not in fields:
        hint = meant("runs", first, run) or nearest(first, fields)
        raise UserError("unknown-key", place, f"a run has no key '{first}'", hint)
    if first in ("objective", "from"):
        raise UserError("invalid-override", place, f"'{first}' makes another run", "write one under runs:")
    if first == "allow":
        hint = "write it under runs:"
        raise UserError("invalid-override", place, "'allow' changes no result, so it makes no other run", hint)
    if not re.fullmatch(KEY, key):
        hint = "use letters, digits and _, and a dot before a key of a table"
        raise UserError("invalid-override", place, f"'{key}' cannot be overridden", hint)


def _in_spec(key: str) -> str:
    """A key, in any spelling, under its name in specs; a key of a table keeps what follows the dot."""
    first, dot, rest = key.partition(".")
    return aliases.in_spec(aliases.OF_RUN.get(first, first)) + dot + rest


def _field(key: str) -> str:
    """A key that may have its name in specs under its own name."""
    first, dot, rest = key.partition(".")
    return aliases.OF_RUN.get(first, first) + dot + rest


def applied(raw: dict[str, Any], changed: dict[str, Any]) -> dict[str, Any]:
    """A run's table in the file with overrides in it; keys that an override excludes are removed.

    Args:
        raw: the table as the file has it.
        changed: what `read` returns.
    """
    given = [key for key, value in changed.items() if value is not None and value is not OUT]
    dropped = {other: OUT for key in given for other in INSTEAD_OF.get(key, ()) if other not in changed}
    values = aliases.renamed(raw, aliases.OF_RUN)
    for key, value in (dropped | changed).items():
        _set(values, _field(key), value)
    return values


def _set(values: dict[str, Any], key: str, value: Any) -> None:
    """Set `key`, which may lead into tables, or remove it."""
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
    """The value of a run's key that an override sets to `value`: the default if it has one, and in the key's own type.

    Args:
        key: its name in specs.
    """
    first, *inner = key.split(".")
    own = run.settings()
    found = own[first] if first in own else getattr(run, _field(first))
    if inner and value is OUT:
        return OUT
    for name in inner:
        if hasattr(found, "model_dump"):
            found = found.model_dump(by_alias=True)
        found = found.get(name) if isinstance(found, dict) else None
    return found


def filled(template: str, run: Run, place: str) -> str:
    """A name with `{key}` replaced by the run's own values, such as the `from` of a run.

    Raises:
        UserError: a run has no such key, or its value is a table.
    """
    keys = keys_of(Run)
    own = {aliases.OF_RUN.get(key, key): value for key, value in run.settings().items()}

    def value(match: re.Match) -> str:
        key = aliases.OF_RUN.get(match[1], match[1])
        if key not in keys:
            hint = nearest(match[1], spellings(Run))
            raise UserError("unknown-key", place, f"a run has no key '{match[1]}'", hint)
        found = own[key] if key in own else getattr(run, "from_" if key == "from" else key)
        if isinstance(found, dict | BaseModel):
            raise UserError(
                "invalid-value", place, f"{key} is a table, which a name cannot contain", "write two runs instead"
            )
        return text(found)

    return re.sub(r"{([^}]*)}", value, template)


# ---- a sweep's points


def of_point(point: dict[str, Any], raw: dict[str, Any], place: str) -> dict[str, str]:
    """The overrides of a sweep's point as they are written in a name: tables key by key, and `default` for keys that the point leaves out.

    Args:
        point: keys and values, as the file has them.
        raw: the table of the run that is swept, as the file has it.
        place: of the point, for errors.

    Raises:
        UserError: a key or a value that cannot be part of the name of a folder.
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
        inner = f"{key}.'{name}'" if "." in str(name) else f"{key}.{name}"  # a dot would mean a key of another table
        yield from _flat(inner, value.get(name, OUT), before.get(name))


def _written(key: str, value: Any, place: str) -> str:
    written = text(value)
    items = value if isinstance(value, list) else [value]
    hint = "write a run of its own under runs:"
    if not re.fullmatch(KEY, key):
        raise UserError("invalid-override", place, f"'{key}' cannot be part of the name of a run's folder", hint)
    safe = re.fullmatch(VALUE, written) and ".." not in written and (value is OUT or OUT_TEXT not in items)
    if not safe or any("+" in text(item) or isinstance(item, list | dict) for item in items):
        problem = f"{value!r:.200} cannot be part of the name of a run's folder, which may contain letters, digits, . _ - and lists of them"
        raise UserError("invalid-override", place, problem, f"{hint} for each value")
    return written
