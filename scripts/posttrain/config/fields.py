"""What the sections of the configuration share: types of fields, strict tables, and mistakes in them."""

import re
from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from posttrain.config import aliases
from posttrain.runtime.errors import UserError

NAME = r"^[a-z][a-z0-9_]*$"
NAME_HINT = "use lowercase letters, digits and underscores, starting with a letter"
EXPONENT = r"[+-]?(\d+\.?\d*|\.\d+)[eE][+-]?\d+"


class Mistake(UserError, ValueError):
    """A mistake that a validator finds in its table; `place` is the key in that table, or empty for the table itself."""

    @classmethod
    def of(cls, error: UserError) -> "Mistake":
        """The same mistake as one that pydantic collects."""
        return cls(error.code, error.place, error.problem, error.hint)

    @classmethod
    def told(cls, code: str, place: str, sentence: str) -> "Mistake":
        """One whose problem and hint are a sentence of a lower package, parted by a semicolon."""
        problem, _, hint = sentence.rpartition("; ")
        return cls(code, place, problem or hint, hint if problem else "")


def _no_boolean(value: Any) -> Any:
    """Refuse `true`, which pydantic would take for 1."""
    if isinstance(value, bool):
        raise Mistake("invalid-value", "", f"{str(value).lower()} is not a number", "write a number")
    return value


def as_float(value: Any) -> Any:
    """Read `1e-4`, which YAML 1.1 takes for a string, as the number it is."""
    _no_boolean(value)
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return value


def _numbers(values: Any) -> Any:
    """Read a library's arguments, in which YAML 1.1 takes `1e-8` for text, as the numbers they are."""
    if not isinstance(values, dict):
        return values
    texts = {key: value for key, value in values.items() if isinstance(value, str)}
    return values | {key: float(value) for key, value in texts.items() if re.fullmatch(EXPONENT, value)}


Name = Annotated[str, Field(pattern=NAME)]
Arguments = Annotated[dict[str, Any], BeforeValidator(_numbers)]
Number = Annotated[float, BeforeValidator(as_float, json_schema_input_type=float | str)]
Count = Annotated[int, BeforeValidator(_no_boolean)]
Patterns = Annotated[
    list[str],
    BeforeValidator(lambda value: [value] if isinstance(value, str) else value, json_schema_input_type=str | list[str]),
]


def _add_aliases(schema: dict[str, Any], model: type["Strict"]) -> None:
    """Let editors accept the other spellings too, and strike them through."""
    properties = schema.get("properties", {})
    for other, key in model.other_spellings.items():
        if key in properties:
            kinds = {name: properties[key][name] for name in ("anyOf", "type", "enum") if name in properties[key]}
            properties[other] = kinds | {"description": f"the same as `{key}`", "deprecated": True}


class Strict(BaseModel):
    """A table of known keys; an unknown one is an error."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, populate_by_name=True, allow_inf_nan=False, json_schema_extra=_add_aliases
    )
    other_spellings: ClassVar[dict[str, str]] = {}
    """other spelling -> key"""

    @model_validator(mode="before")
    @classmethod
    def _own_spelling(cls, values: Any) -> Any:
        if not isinstance(values, dict) or not cls.other_spellings:
            return values
        try:
            return aliases.renamed(values, cls.other_spellings)
        except UserError as error:
            raise Mistake.of(error) from None


def keys_of(model: type[BaseModel]) -> list[str]:
    """A table's keys, in the order of its model."""
    return [field.alias or name for name, field in model.model_fields.items()]
