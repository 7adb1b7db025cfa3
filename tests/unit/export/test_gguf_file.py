"""GGUF files of tiny random models of each family, in llama.cpp: the same tokens, probabilities and answers as transformers."""

import contextlib
import json
import shutil
import unicodedata
from pathlib import Path

import numpy as np
import pytest
import tiny_bases
import torch
import zoo
from export_texts import AWKWARD
from gguf import GGUFReader
from transformers import AutoModelForCausalLM, AutoTokenizer

from posttrain.export import gguf_families, gguf_file
from posttrain.export.llama_cpp import LlamaCpp

TALK = [
    {"role": "user", "content": "서울 날씨? 오늘 <b>3</b> 도"},
    {"role": "assistant", "content": "It is 3 degrees; 맑음 🚀"},
    {"role": "user", "content": "And in Paris, 'tomorrow'?"},
]
LONG = " ".join(f"step {i}: add {i * 7} and {i * 13}," for i in range(12))
NATS = 0.05  # llama.cpp keeps keys and values in 16 bits


pytestmark = pytest.mark.usefixtures("with_llama_cpp")


def shake(folder: Path, scale: float = 1) -> None:
    """Give biases and norms, which begin as 0 and 1, values of their own, and matrices so large ones that each token counts."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        parameter.data = parameter.data + 0.3 * noise if parameter.dim() == 1 else scale * parameter.data
    model.save_pretrained(folder)


def same_tokens(program: LlamaCpp, tokenizer) -> None:
    texts = [*AWKWARD, *tokenizer.get_added_vocab(), "".join(tokenizer.get_added_vocab()).join("a 1")]
    if tokenizer.backend_tokenizer.normalizer:  # llama.cpp composes no characters, see below
        texts = [unicodedata.normalize("NFC", text) for text in texts]
    for text, ids in zip(texts, program.encode(texts), strict=True):
        assert ids == tokenizer(text, add_special_tokens=False)["input_ids"], text


def agree(folder: Path, quantisation: str = "F16", nats: float = NATS, talk: list[dict] = TALK) -> None:
    """Whether the model in a folder is the same in llama.cpp: texts, tokens, probabilities of any answer, greedy answers."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    file = gguf_file.write(folder, folder, quantisation, "tiny")
    with contextlib.closing(LlamaCpp(file)) as program:
        same_tokens(program, tokenizer)
        prompt = LONG
        if tokenizer.chat_template:
            prompt = tokenizer.apply_chat_template(talk, tokenize=False, add_generation_prompt=True)
            assert program.render([talk]) == [prompt]
        prompt = tokenizer(prompt, add_special_tokens=False)["input_ids"][:200]
        answer = np.random.default_rng(0).integers(0, len(tokenizer), 20).tolist()
        (scored,) = program.score([(prompt, answer)])
        with torch.no_grad():
            logits = model(torch.tensor([prompt + answer])).logits[0, len(prompt) - 1 : -1].double()
        expected = logits.log_softmax(-1)
        differences = np.array(scored.log_probs) - expected[range(20), answer].numpy()
        assert np.abs(differences).max() < nats
        top = expected.topk(2).values
        clear = (top[:, 0] - top[:, 1] > 2 * nats).numpy()
        assert clear.any() or nats > NATS
        assert (np.array(scored.greedy) == expected.argmax(-1).numpy())[clear].all()
        (written,) = program.generate([prompt], 8, [])
        with torch.no_grad():
            greedy = model(torch.tensor([prompt + written])).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
        taken = greedy[range(8), written]
        assert (greedy.max(-1).values - taken).max() < 2 * nats


FAST = ("llama3", "gemma3")
NAMES = [name for name, member in zoo.MEMBERS.items() if member.kind in gguf_families.FAMILIES]
EXPORTED = [name for name in NAMES if name not in ("llama3_4bit", "llama3_beyond")]


@pytest.mark.parametrize(
    "name", [name if name in FAST else pytest.param(name, marks=pytest.mark.slow) for name in EXPORTED]
)
def test_a_family_is_the_same_in_llama_cpp(name, tmp_path):
    folder = zoo.build(name, tmp_path / name)
    shake(folder)
    kinds = {"mistral": {"sliding_window": 256}}.get(name, {})  # llama.cpp knows no windows of a mistral
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | kinds))
    talk = TALK if zoo.MEMBERS[name].base == {} else TALK[:1]
    agree(folder, talk=talk)


LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
YARN = {"rope_type": "yarn", "factor": 4.0}
OLD = {"original_max_position_embeddings": 64, "rope_theta": 10000.0}
GEMMA = {"query_pre_attn_scalar": 16, "sliding_window": 16}
UNUSUAL = {
    "llama 3's frequencies": ("llama", {"rope_parameters": LLAMA3 | OLD}),
    "yarn": ("llama", {"rope_parameters": YARN | OLD}),
    "yarn with a factor of its own": ("qwen3", {"rope_parameters": YARN | OLD | {"attention_factor": 1.5}}),
    "linear": ("mistral", {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 5000.0}}),
    "heads wider than the model": ("llama", {"head_dim": 64}),
    "biases everywhere": ("llama", {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True}),
    "qwen3 with biases off and on": ("qwen3", {"head_dim": 32, "tie_word_embeddings": True}),
    "qwen2 with a head of its own": ("qwen2", {"tie_word_embeddings": False}),
    "smollm3 with a layer without positions": ("smollm3", {"num_hidden_layers": 5, "pad_token_id": 0}),
    "gemma2 with windows": ("gemma2", GEMMA | {"num_hidden_layers": 4}),
    "gemma3 with windows and two ropes": (
        "gemma3_text",
        GEMMA
        | {
            "rope_parameters": {
                "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e5},
                "sliding_attention": {"rope_type": "default", "rope_theta": 100.0},
            },
            "final_logit_softcapping": 5.0,
            "num_hidden_layers": 7,
        },
    ),
    "gemma": ("gemma", {}),
}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if "llama 3" in name else pytest.mark.slow) for name in UNUSUAL]
)
def test_what_a_real_model_has_and_most_have_not(name, tmp_path):
    kind, changes = UNUSUAL[name]
    tokens = tiny_bases.chatml(bos_token="<|endoftext|>")
    ids = {"bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 0}
    tiny_bases.save(tmp_path, tokens, kind, **(ids | {"num_key_value_heads": 1} | changes))
    shake(tmp_path, scale=10)
    agree(tmp_path)


@pytest.mark.slow
def test_q8_0_is_close_and_keeps_narrow_rows_in_16_bits(tmp_path):
    folder = zoo.build("llama3", tmp_path)
    shake(folder)
    agree(folder, "Q8_0", nats=0.5)
    kinds = {tensor.name: tensor.tensor_type.name for tensor in GGUFReader(folder / "tiny.gguf").tensors}
    assert kinds["blk.0.ffn_down.weight"] == "Q8_0" and kinds["blk.0.attn_norm.weight"] == "F32"
    tiny_bases.save(tmp_path / "narrow", tiny_bases.chatml(), intermediate_size=80, eos_token_id=2)
    agree(tmp_path / "narrow", "Q8_0", nats=0.5)
    kinds = {tensor.name: tensor.tensor_type.name for tensor in GGUFReader(tmp_path / "narrow/tiny.gguf").tensors}
    assert kinds["blk.0.ffn_down.weight"] == "F16" and kinds["blk.0.ffn_up.weight"] == "Q8_0"


@pytest.mark.llama_cpp
@pytest.mark.slow
@pytest.mark.skipif(shutil.which(gguf_file.QUANTISER) is None, reason="llama.cpp's own programs are not on PATH")
@pytest.mark.parametrize("quantisation", gguf_file.BY_LLAMA_CPP)
def test_fewer_bits_by_llama_cpps_quantiser(quantisation, tmp_path):
    sizes = {"hidden_size": 256, "intermediate_size": 512, "head_dim": 128}
    tiny_bases.save(tmp_path, tiny_bases.chatml(), eos_token_id=2, **sizes)
    agree(tmp_path, quantisation, nats=0.5)
    again = gguf_file.write(tmp_path, tmp_path, quantisation, "again")
    assert (
        again.stat().st_size
        == (tmp_path / "tiny.gguf").stat().st_size
        < gguf_file.write(tmp_path, tmp_path, "Q8_0").stat().st_size
    )
    assert sorted(file.name for file in tmp_path.glob("*gguf*")) == ["again.gguf", "model.gguf", "tiny.gguf"]
