"""Reference log-probabilities: what the parent thinks of every chosen and rejected answer, once for all its DPO runs.

Reads a model and the tokens of a preference dataset's training rows; writes one Parquet file, row by row as the tokens.
A name that ends in `,nf4` asks for the model in 4 bits, which is the reference of a QLoRA.

    python scripts/compute_logprobs.py --model results/sft_lora/model \
        --tokens results/tokens/smollm2/gsm8k_pairs,max_length=1024 \
        --output results/sft_lora/logprobs/gsm8k_pairs,max_length=1024.parquet
"""

from pathlib import Path

from posttrain.config import shape_refusal
from posttrain.errors import UserError
from posttrain.stage import Clock, arguments, read_json, run, say, whole_file

BATCH_TOKENS = 4096


def main(options) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    from posttrain import models, scoring

    refusal = shape_refusal(
        "dpo", f"dataset {options.tokens.name.split(',')[0]}", read_json(options.tokens / "report.json")["shape"]
    )
    if refusal:
        raise UserError(refusal)
    clock = Clock()
    quantised = models.precision("auto") if options.output.stem.endswith(",nf4") else None
    model = models.load(options.model, quantised=quantised).eval()
    rows = pq.read_table(options.tokens / "train.parquet").to_pylist()
    sides = ("chosen", "rejected")
    sequences = [scoring.answer(row["prompt_ids"], row[f"{side}_ids"]) for side in sides for row in rows]
    scores = pa.array([score for score, _ in scoring.log_probs(model, sequences, BATCH_TOKENS)], pa.float32())
    columns = {"ref_chosen_logps": scores[: len(rows)], "ref_rejected_logps": scores[len(rows) :]}
    with whole_file(options.output) as file:
        pq.write_table(pa.table(columns), file)
    name = options.output.parent.parent.name
    say(f"{name}: reference log-probabilities of {len(rows)} pairs in {clock.seconds():.0f} s")


if __name__ == "__main__":
    run(arguments(__doc__, model=Path, tokens=Path, output=Path), main)
