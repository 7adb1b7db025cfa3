"""What is not written as GGUF: each refusal is one sentence with a code, and no file is left."""

import json
import re
import shutil
from collections import namedtuple
from pathlib import Path

import pytest
import tiny_bases
import torch
import zoo
from gguf import GGUFReader
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from posttrain.export import gguf_families, gguf_file, gguf_vocabulary
from posttrain.runtime.errors import UserError

OTHERS = [name for name, member in zoo.MEMBERS.items() if member.kind not in gguf_families.FAMILIES]


@pytest.fixture
def folder(tmp_path) -> Path:
    tiny_bases.save(tmp_path, tiny_bases.chatml(), eos_token_id=2)
    return tmp_path


def change(folder: Path, **values) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def refused(folder: Path, *words: str, code: str = "unsupported-export", quantisation: str = "F16") -> None:
    with pytest.raises(UserError) as error:
        gguf_file.write(folder, folder, quantisation, "tiny")
    assert error.value.code == code
    assert all(word in str(error.value) for word in words), error.value
    assert "\n" not in str(error.value)
    assert not list(folder.glob("*gguf*"))


@pytest.mark.parametrize("name", OTHERS)
def test_another_family_is_refused_by_its_name(name):
    kind = zoo.MEMBERS[name].kind
    assert gguf_families.refusal({"model_type": kind}).endswith(f"this model is of the family {kind}")


def test_an_unknown_family_is_refused_before_anything_is_written(folder):
    change(folder, model_type="olmo2", architectures=["Olmo2ForCausalLM"])
    refused(folder, "gguf-f16: ", "the family olmo2", "export it as bf16")


def test_a_reward_model_is_refused(folder):
    model = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=1)
    model.save_pretrained(folder)
    refused(folder, "a reward model")


def test_what_cannot_be_merged_is_refused(folder):
    (folder / "adapter_config.json").write_text("{}")
    refused(folder, "cannot be merged")


@pytest.mark.parametrize(
    ("kind", "changes", "words"),
    [
        ("llama", {"hidden_act": "gelu"}, "and this model has gelu"),
        ("llama", {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}}, "has dynamic"),
        ("smollm3", {"rope_parameters": {"rope_type": "llama3", "factor": 8.0, "rope_theta": 1e4}}, "has llama3"),
        ("llama", {"rope_parameters": {"rope_type": "yarn", "factor": 2.0, "truncate": False}}, "truncate"),
        ("llama", {"rope_parameters": {"rope_theta": 1e4, "partial_rotary_factor": 0.5}}, "a part of its heads"),
        ("llama", {"quantization_config": {"quant_method": "bitsandbytes"}}, "quantised already"),
        ("qwen2", {"head_dim": 64}, "heads of hidden_size / num_attention_heads"),
        ("smollm3", {"no_rope_layers": [1, 0]}, "positions out of each fourth layer"),
        ("gemma2", {"query_pre_attn_scalar": 8, "head_dim": 16}, "query_pre_attn_scalar is 8"),
        ("gemma2", {"final_logit_softcapping": None}, "a cap switched off"),
        ("gemma2", {"tie_word_embeddings": False}, "no LM head"),
        ("gemma3_text", {"layer_types": ["full_attention", "sliding_attention"]}, "every 6th"),
        ("gemma3_text", {"use_bidirectional_attention": True}, "looks ahead"),
    ],
)
def test_what_llama_cpp_would_compute_otherwise_is_refused(kind, changes, words):
    config = {"model_type": kind, "hidden_size": 32, "num_attention_heads": 2, "num_hidden_layers": 2}
    assert gguf_families.refusal(config) is None
    assert words in gguf_families.refusal(config | changes)


def test_a_weight_that_llama_cpp_has_no_place_for_is_refused(tmp_path):
    tiny_bases.save(tmp_path, tiny_bases.chatml(), "qwen3", attention_bias=True, eos_token_id=2)
    refused(tmp_path, "no place for its weight model.layers.0.self_attn.o_proj.bias", "qwen3")


