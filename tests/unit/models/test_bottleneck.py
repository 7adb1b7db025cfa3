"""The bottleneck adapter: its formula, where it is, and that PEFT can do with it what PEFT does with its own."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from peft import PeftConfig, PeftModel, PeftType, get_peft_model
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from safetensors.torch import load_file
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    GPT2Config,
    OPTConfig,
)

from posttrain.models import bottleneck, loading
from posttrain.models.bottleneck import BottleneckConfig, BottleneckLayer

IDS = torch.tensor([[5, 6, 7, 8, 9, 10], [30, 31, 32, 33, 34, 35]])
PLACEMENTS = ["houlsby", "pfeiffer"]


def config(placement: str = "houlsby", **fields) -> BottleneckConfig:
    return BottleneckConfig(**{"task_type": "CAUSAL_LM", "placement": placement, "reduction_factor": 2, **fields})


@torch.no_grad()
def logits(model) -> torch.Tensor:
    return model.eval()(input_ids=IDS).logits


def train(model, labels: torch.Tensor = IDS) -> set[str]:
    """Take three large steps, and name the parameters that had a gradient."""
    optimizer = torch.optim.SGD([weight for weight in model.parameters() if weight.requires_grad], lr=0.5)
    for _ in range(3):
        model.zero_grad()
        model(input_ids=IDS, labels=labels).loss.backward()
        optimizer.step()
    return {name for name, weight in model.named_parameters() if weight.grad is not None and weight.grad.any()}


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.fixture
def trained(random_tiny_model):
    """The random tiny model with a trained adapter of Houlsby's."""
    model = get_peft_model(random_tiny_model, config())
    train(model)
    return model


class Block(nn.Linear):
    """A block that returns two things, as attention does."""

    def forward(self, hidden, scale):
        return super().forward(hidden) * scale, "weights"


def test_the_adapter_is_its_formula_on_the_first_thing_that_a_block_returns():
    layer = BottleneckLayer(Block(6, 6))
    layer.add("default", 6, 2, torch.float32)
    for weight in layer.parameters():
        nn.init.normal_(weight)
    down, up, x = layer.bottleneck_down["default"], layer.bottleneck_up["default"], torch.randn(3, 4, 6)
    adapted, weights = layer(x, scale=2)
    h = layer.base_layer(x, 2)[0]
    inner = (h @ down.weight.T + down.bias).clamp(min=0)
    torch.testing.assert_close(adapted, h + inner @ up.weight.T + up.bias)
    assert weights == "weights"


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_a_new_adapter_is_the_identity_and_a_trained_one_can_be_switched_off(random_tiny_model, placement):
    base = logits(random_tiny_model)
    model = get_peft_model(random_tiny_model, config(placement))
    assert not any(weight.any() for name, weight in model.named_parameters() if name.endswith("bias"))
    assert torch.equal(logits(model), base)
    train(model)
    assert (logits(model) - base).abs().max() > 0.1
    with model.disable_adapter():
        assert torch.equal(logits(model), base)


@pytest.mark.parametrize("placement", PLACEMENTS)
@pytest.mark.parametrize(("factor", "width"), [(16, 2), (5, 6), (100, 1)])
def test_the_number_of_parameters_is_the_formulas(random_tiny_model, placement, factor, width):
    model = get_peft_model(random_tiny_model, config(placement, reduction_factor=factor))
    d, layers, blocks = 32, 2, {"houlsby": 2, "pfeiffer": 1}[placement]
    assert model.get_nb_trainable_parameters()[0] == layers * blocks * (2 * d * width + d + width)


@pytest.mark.parametrize(("placement", "blocks"), [("houlsby", ("mlp", "self_attn")), ("pfeiffer", ("mlp",))])
def test_the_decoders_blocks_are_adapted_and_no_others(random_tiny_model, placement, blocks):
    random_tiny_model.vision = nn.ModuleDict({"mlp": nn.Linear(3, 3)})  # as a model that sees has it
    model = get_peft_model(random_tiny_model, config(placement))
    found = {name for name, module in model.named_modules() if isinstance(module, BottleneckLayer)}
    assert found == {f"base_model.model.model.layers.{i}.{block}" for i in (0, 1) for block in blocks}


