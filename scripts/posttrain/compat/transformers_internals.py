"""Private parts of transformers, tokenizers and bitsandbytes.

Checked with transformers 5.23.0, tokenizers 0.23 and bitsandbytes 0.50.2.
"""

from typing import Any

CHECKED = {"transformers": "5.23.0", "bitsandbytes": "0.50.2"}


def attention_of(config: Any) -> str:
    """The name of the attention implementation that a model uses; transformers has no public attribute that tells."""
    return config._attn_implementation


def neutral_generation() -> dict[str, Any]:
    """The values of a generation configuration with which nothing of it acts.

    `GenerationConfig()` has None for most of them, and takes these only inside `generate`.
    """
    from transformers import GenerationConfig

    return GenerationConfig._get_default_generation_params()


def keep_4_bit_layout(model: Any) -> None:
    """Keep 4-bit weights as they were trained against, on a processor that multiplies bf16.

    There bitsandbytes packs them anew for inference: their constants are rounded, and matrices of fewer than 64 columns are
    refused. It can go once that is an option.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False


def raw_tokenizer(trained: Any) -> Any:
    """The `tokenizers.Tokenizer` inside one of its ready-made trainers, such as `ByteLevelBPETokenizer`.

    transformers takes the former only.
    """
    return trained._tokenizer
