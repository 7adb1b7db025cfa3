"""The section `predictions`: how whole datasets are completed by a model."""

from typing import Literal

from pydantic import Field

from posttrain.config.fields import Count, Strict


class Predictions(Strict):
    """How a model completes the rows of a dataset, see docs/predictions.md."""

    max_new_tokens: Count | None = Field(
        None, gt=0, description="maximum length of a completion in tokens; by default evaluation.max_new_tokens"
    )
    limit: Count | None = Field(
        None, gt=0, description="number of rows, the dataset's first ones; by default all of them"
    )
    precision: Literal["fp32", "bf16"] | None = Field(
        None,
        description="precision of generation; by default evaluation.precision. bf16 is faster on a GPU, but a completion can depend "
        "on the rows beside it",
    )
