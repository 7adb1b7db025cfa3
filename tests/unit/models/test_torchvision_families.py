"""Families whose processors need torchvision: tiny models from their configurations, through the tokens to a gradient.

Skipped without torchvision, which training on images does not need otherwise.
"""

from pathlib import Path
from typing import Any

import pytest
import tiny_vision
import torch

from posttrain.data.media_text import Reader
from posttrain.data.tokens import tokenise
from posttrain.models import loading, parts, processors
from posttrain.training import media_collator

pytest.importorskip("torchvision")
SIDE, PATCH = 48, 8
ENCODER = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{% if m['content'] is string %}{{ m['content'] }}{% else %}"
    "{% for p in m['content'] %}{% if p['type'] == 'image' %}IMAGE{% else %}{{ p['text'] }}{% endif %}{% endfor %}{% endif %}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def language(kind: str, **more: Any) -> dict[str, Any]:
    sizes = {"vocab_size": 400, "num_key_value_heads": 2, "max_position_embeddings": 2048, "pad_token_id": 0}
    return {"model_type": kind, "bos_token_id": None, "eos_token_id": 1, **ENCODER, **sizes, **more}


def prepared(tokenizer: Any, image: str, **names: str) -> Any:
    """The tokenizer with the tokens of a family, under the names by which its processor asks for them."""
    tokenizer.add_tokens(list(names.values()), special_tokens=True)
    for name, token in names.items():
        tokenizer.init_kwargs[name] = token
        setattr(tokenizer, name, token)
        setattr(tokenizer, f"{name}_id", tokenizer.convert_tokens_to_ids(token))
    tokenizer.chat_template = TEMPLATE.replace("IMAGE", image)
    return tokenizer


def qwen2_5_vl(tokenizer: Any) -> tuple[Any, Any]:
    from transformers import (
        Qwen2_5_VLConfig,
        Qwen2_5_VLForConditionalGeneration,
        Qwen2_5_VLProcessor,
        Qwen2VLVideoProcessor,
    )
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    names = {"image_token": "<|image_pad|>", "video_token": "<|video_pad|>"}
    names |= {"vision_start_token": "<|vision_start|>", "vision_end_token": "<|vision_end|>"}
    prepared(tokenizer, "<|vision_start|><|image_pad|><|vision_end|>", **names)
    rope = {"rope_type": "default", "mrope_section": [2, 3, 3], "rope_theta": 10000.0}
    vision = {"depth": 2, "hidden_size": 32, "intermediate_size": 64, "num_heads": 2, "out_hidden_size": 32}
    vision |= {"patch_size": PATCH, "spatial_merge_size": 2, "temporal_patch_size": 2}
    vision |= {"window_size": 32, "fullatt_block_indexes": [1]}
    ids = {f"{name}_id": tokenizer.convert_tokens_to_ids(token) for name, token in names.items()}
    config = Qwen2_5_VLConfig(
        text_config=language("qwen2_5_vl_text", rope_parameters=rope), vision_config=vision, **ids
    )
    edges = {"shortest_edge": 256, "longest_edge": SIDE * SIDE}
    images = Qwen2VLImageProcessorPil(patch_size=PATCH, merge_size=2, temporal_patch_size=2, size=edges)
    own = Qwen2_5_VLProcessor(images, tokenizer, Qwen2VLVideoProcessor(), chat_template=tokenizer.chat_template)
    return Qwen2_5_VLForConditionalGeneration(config), own


