"""Small vision-language models with random weights, and their processors; nothing is downloaded, and torchvision is not needed.

Both look at pictures of SIDE x SIDE pixels in patches of PATCH x PATCH. Weights start with a standard deviation of 0.1: at the
usual 0.02 a model of this width spends its first epochs on learning to look at all.
"""

from typing import Any

SIDE, PATCH = 48, 8
SHUFFLE = 2  # Idefics3 makes one token of SHUFFLE x SHUFFLE patches
SPREAD = 0.1
IDEFICS3_TOKENS = ("<image>", "<fake_token_around_image>", "<global-img>", "<end_of_utterance>")
LLAVA_TOKENS = ("<image>",)


def idefics3(spec: dict[str, Any], tokenizer: Any) -> tuple[Any, Any]:
    """A model of Idefics3's kind (Laurençon et al. 2024) and its processor, for a tokenizer that has IDEFICS3_TOKENS.

    Args:
        spec: the base's; of it `hidden_size`, `layers` and `heads`, for the language model and the encoder alike, and `vocab_size`.
    """
    from transformers import Idefics3Config, Idefics3ForConditionalGeneration, Idefics3Processor
    from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil

    placeholder = tokenizer.convert_tokens_to_ids("<image>")
    config = Idefics3Config(
        vision_config=_encoder(spec),
        text_config=_language(spec, tokenizer),
        image_token_id=placeholder,
        scale_factor=SHUFFLE,
        pad_token_id=tokenizer.pad_token_id,
        tie_word_embeddings=False,
    )
    edge = {"longest_edge": SIDE}
    images = Idefics3ImageProcessorPil(size=edge, max_image_size=edge, do_image_splitting=False)
    tokens = (SIDE // PATCH // SHUFFLE) ** 2
    processor = Idefics3Processor(images, tokenizer, image_seq_len=tokens, chat_template=tokenizer.chat_template)
    return Idefics3ForConditionalGeneration(config), processor


def llava(spec: dict[str, Any], tokenizer: Any) -> tuple[Any, Any]:
    """A model of LLaVA's kind (Liu et al. 2023), with CLIP's encoder, and its processor, for a tokenizer that has LLAVA_TOKENS.

    Args:
        spec: as for `idefics3`.
    """
    from transformers import LlavaConfig, LlavaForConditionalGeneration, LlavaProcessor
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    config = LlavaConfig(
        vision_config={"model_type": "clip_vision_model", "projection_dim": spec["hidden_size"], **_encoder(spec)},
        text_config=_language(spec, tokenizer),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        image_seq_length=(SIDE // PATCH) ** 2,
        vision_feature_layer=-1,
        vision_feature_select_strategy="default",
        tie_word_embeddings=False,
    )
    images = CLIPImageProcessorPil(size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE})
    processor = LlavaProcessor(
        images,
        tokenizer,
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,  # of the whole picture, which the strategy leaves out again
        chat_template=tokenizer.chat_template,
    )
    return LlavaForConditionalGeneration(config), processor


def _encoder(spec: dict[str, Any]) -> dict[str, Any]:
    return {
        "hidden_size": spec["hidden_size"],
        "intermediate_size": 2 * spec["hidden_size"],
        "num_hidden_layers": spec["layers"],
        "num_attention_heads": spec["heads"],
        "image_size": SIDE,
        "patch_size": PATCH,
        "initializer_range": SPREAD,
    }


def _language(spec: dict[str, Any], tokenizer: Any) -> dict[str, Any]:
    return {
        "model_type": "llama",
        "vocab_size": spec["vocab_size"],
        "hidden_size": spec["hidden_size"],
        "intermediate_size": 2 * spec["hidden_size"],
        "num_hidden_layers": spec["layers"],
        "num_attention_heads": spec["heads"],
        "num_key_value_heads": spec["heads"],
        "max_position_embeddings": 4096,
        "initializer_range": SPREAD,
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