@pytest.mark.parametrize(("autocast", "dtype"), [(True, torch.float32), (False, torch.bfloat16)])
def test_an_adapter_is_float32_unless_it_shall_have_the_models_dtype(random_tiny_model, autocast, dtype):
    base = logits(random_tiny_model.to(torch.bfloat16))
    model = get_peft_model(random_tiny_model, config(), autocast_adapter_dtype=autocast)
    assert {weight.dtype for weight in model.parameters() if weight.requires_grad} == {dtype}
    assert torch.equal(logits(model), base)
    train(model)
    assert logits(model).dtype == torch.bfloat16


@pytest.mark.parametrize("name", ["default", "another"])
def test_what_is_saved_is_loaded_under_any_name(trained, random_tiny_folder, tmp_path, name):
    trained.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(loading.load(random_tiny_folder), tmp_path, adapter_name=name)
    assert torch.equal(logits(loaded), logits(trained))
    saved = PeftConfig.from_pretrained(tmp_path)
    assert (type(saved), saved.placement, saved.reduction_factor) == (BottleneckConfig, "houlsby", 2)


LOAD = """
import sys
import posttrain.models.bottleneck
import torch
from peft import AutoPeftModelForCausalLM
torch.set_num_threads(1)
adapter, ids, out = sys.argv[1:]
model = AutoPeftModelForCausalLM.from_pretrained(adapter).eval()
with torch.no_grad():
    torch.save(model(input_ids=torch.load(ids)).logits, out)
"""


def test_what_is_saved_is_loaded_in_another_process(trained, tmp_path):
    trained.save_pretrained(tmp_path)
    torch.save(IDS, tmp_path / "ids.pt")
    files = [str(path) for path in (tmp_path, tmp_path / "ids.pt", tmp_path / "logits.pt")]
    scripts = str(Path(bottleneck.__file__).parents[2])
    subprocess.run([sys.executable, "-c", LOAD, *files], env=os.environ | {"PYTHONPATH": scripts}, check=True)
    assert torch.equal(torch.load(tmp_path / "logits.pt"), logits(trained))


def test_two_adapters_do_not_mix_and_only_the_active_one_is_trained(random_tiny_model, random_tiny_folder, tmp_path):
    model = get_peft_model(random_tiny_model, config("pfeiffer"))
    model.add_adapter("value", config("houlsby", reduction_factor=1))
    expected = {}
    for name, labels in (("default", IDS), ("value", IDS.flip(1))):
        model.set_adapter(name)
        own = {key for key, weight in model.named_parameters() if f".{name}." in key}
        assert {key for key, weight in model.named_parameters() if weight.requires_grad} == own
        assert train(model, labels) == own
        expected[name] = logits(model)
    assert (expected["default"] - expected["value"]).abs().max() > 0.1
    model.set_adapter("default")
    assert torch.equal(logits(model), expected["default"])
    model.save_pretrained(tmp_path)
    for name, folder in (("default", tmp_path), ("value", tmp_path / "value")):
        alone = PeftModel.from_pretrained(loading.load(random_tiny_folder), folder)
        assert torch.equal(logits(alone), expected[name])


def test_a_score_head_is_trained_and_saved_with_the_adapter(random_tiny_folder, tmp_path):
    def base(seed: int):
        torch.manual_seed(seed)  # of the head, which the folder does not have
        model = AutoModelForSequenceClassification.from_pretrained(random_tiny_folder, num_labels=1)
        model.config.pad_token_id = 0
        return model

    model = get_peft_model(base(1), config(task_type="SEQ_CLS", modules_to_save=["score"]))
    trained = train(model, torch.tensor([[1.0], [-1.0]]))
    assert {name.split(".")[-3] for name in trained} == {"bottleneck_down", "bottleneck_up", "modules_to_save"}
    model.save_pretrained(tmp_path)
    assert "base_model.model.score.weight" in load_file(tmp_path / "adapter_model.safetensors")
    assert torch.equal(logits(PeftModel.from_pretrained(base(2), tmp_path)), logits(model))


