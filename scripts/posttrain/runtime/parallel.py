"""A map over several processes that keeps the order."""

import gc
import itertools
import multiprocessing
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from typing import Any


def ordered_map(function: Callable[[Any], Any], items: Iterable[Any], cores: int) -> Iterator[Any]:
    """`function` of each item, in their order, on `cores` processes, with few items in memory at a time.

    One item is not worth a process. Each call runs without Python's search for circles of objects, which in millions of rows
    takes a third of the time and finds none.
    """
    function = partial(_without_circles, function)
    items = iter(items)
    first = list(itertools.islice(items, 2))
    items = itertools.chain(first, items)
    if cores == 1 or len(first) < 2:
        yield from map(function, items)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(cores, mp_context=context, initializer=_end_with_parent) as pool:
        waiting: deque = deque()
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > 2 * cores:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _without_circles(function: Callable[[Any], Any], item: Any) -> Any:
    gc.disable()
    try:
        return function(item)
    finally:
        gc.enable()


def _end_with_parent() -> None:
    """End this process when its parent does, killed or not; it would wait for work for ever."""
    parent = multiprocessing.parent_process()

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
