"""What bench/gpu.py measures with: models of real shapes with random weights, a byte-level tokenizer, rows of random text.

Nothing is downloaded. A model's folder holds its configuration and its tokenizer and no weights: those are drawn on the GPU
itself, from a fixed seed, whenever transformers is asked for the folder (`random_weights`), so that two processes get the same.
"""

import json
import random
from pathlib import Path
from typing import Any, NamedTuple

LLAMA = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "rms_norm_eps": 1e-5, "vocab_size": 128256}
LLAMA |= {"rope_parameters": {"rope_type": "default", "rope_theta": 500000.0}, "max_position_embeddings": 131072}
QWEN = {"model_type": "qwen3", "architectures": ["Qwen3ForCausalLM"], "rms_norm_eps": 1e-6, "vocab_size": 151936}
QWEN |= {"rope_parameters": {"rope_type": "default", "rope_theta": 1000000.0}, "max_position_embeddings": 40960}

# Hidden size, width of the feed-forward block, layers, heads, heads of keys and values, width of a head, tied embeddings.
SIZES = {
    "0.6b": (QWEN, 1024, 3072, 28, 16, 8, 128, True),  # Qwen3-0.6B
    "1b": (LLAMA, 2048, 8192, 16, 32, 8, 64, True),  # Llama-3.2-1B
    "8b": (LLAMA, 4096, 14336, 32, 32, 8, 128, False),  # Llama-3.1-8B
}
DRY = (64, 128, 2, 4, 2, 16)
KILL = "--killed"  # asks bench/gpu.py for the training that kills itself
EOS, PAD = 256, 257  # after the 256 bytes


class Work(NamedTuple):
    """How much a row of the table does."""

    rows: int
    max_length: int
    batch: int
    steps: int
    """optimiser steps"""
    skipped: int
    """the first of them, which are not counted"""
    new_tokens: int
    prompts: int


FULL_WORK = Work(rows=160, max_length=1024, batch=8, steps=16, skipped=4, new_tokens=64, prompts=32)
DRY_WORK = Work(rows=16, max_length=48, batch=4, steps=4, skipped=1, new_tokens=8, prompts=4)


def configuration(shape: str, dry: bool) -> dict[str, Any]:
    """A model's config.json; of a dry run, that of a tiny model of the same architecture."""
    family, *sizes, tied = SIZES[shape]
    names = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads")
    table = family | dict(zip((*names, "head_dim"), DRY if dry else sizes, strict=True))
    table |= {"tie_word_embeddings": tied, "dtype": "bfloat16", "eos_token_id": EOS, "pad_token_id": PAD}
    return table | {"bos_token_id": None} | ({"vocab_size": 512} if dry else {})


def write_model(folder: Path, shape: str, dry: bool) -> None:
    """Write a model's configuration and its tokenizer."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(configuration(shape, dry)))
    generation = {"eos_token_id": [EOS], "pad_token_id": PAD}
    (folder / "generation_config.json").write_text(json.dumps(generation))
    byte_tokenizer().save_pretrained(folder)


def byte_tokenizer() -> Any:
    """A tokenizer whose tokens are the 256 bytes, an end and a padding token."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={letter: i for i, letter in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>", pad_token="<pad>")


