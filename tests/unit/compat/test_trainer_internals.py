"""The private state of trainers is where compat/ reads and sets it."""

import inspect
import json
from types import SimpleNamespace

import pytest
import torch
import trl
from torch.optim.lr_scheduler import LambdaLR
from transformers import Trainer
from trl.experimental.cpo import CPOTrainer
from trl.experimental.orpo import ORPOTrainer

from posttrain.compat import trainer_internals as internals

STATE = [
    (trl.SFTTrainer, "_total_train_tokens"),
    (trl.SFTTrainer, "_metrics"),
    (trl.DPOTrainer, "_metrics"),
    (trl.RewardTrainer, "_metrics"),
    (trl.KTOTrainer, "_metrics"),
    (CPOTrainer, "_stored_metrics"),
    (ORPOTrainer, "_stored_metrics"),
    (trl.GRPOTrainer, "_step"),
    (trl.GRPOTrainer, "_buffered_inputs"),
    (trl.RLOOTrainer, "_step"),
    (trl.RLOOTrainer, "_buffered_inputs"),
]


@pytest.mark.parametrize(("trainer", "name"), STATE)
def test_a_trainer_sets_the_attribute_itself(trainer, name):
    sources = [inspect.getsource(cls) for cls in trainer.__mro__[:-1] if cls is not Trainer]
    assert any(f"self.{name} = " in source or f"self.{name}:" in source for source in sources)


@pytest.mark.parametrize("name", ["_prepare_inputs", "prediction_step", "_save", "_load_from_checkpoint"])
def test_transformers_has_the_method(name):
    assert callable(getattr(Trainer, name))


def test_transformers_saves_and_loads_weights_by_the_methods_that_are_replaced():
    source = inspect.getsource(Trainer)
    assert "self._save(output_dir" in source and "self._load_from_checkpoint(resume_from_checkpoint" in source


def test_tokens_are_counted_from_the_checkpoint(tmp_path):
    log = [{"step": 1, "num_tokens": 10}, {"step": 2, "num_tokens": 25}, {"step": 2, "eval_loss": 1.0}]
    (tmp_path / "trainer_state.json").write_text(json.dumps({"log_history": log}))
    trainer = SimpleNamespace(_total_train_tokens=0)
    internals.count_tokens_from(trainer, tmp_path)
    assert trainer._total_train_tokens == 25


@pytest.mark.parametrize("name", ["_metrics", "_stored_metrics"])
def test_what_is_noted_of_a_batch_is_taken_away(name):
    notes = {"train": {"loss": [1.0]}, "eval": {"eval_accuracy": [0.25, 0.5], "empty": []}}
    trainer = SimpleNamespace(**{name: notes})
    assert internals.noted_in_evaluation(trainer) == {"accuracy": 0.5}
    assert notes == {"train": {"loss": [1.0]}, "eval": {}}


def test_changed_lambdas_act_on_the_first_step():
    optimiser = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=2.0)
    scheduler = LambdaLR(optimiser, lambda step: 0.0)
    scheduler.lr_lambdas = [lambda step: 0.5]
    internals.set_first_rates(scheduler)
    assert optimiser.param_groups[0]["lr"] == 1.0 and scheduler.get_last_lr() == [1.0]
