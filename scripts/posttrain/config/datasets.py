"""The section `datasets`: rows to train and evaluate on."""

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from posttrain.config.bases import Licensed
from posttrain.config.fields import Count, Mistake, Name, Number, Strict, as_float
from posttrain.data.formats import FIELDS, FORMATS

Format = Literal[tuple(FORMATS)]
Column = Literal[FIELDS]
SOURCES = ("path", "hub", "from", "mix", "ratings")
MADE = ("select", "generated")  # what makes rows of those of `from`


class Select(Strict):
    """The part of a preference dataset that a reward model finds easy, or the part that it finds hard."""

    by: str = Field(description="the run with `objective: reward` that scores the rows")
    part: Literal["easy", "hard"] = Field(
        description="easy: score(chosen) - score(rejected) is above `margin`; hard: all other rows"
    )
    margin: Number = Field(description="boundary between the two parts, in units of the reward model's score")


class Generated(Strict):
    """Rows whose completions a model has written, to train another model on (sequence-level distillation)."""

    by: str = Field(description="the base or run that completes the rows; results/MODEL/predictions/DATASET.jsonl")


class Part(Strict):
    """A dataset within a mixture."""

    weight: Number | None = Field(
        None,
        gt=0,
        description="its share of the mixture relative to the others (default 1); if no dataset has a weight, all rows are used",
    )
    limit: Count | None = Field(None, gt=0, description="maximum number of training rows to use")


class Dataset(Licensed):
    """Rows of one type: from files, from the Hub, selected from another dataset, or mixed from several."""

    path: str | None = Field(
        None,
        description="a .jsonl, .json, .csv, .tsv, .parquet or .arrow file (also compressed as .gz or .zst), a glob, or a folder of "
        "such files, including one laid out as on the Hub or written by `save_to_disk`",
    )
    hub: str | None = Field(
        None,
        description="a dataset's Hub id, `organisation/name`; needs the internet, or the cache with `HF_HUB_OFFLINE=1`",
    )
    revision: str = Field("main", description="branch, tag or commit of a Hub dataset; only a commit is reproducible")
    subset: str | None = Field(None, description="the configuration of a Hub dataset that has several, such as `main`")
    split: str = Field("train", description="the split to read from a dataset that has several")
    format: Format | None = Field(
        None, description="how the rows are written; by default recognised from the first rows"
    )
    columns: dict[Column, str] = Field({}, description="our column: the file's column, such as `{prompt: question}`")
    validation: Annotated[float | str | None, BeforeValidator(as_float)] = Field(
        None,
        description="held-out share (0 to 0.9), exact and chosen by content hash, or a file of held-out rows; by default a tenth, at "
        "least 20 rows, but no more than a fifth of fewer than 100",
    )
    limit: Count | None = Field(None, gt=0, description="use only the first rows, this many")
    near_duplicates: Number | None = Field(
        None,
        ge=0.5,
        le=1,
        description="Jaccard similarity (of the sets of three-word sequences, ignoring those that many rows share) at which a row "
        "counts as a duplicate of an earlier one with the same answer and is removed; by default only exact duplicates are",
    )
    system: str | None = Field(
        None, description="system prompt for rows without one, in training, evaluation and the preflight"
    )
    max_dropped: Number = Field(
        0.01, ge=0, le=1, description="maximum share of invalid rows to drop; if there are more, the build stops"
    )
    image_folder: str | None = Field(
        None,
        description="folder that the paths of images and sounds are relative to and may not leave; by default the file's folder",
    )
    from_: Name | None = Field(
        None,
        alias="from",
        description="the preference dataset that `select` splits, or the dataset that `generated` completes",
    )
    select: Select | None = Field(None, description="`{by: RUN, part: easy | hard, margin: NUMBER}`")
    generated: Generated | None = Field(
        None, description="`{by: MODEL}`: the model's completions of the rows of `from`; held-out rows keep their own"
    )
    ratings: str | None = Field(
        None,
        pattern=r"^[^~/]+~[^~/]+$",
        description="preference pairs from people's ratings of two models, `sft_lora~dpo_lora`",
    )
    mix: dict[Name, Part] | None = Field(
        None,
        min_length=1,
        description="datasets to mix, such as `{gsm8k: {weight: 3}, chat: {weight: 1, limit: 500}}`",
    )

    @model_validator(mode="after")
    def _one_source(self) -> "Dataset":
        given = [key for key in SOURCES if getattr(self, "from_" if key == "from" else key) is not None]
        if not given:
            raise Mistake("missing-key", "", "a dataset needs a source", f"write one of {', '.join(SOURCES)}")
        if len(given) > 1:
            raise Mistake(
                "conflicting-keys", "", f"`{given[0]}` and `{given[1]}` are both a source of rows", "write one of them"
            )
        made = [key for key in MADE if getattr(self, key) is not None]
        if len(made) > 1:
            raise Mistake("conflicting-keys", "", "`select` and `generated` are both set", "write one of them")
        if (self.from_ is None) != (not made):
            have, lack = (made[0], "from") if made else ("from", "select")
            raise Mistake("missing-key", lack, f"`{have}` needs `{lack}` as well", f"write `{lack}`")
        idle = self.model_fields_set - {"from_", "mix", *MADE}
        if given[0] in ("from", "mix") and idle:
            raise Mistake(
                "key-without-effect",
                min(idle),
                f"it has no effect with `{given[0]}`",
                "set it at the datasets that are read",
            )
        if self.system is not None and not self.system.strip():
            raise Mistake("invalid-value", "system", "it is empty", "write the system prompt or remove the key")
        if isinstance(self.validation, int | float) and not 0 <= self.validation <= 0.9:
            raise Mistake(
                "invalid-value",
                "validation",
                f"{self.validation} is not a share",
                "write a number from 0 to 0.9, or a file",
            )
        return self
