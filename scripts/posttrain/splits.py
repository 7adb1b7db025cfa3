"""Which rows of a dataset are held out: an exact share, by content hash, with rows that are near each other on one side."""

import numpy as np

SHARE = 0.1  # held out where a dataset sets no share,
LEAST = 20  # but so many rows at least,
MOST = 5  # of a file that has MOST times as many, and else one of MOST


def wanted(rows: int, share: float | None) -> int:
    """How many of so many rows to hold out; one at least is left to train on."""
    asked = max(_rounded(rows * SHARE), min(LEAST, rows // MOST)) if share is None else _rounded(rows * share)
    return min(asked, max(0, rows - 1))


def _rounded(number: float) -> int:
    return int(number + 0.5)


def clusters(groups: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """(n,) a number for each row, the same for rows that stay on one side.

    Args:
        groups: (n,) equal for rows that share a prompt.
        pairs: (pairs, 2) rows that are near each other.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    _, first, which = np.unique(groups, return_index=True, return_inverse=True)
    ends = np.concatenate([np.stack([np.arange(len(groups)), first[which]]), pairs.T], axis=1)
    graph = coo_array((np.ones(ends.shape[1], bool), ends), shape=(len(groups), len(groups)))
    return connected_components(graph, directed=False)[1]


def held_out(clusters: np.ndarray, hashes: np.ndarray, kept: np.ndarray, count: int) -> np.ndarray:
    """(n,) bool: `count` of the kept rows, or as many below it as whole clusters give, and the smallest one where none fits.

    Clusters come in the order of their first row's hash, so that few rows change sides when others are added.

    Args:
        clusters: (n,), see `clusters`.
        hashes: (n,) of content.
        kept: (n,) bool, rows that are not left out.
    """
    rows = np.flatnonzero(kept)
    if not count or not len(rows):
        return np.zeros(len(kept), bool)
    _, first, which, sizes = np.unique(clusters[rows], return_index=True, return_inverse=True, return_counts=True)
    chosen = np.zeros(len(sizes), bool)
    for cluster in np.argsort(hashes[rows[first]], kind="stable").tolist():
        if sizes[cluster] <= count:
            chosen[cluster] = True
            count -= int(sizes[cluster])
            if not count:
                break
    smallest = int(sizes.argmin())
    if not chosen.any() and sizes[smallest] <= len(rows) / 2:
        chosen[smallest] = True
    mask = np.zeros(len(kept), bool)
    mask[rows] = chosen[which]
    return mask


def detectable(rows: int) -> float | None:
    """The smallest difference of a share, such as an accuracy, that so many held-out rows can show; None where they show none.

    With a power of 80 %, and where no other example changes, so that it is the best case.
    """
    from posttrain.statistics import FEWEST, detectable_share

    return detectable_share(rows, 0) if rows >= FEWEST else None


def shown(rows: int) -> str:
    """What so many held-out rows can show, in words."""
    least = detectable(rows)
    if least is None:
        return "too few to show any difference between two models"
    return f"which can show that two models differ where a share, such as an accuracy, differs by {100 * least:.0f} points or more"
