"""The trainings that bench/memory.py measures and foresees: models of random weights, one run each, on rows of one length."""

import json
import sys
from typing import Any, NamedTuple

from common import REPOSITORY

sys.path.insert(0, str(REPOSITORY / "scripts"))

from posttrain.workflow.project import Project

LLAMA = {
    "model_type": "llama", "hidden_size": 384, "intermediate_size": 1024, "num_hidden_layers": 12,
    "num_attention_heads": 6, "num_key_value_heads": 2, "head_dim": 64, "vocab_size": 8192,
    "max_position_embeddings": 4096, "tie_word_embeddings": False,
}  # fmt: skip
SHAPES: dict[str, dict[str, Any]] = {
    "llama, 27M": LLAMA,
    "qwen3, 27M, tied": LLAMA | {"model_type": "qwen3", "tie_word_embeddings": True},
    "gemma3, 48M, 64k words": LLAMA
    | {"model_type": "gemma3_text", "vocab_size": 65536, "tie_word_embeddings": True, "sliding_window": 4096}
    | {"query_pre_attn_scalar": 64},
    "mixtral, 8 experts": LLAMA
    | {"model_type": "mixtral", "num_hidden_layers": 6, "num_local_experts": 8, "num_experts_per_tok": 2}
    | {"intermediate_size": 512},
    "gpt2, 25M": {
        "model_type": "gpt2",
        "n_embd": 384,
        "n_layer": 12,
        "n_head": 6,
        "vocab_size": 8192,
        "n_positions": 1024,
    },
}
SAMPLED = {"max_new_tokens": 64, "reward": {"function": "answer_format"}, "max_length": 256}
ROWS = 32


class Case(NamedTuple):
    """One training."""

    shape: str
    keys: dict[str, Any]
    """of the run, beside `from` and `data`"""
    length: int = 512
    """tokens of each row, half of them trained; of a pair, of each of its sequences"""

    @property
    def name(self) -> str:
        """What the table calls it."""
        keys = {
            key: value for key, value in self.keys.items() if key not in ("objective", "method", "max_steps", *SAMPLED)
        }
        more = ", ".join(f"{key}: {json.dumps(value)}" for key, value in keys.items())
        return f"{self.keys['objective']} {self.keys['method']}{', ' * bool(more)}{more}"

    @property
    def spec(self) -> dict[str, Any]:
        """The run's spec."""
        data = {"path": "rows.jsonl", "licence": "mit"}
        base = {"source": "path", "path": "base", "licence": "mit"}
        run = {"from": "base", "data": "rows", "max_steps": 3, "max_length": 1024} | self.keys
        return json.loads(
            Project({"bases": {"base": base}, "datasets": {"rows": data}, "runs": {"run": run}}).spec("run")
        )


def _case(objective: str, method: str, shape: str = "llama, 27M", length: int = 512, **keys: Any) -> Case:
    defaults = {"batch_size": 4, "precision": "fp32"}
    return Case(shape, {"objective": objective, "method": method} | defaults | keys, length)


PAIRS = ("dpo", "orpo", "cpo", "kto", "reward")
CASES = [
    _case("sft", "lora"),
    _case("sft", "lora", dropout=0),
    _case("sft", "full"),
    _case("sft", "qlora"),
    _case("sft", "lora", precision="bf16"),
    _case("sft", "full", precision="bf16"),
    _case("sft", "lora", gradient_checkpointing=True, batch_size=16),
    _case("sft", "full", gradient_checkpointing=True, batch_size=16),
    _case("sft", "lora", batch_size=8, gradient_accumulation_steps=4),
    _case("sft", "lora", packing=True, length=250),
    _case("sft", "full", trainer_args={"optim": "adafactor"}),
    _case("sft", "adapter"),
    _case("sft", "ia3"),
    _case("sft", "prompt", num_virtual_tokens=20),
    _case("dpo", "lora", length=256),
    _case("dpo", "full", length=256),
    _case("reward", "lora", length=256),
    _case("orpo", "lora", length=256),
    _case("grpo", "lora", num_generations=4, batch_size=16, **SAMPLED),
    _case("grpo", "full", num_generations=4, batch_size=16, beta=0.05, **SAMPLED),
    _case("rloo", "lora", num_generations=4, batch_size=16, **SAMPLED),
    _case("ppo", "lora", batch_size=16, **SAMPLED),
    _case("ppo", "full", batch_size=16, **SAMPLED),
    _case("sft", "lora", shape="qwen3, 27M, tied"),
    _case("sft", "lora", shape="gemma3, 48M, 64k words"),
    _case("sft", "full", shape="gemma3, 48M, 64k words"),
    _case("sft", "lora", shape="mixtral, 8 experts"),
    _case("sft", "full", shape="mixtral, 8 experts"),
    _case("sft", "lora", shape="gpt2, 25M"),
]
