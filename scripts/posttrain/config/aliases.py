"""Other spellings of configuration keys, which are accepted wherever a key can be written.

A key has one name in the documentation, in the schema and in messages: the one that TRL, transformers, PEFT or
lm-evaluation-harness give it. Some keys have another name in spec files and in the folders of results. That name is internal
and never changes, so that finished results stay valid: `gradient_accumulation_steps: 2` is `accumulation` in spec.json, and
`results/dpo,gradient_accumulation_steps=2` names the folder `results/dpo,accumulation=2`.
"""

from typing import Any

from posttrain.runtime.errors import UserError

# key: its name in specs and in folders' names, which may be written in a configuration as well
RUN = {
    "gradient_accumulation_steps": "accumulation",
    "warmup_ratio": "warmup",
    "lr_scheduler_type": "schedule",
    "num_virtual_tokens": "virtual_tokens",
    "neftune_noise_alpha": "neftune",
    "num_generations": "generations",
    "num_mini_batches": "minibatches",
    "kl_coef": "kl_coefficient",
    "cliprange": "clip",
    "cliprange_value": "value_clip",
    "vf_coef": "value_coefficient",
}
SUITE = {"num_fewshot": "shots", "include_path": "include", "apply_chat_template": "chat"}

# another spelling: the key
RUN_SYNONYMS = {
    "num_train_epochs": "epochs",
    "r": "rank",
    "lora_alpha": "alpha",
    "lora_dropout": "dropout",
    "loraplus_lr_ratio": "lora_plus",
    "max_completion_length": "max_new_tokens",
    "num_ppo_epochs": "ppo_epochs",
    "lam": "gae_lambda",
}
LICENCE = {"license": "licence"}

# what may be written: the key
OF_RUN = {short: key for key, short in RUN.items()} | RUN_SYNONYMS
OF_SUITE = {short: key for key, short in SUITE.items()}


def renamed(values: dict[str, Any], aliases: dict[str, str]) -> dict[str, Any]:
    """A table with its keys under their own names.

    Args:
        values: as the user has written it; keys of tables in it may be reached by a dot, `peft_args.use_dora`.
        aliases: other spelling -> key.

    Raises:
        UserError: one key is written in two spellings.

    >>> renamed({"accumulation": 2}, OF_RUN)
    {'gradient_accumulation_steps': 2}
    """
    written: dict[str, str] = {}
    for other in values:
        key = aliases.get(other, other)
        if key in written:
            raise UserError(
                "conflicting-keys", key, f"`{written[key]}` and `{other}` are the same key", f"write only `{key}`"
            )
        written[key] = other
    return {key: values[other] for key, other in written.items()}


def in_spec(key: str) -> str:
    """The name of a run's key in specs and in the names of folders.

    >>> in_spec("warmup_ratio"), in_spec("peft_args.use_dora")
    ('warmup', 'peft_args.use_dora')
    """
    return RUN.get(key, key)
