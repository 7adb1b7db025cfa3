"""What a base's manifest says, and what of a folder is not a model."""

import shutil
from pathlib import Path

import pytest
import tiny_bases

from posttrain.models import loading
from posttrain.runtime import atomic

pytestmark = pytest.mark.usefixtures("in_folder")


@pytest.mark.parametrize(
    ("card", "licence"), [("---\nlicense: gemma\n---\n# Base", "gemma"), ("# Base", None), (None, None)]
)
def test_the_manifest_has_the_licence_that_the_models_card_names(card, licence):
    tiny_bases.save(Path("base"), tiny_bases.chatml())
    if card:
        Path("base/README.md").write_text(card)
    tiny_bases.build()
    manifest = atomic.read_json(Path("results/bases/b/base.json"))
    assert manifest["licence"] == licence
    assert ("README.md" in manifest["files"]) == bool(card)


def adapter(folder: str) -> None:
    from peft import LoraConfig, get_peft_model

    model = get_peft_model(
        loading.load(Path("base")), LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM")
    )
    model.save_pretrained(folder)


def test_the_same_weights_in_another_layout_are_left_behind():
    tiny_bases.save(Path("base"), tiny_bases.chatml())
    shutil.copyfile("base/model.safetensors", "base/consolidated.safetensors")
    Path("base").rename("original")
    folder = tiny_bases.build(path="original")
    assert [file.name for file in folder.glob("*.safetensors")] == ["model.safetensors"]


def test_an_adapter_beside_a_model_is_refused():
    tiny_bases.save(Path("base"), tiny_bases.chatml())
    adapter("base")
    said = tiny_bases.refusal()
    assert said.startswith("base b: adapter_config.json lies beside the model") and "merge the adapter" in said


def test_a_folder_that_is_only_an_adapter_is_refused_by_its_bases_name():
    tiny_bases.save(Path("base"), tiny_bases.chatml())
    adapter("lonely")
    assert tiny_bases.refusal(path="lonely").startswith("base b: it is an adapter of base, and not a model")


def test_named_templates_are_carried_along_from_either_form():
    named = {"default": tiny_bases.CHATML, "tool_use": "{{ tools }}" + tiny_bases.CHATML}
    tiny_bases.save(Path("base"), tiny_bases.tokenizer(["<e>"], named, eos_token="<e>"))
    assert Path("base/additional_chat_templates/tool_use.jinja").exists()
    folder = tiny_bases.build()
    assert loading.tokenizer(folder).chat_template == named
    manifest = atomic.read_json(Path("results/bases/b/base.json"))
    assert "additional_chat_templates/tool_use.jinja" in manifest["files"]
    for file in ("chat_template.jinja", "additional_chat_templates/tool_use.jinja"):
        Path("base", file).unlink()
    config = atomic.read_json(Path("base/tokenizer_config.json"))
    listed = [{"name": name, "template": text} for name, text in named.items()]
    atomic.write_json(Path("base/tokenizer_config.json"), config | {"chat_template": listed})
    folder = tiny_bases.build()
    assert loading.tokenizer(folder).chat_template == named
    assert (folder / "additional_chat_templates/tool_use.jinja").read_text() == named["tool_use"]
    assert "chat_template" not in atomic.read_json(folder / "tokenizer_config.json")


def test_a_templates_name_is_not_a_path():
    tiny_bases.save(Path("base"), tiny_bases.tokenizer(["<e>"], None, eos_token="<e>"))
    config = atomic.read_json(Path("base/tokenizer_config.json"))
    listed = [{"name": "default", "template": "x"}, {"name": "../../../evil", "template": "x"}]
    atomic.write_json(Path("base/tokenizer_config.json"), config | {"chat_template": listed})
    assert "a chat template has the name '../../../evil'" in tiny_bases.refusal()


@pytest.mark.parametrize("method", ["lora", "prompt"])
def test_the_models_of_runs_have_them_too(merge, random_tiny_folder, tmp_path, method):
    parent = shutil.copytree(random_tiny_folder, tmp_path / "named")
    (parent / "additional_chat_templates").mkdir()
    (parent / "additional_chat_templates/tool_use.jinja").write_text("{{ tools }}")
    keys = {"virtual_tokens": 3} if method == "prompt" else {"rank": 4}
    merge("sft", method, parent=parent, **keys)
    folders = [Path("results/sft/model"), *([Path("results/sft/model/base")] if method == "prompt" else [])]
    for folder in folders:
        assert loading.tokenizer(folder).chat_template["tool_use"] == "{{ tools }}"
