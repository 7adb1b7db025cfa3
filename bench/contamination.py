"""Plant held-out rows in training rows, as they are and lightly edited, and count which `posttrain.data.contamination` finds.

    python bench/contamination.py              # 7200 held-out rows and 36000 training rows with nothing planted
    python bench/contamination.py --rows 400   # a tenth of it

The rows are the questions of examples/data, and others written from the same words: a chain goes on with a word that
follows the last one there, most of the time. They are single questions, some behind a template, preferences and long
conversations. An edit goes through all turns of a row; numbers stay, as a copied problem keeps its result. False alarms
are counted over the held-out rows and over the training rows. One seed; intervals are Wilson's (1927), of 95 %.
"""

import argparse
import json
import random
import re
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY / "scripts"))

TEMPLATE = "Solve the following problem. Reason step by step, and write the final answer as a number after four hashes:"
SYSTEM = "You are a careful assistant who explains each step of a calculation in plain words before giving the result."
SENTENCE = "Here is a small exercise that my daughter brought home from school this week."
LEAST = {"as it is": 0.99}  # of the planted rows; of the edited ones:
LEAST_EDITED = 0.9
MOST_ALARMS = 0.001
Row = dict[str, list[dict[str, str]]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--rows", type=int, default=4000, help="single questions held out; five times as many to train on"
    )
    count = parser.parse_args().rows
    real = questions("gsm8k_*.jsonl")
    chain = Chain(real, random.Random(0))
    report("GSM8K's questions", [single(question) for question in real], EDITS, chain, times=5)
    for name, make in SHAPES.items():
        kinds = list(EDITS)[:2] if name == "short rows" else EDITS  # those have to be equal
        report(name, [make(chain) for _ in range(count // 10)], kinds, chain)
    alarms(chain, count)


def questions(pattern: str) -> list[str]:
    """The questions of these files of examples/data, each once."""
    files = sorted((REPOSITORY / "examples/data").glob(pattern))
    rows = [json.loads(line) for file in files for line in file.read_text().splitlines()]
    return list(dict.fromkeys(row["question"] for row in rows))


# ---- rows like the real ones that nobody has written


class Chain:
    """Writes sentences from the words of some texts; three words of four follow the one before as they do there."""

    def __init__(self, texts: list[str], rng: random.Random):
        self.rng, self.next, self.words = rng, defaultdict(list), []
        for text in texts:
            words = text.split()
            self.words += words
            for before, word in pairwise(words):
                self.next[before].append(word)

    def text(self, fewest: int, most: int) -> str:
        """So many words; numbers are drawn."""
        words = [self.rng.choice(self.words)]
        for _ in range(self.rng.randint(fewest, most) - 1):
            likely = self.next.get(words[-1])
            words.append(self.rng.choice(likely if likely and self.rng.random() < 0.75 else self.words))
        return re.sub(r"\d+", lambda _: str(self.rng.randint(2, 999)), " ".join(words))


def turn(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def single(question: str, answer: str = "It is 42.") -> Row:
    """A question and its answer."""
    return {"messages": [turn("user", question), turn("assistant", answer)]}


def templated(chain: Chain) -> Row:
    """A question behind a template that all rows share, under a system prompt that they share as well."""
    row = single(f"{TEMPLATE} {chain.text(15, 60)}", chain.text(100, 140))
    return {"messages": [turn("system", SYSTEM), *row["messages"]]}


def of_a_short_template(chain: Chain) -> Row:
    """A question and an answer that differ from others in a name, with fewer than eight words between its places."""
    name = chain.text(2, 3)
    return single(
        f"How do I return my {name}?",
        f"You can return the {name} within 30 days. Put it into its box, print the label and hand the {name} in at a post office.",
    )


def preference(chain: Chain) -> Row:
    """A question with two answers."""
    answers = {name: [turn("assistant", chain.text(30, 90))] for name in ("chosen", "rejected")}
    return {"prompt": [turn("user", chain.text(15, 60))], **answers}


def conversation(chain: Chain) -> Row:
    """Eight turns, the user's of 5 to 60 words."""
    pairs = [single(chain.text(5, 60), chain.text(20, 60)) for _ in range(4)]
    return {"messages": [one for pair in pairs for one in pair["messages"]]}


SHAPES: dict[str, Callable[[Chain], Row]] = {
    "single questions": lambda chain: single(chain.text(15, 60), chain.text(120, 160)),
    "behind a template": templated,
    "preferences": preference,
    "conversations of eight turns": conversation,
    "short rows": lambda chain: single(chain.text(8, 8), chain.text(3, 3)),
}


# ---- edits


def every_twentieth(text: str, rng: random.Random, change: Callable[[str], list[str]]) -> str:
    """Change each word with a chance of one in twenty, and one at least; not numbers."""
    words = text.split()
    free = [i for i, word in enumerate(words) if not re.search(r"\d", word)]
    chosen = {i for i in free if rng.random() < 1 / 20} or set(rng.sample(free, min(1, len(free))))
    return " ".join(new for i, word in enumerate(words) for new in (change(word) if i in chosen else [word]))


def rewritten(text: str, chain: Chain) -> str:
    """Other case, punctuation and white space."""
    text = text.upper() if chain.rng.random() < 0.5 else text.lower()
    mark = chain.rng.choice([" ;", "", " ...", " \u2026\u201d"])
    return re.sub(r"[.?!,](?= |$)", mark, text).replace(" ", "  ")


def replaced(text: str, chain: Chain) -> str:
    return every_twentieth(text, chain.rng, lambda _: [chain.rng.choice(chain.words)])


EDITS: dict[str, Callable[[str, Chain], str]] = {
    "as it is": lambda text, chain: text,
    "case and punctuation": rewritten,
    "one word in 20 replaced": replaced,
    "one word in 20 dropped": lambda text, chain: every_twentieth(text, chain.rng, lambda _: []),
    "one word in 20 doubled": lambda text, chain: every_twentieth(text, chain.rng, lambda word: [word, word]),
    "a sentence in front": lambda text, chain: f"{SENTENCE} {text}",
    "a sentence behind": lambda text, chain: f"{text} {SENTENCE}",
}


def edited(row: Row, kind: str, chain: Chain) -> Row:
    """The row with an edit of all its turns."""
    return {
        name: [one | {"content": EDITS[kind](one["content"], chain)} for one in turns] for name, turns in row.items()
    }


# ---- what is found


def report(name: str, rows: list[Row], kinds: list[str], chain: Chain, times: int = 1) -> None:
    """Plant each row, `times` over with other edits, and print how many are found of each kind of edit."""
    from posttrain.data.contamination import overlap

    with tempfile.TemporaryDirectory() as folder:
        held_out = write(Path(folder) / "held_out.parquet", rows)
        for kind in kinds:
            found = 0
            for _ in range(times):
                train = write(Path(folder) / "train.parquet", [edited(row, kind, chain) for row in rows])
                found += overlap(train, held_out)["shared"]
            say(f"{name}, {kind}", found, len(rows) * times, at_least=LEAST.get(kind, LEAST_EDITED))


def alarms(chain: Chain, count: int) -> None:
    """Print what is found where nothing is planted, and what a training row costs."""
    held_out, train = (
        [single(question) for question in questions(f"gsm8k_{name}.jsonl")] for name in ("test", "train")
    )
    found = {"GSM8K's questions": unplanted(held_out, train)}
    for name, make in (SHAPES | {"of a short template": of_a_short_template}).items():
        rows = count if name == "single questions" else count // 5
        found[name] = unplanted([make(chain) for _ in range(rows)], [make(chain) for _ in range(5 * rows)])
    for name, one in found.items():
        say(f"{name}, nothing planted", one["shared"], one["rows"])
    shared, rows, train_shared, train_rows = (
        sum(one[key] for one in found.values()) for key in ("shared", "rows", "train_rows", "read")
    )
    say("false alarms among the held-out rows", shared, rows, at_most=MOST_ALARMS)
    say("false alarms among the training rows", train_shared, train_rows, at_most=MOST_ALARMS)
    cost = found["single questions"]
    print(
        f"{cost['read']} training rows of {cost['bytes']} bytes: {cost['seconds'] / cost['read'] * 1e6:.0f} us of processor "
        f"time each; {count} held out: {cost['held_out_seconds'] / count * 1e6:.0f} us each; {cost['memory']:.0f} MB at most"
    )


def unplanted(held_out: list[Row], train: list[Row]) -> dict:
    """What is found in other rows, the number of those as `read` and the mean length of their text as `bytes`."""
    size = sum(len(one["content"]) for row in train for turns in row.values() for one in turns) // len(train)
    with tempfile.TemporaryDirectory() as folder:
        named = {"train": train, "one": train[:1], "held_out": held_out}
        files = [write(Path(folder) / f"{name}.parquet", rows) for name, rows in named.items()]
        return measured(*files) | {"read": len(train), "bytes": size}


def write(path: Path, rows: list[Row]) -> Path:
    """Write rows of one shape as a dataset's are."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    named = [{"id": str(i), "place": f"{path.name} line {i}"} | row for i, row in enumerate(rows, 1)]
    pq.write_table(pa.Table.from_pylist(named), path)
    return path


def measured(*files: Path) -> dict:
    """What `overlap` finds, in a process of its own, whose memory is not that of the rows made here."""
    code = f"import contamination; contamination.measure(*{list(map(str, files))!r})"
    command = [sys.executable, "-c", code]
    run = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=True)
    return json.loads(run.stdout)


def measure(train: str, one: str, held_out: str) -> None:
    """Print what is found, the processor's seconds that each file takes, and the memory in MB beyond the imports'."""
    from posttrain.data.contamination import overlap

    overlap(Path(one), Path(one))
    times, floor = [time.process_time()], memory()
    for rows in (one, train):
        found = overlap(Path(rows), Path(held_out))
        times.append(time.process_time())
    held_out_seconds, seconds = times[1] - times[0], times[2] - times[1]
    cost = {"held_out_seconds": held_out_seconds, "seconds": seconds - held_out_seconds, "memory": memory() - floor}
    print(json.dumps(found | cost))


def memory() -> float:
    """The most that this process has held, in MB (Linux; `getrusage` counts what the process that started it held)."""
    return int(re.search(r"VmHWM:\s*(\d+)", Path("/proc/self/status").read_text())[1]) / 1024


def say(name: str, found: int, rows: int, at_least: float = 0, at_most: float = 1) -> None:
    """Print a share with its interval, and MISSED where it is not what is asked for."""
    z2 = 1.96**2
    middle, width = found + z2 / 2, 1.96 * (found * (rows - found) / rows + z2 / 4) ** 0.5
    low, high = max(0, middle - width) / (rows + z2), min(rows + z2, middle + width) / (rows + z2)
    verdict = "" if at_least <= found / rows <= at_most else "  MISSED"
    print(f"{name:54} {found:5} of {rows:5} {found / rows:8.2%}  [{low:.2%}, {high:.2%}]{verdict}", flush=True)


if __name__ == "__main__":
    main()
