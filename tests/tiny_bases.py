"""Folders of tiny random models as people bring them, for the tests of bases."""

from pathlib import Path
from typing import Any

from posttrain.models.random_models import CHATML

TEXT = ["the cat sat on the mat and asked what time it is, Question, Answer"] * 50
GEMMA = (
    "{{ bos_token }}{% for message in messages %}{{ '<start_of_turn>' + ('model' if message['role'] == 'assistant' else "
    "message['role']) + '\n' + message['content'] + '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
SMALL = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "vocab_size": 320,
}


def tokenizer(special: list[str], template: str | dict | None = CHATML, **named: str) -> Any:
    """A byte-level tokenizer with these special tokens, the first of which have the first ids.

    Args:
        named: `eos_token`, `pad_token`, `bos_token`.
    """
    from tokenizers import ByteLevelBPETokenizer
    from transformers import PreTrainedTokenizerFast

    bpe = ByteLevelBPETokenizer()
    bpe.train_from_iterator(TEXT, vocab_size=256 + len(special) + 20, special_tokens=special, show_progress=False)
    return PreTrainedTokenizerFast(tokenizer_object=bpe._tokenizer, chat_template=template, **named)


def chatml(**named: str) -> Any:
    """A tokenizer as Qwen's: a turn ends with <|im_end|>."""
    named = {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"} | named
    return tokenizer(["<|endoftext|>", "<|im_start|>", "<|im_end|>"], **named)


def gemma() -> Any:
    """A tokenizer as Gemma's: a turn ends with another token than a text."""
    special = ["<pad>", "<eos>", "<bos>", "<start_of_turn>", "<end_of_turn>"]
    return tokenizer(special, GEMMA, eos_token="<eos>", pad_token="<pad>", bos_token="<bos>")


def save(folder: Path, tokens: Any, kind: str = "llama", dtype: str = "float32", **changes: Any) -> Any:
    """Write a model of this type and its tokenizer; returns the model."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, set_seed

    set_seed(0)
    heads = {"num_key_value_heads": 1, "head_dim": 16}
    config = AutoConfig.for_model(kind, **(SMALL | heads | {"max_position_embeddings": 256} | changes))
    model = AutoModelForCausalLM.from_config(config, dtype=getattr(torch, dtype))
    model.save_pretrained(folder)
    tokens.save_pretrained(folder)
    return model


def build(**spec: Any) -> Path:
    """Build the base of the folder `base` in the working folder by `make_base`; returns what it made."""
    from argparse import Namespace

    import make_base
    from posttrain.runtime import atomic

    atomic.write_json(Path("spec.json"), {"source": "path", "path": "base"} | spec)
    make_base.main(Namespace(spec=Path("spec.json"), text=None, whole=None, output=Path("results/bases/b")))
    return Path("results/bases/b/model")


def refusal(**spec: Any) -> str:
    """The sentence with which `make_base` refuses the base, of which nothing is left."""
    import pytest

    from posttrain.runtime.errors import UserError

    with pytest.raises(UserError) as error:
        build(**spec)
    assert not Path("results/bases/b/model").exists()
    assert "\n" not in str(error.value)
    return str(error.value)
