"""Files of other tools become configurations that validate, and each of their keys is in exactly one list."""

import json
from pathlib import Path

import pytest
import yaml

from posttrain.importing import files, written
from posttrain.importing.carried import KINDS
from posttrain.runtime.errors import UserError
from posttrain.workflow.project import Project
from unit.importing.public_examples import AXOLOTL, DATASET_INFO, LLAMA_FACTORY, MERGE, TRL

SFT, DPO = LLAMA_FACTORY["train_lora/qwen3_lora_sft"], LLAMA_FACTORY["train_lora/qwen3_lora_dpo"]
LORA = AXOLOTL["llama-3/lora-1b"]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """A project's folder, with LLaMA-Factory's folder of datasets in it."""
    monkeypatch.chdir(tmp_path)
    Path("data").mkdir()
    Path("data/dataset_info.json").write_text(json.dumps(DATASET_INFO))


def imported(*sources: dict, devices: int = 1) -> files.Imported:
    """The configuration of some files with these keys."""
    paths = [Path(f"{number}.yaml") for number in range(len(sources))]
    for path, source in zip(paths, sources, strict=True):
        path.write_text(yaml.safe_dump(source))
    return files.imported(paths, devices)


def run(source: dict, devices: int = 1) -> dict:
    """The run that a file becomes."""
    (found,) = imported(source, devices=devices).chain.values["runs"].values()
    return found


def note(source: dict, key: str, kind: str) -> str:
    """What is said of a key of a file."""
    (job,) = imported(source).chain.runs.values()
    (found,) = [entry.note for entry in job.lists[kind] if entry.key == key]
    return found


@pytest.mark.parametrize("source", [*LLAMA_FACTORY.values(), *AXOLOTL.values()], ids=[*LLAMA_FACTORY, *AXOLOTL])
def test_each_key_of_a_public_example_is_in_one_list(source):
    found = imported(source)
    Project(found.chain.values)
    (job,) = found.chain.runs.values()
    told = [entry.key for kind in KINDS for entry in job.lists[kind]]
    assert len(told) == len(set(told))
    assert {
        key for key in told if key.partition(".")[0] not in ("dataset_info", "datasets") or key == "datasets"
    } == source.keys()
    assert yaml.safe_load(written.text(found.chain, [Path("0.yaml")])) == found.chain.values


def test_an_sft_of_llama_factory():
    assert run(SFT, devices=2) == {
        "from": "qwen3_4b_instruct_2507", "objective": "sft", "method": "lora", "data": "sft_data", "rank": 8, "dropout": 0.0,
        "max_length": 2048, "batch_size": 16, "gradient_accumulation_steps": 8, "learning_rate": 1e-4, "epochs": 3.0,
        "lr_scheduler_type": "cosine", "warmup_ratio": 0.1, "precision": "bf16", "gradient_checkpointing": True,
    }  # fmt: skip


def test_objectives_methods_and_losses():
    kinds = {
        name: (run(source)["objective"], run(source)["method"]) for name, source in (LLAMA_FACTORY | AXOLOTL).items()
    }
    assert list(kinds.values()) == [
        ("sft", "lora"), ("dpo", "lora"), ("kto", "lora"), ("reward", "lora"), ("sft", "lora"), ("sft", "qlora"), ("sft", "full"),
        ("sft", "lora"), ("dpo", "full"), ("orpo", "qlora"),
    ]  # fmt: skip
    simpo = run(DPO | {"pref_loss": "simpo", "simpo_gamma": 1.0})
    assert (simpo["objective"], simpo["loss_type"], simpo["simpo_gamma"]) == ("cpo", "simpo", 1.0)
    assert run(DPO | {"pref_loss": "simpo"})["simpo_gamma"] == 0.5  # its default; ours is beta / 2
    assert run(DPO | {"pref_ftx": 0.2})["loss_weights"] == [1.0, 0.2]


