"""Examples that fit into a row together. Without torch, so that the preflight knows how many rows there will be."""

import bisect
from collections import defaultdict


def bins(lengths: list[int], size: int) -> list[list[int]]:
    """Best fit decreasing: numbers of examples that together have at most `size` tokens, each example once.

    >>> bins([3, 5, 2, 8, 6], 8)
    [[3], [4, 2], [1, 0]]
    """
    found: list[list[int]] = []
    with_room: dict[int, list[int]] = defaultdict(list)  # tokens that are left, to the bins that have so many
    rooms: list[int] = []  # those numbers, sorted
    for row in sorted(range(len(lengths)), key=lambda row: -lengths[row]):
        place = bisect.bisect_left(rooms, lengths[row])
        if place < len(rooms):
            room = rooms[place]
            chosen = with_room[room].pop()
            if not with_room[room]:
                del rooms[place]
        else:
            room, chosen = size, len(found)
            found.append([])
        found[chosen].append(row)
        left = room - lengths[row]
        if not with_room[left]:
            bisect.insort(rooms, left)
        with_room[left].append(chosen)
    return found
