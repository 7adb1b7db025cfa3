"""What a configuration may consist of: text, numbers, lists and tables within limits, and no secrets.

The limits make sure that everything that is done with a configuration ends soon.
"""

import contextlib
import itertools
import json
import os
import re
from pathlib import Path
from typing import Any

import yaml

from posttrain.config.fields import NAME, NAME_HINT
from posttrain.runtime.errors import PASSWORD, UserError

RESERVED = ("bases", "data", "tokens", "sweeps", "ratings", "figures", "logs")
MAX_DEPTH, MAX_VALUES, MAX_TEXT = 20, 300_000, 4096  # levels, values in all, characters of one
MAX_NAME, MAX_TABLE = 60, 50_000  # characters of a name, of a table as JSON
SURROGATE = re.compile("[\ud800-\udfff]")
SECRET = re.compile(rf"{PASSWORD.pattern}|\bhf_[A-Za-z0-9]{{20,}}|\bAKIA[A-Z0-9]{{16}}\b")


# ---- the file


def check_file(file: Path | str) -> None:
    """Refuse a configuration file that Snakemake would execute, or that it could only read with a traceback.

    Snakemake passes every configuration to YTE, which runs the Python in a file that says `__use_yte__: true`.

    Raises:
        UserError: it is such a program, or not YAML with plain values.
    """
    name = os.path.relpath(file)
    try:
        check_text(Path(file).read_text(encoding="utf-8"), name)
    except UnicodeDecodeError as error:
        raise UserError(
            "invalid-yaml", name, f"it is not UTF-8 at byte {error.start + 1}", "save the file as UTF-8"
        ) from None


def check_text(text: str, file: str) -> None:
    """The same as `check_file`, for the text of a file."""
    with contextlib.suppress(ValueError, RecursionError):
        json.loads(text)  # as Snakemake does: JSON is not read as YAML, and not run
        return
    try:
        values = yaml.load(text, yaml.CSafeLoader)
    except Exception as error:  # whatever a tag makes PyYAML raise
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError("invalid-yaml", file, f"it is not YAML with plain values: {reason}") from None
    if isinstance(values, dict) and "__use_yte__" in values:
        raise UserError(
            "invalid-yaml", file, "`__use_yte__` makes the file a program", "write the values that the program computes"
        )


# ---- the values


def check(values: dict[str, Any]) -> None:
    """Refuse values that no spec can hold, names that no folder can have, and tables that are too long.

    Raises:
        UserError: for the first of them.
    """
    _check_plain(values)
    for table in ("bases", "datasets", "runs", "sweeps"):
        rows = values.get(table) or {}
        if not isinstance(rows, dict):
            raise UserError("invalid-value", table, "it must be a table of names", "write `name: {...}` under it")
        for name, row in rows.items():
            _check_name(table, name)
            _check_length(f"{table}.{name}", row)
    _check_length("evaluation", values.get("evaluation"))
    clash = set(values.get("bases") or {}) & set(values.get("runs") or {})
    if clash:
        raise UserError("invalid-name", f"runs.{min(clash)}", "a base has the same name", "rename one of them")


def _check_length(place: str, table: Any) -> None:
    if len(json.dumps(table)) > MAX_TABLE:
        raise UserError(
            "configuration-too-large", place, f"it has more than {MAX_TABLE:,} characters", "move long lists into files"
        )


def _check_plain(values: dict[str, Any]) -> None:
    waiting: list[tuple[tuple, Any]] = [((), values)]
    for count in itertools.count():
        if not waiting:
            return
        place, value = waiting.pop()
        fault = _fault(value)
        if not fault and len(place) > MAX_DEPTH:
            fault = ("configuration-too-large", f"it is nested more than {MAX_DEPTH} levels deep", "nest less")
        if not fault and count + len(waiting) > MAX_VALUES:
            fault = ("configuration-too-large", f"the configuration has more than {MAX_VALUES:,} values", "write fewer")
        if fault:
            code, problem, hint = fault
            where = "".join(f"{str(key)[:100]}." for key in place)[:300].rstrip(".")
            raise UserError(code, where, problem, hint)
        if isinstance(value, dict):
            waiting += [((*place, key), value) for key, value in value.items()]
        elif isinstance(value, list):
            waiting += [((*place, i), value) for i, value in enumerate(value)]


def _fault(value: Any) -> tuple[str, str, str] | None:
    """Code, problem and hint of a value that no spec can hold."""
    if isinstance(value, str):
        return _text_fault(value)
    if isinstance(value, dict):
        for key in value:
            if not isinstance(key, str | bool):
                return "invalid-value", f"the key {key!r:.100} is not text", "write it in quotes"
            if isinstance(key, str) and (fault := _text_fault(key)):
                return fault[0], f"in a key: {fault[1]}", fault[2]
        return None
    if isinstance(value, int) and abs(value) >= 2**63:
        return "invalid-value", "the number has more than 64 bits", "write a smaller one"
    if value is None or isinstance(value, bool | int | float | list):
        return None
    return "invalid-value", f"a {type(value).__name__} is not text, a number, a list or a table", "write it in quotes"


def _text_fault(value: str) -> tuple[str, str, str] | None:
    if len(value) > MAX_TEXT:
        problem = f"the text has {len(value):,} characters, and the maximum is {MAX_TEXT:,}"
        return "configuration-too-large", problem, "write less"
    if SECRET.search(value):
        problem = "it contains a password or a token, which would be copied into results"
        return "secret-in-configuration", problem, "remove it, and log in with HF_TOKEN or `hf auth login`"
    if SURROGATE.search(value):
        return "invalid-value", "it contains half of a surrogate pair, which is not a character", "remove it"
    return None


def _check_name(table: str, name: Any) -> None:
    if not isinstance(name, str) or not re.fullmatch(NAME, name):
        raise UserError("invalid-name", table, f"invalid name '{name}'", NAME_HINT)
    if len(name) > MAX_NAME:
        raise UserError(
            "invalid-name", table, f"the name '{name}' has more than {MAX_NAME} characters", "choose a shorter one"
        )
    if name in RESERVED:
        raise UserError(
            "invalid-name", table, f"the name '{name}' is reserved for a folder of results/", "choose another"
        )
