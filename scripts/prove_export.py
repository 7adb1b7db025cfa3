"""Prove an export: load it from disk by the program that runs it, and compare what it says with the unquantised model.

    python scripts/prove_export.py --spec results/dpo_lora/export/spec.json --kind nf4 --export results/dpo_lora/export/nf4 \
        --reference results/dpo_lora/export/reference.parquet --parent results/sft_lora/merged \
        --before results/sft_lora/merge.json --output results/dpo_lora/export/nf4.json
"""

from pathlib import Path

from posttrain.runtime.atomic import read_json
from posttrain.runtime.script import arguments, run


def main(options) -> None:
    from posttrain.export import proof

    proof.write(read_json(options.spec), options)


if __name__ == "__main__":
    run(
        arguments(__doc__, spec=Path, kind=str, export=Path, reference=Path, parent=Path, before=Path, output=Path),
        main,
    )
