"""Processes that share items: every item exactly once, all results everywhere, none much longer at work than the others."""

import multiprocessing
import os
import socket
import time
import traceback
from collections import Counter

import pytest

from posttrain.inference import sharing

ITEMS = [9, 7, 7, 4, 3, 2, 2, 1]


def test_one_process_maps_lazily():
    done = []
    results = sharing.shared(lambda item: done.append(item) or 2 * item, [3, 1])
    assert done == []
    assert (list(results), done) == ([6, 2], [3, 1])


def _square(item: int, done: list[int]) -> int:
    time.sleep(item / 50)
    done.append(item)
    return item**2


def _share(rank: int, port: int, queue) -> None:
    """What each process of a job does."""
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    done: list[int] = []
    first = sharing.shared(lambda item: _square(item, done), ITEMS)
    empty = sharing.shared(lambda item: _square(item, done), [])
    second = sharing.shared(lambda item: _square(item, []), iter(ITEMS[:1]))
    try:
        sharing.shared(str, [rank])
    except RuntimeError as error:
        refused = str(error)
    except BaseException:
        refused = traceback.format_exc()
    queue.put((rank, list(first), list(empty), list(second), done, refused))


@pytest.fixture(scope="module")
def two() -> list[tuple]:
    """What two processes of a job have."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("forkserver")
    queue = context.Queue()
    started = [context.Process(target=_share, args=(rank, port, queue)) for rank in range(2)]
    for process in started:
        process.start()
    found = sorted(queue.get(timeout=100) for _ in started)
    for process in started:
        process.join(100)
    return found


def test_all_processes_have_every_result_in_the_order_of_the_items(two):
    for _, first, empty, second, _, _ in two:
        assert (first, empty, second) == ([item**2 for item in ITEMS], [], [81])


def test_every_item_is_taken_once_and_none_waits_long(two):
    done = [found[4] for found in two]
    assert Counter(done[0] + done[1]) == Counter(ITEMS)
    assert abs(sum(done[0]) - sum(done[1])) <= max(ITEMS)


def test_processes_with_other_work_are_refused(two):
    assert [found[5] for found in two] == ["the processes of this job have come to different work"] * 2
