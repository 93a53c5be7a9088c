"""Gains of all candidates of a facility location at once, from tiles of similarities."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from mmselect.engine import map_ordered, ranges

Floats = NDArray[np.float32]

TILE = 1024
"""Side of a tile of similarities."""


def positive_sum(excess: NDArray[np.floating[Any]], axis: int) -> NDArray[np.float64]:
    """Sum of what is positive, in float64; `excess` is overwritten.

    Examples
    --------
    >>> positive_sum(np.array([[1.0, -2.0], [3.0, 4.0]]), axis=1)
    array([1., 7.])
    """
    total: NDArray[np.float64] = np.maximum(excess, 0, out=excess).sum(axis=axis, dtype=np.float64)
    return total


Pairs = tuple[NDArray[np.int32], NDArray[np.int32], Floats]


def all_gains(
    x: Floats, least: Floats | None, best: Floats, threads: int
) -> tuple[NDArray[np.float64], csr_array | None]:
    """Σ_i max(0, s_ij - best_i) for every j, and the pairs with ``s_ij > least_i`` if asked for.

    Each similarity is computed once and used twice, as s_ij and as s_ji.

    Parameters
    ----------
    x : float32 array, shape (n, d)
        Products of rows are similarities.
    least : float32 array, shape (n,), or None
    best : float32 array, shape (n,)
    threads : int

    Returns
    -------
    gains : float64 array, shape (n,)
        Without `least` a little more, so that no later evaluation finds more than this.
    pairs : sparse array, shape (n, n), or None
        Row i holds the similarities of client i.

    Examples
    --------
    >>> x, zero = np.eye(2, dtype=np.float32), np.zeros(2, dtype=np.float32)
    >>> gains, pairs = all_gains(x, zero, zero, 1)
    >>> gains, pairs.nnz
    (array([1., 1.]), 2)
    """
    n = len(x)
    tiles = list(ranges(0, n, TILE))

    def row_of_tiles(first: int) -> tuple[NDArray[np.float64], list[Pairs]]:
        a, b = tiles[first]
        gains, pairs = np.zeros(n), []
        for start, stop in tiles[first:]:
            products = x[a:b] @ x[start:stop].T
            if least is not None:
                pairs.append(_pairs(products, least[a:b], a, start))
                if start > a:
                    pairs.append(_pairs(products.T, least[start:stop], start, a))
            if start > a:
                gains[a:b] += positive_sum(products - best[start:stop], axis=1)
            products -= best[a:b, None]
            gains[start:stop] += positive_sum(products, axis=0)
        return gains, pairs

    total, found = np.zeros(n), []
    for gains, pairs in map_ordered(row_of_tiles, range(len(tiles)), threads):
        total += gains
        found += pairs
    # More than an evaluation can find, as a bound must be; with the pairs known it is no bound.
    total = total if least is not None else total * (1 + 1e-6) + 1e-6
    if least is None:
        return total, None
    clients, candidates, similar = (np.concatenate(part) for part in zip(*found, strict=True))
    return total, csr_array((similar, (clients, candidates)), shape=(n, n))


def _pairs(products: Floats, least: Floats, first_client: int, first_candidate: int) -> Pairs:
    client, candidate = np.nonzero(products > least[:, None])
    return (
        (client + first_client).astype(np.int32),
        (candidate + first_candidate).astype(np.int32),
        products[client, candidate],
    )
