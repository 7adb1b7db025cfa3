"""The tables of the LLM Fine-tuning Guide 2025 as literal rows, each with an id, and what was measured where a row states a number.

`recommend.py` decides by these rows and names them; docs/guide/choose.md shows them; a test goes through every row.
Memory is in GB as graphics cards are sold, sizes of models in 1e9 parameters.
"""

from typing import NamedTuple

ANY = float("inf")


class Hardware(NamedTuple):
    """A row of the table by memory."""

    id: str
    memory: tuple[float, float]
    """GB of one GPU, from and to"""
    model: tuple[float, float]
    """1e9 parameters, from and to"""
    methods: tuple[str, ...]
    says: str


class Purpose(NamedTuple):
    """A row of the table by purpose."""

    id: str
    name: str
    objectives: tuple[str, ...]
    method: str | None
    says: str
    words: tuple[str, ...]
    """what people call it"""


class Data(NamedTuple):
    """A row of the table by data."""

    id: str
    rows: tuple[float, float]
    """at least, and below"""
    quality: str
    objectives: tuple[str, ...]
    method: str | None
    few_shot: bool
    says: str


class Value(NamedTuple):
    """A row of the tables of hyperparameters."""

    id: str
    key: str
    low: float
    high: float
    says: str


class Step(NamedTuple):
    """A step of the beginner's road, or a phase."""

    id: str
    objective: str
    method: str | None
    says: str


class Claim(NamedTuple):
    """A number that the guide states of a method, and the same measured or computed here."""

    id: str
    says: str
    measured: str
    how: str
    """the command that gives it, n and the machine"""
    holds: bool


HARDWARE = (
    Hardware("hardware-8", (0, 8), (0, 7), ("qlora",), "up to 8 GB, models up to 7B: SFT + QLoRA"),
    Hardware("hardware-16-24", (16, 24), (7, 13), ("lora",), "16 to 24 GB, 7B to 13B: SFT + LoRA"),
    Hardware(
        "hardware-24", (24, ANY), (13, ANY), ("lora", "qlora"), "24 GB and more, 13B and more: SFT + LoRA or QLoRA"
    ),
    Hardware(
        "hardware-80", (80, ANY), (70, ANY), ("full",), "80 GB and more, 70B and more: full fine-tuning is possible"
    ),
)

PURPOSES = (
    Purpose("purpose-domain", "domain", ("sft",), "lora", "a special domain: SFT + LoRA, stable and fast",
            ("domain", "speciali[sz]", "expert", "task", "classif", "extract", "knowledge", "legal", "medical", "tool",
             "도메인", "전문", "특화")),
    Purpose("purpose-chat", "chat", ("sft", "dpo"), None, "conversation: SFT, then DPO, for high quality",
            ("chat", "convers", "assistant", "dialog", "talk", "helpful", "instruct", "customer", "support", "help ?desk",
             "faq", "대화", "챗봇", "상담", "고객", "문의")),
    Purpose("purpose-prototype", "prototype", ("sft",), "qlora", "a quick prototype: SFT + QLoRA, the least resources",
            ("prototyp", "experiment", "try", "quick", "proof of concept", "poc", "demo", "learn", "프로토타입", "실험", "시험")),
    Purpose("purpose-production", "production", ("dpo",), "lora", "production: DPO + LoRA, balanced",
            ("produc", "deploy", "ship", "release", "live", "프로덕션", "배포", "운영")),
)  # fmt: skip

DATA = (
    Data(
        "data-small", (0, 1000), "high", ("sft",), "lora", True, "few rows (below 1K) of high quality: few-shot + LoRA"
    ),
    Data(
        "data-medium", (1000, 10_000), "medium", ("sft",), "lora", False, "1K to 10K rows of medium quality: SFT + LoRA"
    ),
    Data(
        "data-large",
        (10_000, ANY),
        "mixed",
        ("sft", "dpo"),
        None,
        False,
        "10K rows or more of mixed quality: SFT, then DPO",
    ),
)
QUALITIES = tuple(row.quality for row in DATA)

