"""Ask the unquantised model what the proofs of a run's exports compare with: once a run, for every kind.

    python scripts/ask_reference.py --spec SPEC --model results/dpo_lora/merged --manifest results/dpo_lora/merge.json \
        --data results/data/snips_pairs results/data/snips --output results/dpo_lora/export/reference.parquet
"""

import argparse
from pathlib import Path

from posttrain.runtime.atomic import read_json
from posttrain.runtime.script import arguments, run


def main(options) -> None:
    from posttrain.export import reference
    from posttrain.export.sources import check_text_only

    spec = read_json(options.spec)
    check_text_only(options.model, spec["model"]["name"])
    reference.write(spec, options.model, options.data, options.output)


def parser() -> argparse.ArgumentParser:
    options = arguments(__doc__, spec=Path, model=Path, manifest=Path, output=Path)
    options.add_argument("--data", type=Path, nargs="+", required=True, help="the folders of the datasets")
    return options


if __name__ == "__main__":
    run(parser(), main)
