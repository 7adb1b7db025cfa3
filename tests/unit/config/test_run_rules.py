"""What objectives, methods and keys cannot be combined."""

import pytest
from conftest import refused

from posttrain.config.loading import validate
from posttrain.config.runs import Run
from posttrain.objectives import OBJECTIVES, data_refusal

TABLE = {"from": "base", "objective": "sft", "data": "chats"}
RULE = {"function": "final_number"}
# keys, code, place in the run
REFUSED = [
    ({"objective": "sft", "beta": 0.1}, "key-without-effect", "beta"),
    ({"objective": "reward", "beta": 0.1}, "key-without-effect", "beta"),
    ({"objective": "ppo", "reward": RULE, "beta": 0.1}, "key-without-effect", "beta"),
    ({"objective": "orpo", "loss_type": "sigmoid"}, "key-without-effect", "loss_type"),
    ({"objective": "kto", "loss_weights": [1]}, "key-without-effect", "loss_weights"),
    ({"objective": "dpo", "reward": RULE}, "key-without-effect", "reward"),
    ({"objective": "sft", "max_new_tokens": 8}, "key-without-effect", "max_new_tokens"),
    ({"objective": "dpo", "temperature": 1}, "key-without-effect", "temperature"),
    ({"objective": "ppo", "reward": RULE, "num_generations": 4}, "key-without-effect", "num_generations"),
    ({"objective": "grpo", "reward": RULE, "cliprange": 0.1}, "key-without-effect", "cliprange"),
    ({"objective": "ppo", "reward": RULE, "trainer_args": {}}, "key-without-effect", "trainer_args"),
    ({"method": "oft", "rank": 4}, "key-without-effect", "rank"),
    ({"method": "vera", "alpha": 4}, "key-without-effect", "alpha"),
    ({"method": "adalora", "lora_plus": 4}, "key-without-effect", "lora_plus"),
    ({"method": "prompt", "target_modules": ["q_proj"]}, "key-without-effect", "target_modules"),
    ({"method": "adapter", "peft_args": {}}, "key-without-effect", "peft_args"),
    ({"method": "adapter", "num_virtual_tokens": 4}, "key-without-effect", "num_virtual_tokens"),
    ({"method": "prefix", "reduction_factor": 4}, "key-without-effect", "reduction_factor"),
    ({"method": "lora", "placement": "houlsby"}, "key-without-effect", "placement"),
    ({"method": "lora", "merge_into": "original"}, "key-without-effect", "merge_into"),
    (
        {"objective": "ppo", "reward": {"function": "final_number", "kind": "score"}},
        "key-without-effect",
        "reward.kind",
    ),
    (
        {"objective": "ppo", "reward": {"function": "final_number", "sequence": "reward"}},
        "key-without-effect",
        "reward.sequence",
    ),
    ({"objective": "ppo", "reward": {"from": "reward", "sequence": "reward"}}, "key-without-effect", "reward.sequence"),
    ({"method": "prompt", "packing": True}, "key-without-effect", "packing"),
    ({"loss_type": "sigmoid"}, "invalid-value", "loss_type"),
    ({"objective": "dpo", "loss_type": "dft"}, "invalid-value", "loss_type"),
    ({"objective": "dpo", "loss_type": ["sigmoid", "sigmoyd"]}, "invalid-value", "loss_type"),
    ({"objective": "dpo", "loss_type": []}, "invalid-value", "loss_type"),
    ({"objective": "dpo", "loss_type": ""}, "invalid-value", "loss_type"),
    ({"objective": "kto", "loss_type": ["kto"]}, "invalid-value", "loss_type"),
    ({"objective": "kto", "loss_type": "sigmoid"}, "invalid-value", "loss_type"),
    ({"objective": "grpo", "reward": RULE, "loss_type": "gropo"}, "invalid-value", "loss_type"),
    ({"objective": "dpo", "loss_type": ["sigmoid", "sft"], "loss_weights": [1]}, "invalid-value", "loss_weights"),
    ({"objective": "dpo", "loss_weights": [1]}, "invalid-value", "loss_weights"),
    ({"objective": "dpo", "beta": 0}, "invalid-value", "beta"),
    ({"objective": "kto", "beta": 0}, "invalid-value", "beta"),
    ({"objective": "orpo", "beta": 0}, "invalid-value", "beta"),
    ({"objective": "rloo", "reward": RULE, "num_generations": 1}, "invalid-value", "num_generations"),
    (
        {"method": "adalora", "peft_args": {"orth_reg_weight": 0.1}},
        "unsupported-combination",
        "peft_args.orth_reg_weight",
    ),
    ({"objective": "dpo", "trainer_args": {"ld_alpha": 0.5}}, "unsupported-combination", "trainer_args.ld_alpha"),
    ({"objective": "grpo", "reward": {"from": "dpo", "kind": "implicit"}}, "unsupported-combination", "reward.kind"),
    ({"objective": "ppo", "reward": RULE, "method": "adalora"}, "unsupported-combination", "method"),
    ({"objective": "ppo", "reward": RULE, "dropout": 0.1}, "unsupported-combination", "dropout"),
    ({"objective": "reward", "method": "prompt"}, "unsupported-combination", "method"),
    ({"objective": "reward", "method": "p_tuning"}, "unsupported-combination", "method"),
    ({"objective": "orpo", "method": "prompt"}, "unsupported-combination", "method"),
    ({"objective": "orpo", "method": "p_tuning"}, "unsupported-combination", "method"),
    ({"method": "prefix", "gradient_checkpointing": True}, "unsupported-combination", "gradient_checkpointing"),
    (
        {"method": "prefix", "peft_args": {"prefix_projection": True}},
        "unsupported-combination",
        "peft_args.prefix_projection",
    ),
    (
        {"method": "qlora", "peft_args": {"init_lora_weights": "pissa"}},
        "unsupported-combination",
        "peft_args.init_lora_weights",
    ),
    (
        {"method": "qlora", "peft_args": {"init_lora_weights": "olora"}},
        "unsupported-combination",
        "peft_args.init_lora_weights",
    ),
    (
        {"objective": "kto", "peft_args": {"init_lora_weights": "pissa"}},
        "unsupported-combination",
        "peft_args.init_lora_weights",
    ),
    (
        {"objective": "ppo", "reward": RULE, "peft_args": {"init_lora_weights": "olora"}},
        "unsupported-combination",
        "peft_args.init_lora_weights",
    ),
    ({"peft_args": {"init_lora_weights": "pissa_niter_4"}}, "unsupported-combination", "peft_args.init_lora_weights"),
    ({"peft_args": {"init_lora_weights": "corda"}}, "unsupported-combination", "peft_args.init_lora_weights"),
    ({"peft_args": {"init_lora_weights": "lora_ga"}}, "unsupported-combination", "peft_args.init_lora_weights"),
    ({"peft_args": {"init_lora_weights": "loftq"}}, "unsupported-combination", "peft_args.init_lora_weights"),
    ({"objective": "ppo"}, "missing-key", "reward"),
    ({"objective": "grpo"}, "missing-key", "reward"),
    ({"objective": "rloo"}, "missing-key", "reward"),
    ({"objective": "ppo", "reward": {}}, "missing-key", "reward"),
    ({"objective": "ppo", "reward": {"from": "reward", "function": "final_number"}}, "conflicting-keys", "reward"),
    ({"objective": "grpo", "reward": RULE, "batch_size": 6}, "conflicting-keys", "num_generations"),
    ({"objective": "ppo", "reward": RULE, "num_mini_batches": 3}, "conflicting-keys", "num_mini_batches"),
    (
        {"objective": "ppo", "reward": RULE, "num_mini_batches": 4, "gradient_accumulation_steps": 4},
        "conflicting-keys",
        "num_mini_batches",
    ),
    ({"objective": "kto", "gradient_accumulation_steps": 8}, "conflicting-keys", "batch_size"),
    ({"objective": "kto", "batch_size": 1}, "conflicting-keys", "batch_size"),
    ({"objective": "ppo", "reward": {"function": "final_numbr"}}, "unknown-name", "reward.function"),
    ({"objective": "ppo", "reward": {"function": "rules.txt:mine"}}, "unknown-name", "reward.function"),
    ({"objective": "ppo", "reward": {"function": "rules.py"}}, "unknown-name", "reward.function"),
    ({"objective": "ppo", "reward": {"function": "rules.py:a-b"}}, "unknown-name", "reward.function"),
    ({"objective": "ppo", "reward": {"form": "reward"}}, "unknown-key", "reward.form"),
    ({"allow": ["overlaps"]}, "unknown-name", "allow"),
    ({"freeze": "("}, "invalid-value", "freeze"),
    ({"train": ".*"}, "invalid-value", "train"),
    ({"objective": "grpo", "reward": RULE, "max_length": 128}, "conflicting-keys", "max_length"),
    ({"objective": "ppo", "reward": RULE, "value_start": "reward"}, "conflicting-keys", "value_start"),
    ({"objective": "grpo", "reward": RULE, "variant": "gspo", "loss_type": "grpo"}, "conflicting-keys", "loss_type"),
    ({"objective": "grpo", "reward": RULE, "loss_type": "gspo"}, "invalid-value", "loss_type"),
    (
        {"objective": "grpo", "reward": RULE, "variant": "gspo", "num_mini_batches": 1},
        "conflicting-keys",
        "num_mini_batches",
    ),
    ({"peft_args": {"eva_config": {"rho": 2}}}, "key-without-effect", "peft_args.eva_config"),
    (
        {"method": "adalora", "peft_args": {"init_lora_weights": "eva"}},
        "unsupported-combination",
        "peft_args.init_lora_weights",
    ),
    ({"objective": "cpo", "simpo_gamma": 1}, "key-without-effect", "simpo_gamma"),
    ({"measure_rows": 5}, "key-without-effect", "measure_rows"),
    ({"keep": "best", "method": "adalora"}, "unsupported-combination", "keep"),
    ({"early_stopping": {"metric": "los"}}, "unknown-name", "early_stopping.metric"),
    ({"early_stopping": {"max_new_tokens": 5}}, "key-without-effect", "early_stopping.max_new_tokens"),
    ({"early_stopping": {"metric": "rougeL"}, "max_length": 128}, "conflicting-keys", "max_length"),
    ({"measure_every": 50, "max_steps": 20}, "conflicting-keys", "measure_every"),
    ({"early_stopping": {}, "max_steps": 4}, "conflicting-keys", "early_stopping"),
]


