"""Which model an exported adapter belongs to, and of which runs it is, by the configuration alone."""

import pytest

from posttrain.workflow.project import Project

DPO = {"from": "sft", "objective": "dpo", "data": "pairs"}


@pytest.mark.parametrize(
    ("sft", "dpo", "line"),
    [
        ({}, {}, ["base", "sft", "dpo"]),
        ({"peft_args": {"use_rslora": True}}, {"peft_args": {"init_lora_weights": "eva"}}, ["base", "sft", "dpo"]),
        ({"method": "full"}, {}, ["sft", "dpo"]),
        ({}, {"peft_args": {"use_dora": True}}, ["sft", "dpo"]),
        ({"peft_args": {"modules_to_save": ["lm_head"]}}, {}, ["sft", "dpo"]),
        ({"method": "ia3"}, {}, ["sft", "dpo"]),
        ({"method": "qlora"}, {}, ["base", "sft", "dpo"]),
        ({}, {"method": "qlora"}, ["sft", "dpo"]),
        ({}, {"method": "qlora", "merge_into": "original"}, ["base", "sft", "dpo"]),
    ],
)
def test_an_adapter_belongs_to_the_model_that_its_runs_only_add_to(configuration, sft, dpo, line):
    runs = {"sft": {"from": "base", "objective": "sft", "data": "chats"} | sft, "dpo": DPO | dpo}
    project = Project(configuration({"runs": runs, "sweeps": {}}))
    assert project.adapter_line("dpo") == line
    assert project.adapter_line("sft") == ["base", "sft"]