def test_a_batch_is_per_device_and_per_forward_pass_elsewhere():
    assert "1 per device x 8 accumulated x 1 device = 8" in note(SFT, "per_device_train_batch_size", "differs")
    kto = run(LLAMA_FACTORY["train_lora/qwen3_lora_kto"])
    assert (kto["batch_size"], kto["gradient_accumulation_steps"]) == (8, 4)  # it needs two examples in a forward pass


def test_several_devices_share_a_model_by_the_strategy_of_the_file():
    full = LLAMA_FACTORY["train_full/qwen3_full_sft"]
    assert imported(full, devices=8).chain.values["hardware"] == {"processes": 8, "strategy": "zero3"}
    assert "hardware" not in imported(full).chain.values
    assert "--devices" in note(full, "deepspeed", "not_carried")


def test_warm_up_in_steps_is_a_share_where_the_steps_are_known():
    steps = SFT | {"warmup_ratio": None, "warmup_steps": 10}
    assert run(steps | {"max_steps": 200})["warmup_ratio"] == 0.05
    assert "warmup_ratio" not in run(steps)
    assert "share of the steps" in note(steps, "warmup_steps", "not_carried")
    assert run(SFT | {"lr_scheduler_type": "constant"})["warmup_ratio"] == 0  # transformers' constant has no warm-up
    nothing = run({key: value for key, value in SFT.items() if key not in ("warmup_ratio", "lr_scheduler_type")})
    assert (nothing["warmup_ratio"], nothing["lr_scheduler_type"]) == (0.0, "linear")  # transformers' defaults


def test_what_means_something_else_is_said():
    assert "attend to each other there" in note(SFT | {"packing": True}, "packing", "differs")
    assert run(SFT | {"neat_packing": True})["packing"] is True
    assert "fp16 is not offered" in note(SFT | {"bf16": False, "fp16": True}, "fp16", "differs")
    assert "a tenth is held out" in note(LORA | {"val_set_size": 0}, "val_set_size", "differs")
    assert "longer rows lose their end" in note(
        LORA | {"excess_length_strategy": "drop"}, "excess_length_strategy", "differs"
    )
    assert "no schedule polynomial" in note(SFT | {"lr_scheduler_type": "polynomial"}, "lr_scheduler_type", "differs")


def test_a_key_that_nobody_knows_is_told_and_one_of_trl_is_passed_on():
    assert note(SFT | {"lora_rnak": 8}, "lora_rnak", "not_carried") == "there is no counterpart"
    assert run(SFT | {"adam_beta2": 0.95})["trainer_args"] == {"adam_beta2": 0.95}
    assert note(SFT | {"max_prompt_length": 9}, "max_prompt_length", "not_carried").startswith("write max_length")


def test_keys_without_effect_are_not_written():
    full = run(SFT | {"finetuning_type": "full"})
    assert not {"rank", "dropout", "peft_args", "beta"} & full.keys()
    assert note(SFT | {"finetuning_type": "full"}, "lora_rank", "same") == "it has no effect with method: full"


# ---- data


def test_datasets_of_dataset_info():
    found = {name: imported(source).chain.values["datasets"] for name, source in LLAMA_FACTORY.items()}
    assert found["train_lora/qwen3_lora_sft"]["sft_data"] == {"mix": {"identity": {}, "alpaca_en_demo": {}}}
    limit = {"limit": 1000}
    assert found["train_lora/qwen3_lora_sft"]["identity"] == {"path": "data/identity.json", "format": "alpaca"} | limit
    assert (
        found["train_lora/qwen3_lora_dpo"]["dpo_en_demo"]
        == {"path": "data/dpo_en_demo.json", "format": "preference"} | limit
    )
    assert found["train_lora/qwen3_lora_kto"]["kto_en_demo"]["format"] == "unpaired_preference"
    assert (
        found["train_lora/qwen3_lora_pretrain"]["c4_demo"] == {"path": "data/c4_demo.jsonl", "format": "text"} | limit
    )
    (orca,) = imported(DPO | {"dataset": "orca_pairs"}).chain.values["datasets"].values()
    assert (
        orca == {"hub": "Intel/orca_dpo_pairs", "format": "preference", "columns": {"instruction": "question"}} | limit
    )


