"""Bases that were saved in 4 or 8 bits, and bases with new tokens."""

import json
from pathlib import Path

import pytest
import tiny_bases
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

from posttrain.compat.transformers_internals import keep_4_bit_layout
from posttrain.models import loading, weights
from posttrain.models.weights import method_of
from posttrain.runtime import atomic, hashes

pytestmark = pytest.mark.usefixtures("in_folder")
IDS = torch.tensor([[5, 9, 70, 101, 33]])


def logits(folder: Path) -> torch.Tensor:
    with torch.no_grad():
        return loading.load(folder, dtype=torch.float32).eval()(input_ids=IDS).logits


def quantise(**options) -> torch.Tensor:
    """Save the model in `base` again in few bits; returns its logits as bitsandbytes computes them."""
    plain = Path("plain")
    tiny_bases.save(plain, tiny_bases.chatml(), hidden_size=64, num_attention_heads=4)
    config = BitsAndBytesConfig(bnb_4bit_compute_dtype=torch.float32, **options)
    model = AutoModelForCausalLM.from_pretrained(plain, quantization_config=config, device_map={"": "cpu"})
    model.save_pretrained("base")
    AutoTokenizer.from_pretrained(plain).save_pretrained("base")
    with torch.no_grad():
        keep_4_bit_layout(model)
        return model.eval()(input_ids=IDS).logits.float()


