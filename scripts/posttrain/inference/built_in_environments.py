"""The environments that are built in: a calculator, and a small SQLite database.

Both compare the last message with the task's answer: as numbers where the answer is one, else as text without case and white
space around it. The number of a message is its last, or the one after `####`.
"""

import ast
import json
import operator
import sqlite3
from typing import Any

from posttrain.metrics.final_numbers import final_number

MAX_DIGITS = 100  # of a number that is raised to a power
MAX_ROWS = 50  # of a query's result
MAX_STEPS = 1_000_000  # instructions of SQLite's machine in one query: unlike a time, the same on every machine
_OPERATORS = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
    ast.USub: operator.neg,
    ast.UAdd: operator.pos,
}
_READS = {sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_FUNCTION, sqlite3.SQLITE_RECURSIVE}


def agrees(answer: str, wanted: Any) -> float:
    """1 where a message gives the wanted answer, else 0.

    >>> agrees("That makes 12.", 12), agrees("Oslo", " oslo"), agrees("Bergen or Oslo", "Oslo")
    (1.0, 1.0, 0.0)
    """
    text = str(wanted).strip()
    try:
        float(text)
    except ValueError:
        return float(answer.strip().casefold() == text.casefold())
    return final_number(answer, text)


class Calculator:
    """Arithmetic; a task is `{"answer": NUMBER}`."""

    def reset(self, answer: float | str) -> None:
        """Begin a task with this answer."""
        self.answer = answer

    def calculate(self, expression: str) -> str:
        """Compute an arithmetic expression.

        Args:
            expression: numbers with + - * / // % ** and parentheses
        """
        if len(expression) > 200:
            raise ValueError("the expression has more than 200 characters")
        try:
            value = _value(ast.parse(expression.strip(), mode="eval").body)
        except (SyntaxError, RecursionError, MemoryError):  # of ast.parse
            raise ValueError("this is no arithmetic expression") from None
        except ZeroDivisionError:
            raise ValueError("division by zero") from None
        whole = isinstance(value, float) and value.is_integer() and abs(value) < 1e15
        return str(int(value) if whole else value)

    def get_reward(self, answer: str) -> float:
        """1 for the task's answer, else 0."""
        return agrees(answer, self.answer)


def _value(node: ast.expr) -> float:
    """The value of an expression of numbers and operators; names, calls and everything else are refused."""
    if isinstance(node, ast.Constant) and type(node.value) in (int, float):
        return node.value
    if isinstance(node, ast.UnaryOp) and type(node.op) in _OPERATORS:
        return _OPERATORS[type(node.op)](_value(node.operand))
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
        left, right = _value(node.left), _value(node.right)
        if isinstance(node.op, ast.Pow) and (abs(right) > MAX_DIGITS or len(str(left)) > MAX_DIGITS):
            raise ValueError("the power is too large")
        try:
            found = _OPERATORS[type(node.op)](left, right)
        except OverflowError:
            raise ValueError("the number is too large") from None
        if isinstance(found, complex) or abs(found) > 10**MAX_DIGITS:
            raise ValueError("the number is too large" if not isinstance(found, complex) else "the number is not real")
        return found
    raise ValueError("only numbers, + - * / // % ** and parentheses are computed")


class Sqlite:
    """A database in memory; a task is `{"tables": {NAME: [{COLUMN: VALUE}]}, "answer": VALUE}`."""

    def reset(self, tables: dict[str, list[dict[str, Any]]], answer: float | str) -> str:
        """Fill the tables; returns their names and columns, which are added to the prompt."""
        self.answer = answer
        self.database = sqlite3.connect(":memory:")
        described = []
        for name, rows in tables.items():
            columns = ", ".join(map(_quoted, rows[0]))
            self.database.execute(f"CREATE TABLE {_quoted(name)} ({columns})")
            places = ", ".join("?" * len(rows[0]))
            values = [[row[column] for column in rows[0]] for row in rows]
            self.database.executemany(f"INSERT INTO {_quoted(name)} VALUES ({places})", values)
            described.append(f"{name}({', '.join(rows[0])})")
        self.database.commit()
        self.database.set_authorizer(lambda action, *_: sqlite3.SQLITE_OK if action in _READS else sqlite3.SQLITE_DENY)
        return "\nTables: " + ", ".join(described)

    def query(self, sql: str) -> str:
        """Run a query in SQLite.

        Args:
            sql: one SELECT statement
        """
        self.steps = 0
        self.database.set_progress_handler(self._step, MAX_STEPS // 100)
        try:
            rows = self.database.execute(sql).fetchmany(MAX_ROWS + 1)
        except sqlite3.DatabaseError as error:
            interrupted = self.steps > 100
            raise ValueError("the query takes too long" if interrupted else str(error)) from None
        found = [_told(row) for row in rows[:MAX_ROWS]]
        return "\n".join([*found, *(["(more rows)"] if len(rows) > MAX_ROWS else [])]) or "(no rows)"

    def _step(self) -> bool:
        self.steps += 1
        return self.steps > 100

    def get_reward(self, answer: str) -> float:
        """1 for the task's answer, else 0."""
        return agrees(answer, self.answer)


def _told(row: tuple) -> str:
    """A row of a result: JSON, a text alone as it is."""
    if len(row) == 1 and isinstance(row[0], str):
        return row[0]
    return json.dumps(row if len(row) > 1 else row[0], ensure_ascii=False, default=str)


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