def test_tags_that_no_row_of_ours_has_are_told():
    info = DATASET_INFO | {
        "identity": {"file_name": "i.json", "formatting": "sharegpt", "tags": {"user_tag": "customer"}}
    }
    Path("data/dataset_info.json").write_text(json.dumps(info))
    assert "rename user_tag: customer" in note(
        SFT | {"dataset": "identity"}, "dataset_info.identity.tags", "not_carried"
    )


def test_datasets_of_axolotl():
    found = [imported(source).chain.values["datasets"] for source in AXOLOTL.values()]
    assert found[0] == {"gpt4_llm_cleaned": {"hub": "teknium/GPT4-LLM-Cleaned", "format": "alpaca", "validation": 0.1}}
    assert found[1]["alpaca_messages_2k_dpo_test"]["columns"] == {"messages": "conversation"}
    assert found[2]["ultrafeedback_binarized_preferences_cleaned"]["format"] == "preference"
    chats = {
        "path": "chats.jsonl",
        "ds_type": "json",
        "type": "chat_template",
        "field_messages": "conversations",
        "split": "train[:50]",
    }
    (table,) = imported(LORA | {"datasets": [chats]}).chain.values["datasets"].values()
    assert table == {"path": "chats.jsonl", "split": "train", "limit": 50, "format": "sharegpt", "validation": 0.1}


# ---- chains


def test_a_second_file_starts_from_the_first():
    second = DPO | {"adapter_name_or_path": "saves/qwen3-4b/lora/sft"}
    values = imported(SFT, second).chain.values
    assert [*values["bases"]] == ["qwen3_4b_instruct_2507"]
    assert values["runs"]["dpo_lora"]["from"] == "sft_lora"
    (told,) = [
        entry
        for entry in imported(SFT, second).chain.runs["dpo_lora"].lists["differs"]
        if entry.key == "adapter_name_or_path"
    ]
    assert "reference of dpo is the model without it" in told.note


def test_a_file_that_merges_is_the_run_before_it():
    found = imported(SFT, MERGE, DPO | {"model_name_or_path": "saves/qwen3_sft_merged"})
    assert found.chain.values["runs"]["dpo_lora"]["from"] == "sft_lora"
    assert [file for file, _ in found.merges] == ["1.yaml"]


def test_command_lines_of_trl_are_a_chain():
    Path("train.sh").write_text(
        "#!/bin/sh\n" + "\n".join(TRL.values()).replace(" --num_train_epochs", " \\\n  --num_train_epochs")
    )
    found = files.imported([Path("train.sh")])
    Project(found.chain.values)
    assert found.chain.values["bases"] == {
        "qwen2_0_5b": {"source": "hub", "model": "Qwen/Qwen2-0.5B", "eos_token": "<|im_end|>"}
    }
    sft, dpo = found.chain.values["runs"].values()
    assert (sft["rank"], sft["alpha"], sft["dropout"], sft["target_modules"]) == (32, 16, 0.05, ["q_proj", "v_proj"])
    assert (sft["batch_size"], sft["packing"], sft["lr_scheduler_type"], sft["warmup_ratio"]) == (
        16,
        True,
        "linear",
        0.0,
    )
    assert (dpo["from"], dpo["method"], dpo["learning_rate"], dpo["max_steps"]) == ("sft_lora", "full", 5e-7, 1000)
    assert "epochs" not in dpo
    (told,) = [entry for entry in found.chain.runs["sft_lora"].lists["defaults"] if entry.key == "assistant_only_loss"]
    assert "every token of a conversation" in told.note


