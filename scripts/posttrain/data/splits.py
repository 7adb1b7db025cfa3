"""Which rows of a dataset are held out: an exact share, by content hash, with rows that are near each other on one side."""

import numpy as np

CHANGED = 0.2  # share of examples that two models of one family answer differently
ENOUGH = 10_000  # prompts; more show more, and it takes long to say how much
# Held out if a dataset sets no share: SHARE of the rows, at least MIN_ROWS, and of few rows one in MIN_RATIO.
SHARE, MIN_ROWS, MIN_RATIO = 0.1, 20, 5


def held_out_count(rows: int, share: float | None) -> int:
    """How many of so many rows to hold out; one at least is left to train on."""
    asked = max(_rounded(rows * SHARE), min(MIN_ROWS, rows // MIN_RATIO)) if share is None else _rounded(rows * share)
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


def detectable(prompts: int) -> float | None:
    """The smallest difference of a share, such as an accuracy, that so many held-out prompts show; None where they show none.

    With a power of 80 %, where CHANGED of the examples come out otherwise in one model than in the other.
    """
    from posttrain.metrics.statistics import FEWEST, detectable_share

    n = min(prompts, ENOUGH)
    return round(detectable_share(n, _rounded(n * CHANGED)), 3) if n >= FEWEST else None


def in_words(least: float | None) -> str:
    """What held-out rows show, by their `detectable`, in words."""
    if least is None:
        return "too few to show any difference between two models"
    return f"which show a difference in accuracy of {100 * least:.3g} points or more between two models"