def run(**keys) -> Run:
    return validate(Run, TABLE | keys, "runs.run")


@pytest.mark.parametrize(("keys", "code", "place"), REFUSED, ids=str)
def test_combination_is_refused(keys, code, place):
    with refused(code, f"runs.run.{place}") as error:
        run(**keys)
    assert "\n" not in str(error.value)


ALLOWED = [
    {"objective": "dpo", "loss_type": ["sigmoid", "sft"], "loss_weights": ["1e-1", 1]},
    {"objective": "grpo", "reward": RULE, "beta": 0},
    {
        "objective": "ppo", "reward": RULE, "dropout": 0, "num_mini_batches": 2, "gradient_accumulation_steps": 4, "kl_target": 6,
    },
    {"objective": "ppo", "reward": {"function": "rules/mine.py:short_answers"}},
    {"objective": "ppo", "reward": {"from": "dpo", "kind": "implicit", "sequence": "reward"}},
    {"objective": "dpo", "peft_args": {"init_lora_weights": "pissa"}},  # its reference is computed before
    {"objective": "reward", "method": "prefix"},
    {"objective": "grpo", "reward": RULE, "max_length": 129},
    {"method": "qlora", "merge_into": "original", "lora_plus": 16},
    {"method": "vera", "rank": 1024},
    {"method": "prefix", "peft_args": {"prefix_projection": False}},
    {"peft_args": {"init_lora_weights": False}},
]  # fmt: skip