def test_a_yaml_for_trl_is_named_for_what_it_trains_or_by_a_command_line():
    keys = {"model_name_or_path": "Qwen/Qwen2.5-0.5B", "dataset_name": "stanfordnlp/imdb", "learning_rate": 1e-4}
    Path("config.yaml").write_text(yaml.safe_dump(keys))
    Path("run.sh").write_text("trl sft --config config.yaml --learning_rate 3e-4")
    (run,) = files.imported([Path("run.sh")]).chain.values["runs"].values()
    assert (run["learning_rate"], run["method"]) == (3e-4, "full")
    with pytest.raises(
        UserError,
        match="does not say what it trains; import a file with the command line",
    ):
        files.imported([Path("config.yaml")])
    Path("config.yaml").rename("my_dpo.yaml")
    assert [*files.imported([Path("my_dpo.yaml")]).chain.values["runs"]] == ["dpo_full"]


def test_the_parts_of_a_mixture_of_trl_keep_their_splits():
    parts = [{"path": "org/one", "split": "train[:100]"}, {"path": "org/two", "name": "english"}]
    keys = {"model_name_or_path": "Qwen/Qwen2.5-0.5B", "datasets": parts}
    Path("sft.yaml").write_text(yaml.safe_dump(keys))
    found = files.imported([Path("sft.yaml")]).chain.values["datasets"]
    assert (found["one"]["split"], found["one"]["limit"]) == ("train", 100)
    assert found["two"]["subset"] == "english"


def test_a_later_file_cannot_change_the_base_of_the_first():
    second = AXOLOTL["qwen2/dpo"] | {"base_model": "outputs/lora-out"}
    found = imported(LORA, second)
    (told,) = [entry for entry in found.chain.runs["dpo_full"].lists["not_carried"] if entry.key == "chat_template"]
    assert "an earlier file sets" in told.note
    (base,) = found.chain.values["bases"].values()
    assert base == {"source": "hub", "model": "NousResearch/Llama-3.2-1B", "pad_token": "<|end_of_text|>"}


def test_names_are_words_in_yaml():
    assert [*imported(SFT | {"model_name_or_path": "org/no"}).chain.values["bases"]] == ["nno"]


# ---- refusals


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        (SFT | {"template": "qwen3_vl_nothink"}, "images come later"),
        (SFT | {"dataset": "mllm_demo"}, "images come later"),
        (SFT | {"stage": "ppo"}, "write objective: ppo"),
        (SFT | {"finetuning_type": "freeze"}, "write method: full, and train:"),
        (SFT | {"model_name_or_path": "Qwen/Qwen2-7B-GPTQ"}, "stored in GPTQ, which cannot be merged"),
        (SFT | {"dataset": "identty"}, "did you mean 'identity'?"),
        (SFT | {"dataset_dir": "elsewhere"}, "there is no elsewhere/dataset_info.json"),
        (SFT | {"adapter_name_or_path": "saves/other"}, "which no earlier file writes"),
        (MERGE, "it merges an adapter, which every run does here"),
        ({"compute_environment": "LOCAL_MACHINE"}, "it configures Accelerate"),
        ({"model_name_or_path": "m", "infer_backend": "vllm"}, "it configures inference"),
        (LORA | {"rl": "grpo"}, "write objective: grpo, with reward"),
        (LORA | {"processor_type": "AutoProcessor", "skip_prepare_dataset": True}, "images come later"),
        (LORA | {"qat": {"weight_dtype": "int4"}}, "quantisation-aware training is not offered"),
        ({"hello": 1}, "of no tool that is known"),
        (
            SFT | {"gradient_accumulation_steps": "auto"},
            "gradient_accumulation_steps: LLaMA-Factory has no value 'auto' for it",
        ),
        (LORA | {"datasets": [7]}, "each dataset is a table with a path"),
    ],
)
def test_a_file_that_cannot_be_carried_over_is_refused_in_one_sentence(source, sentence):
    with pytest.raises(UserError) as error:
        imported(source)
    assert sentence in str(error.value) and "\n" not in str(error.value)