@pytest.mark.parametrize("options", [{"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}, {"load_in_8bit": True}])
def test_a_base_in_few_bits_is_computed_back_and_computes_the_same(options, monkeypatch):
    said = []
    monkeypatch.setattr(weights, "say", said.append)
    quantised = quantise(**options)
    before = hashes.folder_hashes(Path("base"))
    folder = tiny_bases.build()
    assert method_of(folder) is None and method_of(Path("base")) == "bitsandbytes"
    assert torch.allclose(logits(folder), quantised, atol=5e-3)  # in 8 bits the activations are rounded too
    assert (logits(folder) - logits(Path("plain"))).abs().max() > 1e-3  # what was lost stays lost
    assert hashes.folder_hashes(Path("base")) == before
    loading.load(folder).save_pretrained("again")  # what ended in a traceback after training
    assert said == ["b: the weights were quantised by bitsandbytes; they are computed back to float32"]


def test_a_base_in_mxfp4_is_computed_back():
    keys = {"num_local_experts": 2, "num_experts_per_tok": 2, "layer_types": ["full_attention"] * 2, "hidden_size": 64}
    tiny_bases.save(Path("base"), tiny_bases.chatml(), "gpt_oss", **keys, head_dim=16)
    from safetensors.torch import load_file, save_file

    file = Path("base/model.safetensors")
    tensors, random = load_file(file), torch.Generator().manual_seed(0)
    for name in [name for name in tensors if name.endswith("_proj") and "experts" in name]:
        experts, rows, columns = tensors.pop(name).shape
        shape = (experts, columns, rows // 32, 16)  # values lie along the input, two in a byte
        tensors[f"{name}_blocks"] = torch.randint(0, 256, shape, dtype=torch.uint8, generator=random)
        tensors[f"{name}_scales"] = torch.full(shape[:3], 120, dtype=torch.uint8)  # 2 ** (120 - 127)
    blocks = tensors["model.layers.0.mlp.experts.down_proj_blocks"]
    file.unlink()
    save_file(tensors, file, metadata={"format": "pt"})
    config = atomic.read_json(Path("base/config.json"))
    atomic.write_json(Path("base/config.json"), config | {"quantization_config": {"quant_method": "mxfp4"}})
    folder = tiny_bases.build()
    assert method_of(folder) is None
    weight = load_file(folder / "model.safetensors")["model.layers.0.mlp.experts.down_proj"].float()
    values = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6])  # of 4 bits, E2M1
    low, high = blocks & 15, blocks >> 4
    expected = torch.stack([values[low.long()], values[high.long()]], -1).flatten(2).transpose(1, 2) * 2.0**-7
    assert torch.equal(weight, expected)
    assert logits(folder).isfinite().all()


@pytest.mark.parametrize("method", ["gptq", "awq", "compressed-tensors", "fp8"])
def test_another_quantisation_is_refused_by_name(method):
    tiny_bases.save(Path("base"), tiny_bases.chatml())
    config = atomic.read_json(Path("base/config.json"))
    atomic.write_json(Path("base/config.json"), config | {"quantization_config": {"quant_method": method}})
    assert f"base b: its weights are quantised by {method}" in tiny_bases.refusal()


# ---- new tokens


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize(("kind", "size"), [("llama", 279), ("qwen2", 320), ("gpt2", 279)])
def test_new_tokens_start_as_the_mean_of_their_pieces(kind, size, tied):
    tokens = tiny_bases.chatml()
    names = {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 64} if kind == "gpt2" else {}
    before = tiny_bases.save(Path("base"), tokens, kind, vocab_size=size, tie_word_embeddings=tied, **names)
    before_hashes = hashes.folder_hashes(Path("base"))
    folder = tiny_bases.build(new_tokens=["<tool>", "<|end of the mat|>"])
    assert hashes.folder_hashes(Path("base")) == before_hashes  # the user's own files, which were linked
    after, known = loading.load(folder), loading.tokenizer(folder)
    ids = known.convert_tokens_to_ids(["<tool>", "<|end of the mat|>"])
    assert ids == [279, 280] == after.config.new_tokens and after.config.vocab_size == max(size, 281)
    assert known("a <tool>b")["input_ids"].count(279) == 1
    for table, old in ((after.get_input_embeddings(), before.get_input_embeddings()),) + (
        () if tied else ((after.get_output_embeddings(), before.get_output_embeddings()),)
    ):
        for text, i in zip(("<tool>", "<|end of the mat|>"), ids, strict=True):
            expected = old.weight[tokens(text, add_special_tokens=False)["input_ids"]].mean(0)
            assert torch.allclose(table.weight[i], expected, atol=1e-7)
        assert torch.equal(table.weight[:279], old.weight[:279])
    assert (after.get_output_embeddings().weight is after.get_input_embeddings().weight) == tied


def test_tokens_that_the_tokenizer_has_and_the_embedding_has_not_get_their_rows():
    tokens = tiny_bases.tokenizer(["<|endoftext|>"], eos_token="<|endoftext|>")
    rows = len(tokens)
    tokens.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    tokens.add_tokens(["<extra>"])
    before = tiny_bases.save(Path("base"), tokens, vocab_size=rows)
    assert f"eos_token: '<|im_end|>' has the id {rows + 1}, and the model has embeddings for {rows} tokens only" in (
        tiny_bases.refusal(eos_token="<|im_end|>")
    )
    folder = tiny_bases.build(new_tokens=["<|im_start|>", "<|im_end|>"], eos_token="<|im_end|>")
    model = loading.load(folder)
    assert model.config.new_tokens == [rows, rows + 1] and len(model.get_input_embeddings().weight) == rows + 3
    pieces = tokens("<|im_end|", add_special_tokens=False)["input_ids"] + tokens(">")["input_ids"]
    old, new = before.get_input_embeddings().weight, model.get_input_embeddings().weight
    assert torch.allclose(new[rows + 1], old[pieces].mean(0), atol=1e-7)


def test_new_tokens_that_exist_are_refused():
    tiny_bases.save(Path("base"), tiny_bases.chatml())
    assert "new_tokens: the tokenizer has '<|im_end|>' already" in tiny_bases.refusal(new_tokens=["<a>", "<|im_end|>"])


def test_bf16_weights_stay_bf16():
    tiny_bases.save(Path("base"), tiny_bases.chatml(), dtype="bfloat16", vocab_size=279)
    folder = tiny_bases.build(new_tokens=["<tool>"])
    assert json.loads((folder / "config.json").read_text())["dtype"] == "bfloat16"
    assert loading.load(folder).dtype == torch.bfloat16
