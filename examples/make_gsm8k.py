"""Make the GSM8K example's data from its own files: short problems, and pairs of a right solution and one with a broken step.

The files are train.jsonl and test.jsonl of github.com/openai/grade-school-math (MIT licence). Short problems only, so
that the example ends in minutes on two cores; the calculator's annotations are taken out. Test rows are never trained on.

    python examples/make_gsm8k.py train.jsonl test.jsonl examples/data
"""

import argparse
import json
import random
import re
from pathlib import Path

LONGEST = 300  # characters of question and answer together
TRAIN, PAIRS, TEST = 48, 16, 20
STEP = re.compile(r"<<([^=<>]*)=([^<>]*)>>")


def main(train: Path, test: Path, output: Path) -> None:
    training, held_out = short(train), short(test)
    write(output / "gsm8k_train.jsonl", map(solution, training[:TRAIN]))
    write(output / "gsm8k_test.jsonl", map(solution, held_out[:TEST]))
    write(output / "gsm8k_pairs.jsonl", map(pair, training[TRAIN : TRAIN + PAIRS]))
    write(output / "gsm8k_pairs_test.jsonl", map(pair, held_out[:TEST]))


def short(file: Path) -> list[dict]:
    """The rows whose text is short and which have a step that can be broken, in the file's order."""
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    return [row for row in rows if len(row["question"] + plain(row["answer"])) <= LONGEST and broken(row)]


def plain(answer: str) -> str:
    """An answer as a person would write it, without `<<48/2=24>>`."""
    return STEP.sub("", answer)


def solution(row: dict) -> dict:
    """A row for supervised fine-tuning."""
    return {"question": row["question"], "answer": plain(row["answer"])}


def pair(row: dict) -> dict:
    """The right solution, and the same one with a wrong result in one step, carried on to the end."""
    return {"question": row["question"], "chosen": plain(row["answer"]), "rejected": broken(row)}


def broken(row: dict) -> str | None:
    """The answer with one step's result replaced, there and wherever it is used after that; None where none can be."""
    chance = random.Random(row["question"])
    steps = list(STEP.finditer(row["answer"]))
    for step in chance.sample(steps, len(steps)):
        right = step[2].strip()
        if not right:
            continue
        before, after = row["answer"][: step.start()], row["answer"][step.end() :]
        number = rf"(?<![\d.,]){re.escape(right)}(?![\d]|[.,]\d)"
        answer = plain(before + re.sub(number, wrong_number(right, chance), after))
        if answer != plain(row["answer"]):
            return answer
    return None


def wrong_number(right: str, chance: random.Random) -> str:
    """A wrong result of the same kind and about the same size."""
    value = float(right.replace(",", "")) if re.fullmatch(r"-?[\d,]*\.?\d+", right) else 0.0
    if value != int(value):
        return f"{value + chance.choice((-0.5, 0.25, 0.5, 1.5)):g}"
    wrong = int(value) + chance.choice((-3, -2, -1, 1, 2, 3, 10, int(value)))
    return str(wrong if wrong > 0 and wrong != value else int(value) + 1)


def write(file: Path, rows) -> None:
    """Write one JSON object a line."""
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("train", "test", "output"):
        parser.add_argument(name, type=Path)
    main(**vars(parser.parse_args()))
