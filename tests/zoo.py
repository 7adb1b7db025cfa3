"""Tiny random models of the families that people fine-tune, each with its own special tokens, stops and chat template.

`build(name, folder)` writes one as its makers ship it: config.json, safetensors in one or several files, tokenizer, chat
template, generation_config.json. Nothing is downloaded. All share one byte-level BPE, trained on the repository's examples.
"""

import functools
import itertools
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[1]
WORDS = 384  # of the tokenizer, before a family's special tokens
EMBEDDINGS = 448  # room for them, and rows that belong to no token, as real models have

SIZES = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "head_dim": 8, "max_position_embeddings": 512,
}  # fmt: skip
GPT2 = {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 512}
# Of Mistral and its mixtures, OLMo 2 and Granite 3: TRL ships none; these are their essentials.
MISTRAL = (
    "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'user' %}"
    "{{ ' [INST] ' + message['content'] + ' [/INST]' }}{% elif message['role'] == 'assistant' %}"
    "{{ ' ' + message['content'] + eos_token }}{% else %}{{ raise_exception('Only user and assistant roles are supported!') }}"
    "{% endif %}{% endfor %}"
)
OLMO2 = (
    "{{ bos_token }}{% for message in messages %}{{ '<|' + message['role'] + '|>\n' + message['content'] }}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}"
    "{% if not loop.last or message['role'] != 'assistant' %}{{ '\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
)
GRANITE = (
    "{% if messages[0]['role'] != 'system' %}{{ '<|start_of_role|>system<|end_of_role|>Knowledge Cutoff Date: April 2024.\n"
    "Today\\'s Date: ' + strftime_now('%B %d, %Y') + '.<|end_of_text|>\n' }}{% endif %}"
    "{% for message in messages %}{{ '<|start_of_role|>' + message['role'] + '<|end_of_role|>' + message['content'] + "
    "'<|end_of_text|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|start_of_role|>assistant<|end_of_role|>' }}{% endif %}"
)
# SmolLM3 thinks unless told otherwise, prints today's date, and takes earlier thoughts out.
SMOLLM3 = (
    "{%- if enable_thinking is not defined %}{% set enable_thinking = true %}{% endif -%}"
    "{{ '<|im_start|>system\nToday Date: ' + strftime_now('%d %B %Y') + '\nReasoning Mode: ' + "
    "('/think' if enable_thinking else '/no_think') + '<|im_end|>\n' }}"
    "{%- for message in messages -%}{%- if message['role'] == 'assistant' and not enable_thinking -%}"
    "{{ '<|im_start|>assistant\n<think>\n\n</think>\n' + message['content'] + '<|im_end|>\n' }}{%- else -%}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}{%- endif -%}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\n' + ('' if enable_thinking else '<think>\n\n</think>\n') }}"
    "{%- endif -%}"
)
CHATML = (
    "{{ bos_token }}{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + "
    "'<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LLAMA3_TOKENS = "<|begin_of_text|> <|end_of_text|> <|start_header_id|> <|end_header_id|> <|eom_id|> <|eot_id|>".split()
CHATML_TOKENS = "<|endoftext|> <|im_start|> <|im_end|>".split()
HARMONY = (
    "<|startoftext|> <|endoftext|> <|return|> <|constrain|> <|channel|> <|start|> <|end|> <|message|> <|call|>".split()
)
EXPERTS = {"num_experts_per_tok": 2, "moe_intermediate_size": 32}


@dataclass(frozen=True)
class Member:
    """A family as its makers ship it."""

    title: str
    kind: str
    """transformers' model_type"""
    special: list[str]
    """special tokens, in the order of their ids"""
    eos: str
    """the tokenizer's"""
    turn_end: str
    """what ends an assistant's turn; the eos where there is no template"""
    template: str | None = None
    """the name of one that TRL ships, or its text"""
    bos: str | None = None
    adds_bos: bool = False
    """whether the tokenizer writes it before a text"""
    pad: str | None = None
    stops: tuple[str, ...] = ()
    """what generation_config.json names; the eos where there is none"""
    sizes: dict[str, Any] = field(default_factory=lambda: SIZES)
    config: dict[str, Any] = field(default_factory=dict)
    generation: dict[str, Any] = field(default_factory=dict)
    dtype: str = "float32"
    tied: bool = False
    shard: str | None = None
    """max_shard_size, where the weights lie in several files"""
    bits: int | None = None
    embeddings: int = EMBEDDINGS
    opens: str = ""
    """what the assistant itself writes before its text"""
    base: dict[str, Any] = field(default_factory=dict)
    """more keys of the base in a configuration"""


def _llama3(title: str, **changes: Any) -> Member:
    stops = ("<|end_of_text|>", "<|eom_id|>", "<|eot_id|>")
    values = {"template": "llama3", "bos": "<|begin_of_text|>", "adds_bos": True, "stops": stops, "dtype": "bfloat16"}
    return Member(title, "llama", LLAMA3_TOKENS, "<|eot_id|>", "<|eot_id|>", **(values | changes))


def _qwen(title: str, kind: str, template: str, **changes: Any) -> Member:
    values = {"pad": "<|endoftext|>", "stops": ("<|im_end|>", "<|endoftext|>"), "template": template}
    return Member(title, kind, CHATML_TOKENS, "<|im_end|>", "<|im_end|>", **(values | changes))


def _gemma(title: str, kind: str, template: str, **config: Any) -> Member:
    return Member(
        title,
        kind,
        "<pad> <eos> <bos> <unk> <start_of_turn> <end_of_turn>".split(),
        "<eos>",
        "<end_of_turn>",
        template=template,
        bos="<bos>",
        adds_bos=True,
        pad="<pad>",
        stops=("<eos>", "<end_of_turn>"),
        config={"query_pre_attn_scalar": 8, "sliding_window": 16} | config,
        dtype="bfloat16",
        tied=True,
    )


def _mistral(title: str, kind: str, **changes: Any) -> Member:
    values = {"template": MISTRAL, "bos": "<s>", "adds_bos": True, "opens": " "}
    return Member(title, kind, "<unk> <s> </s> [INST] [/INST]".split(), "</s>", "</s>", **(values | changes))


MEMBERS = {
    "llama3": _llama3("Llama 3", shard="40KB"),
    "mistral": _mistral("Mistral, sliding window", "mistral", config={"sliding_window": 16}, dtype="bfloat16"),
    "qwen2_5": _qwen(
        "Qwen2.5", "qwen2", "qwen2_5", generation={"repetition_penalty": 1.1, "do_sample": True, "top_k": 20}, tied=True
    ),
    "qwen3": _qwen(
        "Qwen3",
        "qwen3",
        "qwen3",
        dtype="bfloat16",
        tied=True,
        base={"chat_template_kwargs": {"enable_thinking": False}},
    ),
    "gemma2": _gemma("Gemma 2", "gemma2", "gemma", final_logit_softcapping=30.0, attn_logit_softcapping=50.0),
    "gemma3": _gemma("Gemma 3 text", "gemma3_text", "gemma3"),
    "phi3": Member(
        "Phi-3",
        "phi3",
        "<unk> <s> <|endoftext|> <|assistant|> <|system|> <|end|> <|user|>".split(),
        "<|endoftext|>",
        "<|end|>",
        template="phi3",
        bos="<s>",
        pad="<|endoftext|>",
        stops=("<|endoftext|>", "<|assistant|>", "<|end|>"),
        config={"sliding_window": None},
        dtype="float16",
    ),
    "smollm3": Member(
        "SmolLM3",
        "smollm3",
        ["<|begin_of_text|>", "<|end_of_text|>", "<|im_start|>", "<|im_end|>"],
        "<|im_end|>",
        "<|im_end|>",
        template=SMOLLM3,
        bos="<|begin_of_text|>",
        stops=("<|im_end|>",),
        dtype="bfloat16",
        tied=True,
        base={"chat_template_kwargs": {"enable_thinking": False}},
    ),
    "olmo2": Member(
        "OLMo 2",
        "olmo2",
        ["<|endoftext|>", "<|pad|>"],
        "<|endoftext|>",
        "<|endoftext|>",
        template=OLMO2,
        bos="<|endoftext|>",
        pad="<|pad|>",
        shard="40KB",
    ),
    "granite": Member(
        "Granite",
        "granite",
        ["<|end_of_text|>", "<|start_of_role|>", "<|end_of_role|>"],
        "<|end_of_text|>",
        "<|end_of_text|>",
        template=GRANITE,
        bos="<|end_of_text|>",
        config={
            "logits_scaling": 8.0,
            "embedding_multiplier": 12.0,
            "residual_multiplier": 0.22,
            "attention_multiplier": 0.125,
        },
        dtype="bfloat16",
        tied=True,
    ),
    "cohere": Member(
        "Cohere",
        "cohere",
        "<PAD> <BOS_TOKEN> <|END_OF_TURN_TOKEN|> <|START_OF_TURN_TOKEN|> <|USER_TOKEN|> <|CHATBOT_TOKEN|> <|SYSTEM_TOKEN|>".split(),
        "<|END_OF_TURN_TOKEN|>",
        "<|END_OF_TURN_TOKEN|>",
        template="cohere",
        bos="<BOS_TOKEN>",
        adds_bos=True,
        pad="<PAD>",
        config={"logit_scale": 0.0625},
        dtype="float16",
        tied=True,
    ),
    "gpt2": Member(
        "GPT-2, no template",
        "gpt2",
        ["<|endoftext|>"],
        "<|endoftext|>",
        "<|endoftext|>",
        bos="<|endoftext|>",
        sizes=GPT2,
        tied=True,
    ),
    "gpt_neox": Member(
        "GPT-NeoX, no template",
        "gpt_neox",
        ["<|endoftext|>"],
        "<|endoftext|>",
        "<|endoftext|>",
        bos="<|endoftext|>",
        dtype="float16",
        shard="40KB",
    ),
    "opt": Member(
        "OPT, no template, BOS",
        "opt",
        ["<s>", "<pad>", "</s>"],
        "</s>",
        "</s>",
        bos="<s>",
        adds_bos=True,
        pad="<pad>",
        config={"ffn_dim": 64, "word_embed_proj_dim": 32, "pad_token_id": 1},
        dtype="float16",
        tied=True,
    ),
    "falcon_h1": Member(
        "Falcon-H1 (hybrid)",
        "falcon_h1",
        ["<|pad|>", "<|begin_of_text|>", "<|end_of_text|>", "<|im_start|>", "<|im_end|>"],
        "<|end_of_text|>",
        "<|im_end|>",
        template=CHATML,
        bos="<|begin_of_text|>",
        pad="<|pad|>",
        stops=("<|end_of_text|>", "<|im_end|>"),
        config={
            "mamba_d_ssm": 64,
            "mamba_n_heads": 8,
            "mamba_d_head": 8,
            "mamba_d_state": 16,
            "mamba_n_groups": 1,
            "mamba_chunk_size": 16,
            "lm_head_multiplier": 0.5,
            "embedding_multiplier": 2.0,
        },
        dtype="bfloat16",
    ),
    "lfm2": Member(
        "LFM2 (hybrid)",
        "lfm2",
        ["<|pad|>", "<|startoftext|>", "<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        "<|im_end|>",
        "<|im_end|>",
        template="lfm2",
        bos="<|startoftext|>",
        adds_bos=True,
        pad="<|pad|>",
        config={"layer_types": ["conv", "full_attention"], "block_multiple_of": 16},
        dtype="bfloat16",
        tied=True,
    ),
    "mixtral": _mistral(
        "Mixtral (experts)",
        "mixtral",
        config={"num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": None},
        dtype="bfloat16",
    ),
    "qwen3_moe": _qwen(
        "Qwen3-MoE (experts)",
        "qwen3_moe",
        "qwen3_instruct_2507",
        config=EXPERTS | {"num_experts": 4, "decoder_sparse_step": 1},
        dtype="bfloat16",
    ),
    "gpt_oss": Member(
        "gpt-oss (experts)",
        "gpt_oss",
        HARMONY,
        "<|return|>",
        "<|return|>",
        template="gptoss",
        bos="<|startoftext|>",
        pad="<|endoftext|>",
        stops=("<|return|>", "<|endoftext|>", "<|call|>"),
        config={"num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": 16},
        opens="<|channel|>final<|message|>",
        dtype="bfloat16",
    ),
    "llama3_4bit": _llama3("Llama 3, saved in 4 bits", sizes=SIZES | {"hidden_size": 64, "head_dim": 16}, bits=4),
    "llama3_beyond": _llama3("Llama 3, chat tokens beyond the embedding", embeddings=WORDS + 2, stops=()),
}


def build(name: str, folder: Path) -> Path:
    """Write the member `name` to `folder`, and return that."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, set_seed
    from transformers.utils import logging

    logging.disable_progress_bar()
    member = MEMBERS[name]
    tokenizer = build_tokenizer(member)
    ids = tokenizer.convert_tokens_to_ids
    shared = {"vocab_size": member.embeddings, "tie_word_embeddings": member.tied, "eos_token_id": ids(member.eos)}
    shared |= {"bos_token_id": ids(member.bos) if member.bos else None}
    shared |= {"pad_token_id": ids(member.pad) if member.pad else None}
    if max(value for key, value in shared.items() if key.endswith("_id") and value) >= member.embeddings:
        shared |= {"bos_token_id": None, "eos_token_id": None}  # the model knows nothing of these tokens
    config = AutoConfig.for_model(member.kind, **(shared | member.sizes | member.config))
    set_seed(0)
    model = AutoModelForCausalLM.from_config(config)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            parameter.data.mul_(3)  # large enough that what a token sees shows in the logits
    model.to(getattr(torch, member.dtype))
    folder.mkdir(parents=True, exist_ok=True)
    model.generation_config.update(**member.generation)
    if member.stops:
        model.generation_config.eos_token_id = [ids(token) for token in member.stops]
    model.save_pretrained(folder, **({"max_shard_size": member.shard} if member.shard else {}))
    if member.bits:
        _in_4_bits(folder)
    tokenizer.save_pretrained(folder)
    return folder


def _in_4_bits(folder: Path) -> None:
    """Save the model in `folder` again as bitsandbytes' NF4, as hubs have many."""
    import torch
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    how = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.bfloat16)
    model = AutoModelForCausalLM.from_pretrained(folder, quantization_config=how, device_map={"": "cpu"})
    for file in folder.glob("*.safetensors*"):
        file.unlink()
    model.save_pretrained(folder)


def build_tokenizer(member: Member) -> Any:
    """The shared BPE with a family's special tokens and chat template."""
    from tokenizers import Tokenizer
    from tokenizers.processors import ByteLevel, Sequence, TemplateProcessing
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer.from_str(_bpe())
    bpe.add_special_tokens(member.special)
    if member.adds_bos:
        first = TemplateProcessing(
            single=f"{member.bos} $A",
            pair=f"{member.bos} $A $B",
            special_tokens=[(member.bos, bpe.token_to_id(member.bos))],
        )
        bpe.post_processor = Sequence([ByteLevel(trim_offsets=False), first])
    names = {"bos_token": member.bos, "eos_token": member.eos, "pad_token": member.pad}
    others = [token for token in member.special if token not in names.values()]
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        chat_template=template(member.template),
        extra_special_tokens=others,
        clean_up_tokenization_spaces=False,
        **{key: value for key, value in names.items() if value},
    )


def template(name: str | None) -> str | None:
    """A chat template that TRL ships, by its name, or the text itself."""
    import trl

    if name is None or "{" in name:
        return name
    return (Path(trl.__file__).parent / "chat_templates" / f"{name}.jinja").read_text()


@functools.cache
def _bpe() -> str:
    """A byte-level BPE of `WORDS` tokens, as JSON, trained on the first of the examples."""
    from tokenizers import ByteLevelBPETokenizer

    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    with (REPOSITORY / "examples/data/gsm8k_train.jsonl").open() as file:
        lines = list(itertools.islice(file, 64))
    texts = [text for line in lines for text in json.loads(line).values() if isinstance(text, str)]
    bpe = ByteLevelBPETokenizer()
    bpe.train_from_iterator(texts, vocab_size=WORDS, show_progress=False)
    return bpe._tokenizer.to_str()