@pytest.mark.parametrize("keys", ALLOWED, ids=str)
def test_combination_is_allowed(keys):
    assert run(**keys)


DATASET_TYPES = tuple(
    "text labelled_text messages preference unpaired_preference image_messages image_preference audio_messages".split()
)
FITS = {
    "sft": "text messages image_messages audio_messages",
    "pretrain": "text",
    "dpo": "preference image_preference",
    "kto": "preference unpaired_preference",
    "orpo": "preference",
    "cpo": "preference",
    "distill": "text messages",
    "reward": "preference",
    "classify": "labelled_text",
    "grpo": "messages preference prompts image_messages image_preference tasks",
    "rloo": "messages preference prompts image_messages image_preference",
    "ppo": "messages preference prompts",
}


def test_every_objective_has_dataset_types():
    assert FITS.keys() == OBJECTIVES.keys()


@pytest.mark.parametrize("dataset_type", DATASET_TYPES)
@pytest.mark.parametrize("objective", FITS)
def test_rows_of_another_type_are_refused_with_the_objectives_that_they_fit(objective, dataset_type):
    refusal = data_refusal(objective, "rows", dataset_type)
    assert (refusal is None) == (dataset_type in FITS[objective].split())
    if refusal:
        fits = [name for name, types in FITS.items() if dataset_type in types.split()]
        assert refusal.endswith(f"which fits {' or '.join(fits)}" if fits else "which no objective can use yet")
