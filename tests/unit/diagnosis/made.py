"""Evidence made of curves with known noise, for tests of the rules."""

from typing import Any

import numpy as np

from posttrain.diagnosis.evidence import Evidence

SPEC = {
    "objective": "sft", "method": "lora", "from": {"name": "base"}, "data": {"name": "rows"}, "learning_rate": 2e-4, "epochs": 1.0,
    "max_steps": None, "batch_size": 8, "accumulation": 1, "max_length": 1024, "warmup": 0.1, "schedule": "cosine", "max_grad_norm": 1.0,
    "gradient_checkpointing": False, "loss_type": "nll",
}  # fmt: skip
DPO = SPEC | {"objective": "dpo", "beta": 0.1, "learning_rate": 5e-5, "loss_type": "sigmoid"}
GRPO = SPEC | {
    "objective": "grpo",
    "beta": 0.04,
    "learning_rate": 5e-5,
    "temperature": 1.0,
    "generations": 4,
    "max_new_tokens": 128,
}


def run(spec: dict[str, Any], *, rows: int = 10**6, **columns: Any) -> Evidence:
    """A run whose steps have these columns; the learning rate warms up and falls as a cosine."""
    n = len(next(iter(columns.values())))
    warm = max(int(n * spec["warmup"]), 1)
    rates = [
        spec["learning_rate"] * (i / warm if i < warm else (1 + np.cos(np.pi * (i - warm) / (n - warm))) / 2)
        for i in range(n)
    ]
    lines = [
        {"step": i + 1, "loss": 1.0, "learning_rate": float(rates[i])}
        | {name: float(column[i]) for name, column in columns.items()}
        for i in range(n)
    ]
    return Evidence("run", spec, steps=lines, data={"train": rows})


def noise(n: int, size: float, seed: int = 0) -> np.ndarray:
    return size * np.random.default_rng(seed).standard_normal(n)


def falling(n: int, first: float = 2.4, last: float = 0.9, size: float = 0.15, seed: int = 0) -> np.ndarray:
    """A loss that falls fast and then slowly, as training losses do."""
    return last + (first - last) * np.exp(-np.arange(n) / (n / 6)) + noise(n, size, seed)
