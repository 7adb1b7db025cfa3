"""All that is known of each efficiency method, one row each.

Nothing else compares a method's name: code asks for a property of its row. Nothing here imports a library; what builds PEFT's
configuration of a method is in models/peft_methods.py.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple


class Sizes(NamedTuple):
    """What the number of a method's parameters follows from."""

    layers: int
    hidden: int
    intermediate: int
    targets: list[tuple[int, ...]]
    """shapes of the matrices that get an adapter"""

    @property
    def sides(self) -> int:
        """Rows and columns of all targets together."""
        return sum(map(sum, self.targets))


@dataclass(frozen=True, kw_only=True)
class Method:
    """Which parameters a run trains, and what follows from that for configuration, memory, training and merging."""

    learning_rates: tuple[float, float]
    """defaults: of learning from demonstrations, and of moving away from a parent"""
    usual_learning_rates: tuple[float, float] | None = None
    """range for learning from demonstrations; None: within a factor of 5 of the default"""
    keys: tuple[str, ...] = ()
    """keys of a run that act on it and not on every method"""
    peft_config: tuple[str, ...] = ()
    """files of PEFT's configuration class and of those that it inherits from, within `peft.tuners`"""
    full: bool = False
    """every weight of the parent is trained"""
    four_bit: bool = False
    """the parent is held in 4 bits (NF4) and frozen"""
    low_rank: bool = False
    """LoRA: two low-rank matrices beside a layer's weight"""
    rank: int = 0
    """default rank; 0 for a method without one"""
    usual_ranks: tuple[int, int] = (0, 0)
    """range of ranks"""
    initial_rank: float = 1.0
    """rank at the start of training, as a multiple of `rank`"""
    bounded_rank: bool = True
    """the rank is at most the smaller side of a matrix"""
    parameters: Callable[[dict[str, Any], Sizes], float] = lambda spec, sizes: spec.get("rank", 0) * sizes.sides
    """how many it trains, of a run's spec: for the estimate of memory, exact where it matters"""
    virtual_tokens: bool = False
    """prompt learning: trained vectors stand before the row"""
    at_input: bool = False
    """the virtual tokens are embeddings of the input, so that the model is given embeddings instead of tokens"""
    mergeable: bool = True
    """what it learns is a change of the parent's weights"""
    target_modules: str | None = None
    """default"""
    transposed_matrices: bool = True
    """it knows matrices (inputs, outputs), as GPT-2 has them"""
    wraps_blocks: bool = False
    """its modules take the place of attention and feed-forward blocks"""
    several_adapters: bool = True
    """a model can carry two of them"""
    gradient_checkpointing: bool = True
    """it works with recomputed activations"""
    early_stopping: bool = True
    """its result can be taken from an earlier step"""
    unsharded: str | None = None
    """why its weights cannot be shared out over processes (fsdp, zero1 to zero3)"""
    refused_peft_fields: tuple[tuple[str, str], ...] = ()
    """fields of PEFT's configuration that cannot be set, and why"""


PROMPTS = "PEFT saves what its network makes of whole weights"
_LORA_KEYS = ("rank", "alpha", "dropout", "target_modules", "peft_args", "neftune_noise_alpha", "packing")
_WEIGHT_KEYS = ("train_parts", "freeze", "train", "learning_rates")  # patterns of the names of weights
_TARGETED_KEYS = ("target_modules", "peft_args", "neftune_noise_alpha", "packing")

