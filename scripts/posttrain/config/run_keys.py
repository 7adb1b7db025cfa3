"""The keys of a run, grouped by theme; `runs.Run` inherits them all.

Each class inherits the one before it, so that the keys have the order of this file everywhere.
"""

from typing import Annotated, Literal

from pydantic import Field

from posttrain.config.environments import NAMES, EnvironmentName
from posttrain.config.fields import Arguments, Count, Name, Number, Patterns, Strict
from posttrain.config.run_tables import ON_POLICY, EarlyStopping, Reward
from posttrain.inference.environments import MAX_TOOL_TOKENS, MAX_TURNS, TOOL_SECONDS
from posttrain.methods import METHODS
from posttrain.models import parts
from posttrain.objectives import OBJECTIVES
from posttrain.training import losses

IN_GROUPS = ", ".join(name for name, row in OBJECTIVES.items() if row.groups)


class Stage(Strict):
    """What is trained, from what, on what"""

    from_: str = Field(
        alias="from", description="the base or run to start from; `{key}` is replaced by the value of this run's key"
    )
    objective: Literal[tuple(OBJECTIVES)] = Field(description="what the model learns")
    method: Literal[tuple(METHODS)] = Field("lora", description="which parameters are trained")
    data: Name = Field(description="the dataset to train on")
    seed: Count = Field(
        42, ge=0, description="seed of the adapter's initial weights, the order of the rows and dropout"
    )


class Optimisation(Stage):
    """Optimisation"""

    learning_rate: Number | None = Field(
        None, gt=0, description="peak learning rate; the default depends on method and objective, see the table below"
    )
    epochs: Number = Field(1.0, gt=0, description="passes over the training rows (1 to 3)")
    max_steps: Count | None = Field(
        None, gt=0, description="number of optimiser steps (ppo: rollouts) to stop after, instead of `epochs`"
    )
    batch_size: Count = Field(
        8,
        gt=0,
        description=f"examples per optimiser step (4 to 16); {IN_GROUPS}: completions sampled together; ppo: prompts per rollout",
    )
    gradient_accumulation_steps: Count = Field(
        1, gt=0, description="number of forward passes that the batch is split into; saves memory"
    )
    max_length: Count = Field(
        1024,
        gt=1,
        description="maximum length of an example in tokens; longer ones are truncated at the end (pretrain: split into several)",
    )
    warmup_ratio: Number = Field(0.1, ge=0, le=1, description="share of the steps in which the learning rate rises")
    lr_scheduler_type: Literal["cosine", "linear", "constant"] = Field(
        "cosine", description="learning rate schedule after warm-up"
    )
    weight_decay: Number = Field(0.0, ge=0, description="decoupled weight decay (AdamW)")
    max_grad_norm: Number = Field(1.0, gt=0, description="maximum gradient norm (gradient clipping)")
    precision: Literal["auto", "fp32", "bf16"] = Field(
        "auto", description="precision of matrix products; auto is bf16 if the hardware supports it"
    )
    gradient_checkpointing: bool = Field(
        False, description="recompute activations in the backward pass: less memory, more time"
    )
    trainer_args: Arguments = Field({}, description="other fields of TRL's configuration, under TRL's names (not ppo)")


class Supervised(Optimisation):
    """Supervised fine-tuning"""

    assistant_turns: Literal["all", "last"] = Field(
        "all", description="sft, distill: which assistant turns of a conversation are trained"
    )
    train_thoughts: bool = Field(
        True, description="sft, distill: whether the assistant's reasoning (reasoning_content, think blocks) is trained"
    )
    neftune_noise_alpha: Number | None = Field(
        None,
        gt=0,
        description="sft, distill: strength of uniform noise on the embeddings in training (NEFTune; 5 to 15 is usual)",
    )
    packing: bool = Field(
        False,
        description="sft, pretrain: fill rows up to `max_length` with several examples, which do not attend to each other; `batch_size` "
        "then counts these rows; on by default with pretrain",
    )


