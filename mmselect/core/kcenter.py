"""K-center greedy, or farthest-first traversal: the core-set of Sener and Savarese (2018)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from mmselect.blocks import blas_threads, map_ordered, ranges, thread_count
from mmselect.core.coverage import Coverage
from mmselect.core.features import (
    Array,
    Features,
    Originals,
    Progress,
    as_modalities,
    check_budget,
    join,
    labeled_rows,
)

ROWS = 256
"""Rows brought up to date in one matrix product."""

BLOCK = 512
"""Rows at the top that are brought up to date together, to begin with."""

CENTERS = 128
"""Centers that rows are compared with before those that fell below the top are let go."""

FIRST_LABELED = 64
"""Labeled rows every sample is compared with at the start; the others are met when needed."""


def kcenter(
    features: Features,
    k: int,
    *,
    labeled: Sequence[int] | Array | None = None,
    unit: bool = False,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Coverage:
    """Pick, k times, the sample farthest from everything labeled or picked so far.

    ``argmax_i min_{j ∈ labeled ∪ picked} ‖x_i - x_j‖``, Euclidean on the concatenated features
    (Sener and Savarese, 2018, Algorithm 1; Gonzalez, 1985). With nothing labeled, the first pick
    is the sample farthest from the mean. Ties go to the lower row.

    Distances to the nearest pick only fall, so stale ones are upper bounds: only rows at the top
    are brought up to date, and the plain greedy runs among them. Near-ties, closer together than
    float32 products can tell, are decided by float64 distances, so the order is that of the
    definition.

    Parameters
    ----------
    features : mapping or sequence of arrays, each (n, d_m)
        float16, float32 or float64; widths may differ.
    k : int
        Budget: at most the number of rows that are not labeled.
    labeled : sequence of int, optional
        Rows that are labeled already: never picked, and the traversal starts from them.
    unit : bool
        Normalise each row of each modality first.
    threads : int, optional
    progress : callable, optional
        Called with the number of picks made and `k`.

    Returns
    -------
    Coverage
        The gain of a pick is its distance to the nearest labeled or picked row before it (for a
        first pick with nothing labeled: to the mean).

    Raises
    ------
    SchemaError, DataError
        See :func:`mmselect.core.features.join`.
    BudgetError, SelectionError
        If `k` does not fit the candidates, or a labeled row is outside the pool.

    Examples
    --------
    >>> kcenter([np.array([[0.0], [1.0], [4.0], [10.0]])], 3, labeled=[0]).picks
    array([3, 2, 1])
    """
    named = as_modalities(features)
    n = len(next(iter(named.values())))
    rows = labeled_rows(labeled, n)
    check_budget(k, n - len(rows))
    with blas_threads(1):
        joined, _, zero_rows = join(named, unit=unit, threads=threads)
        mean = joined.mean(axis=0, dtype=np.float64)
        joined -= mean.astype(np.float32)  # distances stay, and float32 resolves them better
        originals = Originals(named, unit=unit)
        traversal = _Traversal(joined, originals, rows, k, thread_count(threads))
        if not len(rows):
            traversal.start_from_mean()
        traversal.run(progress)
    return Coverage(traversal.picks, np.sqrt(traversal.gains), "exact", zero_rows)


class _Traversal:
    """Farthest-first traversal over stale upper bounds.

    `bound[i]` is the squared distance of row i to the nearest of the first `seen[i]` centers, in
    float32 products; `fine[i]` the same in float64, over the first `fine_seen[i]` centers.
    """

    def __init__(
        self,
        x: NDArray[np.float32],
        originals: Originals,
        labeled: NDArray[np.int64],
        k: int,
        threads: int,
    ) -> None:
        n, d = x.shape
        self.x, self.originals, self.threads = x, originals, threads
        self.squares = np.einsum("ij,ij->i", x, x, dtype=np.float64, casting="same_kind")
        self.centers = np.empty((len(labeled) + k, d), dtype=np.float32)
        self.half_squares = np.empty(len(labeled) + k, dtype=np.float32)
        self.center_rows = np.empty(len(labeled) + k, dtype=np.int64)
        self.count = self.labeled = 0
        self.bound = np.full(n, np.inf)
        self.seen = np.zeros(n, dtype=np.int64)
        self.fine = np.full(n, np.inf)
        self.fine_seen = np.zeros(n, dtype=np.int64)
        self.gains = np.zeros(k)
        # Rounding of one product of d numbers, summed in at least 8 lanes, and of its inputs.
        self.rounding = (2 * (d / 8 + 16) + 16) * 2.0**-24
        for row in labeled:
            self._add_center(int(row))
        self.labeled = self.count
        self.bound[labeled] = -np.inf
        if self.labeled:
            self._compare_all(min(self.labeled, FIRST_LABELED))

    @property
    def picks(self) -> NDArray[np.int64]:
        return self.center_rows[self.labeled : self.count]

    def start_from_mean(self) -> None:
        top = self.squares.max()
        near = np.flatnonzero(self.squares >= top - 4 * self.rounding * top)
        squared = self.originals.squared(near, self.originals.mean())
        # The mean is rounded, so equal distances to it are equal up to rounding only.
        first = int(np.argmax(squared >= squared.max() * (1 - 1e-12)))
        self._pick(int(near[first]), float(squared[first]))
        self._compare_all(1)

    def run(self, progress: Progress | None) -> None:
        size, k = BLOCK, len(self.gains)
        while self.count < self.labeled + k:
            before = self.count
            block, outside = self._top(size)
            self._refresh(block, outside)
            self._greedy(block[self.bound[block] > outside], outside)
            made = self.count - before
            # Few picks a block: the next ones lie deeper. The picks do not depend on the size.
            if made < 4:
                size = min(2 * size, len(self.x))
            elif made > 64:
                size = max(size // 2, BLOCK)
            if progress is not None:
                progress(self.count - self.labeled, k)

    def _add_center(self, row: int) -> None:
        self.centers[self.count] = self.x[row]
        self.half_squares[self.count] = self.squares[row] / 2
        self.center_rows[self.count] = row
        self.bound[row] = -np.inf
        self.count += 1

    def _pick(self, row: int, squared: float) -> None:
        self.gains[self.count - self.labeled] = max(squared, 0.0)
        self._add_center(row)

    def _compare_all(self, stop: int) -> None:
        """Compare every row with the first `stop` centers."""

        def compare(rows: tuple[int, int]) -> None:
            part = slice(*rows)
            nearest = self._nearest(self.x[part], self.squares[part], 0, stop)
            self.bound[part] = np.minimum(self.bound[part], nearest)

        list(map_ordered(lambda r: compare(r), ranges(0, len(self.x), 8 * ROWS), self.threads))
        self.seen[:] = stop

    def _nearest(
        self, x: NDArray[np.float32], squares: NDArray[np.float64], start: int, stop: int
    ) -> NDArray[np.float64]:
        """Squared distance to the nearest of the centers from `start` to `stop`."""
        half = x @ self.centers[start:stop].T
        np.subtract(self.half_squares[start:stop], half, out=half)
        nearest: NDArray[np.float64] = np.maximum(2.0 * half.min(axis=1) + squares, 0.0)
        return nearest

    def _top(self, size: int) -> tuple[NDArray[np.int64], float]:
        """Rows with the `size` largest bounds, ascending, and the largest bound outside."""
        n = len(self.bound)
        if size >= n:
            return np.flatnonzero(self.bound >= 0), -np.inf
        order = np.argpartition(self.bound, n - size - 1)
        block = np.sort(order[n - size :])
        return block[self.bound[block] >= 0], float(self.bound[order[n - size - 1]])

    def _refresh(self, rows: NDArray[np.int64], outside: float) -> None:
        """Bring rows up to date, or as far as shows that they lie below the rows outside."""
        rows = rows[self.seen[rows] < self.count]
        rows = rows[np.argsort(self.seen[rows], kind="stable")]

        def refresh(part: tuple[int, int]) -> None:
            index = rows[slice(*part)]
            x, squares, bound = self.x[index], self.squares[index], self.bound[index]
            for start, stop in ranges(int(self.seen[index[0]]), self.count, CENTERS):
                np.minimum(bound, self._nearest(x, squares, start, stop), out=bound)
                self.bound[index], self.seen[index] = bound, np.maximum(self.seen[index], stop)
                keep = bound > outside
                if 4 * keep.sum() < 3 * len(index):
                    index, x, squares, bound = index[keep], x[keep], squares[keep], bound[keep]
                if not len(index):
                    break

        list(map_ordered(refresh, ranges(0, len(rows), ROWS), self.threads))

    def _tolerance(self, row: int) -> float:
        """Most that the squared distance of a row can be off: its nearest center is not far."""
        norm, distance = self.squares[row] ** 0.5, max(self.bound[row], 0.0) ** 0.5
        return float(self.rounding * (norm + distance) ** 2)

    def _greedy(self, active: NDArray[np.int64], outside: float) -> None:
        """Pick among the active rows for as long as no row outside can come before them."""
        x, bound = self.x[active], self.bound[active]
        squares = self.squares[active]
        while self.count < len(self.centers) and len(active):
            best = int(np.argmax(bound))
            window = 2 * self._tolerance(int(active[best]))
            if not bound[best] - window > outside:
                break
            near = active[bound >= bound[best] - window]
            chosen, squared = (
                (int(near[0]), float(bound[best])) if len(near) == 1 else self._decide(near)
            )
            self._pick(chosen, squared)
            products = x @ self.centers[self.count - 1]
            distances = 2.0 * (self.half_squares[self.count - 1] - products) + squares
            bound = np.minimum(bound, np.maximum(distances, 0.0))
            bound[active == chosen] = -np.inf
            # Rows below the outside keep their bound and wait, like the others.
            keep = bound > outside
            if 2 * keep.sum() < len(active):
                self._put_back(active, bound)
                active, bound, squares, x = active[keep], bound[keep], squares[keep], x[keep]
        self._put_back(active, bound)

    def _put_back(self, rows: NDArray[np.int64], bound: NDArray[np.float64]) -> None:
        self.bound[rows] = bound
        self.seen[rows] = self.count

    def _decide(self, near: NDArray[np.int64]) -> tuple[int, float]:
        """Pick the farthest of near-tied rows by float64 distances; the lower row of equals."""
        first = near[self.fine_seen[near] == 0]
        for row in first:
            self._measure(int(row))
        while (behind := near[(self.fine_seen[near] < self.count) & (self.fine[near] > 0)]).size:
            center = int(self.fine_seen[behind].min())
            rows = behind[self.fine_seen[behind] == center]
            point = self.originals.rows(self.center_rows[center : center + 1])
            self.fine[rows] = np.minimum(self.fine[rows], self.originals.squared(rows, point))
            self.fine_seen[rows] += 1
        best = int(np.argmax(self.fine[near]))
        return int(near[best]), float(self.fine[near[best]])

    def _measure(self, row: int) -> None:
        """Float64 distance of a row to the nearest of all centers, float32 sorting out the far."""
        half = self.half_squares[: self.count] - self.centers[: self.count] @ self.x[row]
        window = self._tolerance(row) + self.rounding * self.squares[row]
        close = self.center_rows[: self.count][half <= half.min() + window]
        point = self.originals.rows(np.array([row]))
        self.fine[row] = self.originals.squared(close, point).min()
        self.fine_seen[row] = self.count
