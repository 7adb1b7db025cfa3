"""A small model of Qwen2-Audio's kind (Chu et al. 2024) with random weights, and its processor; nothing is downloaded.

It listens to SECONDS at most, as spectrograms of MEL_BINS bands every 20 ms, two thirds of the frames that the real one has. Weights
start with a standard deviation of 0.1: at the usual 0.02 a model of this width spends its first epochs on learning to listen at all.
"""

from typing import Any

SECONDS = 4
RATE = 16_000  # samples a second
HOP = 320  # samples from a frame to the next
MEL_BINS = 40
SPREAD = 0.1
TOKENS = ("<|AUDIO|>", "<|audio_bos|>", "<|audio_eos|>")
PART = "<|audio_bos|><|AUDIO|><|audio_eos|>"


def qwen2_audio(spec: dict[str, Any], tokenizer: Any) -> tuple[Any, Any]:
    """The model and the processor for a tokenizer that has TOKENS.

    Args:
        spec: the base's; of it `hidden_size`, `layers` and `heads`, for the language model and the encoder alike, and `vocab_size`.
    """
    from transformers import Qwen2AudioConfig, Qwen2AudioForConditionalGeneration, Qwen2AudioProcessor
    from transformers import WhisperFeatureExtractor as Spectrograms

    width, layers, heads = spec["hidden_size"], spec["layers"], spec["heads"]
    frames = SECONDS * RATE // HOP
    encoder = {
        "model_type": "qwen2_audio_encoder",
        "num_mel_bins": MEL_BINS,
        "d_model": width,
        "encoder_layers": layers,
        "encoder_attention_heads": heads,
        "encoder_ffn_dim": 2 * width,
        "max_source_positions": frames // 2,
        "initializer_range": SPREAD,
    }
    language = {
        "model_type": "qwen2",
        "vocab_size": spec["vocab_size"],
        "hidden_size": width,
        "intermediate_size": 2 * width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": heads,
        "max_position_embeddings": 4096,
        "initializer_range": SPREAD,
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    placeholder = tokenizer.convert_tokens_to_ids(TOKENS[0])
    config = Qwen2AudioConfig(audio_config=encoder, text_config=language, audio_token_index=placeholder)
    spectrograms = Spectrograms(
        feature_size=MEL_BINS,
        sampling_rate=RATE,
        hop_length=HOP,
        n_fft=2 * HOP,
        chunk_length=SECONDS,
        return_attention_mask=True,
    )
    processor = Qwen2AudioProcessor(spectrograms, tokenizer, chat_template=tokenizer.chat_template)
    return Qwen2AudioForConditionalGeneration(config), processor
