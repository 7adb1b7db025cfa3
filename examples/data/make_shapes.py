"""Draw pictures of coloured shapes with questions about them: rows to train on, held-out rows and preference pairs.

A question asks how many shapes of a kind there are ("How many red circles are there?") or which colour the only shape of a kind
has. Every answer of a question is equally likely. A fifth of all arrangements of shapes is only in held-out pictures and never in
others. The same seed draws the same files.

    python examples/data/make_shapes.py shapes
    python examples/data/make_shapes.py shapes --train 4000 --colours 2 --shapes 2 --grid 2 --most 3
"""

import argparse
import json
import random
import zlib
from collections.abc import Iterator
from pathlib import Path

from PIL import Image, ImageDraw

COLOURS = {"red": (214, 39, 40), "blue": (31, 119, 180), "green": (44, 160, 44), "yellow": (230, 190, 20)}
SHAPES = ("circle", "square", "triangle")
BACKGROUND = (255, 255, 255)

Kind = tuple[str, str]  # colour and shape
Drawn = list[tuple[Kind, int]]  # kinds, each with the number of its cell


def main(options: argparse.Namespace) -> None:
    """Write four files of rows and a folder of pictures."""
    draw = random.Random(options.seed)
    (options.output / "images").mkdir(parents=True, exist_ok=True)
    for name, count, row, held_out in (
        ("shapes_train", options.train, answered, False),
        ("shapes_test", options.test, answered, True),
        ("shapes_pairs", options.pairs, compared, False),
        ("shapes_pairs_test", options.test, compared, True),
    ):
        lines = []
        for i, (drawn, question, answer, wrong) in zip(range(count), questions(options, draw, held_out), strict=False):
            file = f"images/{name}_{i:05}.png"
            picture(drawn, options, draw).save(options.output / file)
            lines.append(json.dumps(row(question, answer, wrong, file)))
        (options.output / f"{name}.jsonl").write_text("".join(line + "\n" for line in lines))


def answered(question: str, answer: str, wrong: str, file: str) -> dict:
    """A row to fine-tune on."""
    turns = [{"role": "user", "content": f"<image>{question}"}, {"role": "assistant", "content": answer}]
    return {"messages": turns, "images": [file]}


def compared(question: str, answer: str, wrong: str, file: str) -> dict:
    """A preference pair: the right answer and a wrong one."""
    return {"prompt": f"<image>{question}", "chosen": answer, "rejected": wrong, "images": [file]}


def questions(
    options: argparse.Namespace, draw: random.Random, held_out: bool
) -> Iterator[tuple[Drawn, str, str, str]]:
    """What is drawn in a picture, a question, its answer and a wrong answer; held-out arrangements or the others."""
    colours, shapes = list(COLOURS)[: options.colours], SHAPES[: options.shapes]
    kinds = [(colour, shape) for colour in colours for shape in shapes]
    cells = options.grid**2
    while True:
        colour, shape = draw.choice(kinds)
        if options.ask == "count" or (options.ask == "both" and draw.random() < 0.5):
            number = draw.randint(0, options.most)
            others = [kind for kind in kinds if kind != (colour, shape)]
            question, answer = f"How many {colour} {shape}s are there?", str(number)
            wrong = str(draw.choice([n for n in range(options.most + 1) if n != number]))
        else:
            number, others = 1, [kind for kind in kinds if kind[1] != shape]
            question, answer = f"Which colour is the {shape}?", colour
            wrong = draw.choice([other for other in colours if other != colour])
        more = draw.randint(not number, max(cells - options.most, not number))  # no picture is empty
        which = [(colour, shape)] * number + [draw.choice(others) for _ in range(more)]
        drawn = sorted(zip(which, draw.sample(range(cells), len(which)), strict=True), key=lambda one: one[1])
        if (zlib.crc32(repr(drawn).encode()) % 5 == 0) == held_out:
            yield drawn, question, answer, wrong


def picture(drawn: Drawn, options: argparse.Namespace, draw: random.Random) -> Image.Image:
    """The picture, (size, size) pixels in RGB; each shape is in its cell, at a random place and of a random size."""
    image = Image.new("RGB", (options.size, options.size), BACKGROUND)
    pen, cell = ImageDraw.Draw(image), options.size / options.grid
    for (colour, shape), number in drawn:
        radius = cell * draw.uniform(0.3, 0.42)
        x, y = (
            (at + 0.5) * cell + draw.uniform(-1, 1) * (cell / 2 - radius)
            for at in (number % options.grid, number // options.grid)
        )
        box = (x - radius, y - radius, x + radius, y + radius)
        if shape == "circle":
            pen.ellipse(box, COLOURS[colour])
        elif shape == "square":
            pen.rectangle(box, COLOURS[colour])
        else:
            pen.polygon([(x, y - radius), (x - radius, y + radius), (x + radius, y + radius)], COLOURS[colour])
    return image


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path, help="folder to write")
    for name, default, text in (
        ("train", 2000, "rows to train on"),
        ("test", 200, "held-out rows, and held-out pairs"),
        ("pairs", 400, "preference pairs to train on"),
        ("size", 64, "width and height of a picture in pixels"),
        ("grid", 3, "cells in a row and in a column; a shape fills at most one"),
        ("most", 4, "largest number of shapes that is asked for"),
        ("seed", 0, "seed of everything that is random"),
    ):
        parser.add_argument(f"--{name}", type=int, default=default, help=f"{text} (default {default})")
    parser.add_argument("--colours", type=int, default=3, choices=range(2, len(COLOURS) + 1), help="how many colours")
    parser.add_argument("--shapes", type=int, default=3, choices=range(2, len(SHAPES) + 1), help="how many shapes")
    parser.add_argument("--ask", default="both", choices=("count", "colour", "both"), help="what is asked")
    options = parser.parse_args()
    if not 0 < options.most <= options.grid**2:
        parser.error(f"{options.grid**2} cells hold no {options.most} shapes: raise --grid or lower --most")
    return options


if __name__ == "__main__":
    main(arguments())
