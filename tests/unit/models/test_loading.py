"""Loading models and tokenizers: their dtype, their pad token, and the sentence where there is none."""

import json
import shutil

import pytest
import torch
from conftest import refused
from peft import LoraConfig, get_peft_model

from posttrain.inference import scoring
from posttrain.models import loading


@pytest.fixture
def copy(random_tiny_folder, tmp_path):
    """A copy of the random tiny model's folder, to be spoilt."""
    return shutil.copytree(random_tiny_folder, tmp_path / "model")


def test_a_given_precision_is_kept_and_auto_is_one_of_the_two():
    assert [loading.precision(wanted) for wanted in ("fp32", "bf16")] == ["fp32", "bf16"]
    assert loading.precision("auto") in ("fp32", "bf16")


def test_a_model_is_loaded_in_its_own_dtype_unless_another_is_given(copy):
    loading.load(copy).to(torch.bfloat16).save_pretrained(copy)
    assert loading.load(copy).dtype == torch.bfloat16
    assert loading.load(copy, torch.float32).dtype == torch.float32


def test_a_model_scores_in_the_arithmetic_that_it_was_loaded_for(copy):
    rows = [scoring.answer([5, 6], [7, 8, 9]), scoring.answer([9], [17, 33])]
    with torch.no_grad():
        exact, rounded = (
            torch.tensor(scoring.log_probs(loading.load(copy, arithmetic=wanted).eval(), rows, 64))[:, 0]
            for wanted in ("fp32", "bf16")
        )
    assert 1e-5 < (exact - rounded).abs().max() < 0.1


def test_the_type_of_a_folder_is_its_configurations_or_else_its_weights(copy):
    assert loading.dtype_of(copy) == "float32"
    config = json.loads((copy / "config.json").read_text())
    del config["dtype"]
    loading.load(copy).to(torch.bfloat16).save_pretrained(copy)
    (copy / "config.json").write_text(json.dumps(config))
    assert loading.dtype_of(copy) == "bfloat16"
    (copy / "config.json").write_text(json.dumps(config | {"text_config": {"torch_dtype": "float16"}}))
    assert loading.dtype_of(copy) == "float16"
    assert loading.dtype_of(copy / "nothing") is None


def test_a_model_of_pickled_weights_is_not_loaded(copy):
    torch.save(loading.load(copy).state_dict(), copy / "pytorch_model.bin")
    (copy / "model.safetensors").unlink()
    with refused("unreadable-model"):
        loading.load(copy)


@pytest.mark.parametrize(
    "spoil", [lambda f: (f / "config.json").unlink(), lambda f: (f / "config.json").write_text("{}")]
)
def test_a_folder_that_is_no_model_is_one_sentence(copy, spoil):
    spoil(copy)
    with refused("unreadable-model") as error:
        loading.load(copy)
    assert "\n" not in str(error.value)


def test_a_tokenizer_without_a_pad_token_pads_with_its_stop_token(copy):
    config = json.loads((copy / "tokenizer_config.json").read_text())
    del config["pad_token"]
    (copy / "tokenizer_config.json").write_text(json.dumps(config))
    tokenizer = loading.tokenizer(copy)
    assert tokenizer.pad_token == tokenizer.eos_token == "<|im_end|>"


def test_a_tokenizer_without_a_stop_token_is_one_sentence(copy):
    config = json.loads((copy / "tokenizer_config.json").read_text())
    del config["eos_token"]
    (copy / "tokenizer_config.json").write_text(json.dumps(config))
    with refused("no-eos-token"):
        loading.tokenizer(copy)


def test_a_parent_gets_its_adapter_and_a_full_result_stands_alone(random_tiny_folder, random_tiny_model, tmp_path):
    wrapped = get_peft_model(random_tiny_model, LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False))
    wrapped.save_pretrained(tmp_path / "adapter")
    ids = torch.tensor([[5, 6, 7]])
    with torch.no_grad():
        expected = wrapped(input_ids=ids).logits
        loaded = loading.with_adapter(random_tiny_folder, tmp_path / "adapter").eval()
        torch.testing.assert_close(loaded(input_ids=ids).logits, expected)
        plain = loading.with_adapter(tmp_path / "not there", random_tiny_folder)(input_ids=ids).logits
        torch.testing.assert_close(plain, loading.load(random_tiny_folder)(input_ids=ids).logits)
        assert (plain - expected).abs().max() > 1e-3


# ---- reward models, 4 bits, adapters beside their base


def test_a_folder_says_whether_it_scores_or_writes(copy, tmp_path):
    assert not loading.is_reward(copy)
    assert not loading.is_reward(tmp_path / "nothing")
    model = loading.load(copy, reward=True)
    assert (type(model).__name__, model.score.weight.shape) == ("LlamaForSequenceClassification", (1, 32))
    loading.save(model, loading.tokenizer(copy), tmp_path / "reward")
    assert loading.is_reward(tmp_path / "reward")
    assert torch.equal(loading.load(tmp_path / "reward").score.weight, model.score.weight)


