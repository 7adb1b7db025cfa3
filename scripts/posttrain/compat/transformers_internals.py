"""Private parts of transformers, tokenizers and bitsandbytes.

Checked with transformers 5.23.0, tokenizers 0.23 and bitsandbytes 0.50.2.
"""

from typing import Any

CHECKED = {"transformers": "5.23.0", "bitsandbytes": "0.50.2"}


def attention_of(config: Any) -> str:
    """The name of the attention implementation that a model uses; transformers has no public attribute that tells."""
    return config._attn_implementation


def compiled_template(template: str) -> Any:
    """The Jinja template that `apply_chat_template` uses for a text, from its cache, with the dialect that it knows.

    `apply_chat_template` has no argument for a template's globals, such as today's date. It can go once there is one.
    """
    from transformers.utils.chat_template_utils import _compile_jinja_template

    return _compile_jinja_template(template)


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


def as_in_files(model: Any) -> dict[str, Any]:
    """The tensors that `save_pretrained` would write of a model, by their names in its files; they may be without values.

    transformers has no public function for it: it keeps, for instance, the experts of a mixture in one tensor that its files have
    in parts.
    """
    from transformers.core_model_loading import revert_weight_conversion
    from transformers.modeling_utils import remove_tied_weights_from_state_dict

    state = model.state_dict()
    for name in model._keys_to_ignore_on_save or ():
        state.pop(name, None)
    return revert_weight_conversion(model, remove_tied_weights_from_state_dict(state, model))
