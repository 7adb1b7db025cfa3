"""CPO (Xu et al. 2024) and SimPO (Meng et al. 2024): prefer the chosen answer, without a reference.

CPO's loss is DPO's with a reference that is uniform, plus `cpo_alpha` times the negative log-likelihood of the chosen answer.
SimPO (`loss_type: simpo`) compares means over an answer's tokens, beta (chosen - rejected) - simpo_gamma, and learns nothing else.
Reads and writes what train_sft.py does.

    python scripts/train_cpo.py --spec results/cpo_lora/spec.json --parent results/bases/smollm2/model \
        --manifest results/bases/smollm2/base.json --tokens results/tokens/smollm2/gsm8k_pairs,max_length=1024
"""

from functools import partial
from pathlib import Path

from posttrain.stage import arguments, held_out_rows, read_json, run

KEYS = ("loss_type", "beta", "cpo_alpha", "simpo_gamma")


def main(options) -> None:
    from trl.experimental.cpo import CPOConfig, CPOTrainer

    from posttrain import held_out, methods, models, pairs, training

    class PreparedCPOTrainer(CPOTrainer):
        """TRL's trainer, given the tokens that it would compute itself."""

        def tokenize_row(self, feature, model=None):
            return pairs.columns(feature)

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
            return PreparedCPOTrainer(
                model=model,
                args=CPOConfig(
                    **training.trainer_arguments(spec, folder),
                    **{key: spec[key] for key in KEYS if key in spec},
                    max_length=spec["max_length"],
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