def test_a_base_of_four_bits_is_trained_through(random_tiny_folder):
    quantised = loading.load(random_tiny_folder, quantised="fp32")
    assert quantised.model.layers[0].mlp.up_proj.weight.dtype == torch.uint8
    base = logits(quantised)
    model = get_peft_model(quantised, config())
    assert torch.equal(logits(model), base)
    assert train(model) == {name for name, _ in model.named_parameters() if "bottleneck_" in name}
    assert (logits(model) - base).abs().max() > 0.1
    with model.disable_adapter():
        assert torch.equal(logits(model), base)


def test_generation_with_a_cache_is_the_argmax_of_the_adapted_model(trained):
    prompt = IDS[:1, :3]
    generated = trained.eval().generate(input_ids=prompt, max_new_tokens=6, do_sample=False)[0]
    assert len(generated) > 4
    for i in range(3, len(generated)):
        assert generated[i] == trained(input_ids=generated[None, :i]).logits[0, -1].argmax()
    with trained.disable_adapter():
        base = trained.generate(input_ids=prompt, max_new_tokens=6, do_sample=False)[0]
    assert base.tolist() != generated.tolist()


def test_gradient_checkpointing_changes_no_gradient(trained):
    def gradients() -> dict:
        trained.zero_grad()
        trained.train()(input_ids=IDS, labels=IDS).loss.backward()
        return {name: weight.grad for name, weight in trained.named_parameters() if weight.requires_grad}

    expected = gradients()
    calls = []
    trained.get_base_model().model.layers[0].mlp.register_forward_pre_hook(lambda *_: calls.append(1))
    trained.gradient_checkpointing_enable()
    torch.testing.assert_close(gradients(), expected)
    assert len(calls) == 2  # the second time in the backward pass
    assert all(gradient.any() for gradient in expected.values())


GPT2 = GPT2Config(n_embd=8, n_layer=1, n_head=1, vocab_size=8)
OPT = OPTConfig(hidden_size=8, num_hidden_layers=1, ffn_dim=8, num_attention_heads=1, vocab_size=8)


@pytest.mark.parametrize(
    ("architecture", "placement", "wanted", "found"),
    [
        (GPT2, "houlsby", "self_attn and mlp", "GPT2Block has attn, ln_1, ln_2, mlp"),
        (OPT, "pfeiffer", "mlp", "OPTDecoderLayer has activation_fn, fc1, fc2, final_layer_norm, self_attn"),
    ],
)
def test_a_model_without_the_blocks_is_one_sentence(architecture, placement, wanted, found):
    model = AutoModelForCausalLM.from_config(architecture)
    sentence = f"^placement '{placement}' needs {wanted} in every decoder layer, but {found}"
    with pytest.raises(ValueError, match=sentence) as error:
        get_peft_model(model, config(placement))
    assert "\n" not in str(error.value)


def test_one_layer_without_the_block_is_enough_to_refuse(random_tiny_model):
    del random_tiny_model.model.layers[1].self_attn
    with pytest.raises(ValueError, match="LlamaDecoderLayer has input_layernorm, mlp, post_attention_layernorm"):
        get_peft_model(random_tiny_model, config("houlsby"))


@pytest.mark.parametrize("merge", ["merge_and_unload", "merge_adapter"])
def test_merging_is_refused_and_leaves_the_adapter(trained, merge):
    before = logits(trained)
    with pytest.raises(NotImplementedError, match="cannot be merged"):
        getattr(trained, merge)()
    assert torch.equal(logits(trained), before)


def test_unloading_gives_the_base_model_back(trained, random_tiny_folder):
    base = trained.unload()
    assert not any(isinstance(module, BottleneckLayer) for module in base.modules())
    assert torch.equal(logits(base), logits(loading.load(random_tiny_folder)))


def test_a_second_import_registers_nothing():
    methods, registered = list(PeftType), dict(PEFT_TYPE_TO_CONFIG_MAPPING)
    spec = importlib.util.spec_from_file_location("adapters_again", bottleneck.__file__)
    spec.loader.exec_module(importlib.util.module_from_spec(spec))
    assert list(PeftType) == methods
    assert methods.count("BOTTLENECK") == 1
    assert registered == PEFT_TYPE_TO_CONFIG_MAPPING
    assert registered[PeftType("BOTTLENECK")] is BottleneckConfig
