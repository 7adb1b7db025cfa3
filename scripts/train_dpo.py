"""Direct preference optimisation (Rafailov et al. 2023): prefer the chosen answer, without drifting from the reference.

The reference is the parent. Its log-probabilities were computed once, by compute_logprobs.py, for every run that shares
the parent. Reads the run's spec, the parent's model, tokens and log-probabilities; writes what train_sft.py writes.

    python scripts/train_dpo.py --spec results/dpo_lora/spec.json --parent results/sft_lora/merged \
        --manifest results/sft_lora/merge.json --tokens results/tokens/smollm2/snips_pairs,max_length=1024 \
        --logprobs results/sft_lora/logprobs/snips_pairs,max_length=1024.parquet
"""

from functools import partial
from pathlib import Path

from posttrain.runtime.atomic import read_json
from posttrain.runtime.script import arguments, held_out_rows, run

TOKENS = ("id", "prompt_ids", "chosen_ids", "rejected_ids")
REFERENCE = ("ref_chosen_logps", "ref_rejected_logps")


def main(options) -> None:
    import pyarrow.parquet as pq
    from datasets import Dataset, concatenate_datasets
    from trl import DPOConfig, DPOTrainer

    from posttrain.inference import scoring
    from posttrain.models import loading, peft_methods
    from posttrain.training import held_out, loop

    class PreparedDPOTrainer(DPOTrainer):
        """TRL's trainer, given the tokens and reference log-probabilities that it would compute itself."""

        def _prepare_dataset(self, dataset, *args):
            return dataset

        def _precompute_ref_logps(self, dataset, *args):
            return dataset

    spec = read_json(options.spec)
    loop.check_shape(options.tokens / "report.json", spec)
    train, validation = options.tokens / "train.parquet", options.tokens / "validation.parquet"
    folder = loop.work_folder(options, [options.manifest, train, options.logprobs])
    if not (folder / "finished").exists():
        read = partial(loop.read_tokens, columns=TOKENS)
        tokens, reference = read(train), loop.read_tokens(options.logprobs, REFERENCE)
        lengths = pq.read_table(train, columns=["length"])["length"].to_pylist()
        rows = loop.ordered(concatenate_datasets([tokens, reference], axis=1), spec, lengths)
        measured = held_out.rows(validation, spec, read)

        def build(spec):
            model = loop.load_parent(options.parent, spec)

            def with_reference(rows):
                """Held-out rows beside what the parent thinks of them."""
                scores = scoring.reference(model.eval(), rows.to_list())
                return concatenate_datasets(
                    [rows, Dataset.from_dict(dict(zip(REFERENCE, scores, strict=True)))], axis=1
                )

            return PreparedDPOTrainer(
                model=model,
                args=DPOConfig(
                    **loop.trainer_arguments(spec, folder),
                    max_length=spec["max_length"],
                    beta=spec["beta"],
                    loss_type=spec["loss_type"],
                    loss_weights=spec["loss_weights"],
                    disable_dropout=not spec.get("dropout"),
                    precompute_ref_log_probs=True,
                ),
                train_dataset=rows,
                eval_dataset=measured and with_reference(measured),
                processing_class=loading.tokenizer(options.parent),
                peft_config=peft_methods.adapter(spec, model, loop.steps(len(rows), spec["batch_size"])),
            )

        loop.fit(build, options, folder, spec)
    loop.publish(options, folder)


if __name__ == "__main__":
    run(held_out_rows(arguments(__doc__, spec=Path, parent=Path, manifest=Path, tokens=Path, logprobs=Path)), main)
