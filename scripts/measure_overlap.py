"""Look for a dataset's training rows in held-out rows: its own, and those of every dataset that models are measured on.

    python scripts/measure_overlap.py --data results/data/snips --held-out results/data/snips results/data/chat \
        --output results/data/snips/overlap.json
"""

from pathlib import Path

from posttrain.data.contamination import overlap
from posttrain.runtime.atomic import write_json
from posttrain.runtime.console import say
from posttrain.runtime.script import arguments, run


def main(options) -> None:
    train = options.data / "train.parquet"
    found = {f"{folder.name}/validation": overlap(train, folder / "validation.parquet") for folder in options.held_out}
    write_json(options.output, found)
    for name, result in found.items():
        if result["shared"]:
            first = result["examples"][0]
            say(
                f"{options.data.name}: WARNING: {result['shared']} of {result['rows']} held-out rows of {name} stand in the training "
                f"rows, such as {first['place']} in {first['train_place']}"
            )


if __name__ == "__main__":
    parser = arguments(__doc__, data=Path, output=Path)
    parser.add_argument("--held-out", type=Path, nargs="*", required=True)
    run(parser, main)
