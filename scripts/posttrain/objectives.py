"""All that is known of each learning objective, one row each.

Nothing else compares an objective's name: code asks for a property of its row. Nothing here imports a library.
"""

from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

PAIRWISE = MappingProxyType({"loss": "loss", "accuracy": "rewards/accuracies", "margin": "rewards/margins"})
FROM_REWARD = MappingProxyType({"reward": "reward"})
ON_PROMPTS = ("messages", "preference", "prompts")
ABOUT_IMAGES = ("image_messages", "image_preference")
ENVIRONMENT_KEYS = ("environment", "max_turns", "max_tool_tokens", "tool_seconds")
SAMPLING_KEYS = ("reward", "max_new_tokens", "temperature", "num_mini_batches")


@dataclass(frozen=True, kw_only=True)
class Objective:
    """What a training stage learns, and what follows from that for data, configuration, memory and evaluation."""

    data: tuple[str, ...]
    """dataset types whose rows it can train on"""
    measures: MappingProxyType
    """what it measures on held-out rows: the name in a configuration -> the trainer's; the first is the default"""
    keys: tuple[str, ...] = ()
    """keys of a run that act on it and not on every objective"""
    trl_config: tuple[str, ...] = ()
    """files of TRL's configuration class and of those that it inherits from, within `trl`; none for a trainer of our own"""
    version: int
    """raised by hand when its results change their meaning; results of older versions are built anew"""
    script: str | None = None
    """the objective whose script trains it, where that is not its own"""
    on_policy: bool = False
    """it trains on completions that the model samples itself, and needs a reward"""
    from_demonstrations: bool = False
    """it learns from given completions alone: higher learning rates than moving away from a parent"""
    reference: Literal["none", "logprobs", "before training", "resident", "resident where beta"] = "none"
    """where the parent's log-probabilities come from: a stage of its own, a pass before training, a second model"""
    preference_loss: bool = False
    """`beta` weighs its loss and must be above 0"""
    groups: bool = False
    """completions of one prompt are compared with each other (`num_generations`)"""
    sequences: int = 1
    """sequences of one example in a forward pass"""
    least_batch: int = 1
    """examples that a forward pass needs at least"""
    loss_types: tuple[str, ...] = ()
    """the first is the default"""
    several_losses: bool = False
    """`loss_type` may be a list"""
    without_smoothing: tuple[str, ...] = ()
    """loss types that do not read `label_smoothing`"""
    mean_of: Literal["tokens", "labels", "rows"] = "rows"
    """what its loss is a mean of: trained tokens; completions with a label, into which a pair is taken apart; or rows"""
    beta: float | None = None
    """default"""
    dropout: float = 0.0
    """default of an adapter"""
    allows_dropout: bool = True
    """dropout may be set"""
    compact_head: Literal["none", "patched", "built in"] = "none"
    """whether the logits of untrained tokens are left out: by models/lm_head.py in TRL's loss, or by our own trainer"""
    packs: bool = False
    """`packing` is on by default"""
    splits_long_rows: bool = False
    """a row longer than `max_length` becomes several, instead of being cut"""
    fast_kernels: bool = False
    """Flash Attention, Liger and rows without padding leave its results as they are: it compares with no log-probabilities that
    were computed without them"""
    fused_head: bool = False
    """its trainer in TRL may compute the loss inside the LM head, which an adapter on the head would be left out of"""
    virtual_tokens_at_input: bool = True
    """virtual tokens may stand before the prompt in the embeddings (p_tuning, prompt)"""
    teacher: bool = False
    """it learns from the distributions of another model (`teacher`)"""
    reward_model: bool = False
    """it makes a reward model, with a score in the place of the LM head"""
    classifier: bool = False
    """it makes a classifier, with a score for each class in the place of the LM head"""
    implicit_reward: bool = False
    """its policy against its reference is a reward of each token (RTO)"""
    value_model: bool = False
    """it trains a value beside the policy"""
    token_rewards: bool = False
    """it can use a reward for each token"""

    @property
    def trl_package(self) -> str:
        """The package of its trainer and its configuration: `trl`, or one of `trl.experimental`.

        >>> OBJECTIVES["grpo"].trl_package, OBJECTIVES["cpo"].trl_package
        ('trl', 'trl.experimental.cpo')
        """
        folders = self.trl_config[0].split("/")[:-1]
        return "trl" if folders == ["trainer"] else ".".join(["trl", *folders])

    @property
    def scores(self) -> bool:
        """Whether it makes a model that scores a sequence, and generates none."""
        return self.reward_model or self.classifier

    @property
    def all_logits(self) -> bool:
        """Whether its loss computes the logits of every token at once."""
        return self.compact_head == "none" and not self.fused_head and not self.scores

    @property
    def needs_parent(self) -> bool:
        """Whether training itself needs the parent's weights as they were."""
        return self.reference not in ("none", "logprobs")


