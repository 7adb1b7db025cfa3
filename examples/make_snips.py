"""Make the demo's data from the Snips commands: tool calls to learn, and pairs of the right call and a plausible wrong one.

The input files have a row a command, `{"text": ..., "intent": TOOL, "slots": [[ARGUMENT, VALUE], ...]}` (Snips NLU benchmark,
CC0 1.0). Commands of the test file are never trained on, and a pair's command is in no row of `snips_train.jsonl`.

    python examples/make_snips.py train.jsonl test.jsonl examples/data
"""

import argparse
import json
import random
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from itertools import chain
from pathlib import Path

TRAIN, PAIRS, TEST = 200, 100, 100  # rows of each file, equally many of each tool
SHARED = 0.65  # of a held-out row's words; the preflight's check `overlap` stops at 0.7
# Four of the seven tools, so that the demo ends in minutes: each, and the one that is easily taken for it.
CONFUSED = {
    "AddToPlaylist": "PlayMusic",
    "PlayMusic": "AddToPlaylist",
    "GetWeather": "PlayMusic",
    "RateBook": "AddToPlaylist",
}

Call = tuple[str, dict[str, str]]  # a tool and its arguments


def main(train: Path, test: Path, output: Path) -> None:
    """Write the four files of the demo into the folder `output`."""
    held_out = in_turn(read(test))[:TEST]
    asked = [words(row) for row in held_out]
    training = in_turn(row for row in read(train) if not any(alike(words(row), other) for other in asked))
    arguments = names(training)
    write(output / "snips_train.jsonl", map(command, training[:TRAIN]))
    write(output / "snips_test.jsonl", map(command, held_out))
    write(output / "snips_pairs.jsonl", (pair(row, arguments) for row in training[TRAIN : TRAIN + PAIRS]))
    write(output / "snips_pairs_test.jsonl", (pair(row, arguments) for row in held_out))


def read(file: Path) -> list[dict]:
    """The rows of a file that call one of the tools, without commands that occur twice or give an argument twice."""
    rows = {}
    for line in file.read_text().splitlines():
        row = json.loads(line)
        if row["intent"] in CONFUSED and len(dict(row["slots"])) == len(row["slots"]):
            rows.setdefault(row["text"].lower(), row)
    return list(rows.values())


def words(row: dict) -> Counter[str]:
    """The words of a command and its call."""
    return Counter(re.findall(r"\w+", (row["text"] + text(call(row))).lower()))


def alike(training: Counter[str], held_out: Counter[str]) -> bool:
    """Whether a training row contains so much of a held-out one that it gives it away."""
    return (training & held_out).total() >= SHARED * held_out.total()


def in_turn(rows: Iterable[dict]) -> list[dict]:
    """The rows in their order, one of each tool in turn, as long as every tool has one."""
    by_tool = defaultdict(list)
    for row in rows:
        by_tool[row["intent"]].append(row)
    return list(chain.from_iterable(zip(*by_tool.values(), strict=False)))


def names(rows: list[dict]) -> dict[str, list[str]]:
    """The names of the arguments that each tool takes."""
    found = defaultdict(dict)
    for row in rows:
        found[row["intent"]] |= dict.fromkeys(name for name, _ in row["slots"])
    return {tool: list(arguments) for tool, arguments in found.items()}


def command(row: dict) -> dict:
    """A row for supervised fine-tuning."""
    return {"command": row["text"], "call": text(call(row))}


def pair(row: dict, arguments: dict[str, list[str]]) -> dict:
    """The right call, and one with a mistake that a model could make."""
    return {"command": row["text"], "chosen": text(call(row)), "rejected": text(wrong(row, arguments))}


def call(row: dict) -> Call:
    """The right call of a command."""
    return row["intent"], dict(row["slots"])


def text(call: Call) -> str:
    """A call as the model writes it."""
    name, arguments = call
    return json.dumps({"name": name, "arguments": arguments}, ensure_ascii=False)


# ---- mistakes


def wrong(row: dict, arguments: dict[str, list[str]]) -> Call:
    """The first mistake, in an order drawn by the command, that changes the call."""
    chance = random.Random(row["text"])
    right = call(row)
    for mistake in chance.sample(MISTAKES, len(MISTAKES)):
        made = mistake(right, row["text"], arguments[row["intent"]], chance)
        if made is not None and made != right:
            return made
    return other_tool(right, row["text"], [], chance)


def other_tool(right: Call, command: str, names: list[str], chance: random.Random) -> Call:
    """The right arguments for a tool that is easily taken for the right one."""
    return CONFUSED[right[0]], right[1]


def other_name(right: Call, command: str, names: list[str], chance: random.Random) -> Call | None:
    """A value under another argument's name."""
    unused = [name for name in names if name not in right[1]]
    if not unused:
        return None
    old, new = chance.choice(list(right[1])), chance.choice(unused)
    return right[0], {new if name == old else name: value for name, value in right[1].items()}


def other_value(right: Call, command: str, names: list[str], chance: random.Random) -> Call | None:
    """A value with one word too many or too few."""
    name = chance.choice(list(right[1]))
    value = right[1][name]
    before, _, after = command.partition(value)
    spans = [value.partition(" ")[2], value.rpartition(" ")[0]] if " " in value else []
    spans += [f"{word} {value}" for word in re.findall(r"(\S+) $", before)]
    spans += [f"{value} {word}" for word in re.findall(r"^ ([\w']+)", after)]
    return (right[0], {**right[1], name: chance.choice(spans)}) if spans else None


def missing(right: Call, command: str, names: list[str], chance: random.Random) -> Call | None:
    """One argument left out."""
    left_out = chance.choice(list(right[1]))
    kept = {name: value for name, value in right[1].items() if name != left_out}
    return (right[0], kept) if kept else None


MISTAKES: list[Callable[[Call, str, list[str], random.Random], Call | None]]
MISTAKES = [other_tool, other_name, other_value, missing]


def write(file: Path, rows: Iterable[dict]) -> None:
    """Write one JSON object a line."""
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("train", "test", "output"):
        parser.add_argument(name, type=Path)
    main(**vars(parser.parse_args()))
