"""What the prepared trainers replace is what TRL calls, with the arguments that it gives."""

import inspect

import pytest
import trl
from trl.experimental.cpo import CPOTrainer
from trl.experimental.orpo import ORPOTrainer

from posttrain.compat import trl_trainers

REPLACED = [
    (trl.DPOTrainer, "_prepare_dataset", ["self", "dataset"]),
    (trl.DPOTrainer, "_precompute_ref_logps", ["self", "dataset"]),
    (trl.KTOTrainer, "_prepare_dataset", ["self", "dataset"]),
    (trl.GRPOTrainer, "_tokenize_prompts", ["self", "prompts"]),
    (trl.RLOOTrainer, "_tokenize_prompts", ["self", "prompts"]),
    (ORPOTrainer, "tokenize_row", ["self", "feature", "model"]),
    (CPOTrainer, "tokenize_row", ["self", "feature", "model"]),
    (ORPOTrainer, "concatenated_forward", ["self", "model", "batch"]),
    (trl.SFTTrainer, "compute_loss", ["self", "model", "inputs"]),
]


@pytest.mark.parametrize(("trainer", "method", "arguments"), REPLACED)
def test_a_replaced_method_is_there_and_called_by_trl(trainer, method, arguments):
    assert list(inspect.signature(getattr(trainer, method)).parameters)[: len(arguments)] == arguments
    sources = [inspect.getsource(inspect.getmodule(cls)) for cls in trainer.__mro__[:-1]]
    assert any(f".{method}(" in text or f"self.{method}," in text for text in sources)


@pytest.mark.parametrize("trainer", [CPOTrainer, ORPOTrainer])
def test_pairs_have_the_columns_of_trls_own_rows(trainer):
    ours = trl_trainers.pair_columns({"prompt_ids": [5, 6], "chosen_ids": [7], "rejected_ids": [8, 9]})
    source = inspect.getsource(trainer.tokenize_row)
    assert all(f'"{name}"' in source or name.split("_", 1)[1] in source for name in ours)
    assert ours["rejected_input_ids"] == [5, 6, 8, 9]
    assert ours["rejected_labels"] == [-100, -100, 8, 9]
    assert ours["prompt_attention_mask"] == [1, 1]


def test_the_fourth_of_orpos_results_after_the_chosen_log_probabilities_is_the_loss_of_the_chosen_rows():
    source = inspect.getsource(ORPOTrainer.concatenated_forward)
    returned = source[source.rindex("return (") :].split("(")[1].split(")")[0].split(",")
    names = [name.strip() for name in returned]
    assert names[0] == "chosen_logps" and names[4] == "chosen_nll_loss"


@pytest.mark.parametrize("name", ["grpo", "rloo"])
def test_a_samplers_prompts_are_returned_as_trl_unpacks_them(name):
    sampler = trl_trainers.prepared_sampler(name)
    assert sampler._tokenize_prompts(None, [[1, 2]]) == ([[1, 2]], None, {})
    source = inspect.getsource(getattr(trl, f"{name.upper()}Trainer"))
    assert "prompt_ids, images, multimodal_fields = self._tokenize_prompts(prompts)" in source
    assert trl_trainers.config_of(name) is getattr(trl, f"{name.upper()}Config")


def test_experimental_trainers_sample_in_the_same_way():
    package = "trl.experimental.gmpo"
    sampler, config = trl_trainers.prepared_sampler("gmpo", package), trl_trainers.config_of("gmpo", package)
    assert issubclass(sampler, trl.GRPOTrainer) and issubclass(config, trl.GRPOConfig)
    assert sampler.__mro__[1].__module__.startswith(package)
