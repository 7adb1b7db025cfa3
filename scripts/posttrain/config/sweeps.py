"""The section `sweeps`: runs with several values of their keys."""

from typing import Any

from pydantic import Field, field_validator, model_validator

from posttrain.config import aliases
from posttrain.config.fields import Mistake, Name, Strict
from posttrain.runtime.errors import UserError


class Sweep(Strict):
    """Overrides of a run: a grid, a list of points, or every point combined with every cell of the grid."""

    run: Name = Field(description="the run to vary")
    over: dict[str, list[Any]] = Field(
        {},
        description="key: values to try, which may be lists and tables; `peft_args.use_dora: [false, true]` for a key of a table; "
        "several keys make a grid; `seed: [1, 2, 3]` shows the variation between trainings",
    )
    points: list[dict[str, Any]] = Field(
        [], description="overrides to try together, such as `[{rank: 4, learning_rate: 2e-4}, {rank: 16}]`"
    )

    @field_validator("over")
    @classmethod
    def _own_spelling_of_over(cls, over: dict[str, list[Any]]) -> dict[str, list[Any]]:
        return _renamed(over)

    @field_validator("points")
    @classmethod
    def _own_spelling_of_points(cls, points: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return list(map(_renamed, points))

    @model_validator(mode="after")
    def _something_varies(self) -> "Sweep":
        if not (self.over or self.points):
            raise Mistake("missing-key", "", "nothing varies", "write `over: {rank: [4, 8]}` or a list of `points`")
        both = [key for point in self.points for key in point if key in self.over]
        if both:
            raise Mistake(
                "conflicting-keys", "", f"{both[0]} is in both `over` and `points`", "write it in one of them"
            )
        return self


def _renamed(values: dict[str, Any]) -> dict[str, Any]:
    try:
        return aliases.renamed(values, aliases.OF_RUN)
    except UserError as error:
        raise Mistake.of(error) from None
