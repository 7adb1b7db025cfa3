"""An entry of `trainer_args` that would do nothing is refused, with what to write instead."""

import pytest
from conftest import refused

from posttrain.config import library_fields, trainer_args
from posttrain.objectives import OBJECTIVES
from posttrain.workflow.project import Project

TEXTS = {
    "datasets.texts": {"path": "texts.jsonl", "format": "text"},
    "datasets.labelled": {"path": "labelled.jsonl", "format": "labelled_text"},
}
DATA = {"messages": "chats", "preference": "pairs", "text": "texts", "labelled_text": "labelled"}


def table(objective: str) -> dict:
    row = OBJECTIVES[objective]
    data = next(name for kind, name in DATA.items() if kind in row.data)
    own = {"from": "base", "objective": objective, "data": data}
    own |= {"teacher": "base"} if row.teacher else {}
    return own | ({"reward": {"function": "final_number"}} if row.on_policy else {})


ENTRIES = [
    (objective, field)
    for field, (objectives, _) in trainer_args.IGNORED.items()
    for objective in objectives
    if field in library_fields.trainer_fields(objective)
]


@pytest.mark.parametrize(("objective", "field"), ENTRIES)
def test_field_that_would_be_ignored_is_refused(objective, field, configuration):
    with refused("key-without-effect", f"runs.own.trainer_args.{field}") as error:
        Project(configuration(TEXTS | {"runs.own": table(objective) | {"trainer_args": {field: 1}}}))
    assert error.value.hint


@pytest.mark.parametrize("field", ["padding_free", "adam_beta2", "pad_to_multiple_of"])
def test_an_entry_that_acts_is_taken(field, configuration):
    Project(configuration({"runs.own": table("sft") | {"trainer_args": {field: 1}}}))


def test_every_refused_field_is_one_of_an_installed_trainers_and_none_of_the_runs_own():
    known = frozenset().union(*map(library_fields.trainer_fields, trainer_args.ALL))
    assert trainer_args.IGNORED.keys() <= known
    assert not trainer_args.IGNORED.keys() & library_fields.OWN_TRAINER_FIELDS


# Fields of TRL's own (not transformers') that act on a model and rows of tokens. A new field is for one of the two lists.
ACT = set(
    "learning_rate router_aux_loss_coef max_length shuffle_dataset padding_free pad_to_multiple_of "
    "loss_type activation_offloading disable_dropout precompute_ref_log_probs precompute_ref_batch_size loss_weights "
    "ld_alpha f_divergence_type f_alpha_divergence_coef label_smoothing beta use_weighting discopop_tau sync_ref_model "
    "train_sampling_strategy desirable_weight undesirable_weight max_completion_length center_rewards_coefficient alpha "
    "cpo_alpha simpo_gamma".split()
)


def test_every_field_that_trl_adds_for_given_answers_has_been_looked_at():
    from transformers import TrainingArguments

    common = set(TrainingArguments.__dataclass_fields__)
    for objective in [name for name in trainer_args.ALL if not OBJECTIVES[name].on_policy]:
        own = library_fields.trainer_fields(objective) - common
        assert {field for field in own if not trainer_args.refusal(objective, field)} <= ACT, objective
