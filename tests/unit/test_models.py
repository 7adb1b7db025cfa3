"""Loading models and tokenizers: their dtype, their pad token, and the sentence where there is none."""

import json
import shutil

import pytest
import torch
from peft import LoraConfig, get_peft_model

from posttrain import models
from posttrain.errors import UserError


@pytest.fixture
def copy(random_tiny_folder, tmp_path):
    """A copy of the random tiny model's folder, to be spoilt."""
    return shutil.copytree(random_tiny_folder, tmp_path / "model")


def test_a_given_precision_is_kept_and_auto_is_one_of_the_two():
    assert [models.precision(wanted) for wanted in ("fp32", "bf16")] == ["fp32", "bf16"]
    assert models.precision("auto") in ("fp32", "bf16")


def test_a_model_is_loaded_in_its_own_dtype_unless_another_is_given(copy):
    models.load(copy).to(torch.bfloat16).save_pretrained(copy)
    assert models.load(copy).dtype == torch.bfloat16
    assert models.load(copy, torch.float32).dtype == torch.float32


def test_a_model_of_pickled_weights_is_not_loaded(copy):
    torch.save(models.load(copy).state_dict(), copy / "pytorch_model.bin")
    (copy / "model.safetensors").unlink()
    with pytest.raises(UserError, match="model: not a model that can be loaded"):
        models.load(copy)


@pytest.mark.parametrize(
    "spoil", [lambda f: (f / "config.json").unlink(), lambda f: (f / "config.json").write_text("{}")]
)
def test_a_folder_that_is_no_model_is_one_sentence(copy, spoil):
    spoil(copy)
    with pytest.raises(UserError, match="model: not a model that can be loaded") as error:
        models.load(copy)
    assert "\n" not in str(error.value)


def test_a_tokenizer_without_a_pad_token_pads_with_its_stop_token(copy):
    config = json.loads((copy / "tokenizer_config.json").read_text())
    del config["pad_token"]
    (copy / "tokenizer_config.json").write_text(json.dumps(config))
    tokenizer = models.tokenizer(copy)
    assert tokenizer.pad_token == tokenizer.eos_token == "<|im_end|>"


def test_a_tokenizer_without_a_stop_token_is_one_sentence(copy):
    config = json.loads((copy / "tokenizer_config.json").read_text())
    del config["eos_token"]
    (copy / "tokenizer_config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="the tokenizer has no eos_token, so a model cannot learn to stop"):
        models.tokenizer(copy)


def test_a_parent_gets_its_adapter_and_a_full_result_stands_alone(random_tiny_folder, random_tiny_model, tmp_path):
    wrapped = get_peft_model(random_tiny_model, LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False))
    wrapped.save_pretrained(tmp_path / "adapter")
    ids = torch.tensor([[5, 6, 7]])
    with torch.no_grad():
        expected = wrapped(input_ids=ids).logits
        loaded = models.with_adapter(random_tiny_folder, tmp_path / "adapter").eval()
        torch.testing.assert_close(loaded(input_ids=ids).logits, expected)
        plain = models.with_adapter(tmp_path / "not there", random_tiny_folder)(input_ids=ids).logits
        torch.testing.assert_close(plain, models.load(random_tiny_folder)(input_ids=ids).logits)
        assert (plain - expected).abs().max() > 1e-3


def test_what_is_saved_can_be_read_by_others(random_tiny_model, random_tiny_tokenizer, tmp_path):
    models.save(random_tiny_model, random_tiny_tokenizer, tmp_path)
    files = {file.name: file.stat().st_mode & 0o777 for file in tmp_path.iterdir()}
    assert {
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "chat_template.jinja",
        "generation_config.json",
    } <= set(files)
    assert set(files.values()) == {0o644}
