"""Answers that a model has given, in a file of SQLite's, by the hash of what was asked.

Millions of them take no memory; after a kill, all that were added are there. Several processes of a machine may add to it.
"""

import sqlite3
from collections.abc import Iterable, Mapping
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

from posttrain.inference.scoring import Answer

PATIENCE = 600  # seconds that a process waits while another one writes, which takes milliseconds


class Stored(NamedTuple):
    """An answer as it is stored."""

    text: str
    tokens: int
    """their number, without the stop token"""
    ended: bool
    """see `scoring.Answer`"""


class AnswerStore:
    """The answers in a file, which is made where there is none."""

    def __init__(self, file: Path) -> None:
        self.file = file
        file.parent.mkdir(parents=True, exist_ok=True)
        with self._open() as connection:
            connection.execute(
                "CREATE TABLE IF NOT EXISTS answers (asked BLOB PRIMARY KEY, text TEXT, tokens INTEGER, ended INTEGER) "
                "WITHOUT ROWID"
            )

    def find(self, names: Iterable[str]) -> dict[str, Stored]:
        """The answers to those of the names (hexadecimal hashes of what was asked) that there are."""
        with self._open() as connection:
            rows = {
                name: connection.execute(
                    "SELECT text, tokens, ended FROM answers WHERE asked = ?", (bytes.fromhex(name),)
                ).fetchone()
                for name in names
            }
        return {name: Stored(row[0], row[1], bool(row[2])) for name, row in rows.items() if row}

    def add(self, answers: Mapping[str, Answer]) -> None:
        """Add answers, all or none; one that is there stays."""
        rows = [(bytes.fromhex(name), text, len(ids), ended) for name, (text, ids, ended) in answers.items()]
        with self._open() as connection:
            connection.executemany("INSERT OR IGNORE INTO answers VALUES (?, ?, ?, ?)", rows)

    def _open(self) -> "closing[sqlite3.Connection]":
        return closing(sqlite3.connect(self.file, timeout=PATIENCE, isolation_level=None))