def random_weights(family: Any, device: str) -> Any:
    """A stand-in for `family` (one of transformers' Auto classes) that loads folders without weights, too.

    The weights of such a folder are drawn on the device from a fixed seed, and quantised there where that is asked for.
    """
    import torch
    from transformers import AutoConfig

    class Family:
        """Loads a folder with weights as `family` does."""

        @staticmethod
        def from_pretrained(folder: Any, **options: Any) -> Any:
            if next(Path(folder).glob("*.safetensors"), None):
                return family.from_pretrained(folder, **options)
            labels = {"num_labels": options.pop("num_labels")} if "num_labels" in options else {}
            config = AutoConfig.from_pretrained(folder, **labels)
            kept = {name: options[name] for name in ("attn_implementation",) if options.get(name)}
            dtype = config.dtype if options.get("dtype", "auto") == "auto" else options["dtype"]
            state = torch.random.get_rng_state()
            torch.manual_seed(1)
            with torch.device(device):
                model = family.from_config(config, dtype=dtype, **kept)
            torch.random.set_rng_state(state)
            if options.get("quantization_config") is None:
                return model
            named = {"config": config, "state_dict": model.state_dict(), "dtype": dtype}
            model = type(model).from_pretrained(None, **(options | named))
            del named
            if device == "cuda":  # what is in 4 bits now is no part of the peak
                torch.cuda.reset_peak_memory_stats()
            return model

    return Family


# ---- rows


def text(chance: random.Random, length: int) -> str:
    """Random lower-case words, `length` bytes."""
    return "".join(chance.choices("abcdefghijklmnopqrstuvwxyz ", k=length))


def sft_rows(work: Work, vocabulary: int) -> dict[str, list]:
    """Token ids drawn from the whole vocabulary; the second half of each row is trained."""
    chance = random.Random(1)
    lengths = [chance.randint(work.max_length * 3 // 10, work.max_length) for _ in range(work.rows)]
    ids = [[chance.randrange(vocabulary) for _ in range(length)] for length in lengths]
    labels = [[-100] * (len(row) // 2) + row[len(row) // 2 :] for row in ids]
    return {"id": [f"row{i}" for i in range(work.rows)], "input_ids": ids, "labels": labels, "length": lengths}


def pairs(work: Work) -> list[dict[str, str]]:
    """Prompts with two answers, as text."""
    chance = random.Random(2)
    least, most = work.max_length // 5, work.max_length * 2 // 5
    rows = []
    for _ in range(work.rows):
        row = {name: text(chance, chance.randint(least, most)) for name in ("prompt", "chosen", "rejected")}
        rows.append(row)
    return rows


def pair_tokens(tokenizer: Any, rows: list[dict[str, str]]) -> dict[str, list]:
    """The same as token ids, each answer with its end."""
    ids = {name: [tokenizer(row[name])["input_ids"] for row in rows] for name in ("prompt", "chosen", "rejected")}
    answers = {f"{name}_ids": [[*row, EOS] for row in ids[name]] for name in ("chosen", "rejected")}
    columns = {"id": [f"row{i}" for i in range(len(rows))], "prompt_ids": ids["prompt"]} | answers
    lengths = [sum(map(len, row)) for row in zip(*answers.values(), strict=True)]
    return columns | {"length": [n + 2 * len(p) for n, p in zip(lengths, ids["prompt"], strict=True)]}


# ---- arithmetic


def flop_per_token(config: dict[str, Any], full: bool, lengths: list[int], trained: list[int], rank: int = 16) -> float:
    """Floating-point operations of a training step for each token of rows of these lengths, on average.

    A weight takes 2 forwards and 2 backwards, and 2 more where it moves; a LoRA weight 6. The LM head counts for the
    tokens that are trained, attention half of its products, since the mask is causal. What is computed a second time, as
    with gradient checkpointing, and the reference's log-probabilities do not count.
    """
    h, m = config["hidden_size"], config["intermediate_size"]
    q = config["num_attention_heads"] * config["head_dim"]
    kv = config["num_key_value_heads"] * config["head_dim"]
    matrices = [(h, q), (h, kv), (h, kv), (q, h), (h, m), (h, m), (m, h)]
    layers, tokens = config["num_hidden_layers"], sum(lengths)
    weights = layers * sum(a * b for a, b in matrices)
    adapter = 0 if full else layers * sum(rank * (a + b) for a, b in matrices)
    moves = 6 if full else 4
    head = moves * h * config["vocab_size"] * sum(trained) / tokens
    attention = layers * 6 * q * sum(length**2 for length in lengths) / tokens
    return moves * weights + 6 * adapter + head + attention
