"""The yardstick: config/examples/gsm8k.yaml as one plain TRL script that a good user would write, in one process.

    python bench/plain_trl.py MODEL_FOLDER DATA_FOLDER OUTPUT_FOLDER

SFT with LoRA, merge, DPO with LoRA, merge, and the three models measured: perplexity, preference accuracy and exact
match. Same rows, steps, batches, lengths and adapters as config/examples/gsm8k.yaml.
"""

import json
import re
import sys
import time
from pathlib import Path

import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

BF16 = torch.cuda.is_available() or "avx512_bf16" in Path("/proc/cpuinfo").read_text()


def rows(file: Path) -> list[dict]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def user(text: str) -> list[dict]:
    return [{"role": "user", "content": text}]


def assistant(text: str) -> list[dict]:
    return [{"role": "assistant", "content": text}]


def arguments(folder: Path, rate: float) -> dict:
    return {
        "output_dir": str(folder),
        "learning_rate": rate,
        "num_train_epochs": 1,
        "per_device_train_batch_size": 4,
        "max_length": 1024,
        "warmup_steps": 0.1,
        "lr_scheduler_type": "cosine",
        "logging_steps": 1,
        "bf16": BF16,
        "gradient_checkpointing": False,
        "use_cpu": not torch.cuda.is_available(),
        "save_strategy": "no",
        "report_to": [],
        "disable_tqdm": True,
    }


def lora(dropout: float) -> LoraConfig:
    return LoraConfig(task_type="CAUSAL_LM", r=16, lora_alpha=32, lora_dropout=dropout, target_modules="all-linear")


def score(model, tokenizer, prompts: list[str], answers: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
    """Summed log-probability and number of tokens of each answer."""
    sums, counts = [], []
    for start in range(0, len(prompts), 16):
        texts, masks = [], []
        for prompt, answer in zip(prompts[start : start + 16], answers[start : start + 16], strict=True):
            head = tokenizer.apply_chat_template(user(prompt), add_generation_prompt=True, return_dict=False)
            ids = tokenizer.apply_chat_template(user(prompt) + assistant(answer), return_dict=False)
            texts.append(ids)
            masks.append([0] * len(head) + [1] * (len(ids) - len(head)))
        width = max(map(len, texts))
        ids = torch.tensor([text + [tokenizer.pad_token_id] * (width - len(text)) for text in texts])
        mask = torch.tensor([row + [0] * (width - len(row)) for row in masks])[:, 1:]
        attention = torch.tensor([[1] * len(text) + [0] * (width - len(text)) for text in texts])
        with torch.no_grad():
            logits = model(input_ids=ids, attention_mask=attention).logits[:, :-1]
        chosen = logits.log_softmax(-1).gather(2, ids[:, 1:, None])[..., 0]
        sums.append((chosen * mask).sum(1))
        counts.append(mask.sum(1))
    return torch.cat(sums), torch.cat(counts)


def answers(model, tokenizer, prompts: list[str]) -> list[str]:
    tokenizer.padding_side = "left"
    outputs = []
    for start in range(0, len(prompts), 16):
        chats = [user(prompt) for prompt in prompts[start : start + 16]]
        inputs = tokenizer.apply_chat_template(
            chats, add_generation_prompt=True, padding=True, return_tensors="pt", return_dict=True
        )
        with torch.no_grad():
            ids = model.generate(**inputs, max_new_tokens=80, do_sample=False)
        outputs += tokenizer.batch_decode(ids[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    tokenizer.padding_side = "right"
    return outputs


def evaluate(name: str, model, tokenizer, test: list[dict], pairs: list[dict]) -> None:
    model.eval()
    questions = [row["question"] for row in test]
    sums, counts = score(model, tokenizer, questions, [row["answer"] for row in test])
    asked = [row["question"] for row in pairs]
    chosen, _ = score(model, tokenizer, asked, [row["chosen"] for row in pairs])
    rejected, _ = score(model, tokenizer, asked, [row["rejected"] for row in pairs])
    found = [re.findall(r"-?[\d,]*\.?\d+", text)[-1:] for text in answers(model, tokenizer, questions)]
    right = [number == [row["answer"].split("#### ")[1]] for number, row in zip(found, test, strict=True)]
    perplexity = (-sums.sum() / counts.sum()).exp()
    accuracy = (chosen > rejected).float().mean()
    print(f"{name}: perplexity {perplexity:.3f}, preference {accuracy:.3f}, exact match {sum(right) / len(right):.3f}")


def main(base: Path, data: Path, output: Path) -> None:
    start = time.perf_counter()
    tokenizer = AutoTokenizer.from_pretrained(base)
    train, test = rows(data / "gsm8k_train.jsonl"), rows(data / "gsm8k_test.jsonl")
    pairs, pairs_test = rows(data / "gsm8k_pairs.jsonl"), rows(data / "gsm8k_pairs_test.jsonl")
    evaluate("base", AutoModelForCausalLM.from_pretrained(base), tokenizer, test, pairs_test)

    sft = SFTTrainer(
        model=AutoModelForCausalLM.from_pretrained(base),
        args=SFTConfig(**arguments(output / "sft", 5e-4)),
        train_dataset=Dataset.from_list(
            [{"prompt": user(row["question"]), "completion": assistant(row["answer"])} for row in train]
        ),
        processing_class=tokenizer,
        peft_config=lora(0.0),
    )
    sft.train()
    merged = sft.model.merge_and_unload()
    merged.save_pretrained(output / "sft/model")
    tokenizer.save_pretrained(output / "sft/model")
    evaluate("sft", merged, tokenizer, test, pairs_test)

    dpo = DPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(output / "sft/model"),
        args=DPOConfig(**arguments(output / "dpo", 1e-4), beta=0.1),
        train_dataset=Dataset.from_list(
            [
                {"prompt": user(r["question"]), "chosen": assistant(r["chosen"]), "rejected": assistant(r["rejected"])}
                for r in pairs
            ]
        ),
        processing_class=tokenizer,
        peft_config=lora(0.0),
    )
    dpo.train()
    merged = dpo.model.merge_and_unload()
    merged.save_pretrained(output / "dpo/model")
    tokenizer.save_pretrained(output / "dpo/model")
    evaluate("dpo", merged, tokenizer, test, pairs_test)
    print(f"seconds {time.perf_counter() - start:.1f}")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
