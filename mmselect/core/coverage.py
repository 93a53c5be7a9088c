"""What the coverage methods (k-center, facility location, k-means) return, and how they match."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mmselect.blocks import map_ordered, ranges

Floats = NDArray[np.float32]
KEPT = 8
"""Most similar samples kept for each point before the matching asks for more."""


@dataclass(frozen=True)
class Coverage:
    """Samples that cover a pool.

    Attributes
    ----------
    picks : int64 array, shape (k,)
        Rows in pick order.
    gains : float64 array, shape (k,)
        What each pick added; the method says in which measure.
    form : str
        How it was computed: "exact", or the name of the approximation.
    zero_rows : dict of str to int
        Rows without a direction, per modality.
    """

    picks: NDArray[np.int64]
    gains: NDArray[np.float64]
    form: str
    zero_rows: dict[str, int]


def match_distinct(x: Floats, points: Floats, *, threads: int = 1) -> NDArray[np.int64]:
    """For each point in order, the row not taken yet with the largest product.

    Parameters
    ----------
    x : float32 array, shape (n, d)
    points : float32 array, shape (k, d)
        With ``k ≤ n``.
    threads : int

    Returns
    -------
    int64 array, shape (k,)
        Distinct rows; among equal products the lower row.

    Examples
    --------
    >>> x = np.array([[1, 0], [1, 0], [0, 1]], dtype=np.float32)
    >>> match_distinct(x, x[[0, 0, 0]])
    array([0, 1, 2])
    """
    kept = _most_similar(x, points, threads)
    taken = np.zeros(len(x), dtype=bool)
    picks = np.empty(len(points), dtype=np.int64)
    for j, (point, rows) in enumerate(zip(points, kept, strict=True)):
        free = rows[~taken[rows]]
        # The last one kept may tie with rows that were not kept: ask all rows then.
        best = _best(x, point, free, worst=rows[-1]) if len(free) else None
        picks[j] = _best_of_all(x, point, taken) if best is None else best
        taken[picks[j]] = True
    return picks


def _rounding(point: Floats) -> float:
    return 2.0 * (len(point) / 8 + 16) * 2.0**-24 * float(np.linalg.norm(point))


def _best(x: Floats, point: Floats, free: NDArray[np.int64], worst: int) -> int | None:
    wide = point.astype(np.float64)
    products = x[free].astype(np.float64) @ wide
    norm = float(np.linalg.norm(x[worst]))
    if len(x) > KEPT and products.max() <= x[worst] @ wide + _rounding(point) * norm:
        return None
    return int(free[products == products.max()].min())


def _best_of_all(x: Floats, point: Floats, taken: NDArray[np.bool_]) -> int:
    products = (x @ point).astype(np.float64)
    products[taken] = -np.inf
    top = int(np.argmax(products))
    window = 2 * _rounding(point) * max(float(np.linalg.norm(x[top])), 1.0)
    near = np.flatnonzero(products >= products[top] - window)
    fine = np.einsum("ij,j->i", x[near].astype(np.float64), point.astype(np.float64))
    return int(near[np.argmax(fine)])


def _most_similar(x: Floats, points: Floats, threads: int) -> NDArray[np.int64]:
    """Rows with the largest products for each point, (k, KEPT), best first."""
    kept = min(KEPT, len(x))
    rows = max(kept, (1 << 23) // len(points))

    def block(part: tuple[int, int]) -> tuple[Floats, NDArray[np.int64]]:
        products = points @ x[slice(*part)].T
        size = min(kept, products.shape[1])
        best = np.argpartition(-products, size - 1, axis=1)[:, :size]
        return np.take_along_axis(products, best, axis=1), best + part[0]

    values = np.empty((len(points), 0), dtype=np.float32)
    index = np.empty((len(points), 0), dtype=np.int64)
    for more, where in map_ordered(block, ranges(0, len(x), rows), threads):
        values, index = np.hstack([values, more]), np.hstack([index, where])
        best = np.argsort(-values, axis=1, kind="stable")[:, :kept]
        values = np.take_along_axis(values, best, axis=1)
        index = np.take_along_axis(index, best, axis=1)
    return index
