"""The section `hardware`: on how many processes a stage runs, and how they share the model. It changes no spec."""

from typing import Literal

from pydantic import Field, model_validator

from posttrain.config.fields import Count, Mistake, Strict
from posttrain.runtime import processes


class Hardware(Strict):
    """The processes of one training job. Nothing here is part of a result's spec: batches, rows and seed stay the same."""

    processes: Count = Field(
        1, gt=0, description="processes of a training job, one for each GPU; see docs/processes.md"
    )
    strategy: Literal["single", "ddp", "fsdp", "zero1", "zero2", "zero3"] | None = Field(
        None, description="how the processes share the model; by default single for one process, ddp for several"
    )
    offload: bool = Field(
        False, description="keep what is shared out in the machine's memory; for fsdp, zero1, zero2 and zero3"
    )

    @model_validator(mode="after")
    def _consistent(self) -> "Hardware":
        if self.strategy == "single" and self.processes > 1:
            problem = f"single is one process, and processes is {self.processes}"
            raise Mistake("conflicting-keys", "strategy", problem, "write strategy: ddp")
        if self.strategy not in (None, "single") and self.processes == 1:
            problem = f"{self.strategy} needs several processes, and processes is 1"
            raise Mistake("conflicting-keys", "strategy", problem, "write a larger processes, or remove strategy")
        if self.offload and not processes.SHARES[self.name]:
            problem = f"{self.name} shares nothing out that could be kept in the machine's memory"
            raise Mistake("conflicting-keys", "offload", problem, "write strategy: fsdp, or remove offload")
        return self

    @property
    def name(self) -> str:
        """The strategy that is used."""
        return processes.strategy(self.strategy, self.processes)