def smolvlm(tokenizer: Any) -> tuple[Any, Any]:
    pytest.importorskip("num2words")
    from transformers import (
        SmolVLMConfig,
        SmolVLMForConditionalGeneration,
        SmolVLMProcessor,
        SmolVLMVideoProcessor,
    )
    from transformers.models.smolvlm.image_processing_pil_smolvlm import SmolVLMImageProcessorPil

    names = {"image_token": "<image>", "fake_image_token": "<fake_token_around_image>"}
    prepared(tokenizer, "<image>", **names, global_image_token="<global-img>")
    config = SmolVLMConfig(
        text_config=language("llama"),
        vision_config={**ENCODER, "image_size": SIDE, "patch_size": PATCH},
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        scale_factor=2,
        pad_token_id=0,
        tie_word_embeddings=False,
    )
    size = {"longest_edge": SIDE}
    images = SmolVLMImageProcessorPil(size=size, max_image_size=size, do_image_splitting=False)
    videos = SmolVLMVideoProcessor(size=size, max_image_size=size)
    own = SmolVLMProcessor(images, tokenizer, videos, image_seq_len=9, chat_template=tokenizer.chat_template)
    return SmolVLMForConditionalGeneration(config), own


def gemma3(tokenizer: Any) -> tuple[Any, Any]:
    from transformers import Gemma3Config, Gemma3ForConditionalGeneration, Gemma3Processor
    from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil

    names = {"image_token": "<image_soft_token>", "boi_token": "<start_of_image>", "eoi_token": "<end_of_image>"}
    prepared(tokenizer, "<start_of_image>", **names)
    layers = ["sliding_attention", "full_attention"]
    config = Gemma3Config(
        text_config=language("gemma3_text", head_dim=16, layer_types=layers),
        vision_config={**ENCODER, "image_size": SIDE, "patch_size": PATCH},
        mm_tokens_per_image=9,
        **{f"{name}_id": tokenizer.convert_tokens_to_ids(token) for name, token in names.items()},
    )
    images = Gemma3ImageProcessorPil(size={"height": SIDE, "width": SIDE})
    own = Gemma3Processor(images, tokenizer, image_seq_length=9, chat_template=tokenizer.chat_template)
    return Gemma3ForConditionalGeneration(config), own


@pytest.fixture(scope="module")
def donor(tmp_path_factory) -> Path:
    """A folder with a tokenizer."""
    return tiny_vision.base(tmp_path_factory.mktemp("donor"), "idefics3")


@pytest.mark.parametrize("make", [qwen2_5_vl, smolvlm, gemma3])
def test_tokens_are_the_processors_own_and_two_steps_reach_all_parts(make, donor, tmp_path):
    from transformers import AutoTokenizer
    from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

    torch.manual_seed(1)
    folder, data = tmp_path / "model", tmp_path / "data"
    model, made = make(AutoTokenizer.from_pretrained(donor))
    made.save_pretrained(folder)
    model.save_pretrained(folder)
    rows, read = tiny_vision.rows(data, 4), processors.processor(folder)
    reader = Reader(read, data)
    encoded, _ = tokenise(read.tokenizer, rows, "image_messages", 400, reader=reader)
    for row, found in zip(rows, encoded, strict=True):
        content = [{"type": "image"}] * len(row["images"]) + [{"type": "text", "text": "How many red circles?"}]
        text = read.own.apply_chat_template([{"role": "user", "content": content}, row["messages"][1]])
        pictures = reader.opened(row).get("images")
        wanted = read.own(text=[text], images=[list(pictures)] if pictures else None, add_special_tokens=False)
        assert found["input_ids"] == list(wanted["input_ids"][0])
        assert bool(read.placeholders & set(found["input_ids"])) == bool(row["images"])
        assert read.placeholders.isdisjoint(found["labels"])
    pad = DataCollatorForLanguageModeling(pad_token_id=read.tokenizer.pad_token_id)
    batch = media_collator.Collator(reader, pad, ("images",))(
        [row | {"images_files": row["images"]} for row in encoded]
    )
    loaded = loading.load(folder, torch.float32, arithmetic="fp32").train()
    optimiser, losses = torch.optim.SGD(loaded.parameters(), 1e-2), []
    for _ in range(2):
        optimiser.zero_grad()
        loss = loaded(**batch).loss
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[1] < losses[0]
    # Gemma 3's projector begins with zeros, which lets no gradient through in the first step.
    reached = {parts.part_of(name) for name, p in loaded.named_parameters() if p.grad is not None and p.grad.any()}
    assert reached == {"vision", "projector", "language"}