class Method(Supervised):
    """Adapters and trained parameters"""

    rank: Count | None = Field(None, gt=0, description="lora, qlora, adalora: rank (8 to 64), default 16; vera: 256")
    alpha: Number | None = Field(None, gt=0, description="lora, qlora, adalora: scale; by default 2 x rank")
    dropout: Number | None = Field(
        None, ge=0, lt=1, description="lora, qlora, adalora: dropout on the adapter's input; default sft 0.05, others 0"
    )
    lora_plus: Number | None = Field(
        None,
        gt=0,
        description="lora, qlora: ratio of the learning rate of B to that of A (LoRA+; 16 is usual)",
    )
    target_modules: str | list[str] | None = Field(
        None,
        description="layers that get an adapter; by default all-linear (ia3: keys, values and the last layer of the MLP)",
    )
    placement: Literal["houlsby", "pfeiffer"] = Field(
        "pfeiffer", description="adapter: after attention and MLP (houlsby), or after the MLP only"
    )
    reduction_factor: Count = Field(16, gt=0, description="adapter: hidden size divided by the bottleneck's width")
    num_virtual_tokens: Count = Field(20, gt=0, description="prefix, p_tuning, prompt: number of virtual tokens")
    merge_into: Literal["dequantised", "original"] = Field(
        "dequantised",
        description="qlora: the parent that the adapter is merged into: the 4-bit weights it was trained on, or those before "
        "quantisation",
    )
    save_precision: Literal["auto", "fp32", "bf16", "fp16"] = Field(
        "auto",
        description="dtype of the weights in `model/`, which is what ships; auto is the base's if that keeps what was learnt, else "
        "fp32",
    )
    train_parts: list[Literal[parts.PARTS]] = Field(
        list(parts.DEFAULT),
        min_length=1,
        description="full, lora, qlora: which parts of a model with pictures or sounds are trained: `vision` and `audio` are its "
        "encoders, `projector` joins them to the text, `language` answers",
    )
    freeze: Patterns = Field(
        [],
        description="full, lora, qlora: patterns of the names of parameters that are not trained, such as "
        "`[embed_tokens, 'layers.[0-3]']`: regular expressions for whole parts of a name between its dots",
    )
    train: Patterns = Field(
        [],
        description="full, lora, qlora: patterns of the names of the only parameters that are trained, written as in `freeze`",
    )
    learning_rates: dict[str, Annotated[Number, Field(gt=0)]] = Field(
        {},
        description="full, lora, qlora: peak learning rates of the parameters that a pattern or a part of the model matches, such as "
        "`{lora_B: 1e-3}` or `{vision: 1e-5}`; all others have `learning_rate`",
    )
    peft_args: Arguments = Field({}, description="other fields of PEFT's configuration, under PEFT's names")


class Losses(Method):
    """Losses"""

    loss_type: str | list[str] | None = Field(
        None,
        description="sft: nll, dft; dpo: one or several of TRL's loss types; kto, grpo: one of TRL's; cpo: sigmoid, hinge, ipo or "
        "simpo (SimPO)",
    )
    loss_weights: list[Number] | None = Field(None, description="dpo: weights of several loss types")
    beta: Number | None = Field(
        None,
        ge=0,
        description="strength of the regularisation towards the reference model (dpo, kto, grpo, rloo); orpo: weight of the odds "
        "ratio; cpo: scale of the difference of the two completions, default 0.1 (simpo: 2); distill: divergence, 0 is KL(teacher || "
        "model), 1 is KL(model || teacher), between them the generalised Jensen-Shannon divergence",
    )
    cpo_alpha: Number | None = Field(
        None, ge=0, description="cpo: weight of the chosen completion's likelihood; default 1 (simpo: 0)"
    )
    simpo_gamma: Number | None = Field(
        None,
        ge=0,
        description="cpo with `loss_type: simpo`: target margin between beta x the mean log-probability of the chosen and of the "
        "rejected completion; by default beta / 2",
    )
    variant: Literal[tuple(losses.VARIANTS)] | None = Field(
        None,
        description="grpo: loss and settings of a paper, for all keys that are not set, see docs/objectives-and-methods.md",
    )


