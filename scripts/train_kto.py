"""Kahneman-Tversky optimisation (Ethayarajh et al. 2024): learn from answers that are each wanted or unwanted.

Pairs are taken apart: the chosen answer is a wanted one, the rejected an unwanted one. The reference is the parent. Reads
and writes what train_sft.py does.

    python scripts/train_kto.py --spec results/kto_lora/spec.json --parent results/sft_lora/merged \
        --manifest results/sft_lora/merge.json --tokens results/tokens/smollm2/snips_pairs,max_length=1024
"""

from itertools import chain
from pathlib import Path

from posttrain.runtime.atomic import read_json
from posttrain.runtime.errors import UserError
from posttrain.runtime.script import arguments, held_out_rows, run


def main(options) -> None:
    from trl import KTOConfig, KTOTrainer

    from posttrain.models import loading, out_of_memory, peft_methods
    from posttrain.training import held_out, loop

    class PreparedKTOTrainer(KTOTrainer):
        """TRL's trainer, given the tokens that it would compute itself."""

        def _prepare_dataset(self, dataset, *args):
            return dataset

    spec = read_json(options.spec)
    loop.check_shape(options.tokens / "report.json", spec)
    train, validation = options.tokens / "train.parquet", options.tokens / "validation.parquet"
    folder = loop.work_folder(options, [options.manifest, train])
    if not (folder / "finished").exists():
        rows = labelled(train)
        lengths = [len(row["prompt_ids"]) + len(row["completion_ids"]) for row in rows]
        rows = loop.ordered(rows, spec, lengths)
        measured = held_out.rows(validation, spec, labelled)

        def build(spec):
            model = loop.load_parent(options.parent, spec)
            return PreparedKTOTrainer(
                model=model,
                args=KTOConfig(
                    **loop.trainer_arguments(spec, folder),
                    max_length=spec["max_length"],
                    beta=spec["beta"],
                    loss_type=spec["loss_type"],
                    disable_dropout=not spec.get("dropout"),
                    precompute_ref_log_probs=True,  # so that full fine-tuning needs no second model
                ),
                train_dataset=mismatched(rows, out_of_memory.micro_batch(spec)),
                eval_dataset=measured and mismatched(measured, out_of_memory.micro_batch(spec)),
                processing_class=loading.tokenizer(options.parent),
                peft_config=peft_methods.adapter(spec, model, loop.steps(len(rows), spec["batch_size"])),
            )

        loop.fit(build, options, folder, spec)
    loop.publish(options, folder)


def labelled(tokens: Path):
    """Answers one by one: those of pairs with the label that their side gives them, others with their own."""
    import pyarrow.parquet as pq
    from datasets import Dataset

    rows = []
    for row in pq.read_table(tokens).to_pylist():
        sides = [("completion_ids", row.get("label")), ("chosen_ids", True), ("rejected_ids", False)]
        rows += [
            {"id": row["id"], "prompt_ids": row["prompt_ids"], "completion_ids": row[side], "label": label}
            for side, label in sides
            if side in row
        ]
    return Dataset.from_list(rows)


def mismatched(rows, batch_size: int):
    """Beside each prompt the answer to another prompt, from which the KL divergence is estimated (eq. 7).

    It is the nearest one before it in the micro-batch, where that holds another prompt, or else in the whole dataset.

    Raises:
        UserError: all rows have the same prompt.
    """
    prompts, answers = rows["prompt_ids"], rows["completion_ids"]

    def borrowed(row: int) -> list[int]:
        start = row - row % batch_size
        size = min(batch_size, len(rows) - start)
        near = (start + (row - start - k) % size for k in range(1, size))
        far = ((row - k) % len(rows) for k in range(1, len(rows)))
        for other in chain(near, far):
            if prompts[other] != prompts[row]:
                return answers[other]
        raise UserError(
            "kto compares answers to different prompts, and all rows have the same one; write objective: dpo"
        )

    return rows.add_column("KL_completion_ids", [borrowed(row) for row in range(len(rows))])


if __name__ == "__main__":
    run(held_out_rows(arguments(__doc__, spec=Path, parent=Path, manifest=Path, tokens=Path)), main)
