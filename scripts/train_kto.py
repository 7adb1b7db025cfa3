"""Kahneman-Tversky optimisation (Ethayarajh et al. 2024): learn from completions that are each desirable or undesirable.

Pairs are taken apart: the chosen completion is desirable, the rejected one undesirable. The reference is the parent. Reads and
writes what train_sft.py does.

    python scripts/train_kto.py --spec results/kto_lora/spec.json --parent results/sft_lora/merged \
        --manifest results/sft_lora/merge.json --tokens results/tokens/smollm2/snips_pairs,max_length=1024
"""

from itertools import chain
from pathlib import Path

from posttrain.runtime.errors import UserError
from posttrain.runtime.script import arguments, held_out_rows, run


def main(options) -> None:
    from trl import KTOConfig

    from posttrain.compat.trl_trainers import prepared_kto
    from posttrain.models import out_of_memory
    from posttrain.runtime import processes
    from posttrain.training import preference_stage

    preference_stage.train(
        options,
        prepared_kto(),
        KTOConfig,
        ("beta", "loss_type"),
        read=labelled,
        given=lambda rows, model, spec: mismatched(rows, out_of_memory.micro_batch(spec) * processes.count()),
        precompute_ref_log_probs=True,  # so that full fine-tuning needs no second model
    )


def labelled(tokens: Path):
    """Completions one by one: those of pairs with the label that their side gives them, others with their own."""
    import pyarrow.parquet as pq
    from datasets import Dataset

    rows = []
    for row in pq.read_table(tokens).to_pylist():
        sides = [("completion_ids", row.get("label")), ("chosen_ids", True), ("rejected_ids", False)]
        rows += [
            {
                "id": row["id"],
                "prompt_ids": row["prompt_ids"],
                "completion_ids": row[side],
                "label": label,
                "length": len(row["prompt_ids"]) + len(row[side]),
            }
            for side, label in sides
            if side in row
        ]
    return Dataset.from_list(rows)


def mismatched(rows, batch_size: int):
    """Beside each prompt the completion of another prompt, from which the KL divergence is estimated (eq. 7).

    It is the nearest one before it in the micro-batch, where that holds another prompt, or else in the whole dataset.

    Raises:
        UserError: all rows have the same prompt.
    """
    prompts, completions = rows["prompt_ids"], rows["completion_ids"]

    def mismatch(row: int) -> list[int]:
        start = row - row % batch_size
        size = min(batch_size, len(rows) - start)
        near = (start + (row - start - k) % size for k in range(1, size))
        far = ((row - k) % len(rows) for k in range(1, len(rows)))
        for other in chain(near, far):
            if prompts[other] != prompts[row]:
                return completions[other]
        raise UserError(
            "unsupported-setting",
            "objective",
            "kto compares completions of different prompts, and all rows have the same one",
            "write objective: dpo",
        )

    return rows.add_column("KL_completion_ids", [mismatch(row) for row in range(len(rows))])


if __name__ == "__main__":
    run(held_out_rows(arguments(__doc__, spec=Path, parent=Path, manifest=Path, tokens=Path)), main, processes=True)
