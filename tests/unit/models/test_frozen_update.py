"""A parent in bfloat16 keeps what its base was and what it has learnt, each to the last bit that matters."""

from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors import safe_open
from safetensors.torch import save_file
from transformers import GPT2Config, GPT2LMHeadModel

from posttrain.inference import reward_models
from posttrain.models import loading
from posttrain.models.frozen_update import FILE, FrozenUpdate, hold_apart, learnt, save_update
from posttrain.runtime import atomic

IDS = torch.tensor([[5, 9, 17, 33]])
BF16 = {"method": "lora", "precision": "bf16"}
MERGED = Path("results/sft/merged")


@pytest.fixture
def bf16_base(random_tiny_folder, tmp_path) -> Path:
    """The random tiny model in bfloat16."""
    folder = tmp_path / "bf16"
    loading.save(loading.load(random_tiny_folder).to(torch.bfloat16), loading.tokenizer(random_tiny_folder), folder)
    return folder


@torch.no_grad()
def logits(model) -> torch.Tensor:
    return model.eval()(input_ids=IDS).logits[0].float()


def exact(model) -> torch.Tensor:
    """Logits of a model that is held in bfloat16, computed in float32."""
    return logits(model.float())


def held(model) -> dict[str, FrozenUpdate]:
    return {name: module for name, module in model.named_modules() if isinstance(module, FrozenUpdate)}


@pytest.mark.parametrize("method", ["lora", "full"])
def test_a_small_update_survives_in_bf16(merge, bf16_base, method):
    merge("sft", method, parent=bf16_base, scale=1e-5)
    trained, base = (logits(loading.load(folder, torch.float32)) for folder in (MERGED, bf16_base))
    parent, rounded = loading.parent(MERGED, BF16), loading.load(MERGED, torch.bfloat16)
    effect = (trained - base).abs().mean()
    assert (exact(rounded) - trained).abs().mean() > 0.3 * effect
    assert {p.dtype for name, p in parent.named_parameters() if "proj" in name} == {torch.bfloat16}
    assert (exact(parent) - trained).abs().mean() < 0.02 * effect


def test_the_bases_weights_come_back_to_the_bit_and_the_update_has_the_adapters_rank(merge, bf16_base):
    merge("sft", parent=bf16_base, rank=4)
    parent, base = loading.parent(MERGED, BF16), loading.load(bf16_base)
    assert parent.dtype == torch.bfloat16
    assert len(held(parent)) == 14
    for name, layer in held(parent).items():
        assert torch.equal(layer.weight, base.get_submodule(name).weight)
        assert [min(matrix.shape) for matrix in layer.update] == [4, 4]
    assert torch.equal(parent.get_input_embeddings().weight, base.get_input_embeddings().weight)


def test_a_second_stages_update_is_that_of_both(merge, bf16_base):
    merge("sft", parent=bf16_base, rank=4)
    first = MERGED.rename("first")
    atomic.write_json(Path("results/bases/base/base.json"), {"files": {}, "base_dtype": "bfloat16"})
    merge("sft", parent=first, rank=2, target_modules=["q_proj", "down_proj"])
    parent, base = loading.parent(MERGED, BF16), loading.load(bf16_base)
    ranks = {name.split(".")[-1]: min(layer.update[0].shape) for name, layer in held(parent).items()}
    assert ranks == dict.fromkeys(("k_proj", "v_proj", "o_proj", "gate_proj", "up_proj"), 4) | {
        "q_proj": 6,
        "down_proj": 6,
    }
    for name, layer in held(parent).items():
        assert torch.equal(layer.weight, base.get_submodule(name).weight)
    assert (exact(parent) - logits(loading.load(MERGED, torch.float32))).abs().mean() < 1e-3  # of an effect of 0.1


OTHERS = {
    "DoRA": ("lora", {"rank": 4, "peft_args": {"use_dora": True}}),
    "PiSSA": ("lora", {"rank": 4, "peft_args": {"init_lora_weights": "pissa"}}),
    "ia3": ("ia3", {}),
}


@pytest.mark.parametrize("case", OTHERS)
def test_a_merge_that_is_no_plain_lora_is_held_with_what_rounding_leaves(merge, bf16_base, case):
    method, keys = OTHERS[case]
    merge("sft", method, parent=bf16_base, **keys)
    with safe_open(MERGED / FILE, "pt") as file:
        assert not list(file.keys())
    parent = loading.parent(MERGED, BF16)
    assert {len(layer.update) for layer in held(parent).values()} == {1}
    torch.testing.assert_close(exact(parent), logits(loading.load(MERGED, torch.float32)), atol=1e-4, rtol=1e-3)


def test_a_reward_model_starts_on_the_same_parent(merge, bf16_base):
    merge("sft", parent=bf16_base, rank=4)
    scorer, parent = loading.parent(MERGED, BF16, reward=True), loading.parent(MERGED, BF16)
    assert held(scorer).keys() == held(parent).keys()
    assert {p.dtype for p in scorer.parameters()} == {torch.bfloat16}
    with torch.no_grad():
        hidden = [model.eval().float().model(input_ids=IDS).last_hidden_state for model in (scorer, parent)]
    torch.testing.assert_close(*hidden)


WHOLE = [{"precision": "fp32"}, {"method": "full"}, {"peft_args": {"use_dora": True}}]


