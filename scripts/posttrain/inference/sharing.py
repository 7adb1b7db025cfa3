"""Items that the processes of a job share: each takes the next one that none has taken, and all get every result.

Every process has a replica of the model and runs the same program on the same input, so that all come to the same calls of
`shared`. Items are the batches that one process would make: padding, and with it the arithmetic, do not depend on the number
of processes. They are taken in their order; where the most expensive come first, the processes end at most one item apart.
"""

import functools
import hashlib
import itertools
import os
from collections.abc import Callable, Iterable
from typing import TypeVar

from torch import distributed

from posttrain.runtime import processes

Item, Result = TypeVar("Item"), TypeVar("Result")

_calls = itertools.count()


def shared(compute: Callable[[Item], Result], items: Iterable[Item]) -> Iterable[Result]:
    """`compute` of each item, in their order; a `map` where the job has one process.

    Args:
        compute: gives the same for an item in each process; what it gives can be pickled.
        items: the same in each process.

    Raises:
        RuntimeError: the processes have other items.
    """
    if processes.count() == 1:
        return map(compute, items)
    items, store, call = list(items), _store(), next(_calls)
    ours = {}
    while (taken := store.add(f"{call}", 1) - 1) < len(items):
        ours[taken] = compute(items[taken])
    parts = processes.gathered((hashlib.sha256(repr(items).encode()).hexdigest(), ours))
    if len({asked for asked, _ in parts}) > 1:
        raise RuntimeError("the processes of this job have come to different work")
    found = {i: result for _, some in parts for i, result in some.items()}
    return [found[i] for i in range(len(items))]


@functools.cache
def _store() -> distributed.TCPStore:
    """The counters of the job's processes, which the main one holds."""
    host = os.environ["MASTER_ADDR"]
    server = distributed.TCPStore(host, 0, is_master=True, wait_for_workers=False) if processes.is_main() else None
    port = processes.by_main(lambda: server.port)
    return server or distributed.TCPStore(host, port)
