"""Reward modelling (Bradley and Terry 1952; Ouyang et al. 2022): score the chosen answer above the rejected one.

The loss of a pair is -log sigmoid(score(chosen) - score(rejected)); the score is read at the answer's last token. Reads and
writes what train_sft.py does; the model gets a score in place of its LM head.

    python scripts/train_reward.py --spec results/reward_lora/spec.json --parent results/sft_lora/merged \
        --manifest results/sft_lora/merge.json --tokens results/tokens/smollm2/snips_pairs,max_length=1024
"""

from pathlib import Path

from posttrain.runtime.atomic import read_json
from posttrain.runtime.script import arguments, held_out_rows, run


def main(options) -> None:
    from trl import RewardConfig, RewardTrainer

    from posttrain.models import loading, peft_methods
    from posttrain.training import held_out, loop

    spec = read_json(options.spec)
    loop.check_shape(options.tokens / "report.json", spec)
    train, validation = options.tokens / "train.parquet", options.tokens / "validation.parquet"
    folder = loop.work_folder(options, [options.manifest, train])
    if not (folder / "finished").exists():
        rows, measured = answers(train), held_out.rows(validation, spec, answers)
        lengths = [len(row["chosen_ids"]) + len(row["rejected_ids"]) for row in rows]
        rows = loop.ordered(rows, spec, lengths)

        def build(spec):
            model = loop.load_parent(options.parent, spec)
            return RewardTrainer(
                model=model,
                args=RewardConfig(
                    **loop.trainer_arguments(spec, folder),
                    max_length=spec["max_length"],
                    disable_dropout=not spec.get("dropout"),
                ),
                train_dataset=rows,
                eval_dataset=measured,
                processing_class=loading.tokenizer(options.parent),
                peft_config=peft_methods.adapter(spec, model, loop.steps(len(rows), spec["batch_size"])),
            )

        loop.fit(build, options, folder, spec)
    loop.publish(options, folder)


def answers(tokens: Path):
    """Pairs as RewardTrainer takes them: each answer with its prompt before it."""
    from datasets import Dataset

    from posttrain.training import loop

    pairs = loop.read_tokens(tokens, ("id", "prompt_ids", "chosen_ids", "rejected_ids"))
    rows = {
        side: [prompt + answer for prompt, answer in zip(pairs["prompt_ids"], pairs[side], strict=True)]
        for side in ("chosen_ids", "rejected_ids")
    }
    return Dataset.from_dict({"id": pairs["id"]} | rows)


if __name__ == "__main__":
    run(held_out_rows(arguments(__doc__, spec=Path, parent=Path, manifest=Path, tokens=Path)), main)
