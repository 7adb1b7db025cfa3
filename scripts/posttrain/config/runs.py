"""The section `runs`: one training stage, and what of it determines the result."""

from collections.abc import Iterator
from typing import Any, ClassVar

from pydantic import model_validator

from posttrain.config import aliases, loss_keys, measuring, run_rules
from posttrain.config.fields import Mistake
from posttrain.config.run_keys import Control
from posttrain.methods import METHODS
from posttrain.objectives import OBJECTIVES

# What of a conversation is trained; the folder of its tokens is named for those that are not at their default.
TRAINED = ("assistant_turns", "train_thoughts")

# Keys that a spec has at their defaults too. These defaults are in the specs of finished results, which stay valid: the list is
# frozen, and a new key is not added to it (see `Run.settings`).
WRITTEN_OUT = (
    "objective", "method", "seed", "learning_rate", "epochs", "max_steps", "batch_size", "gradient_accumulation_steps", "max_length",
    "warmup_ratio", "lr_scheduler_type", "weight_decay", "max_grad_norm", "precision", "gradient_checkpointing", "rank", "alpha",
    "dropout", "lora_plus", "target_modules", "placement", "reduction_factor", "num_virtual_tokens", "merge_into", "peft_args",
    "loss_type", "loss_weights", "beta", "cpo_alpha", "max_new_tokens", "temperature", "num_generations", "num_mini_batches",
    "ppo_epochs", "kl_coef", "kl_target", "cliprange", "cliprange_value", "vf_coef", "gamma", "gae_lambda", "whiten_rewards",
    "missing_eos_penalty", "trainer_args",
)  # fmt: skip


# Keys that a spec has in another form, or that change no result.
ELSEWHERE = ("from_", "data", "reward", "teacher", "allow", *measuring.KEYS)


class Run(Control):
    """One training stage: an objective by a method, from a base or another run."""

    other_spellings: ClassVar[dict[str, str]] = aliases.OF_RUN

    @model_validator(mode="after")
    def _keys_that_act(self) -> "Run":
        for kind, table, own in (("method", METHODS, self.method), ("objective", OBJECTIVES, self.objective)):
            for key in filter(self.model_fields_set.__contains__, type(self).model_fields):
                needed = [name for name, row in table.items() if key in row.keys]
                if needed and own not in needed:
                    hint = f"it needs {kind}: {' or '.join(needed)}"
                    raise Mistake("key-without-effect", key, f"it has no effect with {kind}: {own}", hint)
        for mistake in run_rules.mistakes(self):
            raise mistake
        return self

    @property
    def quantised(self) -> bool:
        """Whether the parent is held in 4 bits, frozen, while an adapter is trained on it."""
        return METHODS[self.method].four_bit

    def settings(self) -> dict[str, Any]:
        """The keys that determine the result, defaults filled in, under their names in specs.

        A key at its default is left out, so that a new key makes no finished result stale, except for those of WRITTEN_OUT. The rest
        of a spec is what the stage reads: its parent, its rows and its reward.
        """
        values = {key: getattr(self, key) for key in self._acting()}
        values |= {key: value for key, value in self._defaults().items() if key in values and values[key] is None}
        if "packing" in values and "packing" not in self.model_fields_set:
            values["packing"] = OBJECTIVES[self.objective].packs
        values = {
            key: value
            for key, value in values.items()
            if key in WRITTEN_OUT or value != type(self).model_fields[key].get_default()
        }
        return {
            aliases.in_spec(key): value for key, value in loss_keys.without_idle(values).items()
        } | measuring.settings(self)

    def _acting(self) -> Iterator[str]:
        """The keys of a spec that act on this objective and this method."""
        idle = {*ELSEWHERE}
        for table, own in ((METHODS, self.method), (OBJECTIVES, self.objective)):
            idle |= {key for row in table.values() for key in row.keys if key not in table[own].keys}
        return (key for key in type(self).model_fields if key not in idle)

    def _defaults(self) -> dict[str, Any]:
        """Defaults that depend on the objective, the method or other keys."""
        objective, method = OBJECTIVES[self.objective], METHODS[self.method]
        rank = self.rank or method.rank
        return {
            "learning_rate": method.learning_rates[not objective.from_demonstrations],
            "rank": rank,
            "alpha": 2.0 * rank,
            "dropout": objective.dropout,
            "target_modules": method.target_modules,
            "loss_type": next(iter(objective.loss_types), None),
            "beta": objective.beta,
        } | loss_keys.defaults(self)
