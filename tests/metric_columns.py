"""Columns of examples that metrics are computed from, made up for tests."""

import numpy as np


def share(ones: int, n: int) -> np.ndarray:
    """A column of `ones` ones and otherwise zeros."""
    return np.array([[1.0] * ones + [0.0] * (n - ones)])


def losses(mean: float, n: int = 200, noise: float = 0.3, seed: int = 1) -> np.ndarray:
    """Log-probabilities and tokens of n answers whose loss a token is about `mean`."""
    random = np.random.default_rng(seed)
    tokens = random.integers(5, 50, n).astype(float)
    return np.array([-(mean + noise * random.standard_normal(n)) * tokens, tokens])
