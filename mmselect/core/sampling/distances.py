"""Squared distances between outer products, by matrix products, exact where they nearly vanish.

With unit factors u and lengths r (r = ‖g‖ = Π of the factors' norms), the cosine of two points is
the product of their factors' cosines, and ‖g_i − g_j‖² = r_i² + r_j² − 2 r_i r_j Π cos. Unit
factors make the arithmetic free of scale, and let all of float32's digits go into the cosine. Its
rounding is far below what sampling can notice, except for pairs that nearly coincide; those are
computed again from differences, in float64 and without cancellation, so that the distance of a
sample and its copy is exactly 0, also where their balance weights were rounded differently.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from mmselect.arrays import Floats, Index, Singles

TILE_ROWS = 256
"""Picks of one matrix product; what a thread takes."""

COSINE_ERROR = 4e-6
"""Bound on the error of a product of two float32 cosines; up to width 20,000, 1.2e-6 is seen."""

CLOSE = 1e-3
"""Pairs with 1 − cos below this are computed again: above it the error is under half a percent."""

ROUNDING = 1e-12
"""Squared distances below this share of r_i r_j are 0: float32 factors say nothing finer."""

PAIR_ELEMENTS = 1 << 17
"""Numbers of one factor that are gathered at a time for pairs that are computed again."""

Units: TypeAlias = tuple[Singles, ...]
Tile: TypeAlias = tuple[int, Units, Floats]


@dataclass
class Tiles:
    """Points that only grow in number: unit factors and lengths, in tiles that never move."""

    tiles: list[tuple[Units, Floats]] = field(default_factory=list)
    count: int = 0

    def add(self, units: Units, norms: Floats) -> None:
        """Append points, filling the last tile first."""
        start = 0
        while start < len(norms):
            fill = self.count % TILE_ROWS
            if fill == 0:
                tile = tuple(np.empty((TILE_ROWS, u.shape[1]), np.float32) for u in units)
                self.tiles.append((tile, np.empty(TILE_ROWS)))
            stop = min(start + TILE_ROWS - fill, len(norms))
            tile, lengths = self.tiles[-1]
            for own, u in zip(tile, units, strict=True):
                own[fill : fill + stop - start] = u[start:stop]
            lengths[fill : fill + stop - start] = norms[start:stop]
            self.count += stop - start
            start = stop

    def since(self, base: int) -> list[Tile]:
        """Find the tiles with points from `base` on, each with the position of its first."""
        found = []
        for t in range(base // TILE_ROWS, len(self.tiles)):
            units, norms = self.tiles[t]
            fill = min(self.count - t * TILE_ROWS, TILE_ROWS)
            found.append((t * TILE_ROWS, tuple(u[:fill] for u in units), norms[:fill]))
        return found


def unit(factors: Sequence[Singles]) -> Units:
    """Rows of each factor scaled to length 1; zero rows stay zero.

    Parameters
    ----------
    factors : sequence of (b, width) ndarray of float32

    Returns
    -------
    tuple of (b, width) ndarray of float32

    Examples
    --------
    >>> unit([np.array([[3.0, 4.0], [0.0, 0.0]], np.float32)])[0].tolist()
    [[0.6000000238418579, 0.800000011920929], [0.0, 0.0]]
    """
    return tuple(_unit(factor) for factor in factors)


def _unit(factor: Singles) -> Singles:
    wide = factor.astype(np.float64)
    length = np.sqrt(np.vecdot(wide, wide))
    wide /= np.where(length > 0, length, 1)[:, None]
    return wide.astype(np.float32)


def nearest(
    left: Units, left_norms: Floats, right: Units, right_norms: Floats
) -> tuple[Floats, Index]:
    """Squared distance of each left point to its nearest right point, and which that is.

    Parameters
    ----------
    left, right : tuple of (b, width) and (r, width) ndarray of float32
        Unit factors.
    left_norms, right_norms : (b,) and (r,) ndarray of float64
        Lengths ‖g‖.

    Returns
    -------
    squared : (b,) ndarray of float64
        Exactly 0 for equal points.
    which : (b,) ndarray of int
        The lowest on ties.

    Examples
    --------
    >>> x = (np.array([[1, 0], [0, 1]], np.float32),)
    >>> nearest(x, np.array([1.0, 2.0]), x, np.array([1.0, 1.0]))
    (array([0., 1.]), array([0, 1]))
    """
    # Without ‖g_i‖², which is the same for all of a row's pairs.
    partial = cosines(left, right) * (-2 * right_norms)
    partial *= left_norms[:, None]
    partial += np.square(right_norms)
    which = partial.argmin(axis=1)
    squared = partial[np.arange(len(which)), which] + np.square(left_norms)
    close = np.flatnonzero(squared < 3 * CLOSE * np.square(left_norms))
    if len(close):
        reach = 8 * COSINE_ERROR * np.square(left_norms[close])
        limit = squared[close] - np.square(left_norms[close]) + reach
        row, column = np.nonzero(partial[close] <= limit[:, None])
        again = paired(left, left_norms, right, right_norms, close[row], column)
        squared[close], which[close] = row_minima(row, column, again, len(close))
    return np.maximum(squared, 0), which


def between(left: Units, left_norms: Floats) -> Floats:
    """Squared distances between all points of a small set; parameters as for :func:`nearest`.

    Returns
    -------
    (b, b) ndarray of float64
        Only the part above the diagonal is exact where points nearly coincide.

    Examples
    --------
    >>> x = (np.array([[1, 0], [0, 1], [1, 0]], np.float32),)
    >>> between(x, np.array([1.0, 2.0, 1.0]))[0].tolist()
    [0.0, 5.0, 0.0]
    """
    product = np.multiply.outer(left_norms, left_norms)
    squares = np.square(left_norms)
    squared = -2 * product * cosines(left, left) + squares + squares[:, None]
    row, column = np.nonzero(np.triu(squared < 2 * CLOSE * product, 1))
    squared[row, column] = paired(left, left_norms, left, left_norms, row, column)
    np.fill_diagonal(squared, 0)
    return np.maximum(squared, 0)


def paired(
    left: Units, left_norms: Floats, right: Units, right_norms: Floats, row: Index, column: Index
) -> Floats:
    """Squared distances of the pairs (row, column), without cancellation.

    With x = ‖u_i − u_j‖²/2 = 1 − cos in each factor, 1 − Π cos is built up as r ← r + x − r·x from
    terms that are small when the points are close, and the squared distance is
    (r_i − r_j)² + 2 r_i r_j (1 − Π cos). A factor and its mirror image −u are told apart by no
    outer product when another factor is mirrored too (two classes give such samples), so each
    factor is compared up to its sign.

    Returns
    -------
    (p,) ndarray of float64

    Examples
    --------
    >>> x, norms = (np.array([[1, 0], [0, 1]], np.float32),), np.array([1.0, 2.0])
    >>> paired(x, norms, x, norms, np.array([0, 1]), np.array([1, 1]))
    array([5., 0.])
    """
    apart = np.zeros(len(row))
    mirrored = np.zeros(len(row), bool)
    for u, v in zip(left, right, strict=True):
        x, negative = _one_minus_cosine(u, v, row, column)
        apart += x - apart * x
        mirrored ^= negative
    # With an odd number of negative cosines the product is negative: 1 − cos = 2 − (1 − |cos|).
    apart = np.where(mirrored, 2 - apart, apart)
    i, j = left_norms[row], right_norms[column]
    squared = np.square(i - j) + 2 * i * j * apart
    return np.where(squared > ROUNDING * i * j, squared, 0)


def _one_minus_cosine(
    u: Singles, v: Singles, row: Index, column: Index
) -> tuple[Floats, NDArray[np.bool_]]:
    """1 − |cos| of pairs of unit rows, and whether cos < 0."""
    x, negative = np.empty(len(row)), np.empty(len(row), bool)
    step = max(PAIR_ELEMENTS // max(u.shape[1], 1), 1)
    for start in range(0, len(row), step):
        part = slice(start, start + step)
        a, b = u[row[part]].astype(np.float64), v[column[part]].astype(np.float64)
        negative[part] = np.vecdot(a, b) < 0
        b[negative[part]] *= -1
        a -= b
        x[part] = np.vecdot(a, a) / 2
    return x, negative


def cosines(left: Units, right: Units) -> Singles:
    """Cosines of all pairs, within `COSINE_ERROR`; parameters as for :func:`nearest`.

    Returns
    -------
    (b, r) ndarray of float32

    Examples
    --------
    >>> x = np.array([[1, 0], [0, -1]], np.float32)
    >>> cosines((x, x), (x, x)).tolist()
    [[1.0, 0.0], [0.0, 1.0]]
    """
    product = left[0] @ right[0].T
    for u, v in zip(left[1:], right[1:], strict=True):
        product *= u @ v.T
    return product


def row_minima(row: Index, column: Index, values: Floats, rows: int) -> tuple[Floats, Index]:
    """Smallest value of each row and its column, lowest on ties; every row has a pair."""
    order = np.lexsort((column, values, row))
    first = order[np.searchsorted(row[order], np.arange(rows))]
    return values[first], column[first]
