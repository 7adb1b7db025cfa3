"""Train on a rule with TRL's own last PPOTrainer: the yardstick for this project's PPO.

TRL 1.12 was the last release with a PPO trainer, so this script has an environment of its own:

    python -m venv ppo-venv
    ppo-venv/bin/pip install trl==1.12.0 transformers==5.23.0 peft==0.21.2 accelerate==1.15.0 datasets==5.2.0 \
        torch==2.13.0
    OMP_NUM_THREADS=1 ppo-venv/bin/python bench/trl_ppo.py --model FOLDER --prompts FILE.jsonl --seed 0 --steps 40 \
        --output FILE.json

A row of the prompts is {"prompt_ids": [int, ...]}. The reward is the share of even ids among a response's tokens
before its first EOS. The output holds the mean reward and KL of each rollout, and what the training took.
"""

import argparse
import json
import platform
import resource
import tempfile
import time
from collections import deque
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace

import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    PreTrainedTokenizerBase,
    set_seed,
)
from trl.experimental.ppo import PPOConfig, PPOTrainer


class EvenShare(torch.nn.Module):
    """The rule in the shape of a reward model: a backbone, and a head that scores its hidden states."""

    base_model_prefix = "backbone"

    def __init__(self, eos: int):
        super().__init__()
        self.eos = eos
        # TRL tells a reward model where its prompts end neither here nor later, so the collator does. It runs one
        # batch ahead of the training, hence a queue.
        self.widths = deque()

    def backbone(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, **_) -> SimpleNamespace:
        """The rule's value at every position, in place of hidden states: TRL reads the response's last one."""
        width = self.widths.popleft()
        response = input_ids[:, width:]
        # TRL puts 0, an even id, where the padding is: only the mask tells it from a token.
        alive = (attention_mask[:, width:].bool() & (response != self.eos)).cumprod(1)
        share = (alive * (response % 2 == 0)).sum(1) / alive.sum(1).clamp(min=1)
        return SimpleNamespace(hidden_states=[share[:, None, None].expand(-1, input_ids.shape[1], 1)])

    def score(self, hidden: torch.Tensor) -> torch.Tensor:
        """The head: the hidden states are the scores already."""
        return hidden


class WidthCollator(DataCollatorWithPadding):
    """Pads prompts, and notes in `widths` to what width."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, widths: deque):
        super().__init__(tokenizer)
        self.widths = widths

    def __call__(self, rows: list[dict]) -> dict:
        """A padded batch."""
        batch = super().__call__(rows)
        self.widths.append(batch["input_ids"].shape[1])
        return batch


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="folder of a causal LM and its tokenizer")
    parser.add_argument("--prompts", type=Path, required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--steps", type=int, required=True, help="rollouts")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--batch-size", type=int, default=8, help="prompts a rollout")
    parser.add_argument("--minibatches", type=int, default=1, help="optimizer steps a pass over a rollout")
    parser.add_argument("--ppo-epochs", type=int, default=4, help="passes over a rollout")
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--kl", type=float, default=0.05)
    parser.add_argument("--clip", type=float, default=0.2)
    parser.add_argument("--value-clip", type=float, default=0.2)
    parser.add_argument("--value-coefficient", type=float, default=0.1)
    parser.add_argument("--gamma", type=float, default=1.0)
    parser.add_argument("--gae-lambda", type=float, default=0.95)
    parser.add_argument("--temperature", type=float, default=1.0)
    parser.add_argument("--max-new-tokens", type=int, default=16)
    return parser.parse_args()


def settings(options: argparse.Namespace, folder: str) -> PPOConfig:
    return PPOConfig(
        output_dir=folder,
        seed=options.seed,
        total_episodes=options.steps * options.batch_size,
        per_device_train_batch_size=options.batch_size,
        gradient_accumulation_steps=1,
        local_rollout_forward_batch_size=options.batch_size,
        num_mini_batches=options.minibatches,
        num_ppo_epochs=options.ppo_epochs,
        learning_rate=options.learning_rate,
        lr_scheduler_type="constant",
        kl_coef=options.kl,
        kl_estimator="k1",
        cliprange=options.clip,
        cliprange_value=options.value_clip,
        vf_coef=options.value_coefficient,
        gamma=options.gamma,
        lam=options.gae_lambda,
        temperature=options.temperature,
        response_length=options.max_new_tokens,
        stop_token="eos",
        whiten_rewards=False,
        missing_eos_penalty=None,
        num_sample_generations=0,
        gradient_checkpointing=False,
        bf16=False,
        use_cpu=True,
        save_strategy="no",
        report_to="none",
    )


def build(options: argparse.Namespace, folder: str) -> PPOTrainer:
    tokenizer = AutoTokenizer.from_pretrained(options.model, padding_side="left")
    prompts = [json.loads(line)["prompt_ids"] for line in options.prompts.read_text().splitlines()]
    if len(prompts) < options.batch_size:  # TRL would look for a full batch for ever
        raise SystemExit(f"{options.prompts}: {len(prompts)} prompts, fewer than a batch of {options.batch_size}")
    set_seed(options.seed)  # TRL seeds neither the new weights nor the order of a rollout's episodes
    policy = AutoModelForCausalLM.from_pretrained(options.model, dtype=torch.float32)
    policy.generation_config.pad_token_id = tokenizer.pad_token_id
    value = AutoModelForSequenceClassification.from_pretrained(options.model, num_labels=1, dtype=torch.float32)
    rule = EvenShare(tokenizer.eos_token_id)
    return PPOTrainer(
        args=settings(options, folder),
        processing_class=tokenizer,
        model=policy,
        ref_model=None,
        reward_model=rule,
        value_model=value,
        train_dataset=Dataset.from_dict({"input_ids": prompts}),
        data_collator=WidthCollator(tokenizer, rule.widths),
        peft_config=LoraConfig(
            r=16, lora_alpha=32, lora_dropout=0.0, target_modules="all-linear", task_type="CAUSAL_LM"
        ),
    )


def main() -> None:
    options = arguments()
    with tempfile.TemporaryDirectory() as folder:
        trainer = build(options, folder)
        start = time.perf_counter()
        trainer.train()
        seconds = time.perf_counter() - start
    logs = [row for row in trainer.state.log_history if "objective/scores" in row]
    result = {
        "rewards": [row["objective/scores"] for row in logs],
        "kl": [row["objective/kl"] for row in logs],
        "seconds": seconds,
        "samples_per_second": options.steps * options.batch_size / seconds,
        "peak_memory_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
        "versions": {name: version(name) for name in ("trl", "transformers", "peft", "accelerate", "torch")}
        | {"python": platform.python_version()},
    }
    options.output.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
