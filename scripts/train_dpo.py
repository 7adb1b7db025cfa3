"""Direct preference optimisation (Rafailov et al. 2023): prefer the chosen completion, without drifting from the reference.

The reference is the parent. Its log-probabilities were computed once, by compute_logprobs.py, for every run that shares
the parent. Reads the run's spec, the parent's model, tokens and log-probabilities; writes what train_sft.py writes.

    python scripts/train_dpo.py --spec results/dpo_lora/spec.json --parent results/sft_lora/merged \
        --manifest results/sft_lora/merge.json --tokens results/tokens/smollm2/snips_pairs,max_length=1024 \
        --logprobs results/sft_lora/logprobs/snips_pairs,max_length=1024.parquet
"""

from pathlib import Path

from posttrain.runtime.script import arguments, held_out_rows, run

REFERENCE = ("ref_chosen_logps", "ref_rejected_logps")


def main(options) -> None:
    from datasets import Dataset, concatenate_datasets
    from trl import DPOConfig

    from posttrain.compat.trl_trainers import prepared_dpo
    from posttrain.inference import media, scoring
    from posttrain.training import inputs, media_collator, preference_stage

    def read(file):
        """Pairs, and beside those of training the reference's log-probabilities."""
        rows = preference_stage.read_pairs(file)
        if file.stem != "train":
            return rows
        return concatenate_datasets([rows, inputs.read_tokens(options.logprobs, REFERENCE)], axis=1)

    def with_reference(rows, model, spec):
        """Held-out rows beside the parent's log-probabilities of them, which no stage has computed."""
        if set(REFERENCE) <= set(rows.column_names):
            return rows
        files = media.of_tokens(media_collator.named(rows.to_list()), options.tokens)
        scores = scoring.reference(model.eval(), rows.to_list(), files=files)
        return concatenate_datasets([rows, Dataset.from_dict(dict(zip(REFERENCE, scores, strict=True)))], axis=1)

    preference_stage.train(
        options,
        prepared_dpo(),
        DPOConfig,
        ("beta", "loss_type", "loss_weights"),
        read=read,
        given=with_reference,
        files=(options.logprobs,),
        precompute_ref_log_probs=True,
    )


if __name__ == "__main__":
    run(
        held_out_rows(arguments(__doc__, spec=Path, parent=Path, manifest=Path, tokens=Path, logprobs=Path)),
        main,
        processes=True,
    )
