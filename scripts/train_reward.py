"""Reward modelling (Bradley and Terry 1952; Ouyang et al. 2022): score the chosen completion above the rejected one.

The loss of a pair is -log sigmoid(score(chosen) - score(rejected)); the score is read at the completion's last token. Reads and
writes what train_sft.py does; the model gets a score in place of its LM head.

    python scripts/train_reward.py --spec results/reward_lora/spec.json --parent results/sft_lora/merged \
        --manifest results/sft_lora/merge.json --tokens results/tokens/smollm2/snips_pairs,max_length=1024
"""

from pathlib import Path

from posttrain.runtime.script import arguments, held_out_rows, run


def main(options) -> None:
    from trl import RewardConfig, RewardTrainer

    from posttrain.training import preference_stage

    preference_stage.train(options, RewardTrainer, RewardConfig, read=whole_rows)


def whole_rows(tokens: Path):
    """Pairs as RewardTrainer takes them: each completion with its prompt before it."""
    from datasets import Dataset

    from posttrain.training import inputs

    pairs = inputs.read_tokens(tokens, ("id", "prompt_ids", "chosen_ids", "rejected_ids"))
    rows = {
        side: [prompt + completion for prompt, completion in zip(pairs["prompt_ids"], pairs[side], strict=True)]
        for side in ("chosen_ids", "rejected_ids")
    }
    lengths = [len(chosen) + len(rejected) for chosen, rejected in zip(*rows.values(), strict=True)]
    return Dataset.from_dict({"id": pairs["id"]} | rows | {"length": lengths})


if __name__ == "__main__":
    run(held_out_rows(arguments(__doc__, spec=Path, parent=Path, manifest=Path, tokens=Path)), main, processes=True)