@pytest.mark.parametrize("value", [1e5, float("nan")])
def test_a_weight_beyond_16_bits_is_refused(folder, value):
    model = AutoModelForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight[3, 4] = value
    model.save_pretrained(folder)
    refused(folder, "blk.1.ffn_up.weight", "65,504", code="not-finite")


def test_a_disk_without_room_is_told_before_a_byte_is_written(folder, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**6, 10**6 - 1000, 1000))
    refused(folder, "bytes of disk, and 1,000 are free", code="no-room")


def test_without_llama_cpps_quantiser_a_sentence_says_how_to_get_it(folder, monkeypatch):
    monkeypatch.setenv("PATH", str(folder))
    refused(
        folder, "gguf-q4_k_m: llama-quantize", "brew install llama.cpp", code="missing-package", quantisation="Q4_K_M"
    )


def test_a_quantiser_that_fails_leaves_nothing(folder, monkeypatch):
    program = folder / "llama-quantize"
    program.write_text('#!/bin/sh\necho half > "$2"\necho no memory\nexit 1\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    with pytest.raises(UserError, match="llama-quantize failed: no memory"):
        gguf_file.write(folder, folder, "Q4_K_M", "tiny")
    assert not list(folder.glob("*gguf*"))


# ---- what is written


def test_the_same_model_gives_the_same_bytes_in_one_file_or_several(folder, tmp_path_factory):
    first, again = (gguf_file.write(folder, folder, "F16", "tiny").read_bytes() for _ in range(2))
    assert first == again
    parts = tmp_path_factory.mktemp("parts")
    shutil.copytree(folder, parts, dirs_exist_ok=True)
    (parts / "model.safetensors").unlink()
    AutoModelForCausalLM.from_pretrained(folder).save_pretrained(parts, max_shard_size="40KB")
    assert len(list(parts.glob("*.safetensors"))) > 1
    assert gguf_file.write(parts, parts, "F16", "tiny").read_bytes() == first


def test_a_mistrals_context_ends_where_its_window_does(tmp_path):
    tiny_bases.save(tmp_path, tiny_bases.chatml(), "mistral", sliding_window=64, eos_token_id=2)
    fields = GGUFReader(gguf_file.write(tmp_path, tmp_path, "F16")).fields
    assert fields["llama.context_length"].contents() == 64


def test_special_tokens_and_template_are_in_the_file(tmp_path):
    folder = zoo.build("llama3", tmp_path)
    fields = {
        key: field.contents() for key, field in GGUFReader(gguf_file.write(folder, folder, "F16", "n")).fields.items()
    }
    tokens = fields["tokenizer.ggml.tokens"]
    assert tokens[fields["tokenizer.ggml.bos_token_id"]] == "<|begin_of_text|>"
    assert tokens[fields["tokenizer.ggml.eos_token_id"]] == "<|eot_id|>"
    assert tokens[fields["tokenizer.ggml.eot_token_id"]] == "<|end_of_text|>"
    assert fields["tokenizer.ggml.add_bos_token"] is True and fields["tokenizer.ggml.add_eos_token"] is False
    assert fields["tokenizer.chat_template"] == (folder / "chat_template.jinja").read_text()
    assert (tokens[-1], fields["tokenizer.ggml.token_type"][-1]) == ("[PAD57]", 5)
    assert fields["general.name"] == "n" and fields["general.architecture"] == "llama"


def test_the_page_has_each_family_and_each_way_to_split():
    page = (zoo.REPOSITORY / "docs/gguf.md").read_text()
    rows = dict(re.findall(r"^\| `(\w+)` \| (\w+) \|", page, re.MULTILINE))
    assert rows == {kind: family.architecture for kind, family in gguf_families.FAMILIES.items()}
    assert all(f"`{name}`" in page for name in gguf_vocabulary.SPLITS.values())
