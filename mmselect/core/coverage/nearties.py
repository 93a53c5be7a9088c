"""What float32 products leave open of a farthest-first traversal: float64 distances decide it."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np

from mmselect.arrays import Floats, Index, Singles
from mmselect.core.coverage.centers import Centers
from mmselect.core.joined import Joined
from mmselect.engine import ranges

Work: TypeAlias = dict[str, int]

NUMBERS = 1 << 16
"""Numbers of rows whose distances are computed together in float64."""

MEASURED = 256
"""Picks that are compared with the centers before them in one product."""

COPIES = 8
"""Centers per pick, within rounding of the nearest, above which copies are looked for."""


class Exact:
    """Distances of rows to centers in float64, and how far off those of float32 products may be.

    `fine[i]` is the squared distance of row i to the nearest of the first `seen[i]` centers.

    Parameters
    ----------
    points : Joined
    centers : Centers
        As they are added, in the order of the traversal.
    squares : (n,) ndarray of float64
        Squared norms of the rows in float32.
    work : dict of str to int
        What is counted: ``compared``, ``decided``.
    """

    def __init__(self, points: Joined, centers: Centers, squares: Floats, work: Work) -> None:
        n, d = points.shape
        self.points, self.centers = points, centers
        self.squares, self.norms = squares, np.sqrt(squares)
        self.fine, self.seen = np.full(n, np.inf), np.zeros(n, dtype=np.int64)
        # Rounding error of a product of d numbers: errors of either sign add up like √d.
        self.rounding = (1.5 * d**0.5 + 16) * 2.0**-24
        self.work = work

    def tolerance(self, rows: Index, bound: Floats) -> Floats:
        """Most that the squared distance of rows can be off: their nearest centers are not far."""
        norms = self.norms[rows]
        both = norms + np.sqrt(np.maximum(bound, 0.0))
        tolerance: Floats = both * (2 * self.rounding * norms + 8 * 2.0**-24 * both)
        return tolerance

    def apart(self, rows: Index, others: Index | None = None) -> Floats:
        """Squared distance of each row to its other, or to the mean of the pool."""
        squared, exact, mean = np.empty(len(rows)), self.points.exact, self.points.mean
        for a, b in ranges(0, len(rows), max(NUMBERS // len(mean), 16)):
            apart = exact(rows[a:b])
            apart -= mean if others is None else exact(others[a:b])
            squared[a:b] = np.square(apart, out=apart).sum(axis=1)
        return squared

    def nearest(self, rows: Index, bound: Floats, x: Singles) -> Floats:
        """Squared distances of rows to the nearest of all centers, given bounds on them."""
        known = self.seen[rows]
        missing = (known < self.centers.count) & (self.fine[rows] > 0)
        if missing.any():
            self._measure(rows[missing], bound[missing], x[missing], known[missing])
        found: Floats = self.fine[rows]
        return found

    def _measure(self, rows: Index, bound: Floats, x: Singles, known: Index) -> None:
        """Measure rows with the centers that they do not know, the far ones left out."""
        start, count, squares = int(known.min()), self.centers.count, self.squares[rows]
        likeness = self.centers.one_by_one(x, start)
        likeness[np.arange(start, count) < known[:, None]] = -np.inf
        # Error of the float32 bound, and of the product: each at most the tolerance.
        reach = np.minimum(bound, self.fine[rows]) + 4 * self.tolerance(rows, bound)
        row, center = np.nonzero(likeness >= ((squares - reach) / 2)[:, None])
        self.work["compared"] += likeness.size
        self.work["decided"] += len(row)
        exact = self.apart(rows[row], self.centers.rows[start + center])
        np.minimum.at(self.fine, rows[row], exact)
        self.seen[rows] = count

    def before_each(self, start: int, stop: int) -> Floats:
        """Squared distance of the centers from `start` to `stop` to the nearest before each.

        A traversal knows them from float32 products, whose last bits depend on the processor.
        """
        squared = np.empty(stop - start)
        for a, b in ranges(start, stop, MEASURED):
            rows, squares = self.centers.rows[a:b], self.centers.squares[a:b]
            likeness = self.centers.before_each(a, b)
            bound = np.maximum(squares - 2.0 * likeness.max(axis=1), 0.0)
            reach = bound + 4 * self.tolerance(rows, bound)
            row, center = np.nonzero(likeness >= ((squares - reach) / 2)[:, None])
            if len(row) > COPIES * (b - a):  # copies, perhaps: none is nearer than one of them
                best = likeness.argmax(axis=1)
                copy = self.apart(rows, self.centers.rows[best]) == 0
                kept = ~copy[row] | (center == best[row])
                row, center = row[kept], center[kept]
            found = np.full(b - a, np.inf)
            np.minimum.at(found, row, self.apart(rows[row], self.centers.rows[center]))
            squared[a - start : b - start] = found
        return squared
