"""The section `export`: the kinds of export that belong together, and what their proofs measure and allow."""

from typing import Annotated, Any

from pydantic import AfterValidator, Field

from posttrain.config.fields import Count, Mistake, Number, Strict
from posttrain.exports import EXPORTS, LEFT_OUT
from posttrain.runtime.errors import nearest


def _known(kind: str) -> str:
    if kind in LEFT_OUT:
        raise Mistake(
            "unsupported-export", "", f"there is no export '{kind}': {LEFT_OUT[kind]}", nearest("", [*EXPORTS])
        )
    if kind not in EXPORTS:
        raise Mistake("unknown-name", "", f"there is no export '{kind}'", nearest(kind, [*EXPORTS]))
    return kind


Kind = Annotated[str, AfterValidator(_known), Field(json_schema_extra={"enum": [*EXPORTS]})]


class Limits(Strict):
    """What a proof has to reach; an export that misses one is not proved. `null` turns a limit off."""

    perplexity_ratio: Number | None = Field(
        1.5, gt=0, description="largest perplexity, as a multiple of the unquantised model's"
    )
    greedy_agreement: Number | None = Field(
        0.6,
        ge=0,
        le=1,
        description="smallest share of the tokens of held-out answers at which both models name the same likeliest token",
    )
    same_tokens: Number | None = Field(
        1.0, ge=0, le=1, description="smallest share of the texts that get the same token ids as in transformers"
    )
    same_template: Number | None = Field(
        1.0, ge=0, le=1, description="smallest share of the conversations that are rendered as by transformers"
    )
    size_bytes: Count | None = Field(None, gt=0, description="largest size of the files together")


class Exporting(Strict):
    """What is exported of a run, and how it is proved; see docs/exports.md."""

    kinds: list[Kind] = Field(
        ["bf16", "gguf-q8_0"],
        min_length=1,
        description="the kinds of export that `results/RUN/export/table.html` compares; any kind can be built by its name",
    )
    rows: Count = Field(64, gt=0, description="number of held-out rows of a dataset that a proof uses")
    limits: Limits = Field(Limits(), description="what a proof has to reach")

    def asked(self) -> dict[str, Any]:
        """What the proofs of all kinds depend on."""
        return {"rows": self.rows, "limits": self.limits.model_dump(exclude_none=True)}