@pytest.mark.parametrize("changes", WHOLE)
def test_a_parent_is_whole_where_the_arithmetic_or_the_method_needs_it(merge, bf16_base, changes):
    merge("sft", parent=bf16_base)
    parent = loading.parent(MERGED, BF16 | changes)
    assert not held(parent) and parent.dtype == torch.float32


def test_precision_fp32_holds_a_bf16_base_in_float32_and_computes_so(bf16_base):
    parent = loading.parent(bf16_base, BF16 | {"precision": "fp32"})
    assert (parent.dtype, parent.arithmetic) == (torch.float32, "fp32")
    parent = loading.parent(bf16_base, BF16)
    assert (parent.dtype, parent.arithmetic) == (torch.bfloat16, "bf16")


def test_a_base_in_fp16_is_held_in_float32(random_tiny_folder, tmp_path):
    loading.load(random_tiny_folder).to(torch.float16).save_pretrained(tmp_path)
    assert loading.dtype_of(tmp_path) == "float16"
    assert loading.parent(tmp_path, BF16).dtype == loading.load(tmp_path).dtype == torch.float32


@pytest.mark.parametrize("autocast", [False, True])
def test_an_adapter_learns_on_a_parent_that_is_held_apart(merge, bf16_base, autocast):
    merge("sft", parent=bf16_base, rank=4)
    parent = loading.parent(MERGED, BF16)
    model = get_peft_model(parent, LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM"))
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        loss = model(input_ids=IDS, labels=IDS).loss
    loss.backward()
    moving = [p for p in model.parameters() if p.requires_grad]
    assert len(moving) == 28 and all(p.grad is not None for p in moving)
    assert any(p.grad.abs().max() > 0 for p in moving)


def test_a_model_without_linear_layers_stays_in_float32(tmp_path):
    torch.manual_seed(0)
    base = GPT2LMHeadModel(GPT2Config(n_embd=16, n_layer=1, n_head=2, vocab_size=64, n_positions=32)).to(torch.bfloat16)
    base.save_pretrained(tmp_path / "base")
    start = loading.load(tmp_path / "base", torch.float32)
    config = LoraConfig(r=2, target_modules=["c_attn"], fan_in_fan_out=True, init_lora_weights=False)
    model = get_peft_model(start, config)
    factors = learnt(model)
    trained = model.merge_and_unload()
    trained.save_pretrained(tmp_path / "merged")
    save_update(tmp_path / "merged", trained, tmp_path / "base", factors)
    parent = loading.parent(tmp_path / "merged", BF16)
    assert parent.dtype == torch.float32
    torch.testing.assert_close(logits(parent), logits(trained))


def test_a_parent_that_learnt_nothing_is_its_base_in_bf16(bf16_base, tmp_path):
    loading.load(bf16_base, torch.float32).save_pretrained(tmp_path / "merged")
    save_update(tmp_path / "merged", loading.load(bf16_base, torch.float32), bf16_base, {})
    model = loading.load(tmp_path / "merged", torch.float32)
    hold_apart(model, tmp_path / "merged")
    assert not held(model)
    assert torch.equal(logits(model), logits(loading.load(bf16_base)))


def test_beside_an_embedding_in_float32_layers_that_learnt_nothing_take_their_input_as_it_comes(bf16_base, tmp_path):
    """Without autocast as well, where GRPO samples."""
    torch.manual_seed(0)
    model = loading.load(bf16_base, torch.float32)
    model.model.layers[0].self_attn.q_proj.weight.data += 1e-3 * torch.randn(
        model.model.layers[0].self_attn.q_proj.weight.shape
    )
    model.model.embed_tokens.weight.data += 1e-5
    model.save_pretrained(tmp_path / "merged")
    save_update(tmp_path / "merged", model, bf16_base, {})
    parent = loading.parent(tmp_path / "merged", BF16)
    assert {p.dtype for p in parent.parameters()} == {torch.float32, torch.bfloat16}
    torch.testing.assert_close(logits(parent), logits(model), atol=0.05, rtol=0.05)
    torch.testing.assert_close(exact(parent), logits(model), atol=1e-4, rtol=1e-3)


def test_an_adapter_on_the_lm_head_is_none_of_a_reward_models(merge, bf16_base):
    merge("sft", parent=bf16_base, rank=4, target_modules=["q_proj"])
    with safe_open(MERGED / FILE, "pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    tensors |= {"lm_head.A": torch.zeros(1, 64), "lm_head.B": torch.zeros(64, 1)}
    save_file(tensors, MERGED / FILE)
    scorer = loading.load(MERGED, torch.float32, reward=True)
    save_update(Path(), scorer, MERGED, {})
    with safe_open(Path(FILE), "pt") as file:
        assert set(file.keys()) == tensors.keys() - {"lm_head.A", "lm_head.B"}


@pytest.mark.parametrize("arithmetic", ["fp32", "bf16"])
def test_a_judge_is_held_in_the_arithmetic_in_which_it_scores(merge, bf16_base, arithmetic):
    merge("reward", parent=bf16_base, rank=4)
    judge = reward_models.load_reward_model(Path("results/reward"), loading.tokenizer(bf16_base), arithmetic=arithmetic)
    assert judge.dtype == {"fp32": torch.float32, "bf16": torch.bfloat16}[arithmetic]
    assert bool(held(judge)) == (arithmetic == "bf16")
