"""The sections `tracking` and `cost`, which change no result."""

from typing import Literal

from pydantic import Field, field_validator

from posttrain.config import library_refusals
from posttrain.config.fields import Mistake, Number, Strict


class Tracking(Strict):
    """How training is logged and checkpointed. Nothing here changes a result or causes a rerun."""

    mlflow: bool = Field(True, description="log to MLflow: `MLFLOW_TRACKING_URI`, or results/mlflow.db")
    also: list[Literal[tuple(library_refusals.TRACKERS)]] = Field(
        [], description="other trackers to log to, such as `[tensorboard, wandb]`, see docs/tracking.md"
    )
    experiment: str = Field(
        "posttrain", description="name of the MLflow experiment, and of the project in other trackers"
    )
    system_metrics: bool = Field(True, description="also log the use of processor, memory and GPU")
    checkpoint_seconds: Number = Field(
        60.0, ge=0, description="minimum time between two checkpoints; 0 saves every step"
    )

    @field_validator("also")
    @classmethod
    def _installed(cls, also: list[str]) -> list[str]:
        if error := library_refusals.missing_tracker(also):
            raise Mistake.of(error)
        return also


class Cost(Strict):
    """What the machine costs, for the report. Nothing here changes a result."""

    price_per_hour: Number | None = Field(None, ge=0, description="price of an hour of the machine")
    currency: str = Field("EUR", description="currency of the price")
    watts: Number | None = Field(
        None, gt=0, description="power that the machine draws; by default estimated from its threads and GPU"
    )
