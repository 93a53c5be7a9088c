"""Similarities of all rows of a pool in tiles, and what they give clients."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from mmselect.arrays import Floats, Rows, Singles
from mmselect.core.presence import Pairs
from mmselect.engine import Engine, ranges

TILE = 1024
"""Side of a tile of similarities."""

STRIP = 1 << 18
"""Similarities that are in cache together, also when they are widened."""

Real = NDArray[np.floating[Any]]
Tiles: TypeAlias = list[tuple[int, int]]


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
    np.clip(products, old[:, None], new[:, None], out=products)  # faster than maximum and minimum
    total: Floats = weights @ products.astype(np.float64)
    total -= weights @ old.astype(np.float64)
    return total


def triangle(n: int, tile: int) -> Iterator[Tiles]:
    """Rows of tiles of a symmetric (n, n) matrix, each from its diagonal tile on."""
    tiles = list(ranges(0, n, tile))
    return (tiles[first:] for first in range(len(tiles)))


def all_products(
    x: Rows,
    engine: Engine,
    tile: int | None = None,
    pairs: Pairs | None = None,
    wide: bool = False,
) -> Real:
    """Products of all rows with all, or similarities, (n, n), symmetric to the last bit.

    They are summed in float64 where they are to be the same on every processor (`wide`).

    Examples
    --------
    >>> from mmselect.engine import SERIAL
    >>> all_products(np.array([[1, 0], [2, 1]], dtype=np.float32), SERIAL).tolist()
    [[1.0, 2.0], [2.0, 5.0]]
    """
    n = x.shape[0]
    products = np.empty((n, n), dtype=x.dtype)
    summed = np.dtype(np.float64) if wide else x.dtype

    def row_of_tiles(tiles: Tiles) -> None:
        a, b = tiles[0]
        own = x[a:b].astype(summed, copy=False)
        for start, stop in tiles:
            others = x[start:stop].astype(summed, copy=False) if start > a else own
            block = np.matmul(own, others.T, out=products[a:b, start:stop])
            if pairs is not None:
                block *= pairs.of(slice(a, b), slice(start, stop))
            if start > a:
                products[start:stop, a:b] = block.T

    list(engine.map(row_of_tiles, triangle(n, tile or TILE), "comparing all pairs"))
    return products
