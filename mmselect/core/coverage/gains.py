"""Gains of all candidates of a facility location at once, from tiles of similarities."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from mmselect.arrays import Floats, Singles
from mmselect.core.presence import Pairs, similarities
from mmselect.engine import Engine, ranges

if TYPE_CHECKING:
    from scipy.sparse import csr_array

TILE = 1024
"""Side of a tile of similarities."""

WIDENED = 64
"""Clients whose similarities are widened together: gains are summed in float64."""

Real = NDArray[np.floating[Any]]
Tiles: TypeAlias = list[tuple[int, int]]
Edges: TypeAlias = tuple[NDArray[np.int32], NDArray[np.int32], Singles]


def covered_sum(products: Singles, old: Singles, new: Singles, weights: Floats) -> Floats:
    """Σ_i w_i max(0, min(s_ij, new_i) - old_i) for every j; `products` is overwritten.

    Parameters
    ----------
    products : float32 array, shape (clients, candidates)
        s_ij.
    old, new : float32 array, shape (clients,)
        ``old_i < new_i``, which may be infinite.
    weights : float64 array, shape (clients,)
        w_i.

    Returns
    -------
    float64 array, shape (candidates,)

    Examples
    --------
    >>> products = np.array([[1.0, 0.5], [3.0, 4.0]], dtype=np.float32)
    >>> old, new = np.array([[0, 1], [0.75, np.inf]], dtype=np.float32)
    >>> covered_sum(products, old, new, np.array([1.0, 2.0]))
    array([4.75, 6.5 ])
    """
    total, most = np.zeros(products.shape[1]), new - old
    wide = np.empty((WIDENED, products.shape[1]))
    for start, stop in ranges(0, len(products), WIDENED):
        part = products[start:stop]
        part -= old[start:stop, None]
        np.maximum(part, 0, out=part)
        np.minimum(part, most[start:stop, None], out=part)
        wide[: stop - start] = part
        total += weights[start:stop] @ wide[: stop - start]
    return total


def _other_side(products: Singles, best: Singles, weights: Floats) -> Floats:
    """Σ_i w_i max(0, s_ji - best_i) for every j, clients in columns."""
    total = np.empty(len(products))
    wide = np.empty((WIDENED, len(best)))
    for start, stop in ranges(0, len(products), WIDENED):
        part = products[start:stop] - best
        np.maximum(part, 0, out=part)
        wide[: stop - start] = part
        total[start:stop] = wide[: stop - start] @ weights
    return total


def all_gains(
    x: Singles, best: Singles, weights: Floats, engine: Engine, pairs: Pairs | None = None
) -> Floats:
    """Σ_i w_i max(0, s_ij - best_i) for every j.

    Each similarity is computed once and used twice, as s_ij and as s_ji.

    Parameters
    ----------
    x : float32 array, shape (n, d)
        Products of rows are similarities.
    best : float32 array, shape (n,)
    weights : float64 array, shape (n,)
    engine : Engine
    pairs : Pairs, optional
        What makes products similarities where modalities lack; None: nothing.

    Returns
    -------
    float64 array, shape (n,)

    Examples
    --------
    >>> from mmselect.engine import SERIAL
    >>> x, zero = np.eye(2, dtype=np.float32), np.zeros(2, dtype=np.float32)
    >>> all_gains(x, zero, np.ones(2), SERIAL)
    array([1., 1.])
    """
    n, infinite = len(x), np.full(TILE, np.inf, dtype=np.float32)

    def row_of_tiles(tiles: Tiles) -> Floats:
        (a, b), gains = tiles[0], np.zeros(n)
        for start, stop in tiles:
            part = slice(start, stop)
            products = similarities(x, slice(a, b), part, pairs)
            if start > a:
                gains[a:b] += _other_side(products, best[part], weights[part])
            gains[part] += covered_sum(products, best[a:b], infinite[: b - a], weights[a:b])
        return gains

    total = np.zeros(n)
    for gains in engine.map(row_of_tiles, _triangle(n, TILE), "comparing all pairs"):
        total += gains
    return total


def _triangle(n: int, tile: int) -> Iterator[Tiles]:
    """Rows of tiles of a symmetric (n, n) matrix, each from its diagonal tile on."""
    tiles = list(ranges(0, n, tile))
    return (tiles[first:] for first in range(len(tiles)))


def all_products(
    x: Real, engine: Engine, tile: int | None = None, pairs: Pairs | None = None
) -> Real:
    """Products of all rows with all, or similarities, (n, n), symmetric to the last bit.

    Examples
    --------
    >>> from mmselect.engine import SERIAL
    >>> all_products(np.array([[1, 0], [2, 1]], dtype=np.float32), SERIAL).tolist()
    [[1.0, 2.0], [2.0, 5.0]]
    """
    products = np.empty((len(x), len(x)), dtype=x.dtype)

    def row_of_tiles(tiles: Tiles) -> None:
        a, b = tiles[0]
        for start, stop in tiles:
            block = np.matmul(x[a:b], x[start:stop].T, out=products[a:b, start:stop])
            if pairs is not None:
                block *= pairs.of(slice(a, b), slice(start, stop))
            if start > a:
                products[start:stop, a:b] = block.T

    list(engine.map(row_of_tiles, _triangle(len(x), tile or TILE), "comparing all pairs"))
    return products


def all_pairs(x: Singles, least: Singles, engine: Engine, pairs: Pairs | None = None) -> csr_array:
    """Pairs of a client and a candidate with ``s_ij > least_i``.

    Parameters
    ----------
    x : float32 array, shape (n, d)
        Products of rows are similarities.
    least : float32 array, shape (n,)
    engine : Engine
    pairs : Pairs, optional
        As for :func:`all_gains`.

    Returns
    -------
    sparse array, shape (n, n)
        Row i holds the similarities of client i.

    Examples
    --------
    >>> from mmselect.engine import SERIAL
    >>> all_pairs(np.eye(2, dtype=np.float32), np.zeros(2, dtype=np.float32), SERIAL).nnz
    2
    """
    from scipy.sparse import csr_array

    n = len(x)

    def row_of_tiles(tiles: Tiles) -> list[Edges]:
        (a, b), edges = tiles[0], []
        for start, stop in tiles:
            products = similarities(x, slice(a, b), slice(start, stop), pairs)
            edges.append(_edges(products, least[a:b], a, start))
            if start > a:
                edges.append(_edges(products.T, least[start:stop], start, a))
        return edges

    rows = engine.map(row_of_tiles, _triangle(n, TILE), "finding pairs that matter")
    found = [edge for edges in rows for edge in edges]
    clients, candidates, values = (np.concatenate(part) for part in zip(*found, strict=True))
    return csr_array((values, (clients, candidates)), shape=(n, n))


def _edges(products: Singles, least: Singles, first_client: int, first_candidate: int) -> Edges:
    client, candidate = np.nonzero(products > least[:, None])
    return (
        (client + first_client).astype(np.int32),
        (candidate + first_candidate).astype(np.int32),
        products[client, candidate],
    )
