"""Reward modelling (Bradley and Terry 1952; Ouyang et al. 2022): score the chosen answer above the rejected one.

The loss of a pair is -log sigmoid(score(chosen) - score(rejected)); the score is read at the answer's last token. Reads and
writes what train_sft.py does; the model gets a score in place of its LM head.

    python scripts/train_reward.py --spec results/reward_lora/spec.json --parent results/sft_lora/model \
        --manifest results/sft_lora/merge.json --tokens results/tokens/smollm2/gsm8k_pairs,max_length=1024
"""

from pathlib import Path

from posttrain.stage import arguments, read_json, run


def main(options) -> None:
    from trl import RewardConfig, RewardTrainer

    from posttrain import methods, models, training

    spec = read_json(options.spec)
    training.check_shape(options.tokens / "report.json", spec)
    train, validation = options.tokens / "train.parquet", options.tokens / "validation.parquet"
    folder = training.work_folder(options, [options.manifest, train])
    if not (folder / "finished").exists():
        rows, held_out = answers(train), answers(validation)
        lengths = [len(chosen) + len(rejected) for chosen, rejected in zip(*rows[:].values(), strict=True)]
        rows = training.ordered(rows, spec, lengths)
        with training.refusals(options.spec.parent.name):
            model = training.load_parent(options.parent, spec)
            trainer = RewardTrainer(
                model=model,
                args=RewardConfig(
                    **training.trainer_arguments(spec, folder),
                    max_length=spec["max_length"],
                    disable_dropout=not spec.get("dropout"),
                ),
                train_dataset=rows,
                eval_dataset=held_out if len(held_out) else None,
                processing_class=models.tokenizer(options.parent),
                peft_config=methods.adapter(spec, model, training.steps(len(rows), spec["batch_size"])),
            )
        training.fit(trainer, options, folder, spec)
    training.publish(options, folder)


def answers(tokens: Path):
    """Pairs as RewardTrainer takes them: each answer with its prompt before it."""
    from datasets import Dataset

    from posttrain import training

    columns = ("prompt_ids", "chosen_ids", "rejected_ids")
    pairs = zip(*(training.read_tokens(tokens, columns)[column] for column in columns), strict=True)
    rows = [(prompt + chosen, prompt + rejected) for prompt, chosen, rejected in pairs]
    return Dataset.from_dict({"chosen_ids": [row[0] for row in rows], "rejected_ids": [row[1] for row in rows]})


if __name__ == "__main__":
    run(arguments(__doc__, spec=Path, parent=Path, manifest=Path, tokens=Path), main)