LORA_VALUES = (
    Value("lora-rank", "rank", 8, 64, "rank 8 to 64; lower means fewer parameters"),
    Value("lora-alpha", "alpha", 2, 2, "alpha is twice the rank"),
    Value("lora-dropout", "dropout", 0.05, 0.1, "dropout 0.05 to 0.1, against overfitting"),
)
TRAINING_VALUES = (
    Value(
        "training-rate",
        "learning_rate",
        1e-4,
        5e-4,
        "learning rate 1e-4 to 5e-4: high for LoRA, lower for full fine-tuning",
    ),
    Value("training-batch", "batch_size", 4, 16, "batch of 4 to 16, by memory"),
    Value("training-epochs", "epochs", 1, 3, "1 to 3 epochs; more may overfit"),
)

ROAD = (
    Step("road-1", "sft", "lora", "first SFT + LoRA: the basics"),
    Step("road-2", "sft", "qlora", "then SFT + QLoRA: less memory"),
    Step("road-3", "dpo", "lora", "then DPO + LoRA: better answers"),
)
PHASES = (
    Step("phase-1", "sft", None, "base model, SFT, evaluation: it follows instructions"),
    Step("phase-2", "dpo", None, "SFT model, DPO or RLHF, evaluation: it answers as people prefer"),
    Step("phase-3", "sft", "lora", "an efficient method (PEFT) in every stage"),
)
TRENDS = (
    Step("trend-lora", "sft", "lora", "SFT with LoRA or QLoRA is the common choice"),
    Step("trend-dpo", "dpo", None, "DPO takes the place of RLHF"),
    Step("trend-full", "sft", "full", "full fine-tuning only in special cases"),
)
OBJECTIVES = (
    Step("objective-sft", "sft", None, "SFT: domains, conversation, tasks; stable, with little data"),
    Step("objective-rlhf", "ppo", None, "RLHF with PPO: high quality and safety; complex, costly, less stable"),
    Step("objective-dpo", "dpo", None, "DPO: simpler and more stable than RLHF, where there are enough preferences"),
)

_H200 = "python bench/gpu.py, n = 1, one H200, 8 rows of up to 1,024 tokens"
_COMPUTED = "python bench/guide.py, from the models' shapes"
CLAIMS = (
    Claim("claim-lora-share", "LoRA trains 0.5 to 5 % of the parameters",
          "rank 16 on all linear layers: 3.6 % at 135M, 0.9 % at 1B, 0.5 % at 8B, 0.3 % at 70B; on queries and values, as in the "
          "guide's example, 0.08 % at 8B", _COMPUTED, False),
    Claim("claim-lora-least", "LoRA competes with full fine-tuning at 0.2 to 0.3 % of the parameters",
          "rank 8 on all linear layers: 0.26 % at 8B; not compared with full fine-tuning here", _COMPUTED, True),
    Claim("claim-adapter-size", "an adapter's file has a few MB",
          "rank 16 on all linear layers, float32: 20 MB at 135M, 45 MB at 1B, 168 MB at 8B", _COMPUTED, False),
    Claim("claim-lora-memory", "LoRA takes 70 % less memory than full fine-tuning",
          "45 % less at 1B (17.9 and 32.5 GiB), where activations are most of it", _H200, False),
    Claim("claim-qlora-memory", "QLoRA takes 33 % less memory than LoRA",
          "3 % more at 8B (47.3 and 46.1 GiB) without recomputed activations", _H200, False),
    Claim("claim-qlora-time", "QLoRA takes 39 % more time than LoRA",
          "9 % more at 8B (6,444 and 7,006 tokens/s)", _H200, False),
    Claim("claim-qlora-65b", "QLoRA trains 65B on one GPU of 48 GB",
          "37 GiB with rows of 1,024 tokens, one at once, activations recomputed", _COMPUTED, True),
)  # fmt: skip

ROWS = {
    row.id: row.says
    for table in (
        HARDWARE, PURPOSES, DATA, LORA_VALUES, TRAINING_VALUES, ROAD, PHASES, TRENDS, OBJECTIVES, CLAIMS
    )
    for row in table
}  # fmt: skip
