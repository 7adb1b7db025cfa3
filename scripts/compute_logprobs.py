"""Reference log-probabilities: what the parent thinks of every chosen and rejected answer, once for all its DPO runs.

Reads a model and a preference dataset's tokens; writes train.parquet and validation.parquet, row by row as the tokens.

    python scripts/compute_logprobs.py --model results/sft_lora/model \
        --tokens results/tokens/smollm2/gsm8k_pairs,max_length=1024 \
        --output results/sft_lora/logprobs/gsm8k_pairs,max_length=1024
"""

from pathlib import Path

from posttrain.errors import UserError
from posttrain.stage import Clock, arguments, read_json, run, say, whole_file

BATCH_TOKENS = 4096


def main(options) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    from posttrain import models, scoring

    shape = read_json(options.tokens / "report.json")["format"]
    if shape != "preference":
        raise UserError(f"dataset {options.tokens.name.split(',')[0]}: dpo needs rows of shape preference, and these are {shape}")
    clock = Clock()
    model = models.load(options.model).eval()
    count = 0
    for split in ("train", "validation"):
        rows = pq.read_table(options.tokens / f"{split}.parquet").to_pylist()
        columns = {}
        for side in ("chosen", "rejected"):
            sequences = [scoring.answer(row["prompt_ids"], row[f"{side}_ids"]) for row in rows]
            scores = scoring.log_probs(model, sequences, BATCH_TOKENS)
            columns[f"ref_{side}_logps"] = pa.array([score for score, _ in scores], pa.float32())
        count += len(rows)
        with whole_file(options.output / f"{split}.parquet") as file:
            pq.write_table(pa.table(columns), file)
    say(f"{options.output.parent.parent.name}: reference log-probabilities of {count} pairs in {clock.seconds():.0f} s")


if __name__ == "__main__":
    run(arguments(__doc__, model=Path, tokens=Path, output=Path), main)
