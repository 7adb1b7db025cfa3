"""Our PPO beside TRL's last PPOTrainer: the same rule, model, prompts and settings; reward, speed and memory.

    python bench/ppo.py --trl ppo-venv/bin/python

`--trl` names the Python of the environment that bench/trl_ppo.py describes; without it only our side runs. The model is a
random tiny Llama whose LM head tells even ids from odd along one direction, since a purely random one cannot learn the
rule in a few hundred answers. Printed: the mean reward of each ten rollouts for every seed and both sides, the ratio of the
speeds, and the weights of our roles over those of four models.
"""

import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from aims import tell
from common import REPOSITORY, parser

sys.path.insert(0, str(REPOSITORY / "scripts"))
SETTINGS = {
    "batch_size": 8,
    "ppo_epochs": 4,
    "learning_rate": 1e-3,
    "kl_coefficient": 0.05,
    "max_new_tokens": 16,
    "missing_eos_penalty": 0,
    "schedule": "constant",
    "warmup": 0,
    "max_grad_norm": 1e9,  # TRL's trainer does not clip
    "precision": "fp32",
}


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--trl", type=Path, help="the Python of an environment with TRL's last PPO trainer")
    options.add_argument("--seeds", type=int, default=3)
    options.add_argument("--steps", type=int, default=40)
    options = options.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_task(folder)
        ours, theirs = [], []
        for seed in range(options.seeds):
            ours.append(run_ours(folder, seed, options.steps))
            report("ours", seed, ours[-1])
            if options.trl:
                theirs.append(run_trl(options.trl, folder, seed, options.steps))
                report("trl", seed, theirs[-1])
    if theirs:
        tell("ppo answers/s, ours / trl 1.12", speed(ours) / speed(theirs))
    print(f"ppo weights of policy, reference, value and reward, of four models': {ours[0]['memory']:.2f}")


def make_task(folder: Path) -> None:
    """A model, its tokenizer and 64 prompts of random tokens."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer, bpe.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=512, special_tokens=["<pad>", "<eos>"], initial_alphabet=alphabet)
    bpe.train_from_iterator([(REPOSITORY / "README.md").read_text()], trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, pad_token="<pad>", eos_token="<eos>")
    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    ends = {"pad_token_id": 0, "eos_token_id": 1, "bos_token_id": None, "tie_word_embeddings": False}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=512, max_position_embeddings=256, **sizes, **ends))
    direction = torch.randn(64)
    sign = 1 - 2 * (torch.arange(512) % 2).float()
    sign[:2] = 0  # neither the pad token nor the stop token
    model.lm_head.weight.data = 2 * model.lm_head.weight.data + 0.6 * sign[:, None] * direction / direction.norm()
    model.save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    chance = random.Random(0)
    prompts = [[chance.randrange(2, 512) for _ in range(chance.randint(8, 24))] for _ in range(64)]
    (folder / "prompts.jsonl").write_text("".join(json.dumps({"prompt_ids": ids}) + "\n" for ids in prompts))


def run_ours(folder: Path, seed: int, steps: int) -> dict:
    """In a process of its own, as TRL's side is."""
    command = [sys.executable, "-c", f"import ppo; ppo.train({str(folder)!r}, {seed}, {steps})"]
    subprocess.run(command, cwd=REPOSITORY / "bench", check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return json.loads((folder / "ours.json").read_text())


def run_trl(python: Path, folder: Path, seed: int, steps: int) -> dict:
    """TRL's side; python is that of its environment."""
    script = [python.absolute(), REPOSITORY / "bench/trl_ppo.py", "--model", folder / "model"]
    given = ["--prompts", folder / "prompts.jsonl", "--seed", seed, "--steps", steps, "--output", folder / "trl.json"]
    command = [str(part) for part in (*script, *given)]
    subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return json.loads((folder / "trl.json").read_text())


def train(folder: str, seed: int, steps: int) -> None:
    """Our side: the trainer that train_ppo.py uses, with a rule on token ids."""
    import torch
    from datasets import Dataset
    from transformers import TrainingArguments

    from posttrain.models import loading, peft_methods
    from posttrain.training import arguments
    from posttrain.training.ppo import schedule as planning
    from posttrain.training.ppo.actor_critic import ActorCritic
    from posttrain.training.ppo.rewards import TokenRewards
    from posttrain.training.ppo.trainer import PPOTrainer
    from posttrain.workflow.project import Project

    os.chdir(folder)
    run = {"from": "tiny", "objective": "ppo", "data": "prompts", "reward": {"function": "final_number"}}
    values = {
        "bases": {"tiny": {"source": "path", "path": "model"}},
        "datasets": {"prompts": {"path": "prompts.jsonl"}},
        "runs": {"ppo": run | SETTINGS | {"seed": seed, "max_steps": steps}},
    }
    spec = json.loads(Project(values).spec("ppo"))
    questions = [json.loads(line) for line in Path("prompts.jsonl").read_text().splitlines()]
    rollouts, rows = planning.schedule(len(questions), spec)
    net = ActorCritic(Path("model"), spec)
    trainer = PPOTrainer(
        spec=spec,
        prompts=[[questions[i] for i in rollout] for rollout in rollouts],
        rewards=lambda prompts, completions, rows: TokenRewards(
            torch.tensor([even_share(a) for a in completions]), None
        ),
        model=net,
        args=TrainingArguments(**arguments.trainer_arguments(spec, Path("out")), remove_unused_columns=False),
        train_dataset=Dataset.from_list(rows),
        data_collator=planning.collate,
        processing_class=loading.tokenizer(Path("model")),
    )
    start = time.monotonic()
    trainer.train()
    seconds = time.monotonic() - start
    lines = {
        int(line["step"] - 1) // SETTINGS["ppo_epochs"]: line for line in trainer.state.log_history if "loss" in line
    }
    net.backbone.add_adapter("reward", peft_methods.adapter(spec, loading.load(Path("model")), 1))
    held = sum(p.numel() for p in net.parameters())
    result = {
        "rewards": [line["reward"] for line in lines.values()],
        "kl": [line["kl"] for line in lines.values()],
        "samples_per_second": steps * SETTINGS["batch_size"] / seconds,
        "memory": held / (4 * sum(p.numel() for p in loading.load(Path("model")).parameters())),
    }
    Path("ours.json").write_text(json.dumps(result))


def even_share(answer: list[int]) -> float:
    """The share of even ids before the stop token."""
    kept = [token for token in answer if token != 1]
    return sum(token % 2 == 0 for token in kept) / max(1, len(kept))


def report(side: str, seed: int, result: dict) -> None:
    blocks = [result["rewards"][i : i + 10] for i in range(0, len(result["rewards"]), 10)]
    means = "  ".join(f"{sum(block) / len(block):.3f}" for block in blocks)
    print(f"{side:5} seed {seed}  reward by tens {means}  {result['samples_per_second']:.1f} samples/s", flush=True)


def speed(results: list[dict]) -> float:
    return sum(result["samples_per_second"] for result in results) / len(results)


if __name__ == "__main__":
    main()
