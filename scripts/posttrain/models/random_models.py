"""Models with random weights, for fast tests and examples that need no network: one row of FAMILIES each."""

from collections.abc import Callable
from typing import Any, NamedTuple

from posttrain.models import random_audio, random_vision

SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


class Family(NamedTuple):
    """An architecture."""

    build: Callable[[dict[str, Any], Any], tuple[Any, Any]]
    """the base's spec and a tokenizer -> a model and its processor, which is None for text"""
    tokens: tuple[str, ...] = ()
    """special tokens of its processor"""
    parts: dict[str, str] = {}
    """a part of a message, such as `image`, and what the chat template writes for it"""

    @property
    def template(self) -> str:
        """ChatML, with the parts of messages where there are any."""
        if not self.parts:
            return CHATML
        written = "".join(f"{{% elif part['type'] == '{kind}' %}}{text}" for kind, text in self.parts.items())
        content = (
            "{% if message['content'] is string %}{{ message['content'] }}{% else %}{% for part in message['content'] %}"
            "{% if part['type'] == 'text' %}{{ part['text'] }}" + written + "{% endif %}{% endfor %}{% endif %}"
        )
        return (
            "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}"
            + content
            + "{{ '<|im_end|>\n' }}"
            "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
        )


def _llama(spec: dict[str, Any], tokenizer: Any) -> tuple[Any, Any]:
    from transformers import AutoModelForCausalLM, LlamaConfig

    config = LlamaConfig(
        hidden_size=spec["hidden_size"],
        intermediate_size=2 * spec["hidden_size"],
        num_hidden_layers=spec["layers"],
        num_attention_heads=spec["heads"],
        num_key_value_heads=spec["heads"],
        vocab_size=spec["vocab_size"],
        max_position_embeddings=4096,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return AutoModelForCausalLM.from_config(config), None


FAMILIES = {
    "llama": Family(_llama),
    "idefics3": Family(random_vision.idefics3, random_vision.IDEFICS3_TOKENS, {"image": "<image>"}),
    "llava": Family(random_vision.llava, random_vision.LLAVA_TOKENS, {"image": "<image>"}),
    "qwen2_audio": Family(random_audio.qwen2_audio, random_audio.TOKENS, {"audio": random_audio.PART}),
}


def make(spec: dict[str, Any], bpe: Any) -> tuple[Any, Any]:
    """A model of a spec's family with random weights, and what prepares its inputs: a processor, or for text a tokenizer.

    Args:
        spec: the base's.
        bpe: a trained tokenizer of the `tokenizers` library with SPECIAL and the family's tokens.
    """
    from transformers import PreTrainedTokenizerFast, set_seed

    family = FAMILIES[spec.get("family", "llama")]
    eos, pad = SPECIAL[2], SPECIAL[0]
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe, eos_token=eos, pad_token=pad, chat_template=family.template
    )
    tokenizer.add_special_tokens({"additional_special_tokens": [SPECIAL[1], *family.tokens]})
    set_seed(spec["seed"])
    model, processor = family.build(spec, tokenizer)
    return model, processor or tokenizer