_DPO_LOSSES = tuple(
    "sigmoid hinge ipo exo_pair nca_pair robust bco_pair sppo_hard aot aot_unpaired apo_zero apo_down discopop sft "
    "sigmoid_norm".split()
)
_PPO_KEYS = (
    "ppo_epochs kl_coef kl_target cliprange cliprange_value vf_coef value_learning_rate value_rank value_start gamma "
    "gae_lambda whiten_rewards missing_eos_penalty".split()
)

_DISTILL_KEYS = (
    "assistant_turns train_thoughts neftune_noise_alpha teacher teacher_top_k on_policy_share label_weight beta temperature "
    "max_new_tokens trainer_args".split()
)

OBJECTIVES: dict[str, Objective] = {
    "sft": Objective(
        data=("text", "messages", "image_messages", "audio_messages"),
        measures=MappingProxyType({"loss": "loss", "token_accuracy": "mean_token_accuracy"}),
        keys=("assistant_turns", "train_thoughts", "neftune_noise_alpha", "packing", "loss_type", "trainer_args"),
        trl_config=("trainer/sft_config.py",),
        version=3,
        from_demonstrations=True,
        loss_types=("nll", "dft"),
        mean_of="tokens",
        dropout=0.05,
        compact_head="patched",
        fast_kernels=True,
        fused_head=True,
    ),
    "pretrain": Objective(  # Gururangan et al. 2020; Ibrahim et al. 2024
        data=("text",),
        measures=MappingProxyType({"loss": "loss", "token_accuracy": "mean_token_accuracy"}),
        keys=("packing", "trainer_args"),
        trl_config=("trainer/sft_config.py",),
        version=1,
        script="sft",
        from_demonstrations=True,
        mean_of="tokens",
        packs=True,
        splits_long_rows=True,
        compact_head="patched",
        fast_kernels=True,
        fused_head=True,
    ),
    "dpo": Objective(  # Rafailov et al. 2023
        data=("preference", "image_preference"),
        measures=PAIRWISE,
        keys=("loss_type", "loss_weights", "beta", "trainer_args"),
        implicit_reward=True,
        trl_config=("trainer/dpo_config.py",),
        version=3,
        reference="logprobs",
        preference_loss=True,
        sequences=2,
        loss_types=_DPO_LOSSES,
        several_losses=True,
        beta=0.1,
        compact_head="patched",
        fused_head=True,
    ),
    "kto": Objective(  # Ethayarajh et al. 2024
        data=("preference", "unpaired_preference"),
        measures=MappingProxyType({"loss": "loss", "margin": "rewards/margins"}),
        keys=("loss_type", "beta", "trainer_args"),
        trl_config=("trainer/kto_config.py",),
        version=4,
        reference="before training",
        preference_loss=True,
        least_batch=2,  # its KL divergence is estimated over a micro-batch
        loss_types=("kto", "apo_zero_unpaired"),
        mean_of="labels",
        beta=0.1,
        compact_head="patched",
        fused_head=True,
    ),
    "orpo": Objective(  # Hong et al. 2024
        data=("preference",),
        measures=PAIRWISE,
        keys=("beta", "trainer_args"),
        trl_config=("experimental/orpo/orpo_config.py",),
        version=3,
        preference_loss=True,
        sequences=2,
        beta=0.1,
        virtual_tokens_at_input=False,  # TRL does not leave their labels out of the loss
    ),
    "cpo": Objective(  # Xu et al. 2024; SimPO: Meng et al. 2024
        data=("preference",),
        measures=PAIRWISE,
        keys=("loss_type", "cpo_alpha", "simpo_gamma", "beta", "trainer_args"),
        trl_config=("experimental/cpo/cpo_config.py",),
        version=3,
        preference_loss=True,
        sequences=2,
        loss_types=("sigmoid", "hinge", "ipo", "simpo"),
        without_smoothing=("hinge", "ipo"),
        beta=0.1,
        virtual_tokens_at_input=False,  # TRL does not leave their labels out of the loss
    ),
    "distill": Objective(  # Hinton et al. 2015; Agarwal et al. 2024 (GKD)
        data=("text", "messages"),
        measures=MappingProxyType({"loss": "loss"}),
        keys=tuple(_DISTILL_KEYS),
        trl_config=("trainer/sft_config.py",),
        version=1,
        from_demonstrations=True,
        mean_of="tokens",
        beta=0.0,
        teacher=True,
        virtual_tokens_at_input=False,  # the teacher's positions are those of the tokens
    ),
    "reward": Objective(  # Bradley and Terry 1952; Ouyang et al. 2022
        data=("preference",),
        measures=MappingProxyType({"loss": "loss", "accuracy": "accuracy", "margin": "margin"}),
        keys=("trainer_args",),
        trl_config=("trainer/reward_config.py",),
        version=3,
        from_demonstrations=True,
        sequences=2,
        virtual_tokens_at_input=False,  # a reward model cannot tell from embeddings where a completion ends
        reward_model=True,
    ),
    "classify": Objective(
        data=("labelled_text",),
        measures=MappingProxyType({"loss": "loss", "accuracy": "accuracy"}),
        keys=("trainer_args",),
        trl_config=("trainer/reward_config.py",),
        version=1,
        from_demonstrations=True,
        virtual_tokens_at_input=False,  # as of a reward model
        classifier=True,
    ),
    "grpo": Objective(  # Shao et al. 2024
        data=(*ON_PROMPTS, *ABOUT_IMAGES, "tasks"),
        measures=FROM_REWARD,
        keys=(*SAMPLING_KEYS, *ENVIRONMENT_KEYS, "num_generations", "variant", "loss_type", "beta", "trainer_args"),
        trl_config=("trainer/grpo_config.py",),
        version=3,
        on_policy=True,
        reference="resident where beta",
        groups=True,
        loss_types=("dapo", "grpo", "dr_grpo", "bnpo"),
        beta=0.0,
        fused_head=True,
    ),
    "rloo": Objective(  # Ahmadian et al. 2024
        data=(*ON_PROMPTS, *ABOUT_IMAGES),
        measures=FROM_REWARD,
        keys=(*SAMPLING_KEYS, "num_generations", "beta", "trainer_args"),
        trl_config=("trainer/rloo_config.py",),
        version=3,
        script="grpo",
        on_policy=True,
        reference="resident where beta",
        groups=True,
        beta=0.05,
        fused_head=True,
    ),
    "ppo": Objective(  # Schulman et al. 2017; Ziegler et al. 2019
        data=ON_PROMPTS,
        measures=FROM_REWARD,
        keys=(*SAMPLING_KEYS, *_PPO_KEYS),
        version=4,
        on_policy=True,
        reference="resident",
        compact_head="built in",
        allows_dropout=False,
        value_model=True,
        token_rewards=True,
    ),
}


def data_refusal(objective: str, dataset: str, dataset_type: str) -> str | None:
    """Why an objective cannot train on a dataset whose rows have this type, or None."""
    needed = OBJECTIVES[objective].data
    if dataset_type in needed:
        return None
    fits = [name for name, row in OBJECTIVES.items() if dataset_type in row.data]
    return (
        f"{objective} needs rows of type {' or '.join(needed)}, and {dataset} is {dataset_type}, "
        f"which {'fits ' + ' or '.join(fits) if fits else 'no objective can use yet'}"
    )