@pytest.mark.parametrize("pad", [None, 0, 99])
def test_a_reward_model_looks_past_the_padding_that_its_tokenizer_writes(copy, pad):
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | {"pad_token_id": pad}))
    model = loading.load(copy, reward=True).eval()
    padding = loading.tokenizer(copy).pad_token_id
    with torch.no_grad():
        alone = model(input_ids=torch.tensor([[5, 6, 7]])).logits
        padded = model(
            input_ids=torch.tensor([[5, 6, 7, padding, padding]]), attention_mask=torch.tensor([[1, 1, 1, 0, 0]])
        ).logits
    torch.testing.assert_close(padded, alone)


def test_a_reward_model_of_all_weights_needs_no_tokenizer_of_its_own(copy, tmp_path):
    model = loading.load(copy, reward=True)
    model.save_pretrained(tmp_path / "trained")
    loaded = loading.with_adapter(copy, tmp_path / "trained")
    assert torch.equal(loaded.score.weight, model.score.weight)
    assert loaded.config.pad_token_id == loading.tokenizer(copy).pad_token_id


@pytest.mark.parametrize("reward", [False, True])
def test_4_bits_hold_the_matrices_and_not_the_heads(random_tiny_folder, reward):
    model = loading.load(random_tiny_folder, quantised="fp32", reward=reward)
    quantised = {name.split(".")[-1] for name, module in model.named_modules() if type(module).__name__ == "Linear4bit"}
    assert quantised == {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
    config = model.config.quantization_config
    assert (config.bnb_4bit_quant_type, config.bnb_4bit_use_double_quant) == ("nf4", True)
    assert config.bnb_4bit_compute_dtype == torch.float32
    assert loading.nf4("bf16", reward).bnb_4bit_compute_dtype == torch.bfloat16


def test_an_adapter_beside_its_base_is_loaded_from_one_folder(random_tiny_folder, random_tiny_model, tmp_path):
    lora = LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM")
    wrapped = get_peft_model(random_tiny_model, lora).eval()
    wrapped.save_pretrained(tmp_path / "both")
    shutil.copytree(random_tiny_folder, tmp_path / "both/base")
    ids = torch.tensor([[5, 6, 7]])
    with torch.no_grad():
        loaded = loading.load(tmp_path / "both").eval()(input_ids=ids).logits
        torch.testing.assert_close(loaded, wrapped(input_ids=ids).logits)
    assert loading.load(tmp_path / "both", torch.bfloat16).get_base_model().dtype == torch.bfloat16


def test_what_is_saved_can_be_read_by_others(random_tiny_model, random_tiny_tokenizer, tmp_path):
    loading.save(random_tiny_model, random_tiny_tokenizer, tmp_path)
    files = {file.name: file.stat().st_mode & 0o777 for file in tmp_path.iterdir()}
    assert {
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "chat_template.jinja",
        "generation_config.json",
    } <= set(files)
    assert set(files.values()) == {0o644}


def test_a_model_that_is_spread_over_devices_scores_and_answers_as_before(random_tiny_folder, random_tiny_tokenizer):
    """Over one CPU: the hooks are those of several GPUs, see tests/gpu."""
    whole, apart = loading.load(random_tiny_folder).eval(), loading.spread(loading.load(random_tiny_folder)).eval()
    assert hasattr(apart.base_model.layers[1], "_hf_hook")
    sequences = [
        scoring.answer([5, 6, 7], [8, 9, 10, 11]),
        scoring.answer([5, 6, 7], [9, 12]),
        scoring.answer([13], [14]),
    ]
    assert scoring.is_whole(apart)
    assert scoring.scores(apart, sequences, 64) == scoring.scores(whole, sequences, 64)
    prompts = [[5, 6, 7], [5, 9], [11, 12, 13, 14]]
    answers = [scoring.generate_batch(model, random_tiny_tokenizer, prompts, 12) for model in (apart, whole)]
    assert answers[0] == answers[1]


def test_a_model_is_spread_where_the_strategy_shards_it_and_one_process_scores(random_tiny_folder, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(loading, "spread", lambda model: "spread")
    assert loading.load(random_tiny_folder).device.type == "cpu"
    monkeypatch.setenv("POSTTRAIN_HARDWARE", '{"processes": 2, "strategy": "fsdp"}')
    assert loading.load(random_tiny_folder) == "spread"
    assert loading.load(random_tiny_folder, device="cpu").device.type == "cpu"
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert loading.load(random_tiny_folder).device.type == "cpu"
