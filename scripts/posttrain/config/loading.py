"""Read a configuration: values as YAML gives them become pydantic models, or one sentence on the first mistake."""

import re
from typing import Any

from pydantic import BaseModel, ValidationError

from posttrain.config import messages, plain_values
from posttrain.config.project_file import Config
from posttrain.runtime.errors import UserError


def read(values: dict[str, Any]) -> Config:
    """Validate a configuration.

    Args:
        values: as YAML gives them.

    Raises:
        UserError: for the first mistake; its place is the path of the key, such as `runs.dpo.beta`.
    """
    plain_values.check(values)
    return validate(Config, {key: value for key, value in values.items() if value is not None})


def validate(model: type[BaseModel], values: dict[str, Any], place: str = "") -> Any:
    """Validate `values`.

    Args:
        place: where the values stand, such as `runs.dpo`, or the target that names them, such as `results/dpo,beta=0.2`.

    Raises:
        UserError: for the first mistake.
    """
    try:
        return model.model_validate(values)
    except ValidationError as error:
        found = messages.of(model, error.errors()[0], values)
        raise UserError(found.code, joined(place, found.place), found.problem, found.hint) from None


def joined(place: str, key: str) -> str:
    """The place of a key in a table that stands at `place`.

    >>> joined("runs.dpo", "beta"), joined("results/dpo,beta=0", "beta"), joined("", "use")
    ('runs.dpo.beta', 'results/dpo,beta=0: beta', 'use')
    """
    if not place or not key:
        return place or key
    return f"{place}.{key}" if re.fullmatch(r"[\w.]+", place) else f"{place}: {key}"
