"""Pydantic's errors as mistakes with a code, a place and a hint: the nearest key or value that is valid."""

import re
from typing import Any

from pydantic import BaseModel

from posttrain.config import foreign_names, library_fields, loss_keys, trainer_args
from posttrain.config.bases import BASES
from posttrain.config.datasets import Generated, Part, Select
from posttrain.config.evaluation import SUITES
from posttrain.config.export import Limits
from posttrain.config.fields import NAME, NAME_HINT, Strict, keys_of
from posttrain.config.project_file import TABLES, Config
from posttrain.config.run_tables import EarlyStopping, Reward
from posttrain.methods import METHODS
from posttrain.objectives import OBJECTIVES
from posttrain.runtime.errors import UserError, nearest

NESTED = {"early_stopping": EarlyStopping, "reward": Reward, "select": Select, "generated": Generated, "mix": Part}
KINDS = {
    "a valid integer": "an integer",
    "a valid number": "a number",
    "a valid boolean": "true or false",
    "a valid string": "text",
    "a valid list": "a list",
    "a valid dictionary": "a table",
}
NUMBERS = "function-before[as_float(), float]"
MEMBERS = ("float", "str", "list[str]", NUMBERS, f"list[{NUMBERS}]")  # of unions, which pydantic names in a location


def of(model: type[BaseModel], error: dict[str, Any], values: dict[str, Any]) -> UserError:
    """One of pydantic's errors as a mistake; its place is the path of the key within `model`."""
    location = _location(error["loc"])
    place = ".".join(map(str, location))
    kind, given = error["type"], error["input"]
    if kind == "extra_forbidden":
        instead = _instead(location, values) if model is Config else None
        hint = instead or nearest(str(location[-1]), known_keys(model, error["loc"]))
        return UserError("unknown-key", place, f"unknown key '{location[-1]}'", hint)
    if kind == "missing":
        return UserError("missing-key", place, "this key is missing", "write it")
    if kind == "value_error":
        mistake = error["ctx"]["error"]
        return UserError(mistake.code, ".".join(filter(None, (place, mistake.place))), mistake.problem, mistake.hint)
    if kind in ("union_tag_invalid", "union_tag_not_found"):
        return _wrong_kind(place, location, given)
    if kind == "literal_error":
        if place.endswith(".objective") and (other := loss_keys.OTHER_OBJECTIVES.get(str(given))):
            problem, _, hint = other.partition("; ")
            return UserError("invalid-value", place, problem, hint)
        choices = [choice.strip("'") for choice in error["ctx"]["expected"].replace(" or ", ", ").split(", ")]
        return UserError("invalid-value", place, f"invalid value '{given}'", nearest(str(given), choices))
    if kind == "string_pattern_mismatch":
        return _wrong_form(place, given, error["ctx"]["pattern"])
    return UserError("invalid-value", place, f"{_requirement(error['msg'])}, but it is {_shown(given)}")


def _wrong_form(place: str, given: str, pattern: str) -> UserError:
    if pattern == NAME:
        return UserError("invalid-name", place, f"invalid name '{given}'", NAME_HINT)
    return UserError("invalid-value", place, f"'{given}' does not have the form {pattern}")


def _requirement(message: str) -> str:
    """What pydantic says that a value should be, in the words of YAML.

    >>> _requirement("Input should be a valid integer, unable to parse string as an integer")
    'it must be an integer'
    """
    text = re.split(", | or instance of | or object | after validation", message)[0]
    text = re.sub(r"^\w+ should", "it must", text)
    for pydantic, yaml in KINDS.items():
        text = text.replace(pydantic, yaml)
    return text


def _shown(value: Any) -> str:
    words = {None: "null", True: "true", False: "false"}
    return words[value] if value is None or isinstance(value, bool) else f"{value!r:.500}"


def _location(loc: tuple) -> list:
    """The path of a key in the file: without the members of unions and other marks of pydantic's."""
    location = list(loc)
    if location[:1] == ["bases"] and len(location) > 2:
        del location[2]
    if location[:2] == ["evaluation", "suites"] and len(location) > 3:
        del location[3]
    if location and location[-1] == "[key]":
        location.pop()
    if location and location[-1] in MEMBERS:
        location.pop()
    return location


def _wrong_kind(place: str, location: list, given: Any) -> UserError:
    key, choices = ("source", BASES) if location[0] == "bases" else ("kind", SUITES)
    value = given.get(key) if isinstance(given, dict) else given
    place = f"{place}.{key}"
    if value is None:
        return UserError("missing-key", place, "this key is missing", nearest("", choices))
    return UserError("invalid-value", place, f"invalid {key} '{value}'", nearest(str(value), choices))


def _instead(location: list, values: dict[str, Any]) -> str | None:
    """What an unknown key of one of the file's tables means, if it is known."""
    table = str(location[0]) if len(location) > 1 else ""
    if len(location) != {"": 1, "evaluation": 2, "tracking": 2}.get(table, 3):
        return None
    return meant(table, str(location[-1]), values["runs"][location[1]] if table == "runs" else {})


def meant(table: str, key: str, run: dict[str, Any]) -> str | None:
    """What an unknown key means that other tools, another table or a library's configuration has.

    Args:
        table: name of the file's table, such as `runs`.
        run: the run's table, if it is one.

    Returns:
        The end of a sentence, or None.
    """
    models = {name: [model] for name, model in TABLES.items()} | {"bases": list(BASES.values())}
    keys = {name: [key for model in models[name] for key in keys_of(model)] for name in models}
    return foreign_names.meant(table, key, keys, lambda field: _of_library(field, run))


def _of_library(field: str, run: dict[str, Any]) -> str | None:
    """Where a run has a field of TRL's or PEFT's configuration."""
    objective, method = str(run.get("objective")), str(run.get("method", "lora"))
    if OBJECTIVES.get(objective) and field in library_fields.free_trainer_fields(objective):
        why = trainer_args.refusal(objective, field)
        return f"{why[1]} ({why[0]})" if why else f"write trainer_args: {{{field}: ...}}"
    if METHODS.get(method) and field in library_fields.free_peft_fields(method):
        return f"write peft_args: {{{field}: ...}}"
    return None


def known_keys(model: type[Strict], location: tuple) -> list[str]:
    """The valid keys of the table in which an unknown one was found, other spellings last."""
    if model is Config and len(location) > 1:
        table = location[0]
        model = BASES[location[2]] if table == "bases" else TABLES[table]
        model = NESTED.get(location[2], model) if len(location) > 3 else model
        model = Limits if table == "export" and len(location) > 2 else model
        model = SUITES[location[3]] if location[1] == "suites" and len(location) > 4 else model
    return spellings(model)


def spellings(model: type[Strict]) -> list[str]:
    """A table's keys in all spellings that are accepted."""
    return [*keys_of(model), *model.other_spellings]
