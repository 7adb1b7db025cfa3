"""Draw the loss of one or several training stages, side by side.

python scripts/plot_loss.py --output loss.png results/sft_lora/train.jsonl results/dpo_lora/train.jsonl
"""

from pathlib import Path

from posttrain.reports import curves, figures
from posttrain.runtime.script import arguments, run


def main(options) -> None:
    pyplot = figures.pyplot()
    figure, axes = pyplot.subplots(1, len(options.steps), figsize=(5 * len(options.steps), 3.5), squeeze=False)
    for axis, file in zip(axes[0], options.steps, strict=True):
        curves.draw(axis, curves.panels(curves.read(file))[0])
        axis.set(title=file.parent.name, ylabel="loss")
    figure.tight_layout()
    figures.write(figure, options.output)


if __name__ == "__main__":
    parser = arguments(__doc__, output=Path)
    parser.add_argument("steps", type=Path, nargs="+", help="train.jsonl of each stage")
    run(parser, main)
