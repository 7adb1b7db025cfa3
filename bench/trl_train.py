"""`trl sft` and `trl dpo` with TRL's defaults, as a script that tells its speed: the yardstick of bench/training.py.

    python bench/trl_train.py sft MODEL_FOLDER DATA_FOLDER STEPS BATCH SEED

Set are only the batch, the steps, the seed, the LoRA and the rate that both sides share, and no bf16 where the processor has none.
The held-out loss is that of our tokens: TRL's own also count the newline that the template prints after the stop token.
Writes trl.jsonl in the data's folder, one line a step as our train.jsonl has it.
"""

import json
import resource
import sys
import time
from pathlib import Path

import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import AutoTokenizer, TrainerCallback
from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

BF16 = torch.cuda.is_available() or "avx512_bf16" in Path("/proc/cpuinfo").read_text()

TURNS = {  # the columns of a row: TRL's name, and who speaks
    "question": ("prompt", "user"),
    "prompt": ("prompt", "user"),
    "completion": ("completion", "assistant"),
    "chosen": ("chosen", "assistant"),
    "rejected": ("rejected", "assistant"),
}


class Lines(TrainerCallback):
    """Writes each step's log with the time and the peak memory."""

    def __init__(self, file: Path) -> None:
        self.file, self.start = file, time.monotonic()
        file.write_text("")

    def on_log(self, args, state, control, logs=None, **_) -> None:
        """One line."""
        seconds, memory = time.monotonic() - self.start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        with self.file.open("a") as file:
            file.write(json.dumps(logs | {"seconds": seconds, "memory_gib": memory}) + "\n")


def chats(file: Path) -> list[dict]:
    """The rows as TRL's conversations."""
    rows = map(json.loads, file.read_text().splitlines())
    return [
        {name: [{"role": role, "content": row[key]}] for key, (name, role) in TURNS.items() if key in row}
        for row in rows
    ]


def main(objective: str, model: str, folder: Path, steps: int, batch: int, seed: int) -> None:
    shared = {
        "output_dir": str(folder / "trl"),
        "per_device_train_batch_size": batch,
        "max_steps": steps,
        "seed": seed,
        "learning_rate": {"sft": 5e-4, "dpo": 1e-4}[objective],
        "warmup_steps": 0.1,
        "lr_scheduler_type": "cosine",
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": [],
        "bf16": BF16,
        "use_cpu": not torch.cuda.is_available(),
    }
    given = {
        "model": model,
        "processing_class": AutoTokenizer.from_pretrained(model),
        "peft_config": LoraConfig(
            task_type="CAUSAL_LM", r=16, lora_alpha=32, lora_dropout=0, target_modules="all-linear"
        ),
        "callbacks": [Lines(folder / "trl.jsonl")],
    }
    if objective == "sft":
        rows = Dataset.from_list(chats(folder / "train.jsonl"))
        tokens = folder / "results/tokens/smollm2/rows,max_length=1024/validation.parquet"
        held_out = Dataset.from_parquet(str(tokens)).select_columns(["input_ids", "labels"])
        trainer = SFTTrainer(args=SFTConfig(**shared), train_dataset=rows, eval_dataset=held_out, **given)
    else:
        pairs = Dataset.from_list(chats(folder / "pairs.jsonl"))
        trainer = DPOTrainer(args=DPOConfig(**shared, beta=0.1), train_dataset=pairs, **given)
    trainer.train()
    if objective == "sft":
        trainer.evaluate()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]), *map(int, sys.argv[4:]))
