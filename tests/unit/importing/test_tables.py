"""The tables of keys name keys that exist here, and agree with the hints for foreign names in a configuration."""

import pytest

from posttrain.config import bases, datasets, foreign_names, library_fields
from posttrain.config.fields import keys_of
from posttrain.config.hardware import Hardware
from posttrain.config.runs import Run
from posttrain.config.tracking import Tracking
from posttrain.importing import axolotl, axolotl_datasets, dataset_info, llama_factory, trl
from posttrain.methods import METHODS
from posttrain.objectives import OBJECTIVES

TABLES = {
    "LLaMA-Factory": llama_factory.KEYS, "dataset_info.json": dataset_info.KEYS, "Axolotl": axolotl.KEYS,
    "Axolotl's datasets": axolotl_datasets.KEYS, "TRL": trl.KEYS, "TRL's datasets": trl.DATASET,
}  # fmt: skip
OURS = {
    "": set(keys_of(Run)),
    "bases": set().union(*map(keys_of, bases.BASES.values())),
    "datasets": set(keys_of(datasets.Dataset)),
    "hardware": set(keys_of(Hardware)),
    "tracking": set(keys_of(Tracking)),
    "trainer_args": set().union(*map(library_fields.free_trainer_fields, OBJECTIVES)),
    "peft_args": set().union(*map(library_fields.free_peft_fields, METHODS)),
}


@pytest.mark.parametrize("name", TABLES)
def test_rows_name_keys_of_ours(name):
    for key, row in TABLES[name].items():
        for ours in filter(None, row.ours.split(", ")):
            table, _, last = ours.rpartition(".")
            assert last in OURS[table], f"{key}: {ours}"
        assert bool(row.ours) == (row.kind in ("carried", "differs")), key
        assert row.ours or row.note, key


@pytest.mark.parametrize("tool", [llama_factory, axolotl, trl], ids=lambda tool: tool.NAME)
def test_defaults_are_rows_of_the_table(tool):
    own = tool.DEFAULTS | getattr(tool, "OWN_DEFAULTS", {})
    assert not own.keys() - tool.KEYS.keys()


@pytest.mark.parametrize("tool", [llama_factory, axolotl, trl], ids=lambda tool: tool.NAME)
def test_hints_for_foreign_names_say_the_same(tool):
    for key, row in tool.KEYS.items():
        hint = foreign_names.RUN.get(key)
        if hint is None or not row.ours or key == "reward_model":  # Axolotl's is an objective, and others' a path
            continue
        table, _, last = row.ours.rpartition(".")
        assert last in hint or (table and table in hint), f"{key}: {row.ours}, and {hint}"
