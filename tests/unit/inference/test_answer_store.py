"""Answers in a file that several processes add to: all are there, also after a kill in the middle."""

import multiprocessing
import os
import signal
from pathlib import Path

from posttrain.inference.answer_store import AnswerStore, Stored
from posttrain.inference.scoring import Answer


def name(number: int) -> str:
    return f"{number:064x}"


def test_an_answer_is_found_by_its_name_and_the_first_one_stays(tmp_path):
    store = AnswerStore(tmp_path / "new/answers.sqlite")
    store.add({name(1): Answer("eins\x00 ✓\n", [5, 6], True), name(2): Answer("", [], False)})
    store.add({name(1): Answer("other", [], False)})
    again = AnswerStore(store.file)
    assert again.find([name(3), name(2), name(1)]) == {
        name(1): Stored("eins\x00 ✓\n", 2, True),
        name(2): Stored("", 0, False),
    }


def _add(file: Path, first: int) -> None:
    store = AnswerStore(file)
    for i in range(40):
        store.add({name(first + i): Answer(str(first + i), [i], True)})
    if first:
        os.kill(os.getpid(), signal.SIGKILL)


def test_two_processes_add_to_it_and_one_is_killed(tmp_path):
    file = tmp_path / "answers.sqlite"
    context = multiprocessing.get_context("fork")
    started = [context.Process(target=_add, args=(file, first)) for first in (0, 1000)]
    for process in started:
        process.start()
    for process in started:
        process.join()
    names = [name(first + i) for first in (0, 1000) for i in range(40)]
    assert [started[0].exitcode, started[1].exitcode, len(AnswerStore(file).find(names))] == [0, -9, 80]
