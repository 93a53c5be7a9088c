"""Gains of all candidates of a facility location at once, from tiles of similarities."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from mmselect.arrays import Floats, Singles
from mmselect.engine import Engine, ranges

if TYPE_CHECKING:
    from scipy.sparse import csr_array

TILE = 1024
"""Side of a tile of similarities."""


def positive_sum(
    excess: NDArray[np.floating[Any]], axis: int, weights: Singles | None = None
) -> Floats:
    """Sum of what is positive along an axis, in float64; `excess` is overwritten.

    Parameters
    ----------
    excess : (a, b) ndarray
    axis : {0, 1}
        That of the clients.
    weights : ndarray of float32, optional
        One for each client; None is 1.

    Returns
    -------
    ndarray of float64

    Examples
    --------
    >>> positive_sum(np.array([[1.0, -2.0], [3.0, 4.0]]), axis=1)
    array([1., 7.])
    >>> positive_sum(np.array([[1.0, -2.0], [3.0, 4.0]]), 1, np.array([0.5, 2.0], np.float32))
    array([0.5, 9.5])
    """
    np.maximum(excess, 0, out=excess)
    if weights is not None:
        excess *= weights if axis == 1 else weights[:, None]
    total: Floats = excess.sum(axis=axis, dtype=np.float64)
    return total


Pairs: TypeAlias = tuple[NDArray[np.int32], NDArray[np.int32], Singles]


def all_gains(
    x: Singles,
    least: Singles | None,
    best: Singles,
    engine: Engine,
    weights: Singles | None = None,
) -> tuple[Floats, csr_array | None]:
    """Σ_i w_i max(0, s_ij - best_i) for every j, and the pairs with ``s_ij > least_i`` if asked.

    Each similarity is computed once and used twice, as s_ij and as s_ji.

    Parameters
    ----------
    x : float32 array, shape (n, d)
        Products of rows are similarities.
    least : float32 array, shape (n,), or None
    best : float32 array, shape (n,)
    engine : Engine
    weights : float32 array, shape (n,), optional
        w_i; None is 1.

    Returns
    -------
    gains : float64 array, shape (n,)
        Without `least` a little more, so that no later evaluation finds more than this.
    pairs : sparse array, shape (n, n), or None
        Row i holds the similarities of client i.

    Examples
    --------
    >>> from mmselect.engine import SERIAL
    >>> x, zero = np.eye(2, dtype=np.float32), np.zeros(2, dtype=np.float32)
    >>> gains, pairs = all_gains(x, zero, zero, SERIAL)
    >>> gains, pairs.nnz
    (array([1., 1.]), 2)
    """
    n = len(x)
    tiles = list(ranges(0, n, TILE))

    def row_of_tiles(first: int) -> tuple[Floats, list[Pairs]]:
        a, b = tiles[first]
        gains, pairs = np.zeros(n), []
        for start, stop in tiles[first:]:
            products = x[a:b] @ x[start:stop].T
            if least is not None:
                pairs.append(_pairs(products, least[a:b], a, start))
                if start > a:
                    pairs.append(_pairs(products.T, least[start:stop], start, a))
            if start > a:
                excess = products - best[start:stop]
                gains[a:b] += positive_sum(excess, 1, part_of(weights, slice(start, stop)))
            products -= best[a:b, None]
            gains[start:stop] += positive_sum(products, 0, part_of(weights, slice(a, b)))
        return gains, pairs

    total, found = np.zeros(n), []
    for gains, pairs in engine.map(row_of_tiles, range(len(tiles))):
        total += gains
        found += pairs
    if least is None:
        # The lazy greedy needs upper bounds: round up past what float32 sums may lose.
        return total * (1 + 1e-6) + 1e-6, None
    return total, _matrix(found, n)


def part_of(weights: Singles | None, clients: Any) -> Singles | None:
    """Weights of some clients."""
    return None if weights is None else weights[clients]


def _pairs(products: Singles, least: Singles, first_client: int, first_candidate: int) -> Pairs:
    client, candidate = np.nonzero(products > least[:, None])
    return (
        (client + first_client).astype(np.int32),
        (candidate + first_candidate).astype(np.int32),
        products[client, candidate],
    )


def _matrix(found: list[Pairs], n: int) -> csr_array:
    from scipy.sparse import csr_array

    clients, candidates, similar = (np.concatenate(part) for part in zip(*found, strict=True))
    return csr_array((similar, (clients, candidates)), shape=(n, n))
