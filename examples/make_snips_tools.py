"""Make conversations with tools from the Snips commands: one call, several, none, and a call that is corrected after an error.

The input files are those of make_snips.py. Each row offers two of the demo's four tools. A command of the other three intents of
the benchmark has no tool, and the answer says so. Commands of the test file are never trained on.

    python examples/make_snips_tools.py train.jsonl test.jsonl examples/data
"""

import argparse
import gzip
import json
import random
from collections.abc import Iterable, Iterator
from pathlib import Path

from make_snips import CONFUSED, alike, call, in_turn, names, read, words, wrong

# Rows of each file: one call, two calls, none, and a call after an error.
TRAIN = {"single": 72, "parallel": 12, "none": 24, "recovery": 12}
TEST = {"single": 40, "parallel": 20, "none": 20, "recovery": 20}
PAIRS, PAIRS_TEST = 60, 40  # one in four of them without a call
NO_TOOL = "None of my tools can do that."

Row = dict
Arguments = dict[str, list[str]]


def main(train: Path, test: Path, output: Path) -> None:
    """Write the four files into the folder `output`."""
    held_out = in_turn(read(test))
    asked = [words(row) for row in held_out]
    training = in_turn(row for row in read(train) if not any(alike(words(row), other) for other in asked))
    others = {file: outside(file) for file in (train, test)}
    arguments = names(training)
    makers = [Maker(training, others[train], arguments), Maker(held_out, others[test], arguments)]
    for maker, split, conversations, pairs in zip(
        makers, ("", "_test"), (TRAIN, TEST), (PAIRS, PAIRS_TEST), strict=True
    ):
        write(output / f"snips_tools{split}.jsonl.gz", maker.conversations(conversations))
        write(output / f"snips_tools_pairs{split}.jsonl.gz", maker.pairs(pairs))


def outside(file: Path) -> list[str]:
    """The commands of the intents for which there is no tool."""
    rows = map(json.loads, file.read_text().splitlines())
    return list(dict.fromkeys(row["text"] for row in rows if row["intent"] not in CONFUSED))


class Maker:
    """Rows from commands, each of which is used once."""

    def __init__(self, rows: list[Row], others: list[str], arguments: Arguments) -> None:
        self.rows, self.others, self.arguments = iter(rows), iter(others), arguments

    def conversations(self, counts: dict[str, int]) -> list[Row]:
        """So many rows of each kind, in an order drawn once."""
        makers = {"single": self.single, "parallel": self.parallel, "none": self.none, "recovery": self.recovery}
        found = [makers[kind]() for kind, count in counts.items() for _ in range(count)]
        random.Random(0).shuffle(found)
        return found

    def pairs(self, count: int) -> Iterator[Row]:
        """Right and wrong calls for the same command, and calls where none is wanted."""
        for number in range(count):
            if number % 4 == 3:
                row = self.none()
                name = row["tools"][0]["function"]["name"]
                rejected = calls((name, {self.arguments[name][0]: row["messages"][0]["content"]}))
            else:
                command = next(self.rows)
                row = self.offer([user(command["text"]), calls(call(command))], command["intent"])
                rejected = calls(wrong(command, self.arguments))
            prompt, chosen = row["messages"]
            yield {"prompt": [prompt], "chosen": [chosen], "rejected": [rejected], "tools": row["tools"]}

    def single(self) -> Row:
        """A command and its call."""
        command = next(self.rows)
        return self.offer([user(command["text"]), calls(call(command))], command["intent"])

    def parallel(self) -> Row:
        """Two commands in one message, each of another tool, and both calls in one turn."""
        first = next(self.rows)
        second = next(row for row in self.rows if row["intent"] != first["intent"])
        text = f"{first['text'].strip(' .!?')}, and also: {second['text']}"
        return self.offer([user(text), calls(call(first), call(second))], first["intent"], second["intent"])

    def none(self) -> Row:
        """A command for which there is no tool."""
        text = next(self.others)
        return self.offer([user(text), {"role": "assistant", "content": NO_TOOL}])

    def recovery(self) -> Row:
        """A call with a wrong name of an argument, the tool's error, and the right call."""
        command = next(self.rows)
        tool, given = call(command)
        name = next(iter(given))
        bad = {(f"the_{key}" if key == name else key): value for key, value in given.items()}
        error = json.dumps({"error": f"no argument the_{name}"})
        turns = [user(command["text"]), {**calls((tool, bad)), "train": False}]
        return self.offer([*turns, {"role": "tool", "name": tool, "content": error}, calls((tool, given))], tool)

    def offer(self, turns: list[Row], *needed: str) -> Row:
        """A row with two tools: those that it needs, and others that it does not."""
        chance = random.Random(turns[0]["content"])
        others = [name for name in CONFUSED if name not in needed]
        offered = [*needed, *chance.sample(others, 2 - len(needed))]
        return {"messages": turns, "tools": [self.schema(name) for name in chance.sample(offered, 2)]}

    def schema(self, name: str) -> Row:
        """A tool as OpenAI's messages have it."""
        properties = {
            argument: {} for argument in self.arguments[name]
        }  # without types, which would double a row's tokens
        parameters = {"type": "object", "properties": properties}
        return {"type": "function", "function": {"name": name, "parameters": parameters}}


def user(text: str) -> Row:
    """What the user says."""
    return {"role": "user", "content": text}


def calls(*made: tuple[str, dict[str, str]]) -> Row:
    """A turn of the assistant with calls."""
    functions = [{"name": name, "arguments": arguments} for name, arguments in made]
    return {"role": "assistant", "tool_calls": [{"type": "function", "function": one} for one in functions]}


def write(file: Path, rows: Iterable[Row]) -> None:
    """Write one JSON object a line, compressed, with the same bytes each time."""
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    file.write_bytes(gzip.compress(text.encode(), mtime=0))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("train", "test", "output"):
        parser.add_argument(name, type=Path)
    main(**vars(parser.parse_args()))
