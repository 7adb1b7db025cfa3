"""Tables within a run: `reward` and `early_stopping`."""

from typing import Literal

from pydantic import Field, model_validator

from posttrain.config.fields import Count, Mistake, Number, Strict
from posttrain.objectives import OBJECTIVES
from posttrain.runtime import user_code
from posttrain.runtime.errors import nearest
from posttrain.training import early_stopping

REWARD_FUNCTIONS = ("final_number", "answer_format", "tool_name", "tool_arguments", "tool_arguments_f1")
ON_POLICY = ", ".join(name for name, row in OBJECTIVES.items() if row.on_policy)


def _measures() -> str:
    """What the objectives measure on held-out rows, those together that measure the same."""
    found: dict[tuple[str, ...], list[str]] = {}
    for name, row in OBJECTIVES.items():
        found.setdefault(tuple(row.measures), []).append(name)
    return "; ".join(
        f"{', '.join(names)} {', '.join(f'`{measure}`' for measure in row)}" for row, names in found.items()
    )


class Reward(Strict):
    """The reward of a completion: from another run, or from a function."""

    from_: str | None = Field(None, alias="from", description="the run that computes the reward")
    kind: Literal["score", "implicit"] = Field(
        "score",
        description="score: from a run with `objective: reward`; implicit: from a dpo run, which rewards each token with "
        "beta x log(policy / reference) (RTO)",
    )
    sequence: str | None = Field(
        None, description="implicit: a reward run whose score is added at the end of the completion"
    )
    function: str | None = Field(
        None,
        description=f"instead of a run: {', '.join(f'`{name}`' for name in REWARD_FUNCTIONS)}, or your own as `FILE.py:NAME`",
    )

    @model_validator(mode="after")
    def _one_source(self) -> "Reward":
        if self.from_ is None and self.function is None:
            raise Mistake("missing-key", "", "a reward needs a source", "write `from: RUN` or `function: NAME`")
        if self.from_ is not None and self.function is not None:
            raise Mistake("conflicting-keys", "", "`from` and `function` are both set", "write one of them")
        own = user_code.is_own(self.function or "")
        if self.function and not own and self.function not in REWARD_FUNCTIONS:
            raise Mistake(
                "unknown-name",
                "function",
                f"there is no function '{self.function}', and your own has the form FILE.py:NAME",
                nearest(self.function, REWARD_FUNCTIONS),
            )
        for key in ("kind", "sequence"):
            if key in self.model_fields_set and (self.function or (key == "sequence" and self.kind != "implicit")):
                needed = "from" if self.function else "kind: implicit"
                raise Mistake("key-without-effect", key, "it has no effect here", f"it needs {needed}")
        return self


class EarlyStopping(Strict):
    """When training stops before its last step: if held-out rows have not improved for several measurements."""

    metric: str | None = Field(
        None,
        min_length=1,
        description=f"what is measured: {_measures()}; or a metric of generated completions (not reward): "
        + ", ".join(f"`{name}`" for name in early_stopping.OF_ANSWERS)
        + ", or your own as `FILE.py:NAME`, where higher is better; by default the objective's first",
    )
    patience: Count | None = Field(
        3,
        gt=0,
        description="stop after this many measurements in a row without an improvement; `null` never stops early",
    )
    min_change: Number = Field(0.0, ge=0, description="minimum change of the metric that counts as an improvement")
    max_new_tokens: Count | None = Field(
        None,
        gt=0,
        description=f"maximum length of a generated completion in tokens, default 128 ({ON_POLICY}: the run's own)",
    )
