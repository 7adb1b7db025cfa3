"""Odds ratio preference optimisation (Hong et al. 2024): learn the chosen answer and leave the rejected one, at once.

There is no reference: the loss is that of supervised fine-tuning on the chosen answer, plus beta times the log odds ratio
(the paper's equations; TRL's own loss also learns the chosen answer's prompt). Reads and writes what train_sft.py does.

    python scripts/train_orpo.py --spec results/orpo_lora/spec.json --parent results/bases/smollm2/model \
        --manifest results/bases/smollm2/base.json --tokens results/tokens/smollm2/gsm8k_pairs,max_length=1024
"""

from functools import partial
from pathlib import Path

from posttrain.stage import arguments, held_out_rows, read_json, run
from posttrain.tokens import IGNORED


def main(options) -> None:
    from trl.experimental.orpo import ORPOConfig, ORPOTrainer

    from posttrain import held_out, methods, models, pairs, training

    class PreparedORPOTrainer(ORPOTrainer):
        """TRL's trainer, given the tokens that it would compute itself."""

        def tokenize_row(self, feature, model=None):
            return pairs.columns(feature)

        def concatenated_forward(self, model, batch):
            """TRL's loss of the chosen answer is its prompt's as well, which is not to be learnt."""
            chosen, *others = super().concatenated_forward(model, batch)
            lengths = (batch["chosen_labels"] != IGNORED).sum(1)
            others[3] = -(chosen * lengths).sum() / lengths.sum()
            return (chosen, *others)

    spec = read_json(options.spec)
    training.check_shape(options.tokens / "report.json", spec)
    train, validation = options.tokens / "train.parquet", options.tokens / "validation.parquet"
    folder = training.work_folder(options, [options.manifest, train])
    if not (folder / "finished").exists():
        read = partial(training.read_tokens, columns=("id", "prompt_ids", "chosen_ids", "rejected_ids", "length"))
        rows = read(train)
        rows = training.ordered(rows, spec, rows["length"])
        measured = held_out.rows(validation, spec, read)

        def build(spec):
            model = training.load_parent(options.parent, spec)
            return PreparedORPOTrainer(
                model=model,
                args=ORPOConfig(
                    **training.trainer_arguments(spec, folder),
                    max_length=spec["max_length"],
                    beta=spec["beta"],
                    disable_dropout=not spec.get("dropout"),
                ),
                train_dataset=rows,
                eval_dataset=measured,
                processing_class=models.tokenizer(options.parent),
                peft_config=methods.adapter(spec, model, training.steps(len(rows), spec["batch_size"])),
            )

        training.fit(build, options, folder, spec)
    training.publish(options, folder)


if __name__ == "__main__":
    run(held_out_rows(arguments(__doc__, spec=Path, parent=Path, manifest=Path, tokens=Path)), main)
