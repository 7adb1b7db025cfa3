"""Generate tasks for the environments `calculator` and `sqlite`, and conversations that show how to call their tools.

Writes into examples/data, from a seed and nothing else: calculations.jsonl.gz and calculations_test.jsonl.gz (prompt and task),
calculations_shown.jsonl.gz (conversations), and the same for `shops`. In most of the conversations the assistant calls the tool
and then gives up: a model that learns from them does so as well, and finds out by GRPO that an answer pays.

    python examples/make_calculations.py
"""

import argparse
import gzip
import json
import random
from pathlib import Path

CALCULATE = {
    "type": "function",
    "function": {
        "name": "calculate",
        "description": "Compute an arithmetic expression.",
        "parameters": {
            "type": "object",
            "properties": {
                "expression": {"type": "string", "description": "numbers with + - * / // % ** and parentheses"}
            },
            "required": ["expression"],
        },
    },
}
QUERY = {
    "type": "function",
    "function": {
        "name": "query",
        "description": "Run a query in SQLite.",
        "parameters": {
            "type": "object",
            "properties": {"sql": {"type": "string", "description": "one SELECT statement"}},
            "required": ["sql"],
        },
    },
}
# With it the tokenizer of a random base learns whole words, and numbers stay digits.
WORDS = """system user assistant tool calculate(expression) query(sql) Compute Unknown
<tool_call>{"name": "calculate", "arguments": {"expression": " + "}}</tool_call>
<tool_call>{"name": "calculate", "arguments": {"expression": " * "}}</tool_call>
<tool_call>{"name": "query", "arguments": {"sql": "SELECT price FROM shop WHERE item = '"}}</tool_call>
<tool_call>{"name": "query", "arguments": {"sql": "SELECT left FROM shop WHERE item = 'apples'"}}</tool_call>
The price of apples pears plums nuts figs dates limes beans in shop? The left of apples in shop?
Tables: shop(item, price, left)
"""
GOODS = "apples pears plums nuts figs dates limes beans".split()


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--output", type=Path, default=Path(__file__).resolve().parent / "data")
    options.add_argument("--seed", type=int, default=1)
    options.add_argument("--rows", type=int, default=600, help="number of tasks to train on, and of conversations")
    options.add_argument("--test", type=int, default=200, help="number of tasks that are held out")
    options.add_argument("--answered", type=float, default=0.4, help="share of the conversations with an answer")
    given = options.parse_args()
    write(given.output / "calculations_words.jsonl.gz", [{"text": f"{WORDS} {i}"} for i in range(2)])
    for name, make, tool in (("calculations", calculation, CALCULATE), ("shops", shop, QUERY)):
        draw = random.Random(f"{given.seed}/{name}")
        seen, tasks = set(), []
        while len(tasks) < 2 * given.rows + given.test:
            task = make(draw)
            if task["about"] not in seen:
                seen.add(task["about"])
                tasks.append(task)
        shown, train, test = (
            tasks[: given.rows],
            tasks[given.rows : 2 * given.rows],
            tasks[2 * given.rows :],
        )
        write(given.output / f"{name}_shown.jsonl.gz", [conversation(draw, one, tool, given.answered) for one in shown])
        for file, rows in ((name, train), (f"{name}_test", test)):
            write(given.output / f"{file}.jsonl.gz", [{"prompt": row["prompt"], "task": row["task"]} for row in rows])


def calculation(draw: random.Random) -> dict:
    """A sum or a product of two numbers of two digits, which has three: a tiny model learns to copy them in minutes."""
    sign = draw.choice("+*")
    a, b = (draw.randint(*((50, 99) if sign == "+" else (10, 31))) for _ in range(2))
    answer = a + b if sign == "+" else a * b
    call = {"expression": f"{a} {sign} {b}"}
    return {
        "prompt": f"Compute {a} {sign} {b}",
        "task": {"answer": answer},
        "call": call,
        "seen": "",
        "about": (a, b, sign),
    }


def shop(draw: random.Random) -> dict:
    """A price in a small table; the answer is not in the prompt."""
    goods = draw.sample(GOODS, 4)
    rows = [{"item": item, "price": draw.randint(10, 99), "left": draw.randint(10, 99)} for item in goods]
    wanted, column = draw.choice(rows), draw.choice(("price", "left"))
    number = draw.randint(100, 999)
    call = {"sql": f"SELECT {column} FROM shop{number} WHERE item = '{wanted['item']}'"}
    return {
        "prompt": f"The {column} of {wanted['item']} in shop{number}?",
        "task": {"tables": {f"shop{number}": rows}, "answer": wanted[column]},
        "call": call,
        "seen": f"\nTables: shop{number}(item, price, left)",
        "about": (number, wanted["item"]),
    }


def conversation(draw: random.Random, task: dict, tool: dict, answered: float) -> dict:
    """A call, its result, and the answer, or that there is none."""
    answer = str(task["task"]["answer"])
    function = {"name": tool["function"]["name"], "arguments": task["call"]}
    turns = [
        {"role": "user", "content": task["prompt"] + task["seen"]},
        {"role": "assistant", "content": "", "tool_calls": [{"type": "function", "function": function}]},
        {"role": "tool", "name": function["name"], "content": answer},
        {"role": "assistant", "content": answer if draw.random() < answered else "Unknown"},
    ]
    return {"messages": turns, "tools": [tool]}


def write(file: Path, rows: list[dict]) -> None:
    """Write rows as JSON Lines, compressed without a date, so that the bytes are the same each time."""
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    file.write_bytes(gzip.compress(text.encode(), mtime=0))


if __name__ == "__main__":
    main()