class Sampling(Losses):
    """Learning from sampled completions"""

    reward: Reward | None = Field(None, description=f"{ON_POLICY}: `{{from: RUN}}` or `{{function: NAME}}`")
    environment: EnvironmentName | None = Field(
        None,
        description=f"grpo: the environment in which the model acts with tools: {NAMES}, or your own "
        "class as `FILE.py:NAME`; it gives the reward, to which that of `reward` is added. See docs/agents.md",
    )
    max_turns: Count = Field(
        MAX_TURNS,
        gt=0,
        description="grpo with `environment`: answers of the model in an episode, those with calls included",
    )
    max_tool_tokens: Count = Field(
        MAX_TOOL_TOKENS, gt=0, description="grpo with `environment`: maximum length of a tool's result in tokens"
    )
    tool_seconds: Number = Field(
        TOOL_SECONDS, gt=0, description="grpo with `environment`: seconds after which a call of a tool is ended"
    )
    max_new_tokens: Count = Field(
        128,
        gt=0,
        description=f"{ON_POLICY}, distill with on_policy_share: maximum length of a sampled completion in tokens; with `environment` "
        "results of tools count",
    )
    temperature: Number = Field(
        1.0, gt=0, description=f"{ON_POLICY}: sampling temperature; distill: also of both distributions in the loss"
    )
    num_generations: Count = Field(4, gt=1, description=f"{IN_GROUPS}: number of completions of each prompt")
    num_mini_batches: Count | None = Field(
        None,
        gt=0,
        description="ppo, grpo, rloo: optimiser steps per pass over the completions sampled together; default 1 (variants gspo, "
        "dapo, cispo: 4)",
    )


class Ppo(Sampling):
    """PPO"""

    ppo_epochs: Count = Field(4, gt=0, description="ppo: passes over a rollout")
    kl_coef: Number = Field(0.05, ge=0, description="ppo: weight of the KL divergence from the parent")
    kl_target: Number | None = Field(
        None, gt=0, description="ppo: adapt that weight to reach this KL divergence (nats per completion)"
    )
    cliprange: Number = Field(0.2, gt=0, description="ppo: clip range of the probability ratio")
    cliprange_value: Number = Field(0.2, gt=0, description="ppo: clip range of the value")
    vf_coef: Number = Field(0.1, ge=0, description="ppo: weight of the value loss")
    value_learning_rate: Number | None = Field(
        None,
        gt=0,
        description="ppo: learning rate of the value model; by default the method's default for sft (full: lora's), but at least "
        "`learning_rate`",
    )
    value_rank: Count | None = Field(
        None,
        gt=0,
        description="ppo with full, lora, qlora: rank of the value model's LoRA, with alpha = 2 x rank; by default the reward "
        "model's if the value model starts from it, else `rank` (full: 16)",
    )
    value_start: Literal["auto", "reward", "zero"] = Field(
        "auto",
        description="ppo: initial value model: the reward model if it is a LoRA on the same parent (auto; reward requires it), or 0",
    )
    gamma: Number = Field(1.0, gt=0, le=1, description="ppo: discount factor")
    gae_lambda: Number = Field(
        0.95, ge=0, le=1, description="ppo: lambda of generalised advantage estimation: bias against variance"
    )
    whiten_rewards: bool = Field(False, description="ppo: scale the rewards to unit variance")
    missing_eos_penalty: Number = Field(
        1.0, ge=0, description="ppo: subtracted from the reward of a completion without an end-of-sequence token"
    )


class Distillation(Ppo):
    """Distillation"""

    teacher: str | None = Field(None, description="distill: the base or run to learn from; it has the same vocabulary")
    teacher_top_k: Count | None = Field(
        None,
        gt=0,
        description="distill: number of the teacher's most likely tokens whose log-probabilities are stored, once for all runs; by "
        "default the teacher computes all of them while the run trains",
    )
    on_policy_share: Number = Field(
        0.0, ge=0, le=1, description="distill: share of the steps on completions that the model samples itself (GKD)"
    )
    label_weight: Number = Field(
        0.0,
        ge=0,
        le=1,
        description="distill: weight of the loss of the data's own tokens; the divergence has the rest, so that 1 is sft alone",
    )


class Control(Distillation):
    """Held-out rows during training, and checks"""

    early_stopping: EarlyStopping | None = Field(
        None,
        description="stop when held-out rows show no improvement, such as `{metric: loss, patience: 3}`; see below and "
        "docs/early-stopping.md",
    )
    keep: Literal["best", "last"] | None = Field(
        None,
        description="the step to keep: the best by `early_stopping.metric`, or the last; by default best with early_stopping, else "
        "last",
    )
    measure_every: Count | None = Field(
        None,
        gt=0,
        description="steps (ppo: rollouts) between two measurements of held-out rows, with one more at the end; by default ten "
        "measurements in all if early_stopping or `keep: best` is set",
    )
    measure_rows: Count | None = Field(
        None, gt=0, description="number of held-out rows measured during training; default 100"
    )
    allow: list[str] = Field([], description="names of preflight checks that may fail, such as `[truncation]`")
