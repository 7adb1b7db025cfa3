"""The whole configuration file, and its tables by name."""

from typing import Literal

from pydantic import Field

from posttrain.config.bases import Base
from posttrain.config.cache import Cache
from posttrain.config.datasets import Dataset
from posttrain.config.evaluation import Evaluation
from posttrain.config.export import Exporting
from posttrain.config.fields import Strict
from posttrain.config.hardware import Hardware
from posttrain.config.predictions import Predictions
from posttrain.config.runs import Run
from posttrain.config.sweeps import Sweep
from posttrain.config.tracking import Cost, Tracking


class Config(Strict):
    """The whole file."""

    bases: dict[str, Base] = Field({}, description="pretrained models to start from")
    datasets: dict[str, Dataset] = Field({}, description="rows to train and evaluate on")
    runs: dict[str, Run] = Field({}, description="training stages")
    sweeps: dict[str, Sweep] = Field({}, description="runs with several values of their keys")
    evaluation: Evaluation = Field(Evaluation(), description="what every model is measured on")
    export: Exporting = Field(Exporting(), description="what is exported of a run, and how it is proved")
    predictions: Predictions = Field(Predictions(), description="how models complete whole datasets")
    tracking: Tracking = Field(Tracking(), description="how training is logged and checkpointed")
    hardware: Hardware = Field(Hardware(), description="the processes of a training job")
    ratings: list[str] = Field([], description="files or globs that the rating pages exported, see docs/rating.md")
    cache: Cache = Field(Cache(), description="a team's cache of finished stages")
    cost: Cost = Field(Cost(), description="what the machine costs")
    use: Literal["research", "commercial"] = Field("research", description="the intended use of the models")


TABLES = {
    "datasets": Dataset, "runs": Run, "sweeps": Sweep, "evaluation": Evaluation, "export": Exporting,
    "predictions": Predictions, "tracking": Tracking, "hardware": Hardware, "cache": Cache, "cost": Cost,
}  # fmt: skip