METHODS: dict[str, Method] = {
    "full": Method(
        learning_rates=(2e-5, 1e-6), keys=("value_rank", "neftune_noise_alpha", "packing", *_WEIGHT_KEYS), full=True
    ),
    "lora": Method(  # Hu et al. 2021
        learning_rates=(2e-4, 5e-5),
        usual_learning_rates=(1e-4, 5e-4),
        keys=(*_LORA_KEYS, "lora_plus", "value_rank", *_WEIGHT_KEYS),
        peft_config=("lora",),
        low_rank=True,
        rank=16,
        usual_ranks=(8, 64),
        target_modules="all-linear",
    ),
    "qlora": Method(  # Dettmers et al. 2023
        learning_rates=(2e-4, 5e-5),
        usual_learning_rates=(1e-4, 5e-4),
        keys=(*_LORA_KEYS, "lora_plus", "value_rank", "merge_into", *_WEIGHT_KEYS),
        peft_config=("lora",),
        four_bit=True,
        low_rank=True,
        rank=16,
        usual_ranks=(8, 64),
        target_modules="all-linear",
    ),
    "adalora": Method(  # Zhang et al. 2023
        learning_rates=(1e-3, 2e-4),
        keys=_LORA_KEYS,
        peft_config=("adalora", "lora"),
        rank=16,
        usual_ranks=(8, 64),
        initial_rank=1.5,
        parameters=lambda spec, sizes: 1.5 * spec["rank"] * sizes.sides,
        target_modules="all-linear",
        several_adapters=False,
        early_stopping=False,
        unsharded="it shares out ranks by the gradients of whole matrices",
        refused_peft_fields=(
            ("orth_reg_weight", "it has no effect, because PEFT adds the penalty to a loss that TRL does not use"),
            ("use_dora", "AdaLoRA does not support DoRA"),
        ),
    ),
    "adapter": Method(  # Houlsby et al. 2019, Pfeiffer et al. 2021
        learning_rates=(5e-4, 1e-4),
        keys=("placement", "reduction_factor", "neftune_noise_alpha", "packing"),
        parameters=lambda spec, sizes: sizes.layers * 2 * sizes.hidden * sizes.hidden / spec["reduction_factor"],
        wraps_blocks=True,
        mergeable=False,
    ),
    "prefix": Method(  # Li and Liang 2021
        learning_rates=(1e-2, 2e-3),
        keys=("num_virtual_tokens", "peft_args"),
        peft_config=("prefix_tuning",),
        parameters=lambda spec, sizes: spec["virtual_tokens"] * 2 * sizes.layers * sizes.hidden,
        virtual_tokens=True,
        unsharded=PROMPTS,
        mergeable=False,
        gradient_checkpointing=False,  # it drops the cache that the prefix is made of
        refused_peft_fields=(
            ("prefix_projection", "PEFT saves only the output of the projection, so training cannot resume from it"),
        ),
    ),
    "p_tuning": Method(  # Liu et al. 2021
        learning_rates=(5e-3, 1e-3),
        keys=("num_virtual_tokens", "peft_args"),
        peft_config=("p_tuning",),
        parameters=lambda spec, sizes: 3 * sizes.hidden * sizes.hidden,
        virtual_tokens=True,
        unsharded=PROMPTS,
        at_input=True,
        mergeable=False,
    ),
    "prompt": Method(  # Lester et al. 2021
        learning_rates=(3e-2, 5e-3),
        keys=("num_virtual_tokens", "peft_args"),
        peft_config=("prompt_tuning",),
        parameters=lambda spec, sizes: spec["virtual_tokens"] * sizes.hidden,
        virtual_tokens=True,
        unsharded=PROMPTS,
        at_input=True,
        mergeable=False,
    ),
    "ia3": Method(  # Liu et al. 2022
        learning_rates=(5e-3, 1e-3),
        keys=_TARGETED_KEYS,
        peft_config=("ia3",),
        parameters=lambda spec, sizes: sizes.layers * (2 * sizes.hidden + sizes.intermediate),
    ),
    "oft": Method(  # Qiu et al. 2023
        learning_rates=(5e-4, 1e-4),
        keys=_TARGETED_KEYS,
        peft_config=("oft",),
        parameters=lambda spec, sizes: 15.5 * sizes.sides / 2,  # blocks of 32
        target_modules="all-linear",
        transposed_matrices=False,
    ),
    "vera": Method(  # Kopiczko et al. 2024: its matrices are random and shared, only vectors are trained
        learning_rates=(5e-3, 1e-3),
        keys=("rank", *_TARGETED_KEYS),
        peft_config=("vera",),
        rank=256,
        usual_ranks=(64, 1024),
        bounded_rank=False,
        parameters=lambda spec, sizes: sizes.sides / 2 + spec["rank"] * len(sizes.targets),
        target_modules="all-linear",
    ),
}

VALUE_RANK = 16  # of the LoRA that is the value model of a fully trained policy
# Fields of PEFT's configuration under which an adapter computes beside its layer and asks nothing of the layer's weight.
BESIDE_THE_LAYER = {
    "use_rslora", "rank_pattern", "alpha_pattern", "exclude_modules", "layers_to_transform", "layers_pattern",
}  # fmt: skip


def reads_weights(method: str, peft_args: dict) -> bool:
    """Whether an adapter may read or change its parent's weights (DoRA, PiSSA, modules_to_save), so that they must be whole."""
    row = METHODS[method]
    return row.mergeable and not row.four_bit and not peft_args.keys() <= BESIDE_THE_LAYER


PLAIN_STARTS = (True, False, "gaussian", "eva", "loftq", "orthogonal")
"""values of PEFT's init_lora_weights that set an adapter's first matrices and leave the base's weights as they are"""


def combined(runs: list[dict[str, Any]]) -> int:
    """How many of the last adapters of a chain of runs are together one LoRA of the model that the first of them started from.

    The merged model of a chain is W + B1 A1 + B2 A2 + ..., where each run only adds the product of its matrices to what its parent
    was. It is not where a parent was put into 4 bits again and the adapter merged into that.

    Args:
        runs: for each run, base first, what its spec has of `method`, `peft_args` and `merge_into`.

    Returns:
        At least 1: an adapter belongs to the run's own parent.

    >>> lora, dora = {"method": "lora"}, {"method": "lora", "peft_args": {"use_dora": True}}
    >>> combined([lora, lora]), combined([lora, dora]), combined([{"method": "full"}, lora, lora])
    (2, 1, 2)
    >>> combined([{"method": "qlora"}, lora]), combined([lora, {"method": "qlora"}])
    (2, 1)
    """
    count = 1
    while count < len(runs) and all(map(only_adds, runs[-count - 1 :])) and not _put_into_4_bits(runs[-count]):
        count += 1
    return count


def only_adds(run: dict[str, Any]) -> bool:
    """Whether all that a run does to its parent's matrices is to add a product of two low-rank ones."""
    arguments = dict(run.get("peft_args", {}))
    plain = arguments.pop("init_lora_weights", True) in PLAIN_STARTS
    known = BESIDE_THE_LAYER | {"eva_config", "loftq_config"}
    return METHODS[run["method"]].low_rank and plain and arguments.keys() <= known


def _put_into_4_bits(run: dict[str, Any]) -> bool:
    return METHODS[run["method"]].four_bit and run.get("merge_into") != "original"


def reference_form(method: str, precision: str, peft_args: dict, of_run: bool) -> str:
    """How a run's reference is held, as the name of the file with its log-probabilities says it.

    `,nf4` in 4 bits; `,whole` with all weights in float32 (see `loading.parent`); then a precision that is not auto.

    Args:
        of_run: whether the parent is a run, which may have learnt something that is held apart.
    """
    row = METHODS[method]
    whole = precision != "fp32" and (row.full or (of_run and reads_weights(method, peft_args)))
    parts = ["nf4" if row.four_bit else "whole" if whole else "", precision if precision != "auto" else ""]
    return "".join(f",{part}" for part in parts if part)
