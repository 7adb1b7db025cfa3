"""Draw the loss of one or several training stages, side by side.

python scripts/plot_loss.py --output loss.png results/sft_lora/train.jsonl results/dpo_lora/train.jsonl
"""

import json
from pathlib import Path

from posttrain.stage import arguments, run, whole_file


def main(options) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, len(options.steps), figsize=(5 * len(options.steps), 3.5), squeeze=False)
    for axis, file in zip(axes[0], options.steps, strict=True):
        lines = [json.loads(line) for line in file.read_text().splitlines()]
        points = [(line["step"], line["loss"]) for line in lines if "loss" in line]
        held_out = [(line["step"], line["eval_loss"]) for line in lines if "eval_loss" in line]
        axis.plot(*zip(*points, strict=True), marker="." if len(points) < 50 else "", label="training")
        if held_out:
            axis.plot(*zip(*held_out, strict=True), marker="o", label="held out")
            axis.legend()
        axis.set(title=file.parent.name, xlabel="step", ylabel="loss")
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.grid(alpha=0.3)
    figure.tight_layout()
    with whole_file(options.output) as path:
        figure.savefig(path, dpi=120, format="png")


if __name__ == "__main__":
    parser = arguments(__doc__, output=Path)
    parser.add_argument("steps", type=Path, nargs="+", help="train.jsonl of each stage")
    run(parser, main)
