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

SKETCH = 127
"""Directions in which distances are bounded from below before they are computed."""

SAMPLED = 4096
"""Rows from which these directions are found."""

PAIRS = 1024
"""Pairs of row and center whose distances are computed together."""

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
    `sketch` holds each row in the main directions of the pool, and the length of its rest: the
    distance of two sketches is at most that of the rows, and costs an eighth of it.
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
        # Rounding of a product of d numbers: errors of either sign, so √d with room to spare.
        self.rounding = (1.5 * d**0.5 + 16) * 2.0**-24
        self.sketch = _sketch(x, threads)
        self.half_lengths = np.einsum("ij,ij->i", self.sketch, self.sketch) / 2
        # The same of the centers, side by side, so that nothing is gathered to use them.
        self.center_sketch = np.empty((len(labeled) + k, self.sketch.shape[1]), dtype=np.float32)
        self.center_half_lengths = np.empty(len(labeled) + k, dtype=np.float32)
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
            self._refresh(block)
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
        self.center_sketch[self.count] = self.sketch[row]
        self.center_half_lengths[self.count] = self.half_lengths[row]
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

    def _refresh(self, rows: NDArray[np.int64]) -> None:
        """Bring rows up to date; rows that miss equally many centers are taken together."""
        rows = rows[self.seen[rows] < self.count]
        rows = rows[np.argsort(self.seen[rows], kind="stable")]

        def refresh(part: tuple[int, int]) -> None:
            index = rows[slice(*part)]
            start = int(self.seen[index[0]])
            self.bound[index] = self._nearer(index, start)
            self.seen[index] = self.count

        list(map_ordered(refresh, ranges(0, len(rows), ROWS), self.threads))

    def _nearer(self, index: NDArray[np.int64], start: int) -> NDArray[np.float64]:
        """Bounds after the centers from `start` on, few of which need a distance."""
        bound: NDArray[np.float64] = self.bound[index]
        squares = self.squares[index]
        low = self.sketch[index] @ self.center_sketch[start : self.count].T
        np.subtract(self.center_half_lengths[start : self.count], low, out=low)
        rows = np.arange(len(index))
        closest = low.argmin(axis=1)
        np.minimum(bound, self._distances(index, start + closest), out=bound)
        low[rows, closest] = np.inf
        norms = np.sqrt(squares)
        reach = bound + 8 * self.rounding * (norms + np.sqrt(bound)) ** 2
        limit = reach / 2 - self.half_lengths[index]
        pairs = np.flatnonzero(low < limit.astype(np.float32)[:, None])
        row, center = np.divmod(pairs, low.shape[1])
        if 16 * len(row) > low.size:
            nearest = self._nearest(self.x[index], squares, start, self.count)
            np.minimum(bound, nearest, out=bound)
            return bound
        np.minimum.at(bound, row, self._distances(index[row], start + center))
        return bound

    def _distances(
        self, rows: NDArray[np.int64], centers: NDArray[np.int64]
    ) -> NDArray[np.float64]:
        """Squared distance of each row to its center, (b,)."""
        half = np.empty(len(rows))
        for a, b in ranges(0, len(rows), PAIRS):
            products = np.einsum("ij,ij->i", self.x[rows[a:b]], self.centers[centers[a:b]])
            half[a:b] = self.half_squares[centers[a:b]] - products
        squared: NDArray[np.float64] = np.maximum(2.0 * half + self.squares[rows], 0.0)
        return squared

    def _tolerance(self, row: int) -> float:
        """Most that the squared distance of a row can be off: its nearest center is not far."""
        norm, distance = self.squares[row] ** 0.5, max(self.bound[row], 0.0) ** 0.5
        products = 2 * self.rounding * norm * (norm + distance)
        return float(products + 8 * 2.0**-24 * (norm + distance) ** 2)

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
        for row in near[(self.fine_seen[near] < self.count) & (self.fine[near] > 0)]:
            self._measure(int(row))
        best = int(np.argmax(self.fine[near]))
        return int(near[best]), float(self.fine[near[best]])

    def _measure(self, row: int) -> None:
        """Float64 distance of a row to the nearest of all centers, the far ones left out."""
        new = slice(int(self.fine_seen[row]), self.count)
        low = self.center_half_lengths[new] - self.center_sketch[new] @ self.sketch[row]
        # The float32 bound is off by the tolerance, the sketch by no more.
        reach = min(self.bound[row], self.fine[row]) + 4 * self._tolerance(row)
        close = self.center_rows[new][2.0 * (low + self.half_lengths[row]) <= reach]
        if len(close):
            point = self.originals.rows(np.array([row]))
            self.fine[row] = min(self.fine[row], self.originals.squared(close, point).min())
        self.fine_seen[row] = self.count


def _sketch(x: NDArray[np.float32], threads: int) -> NDArray[np.float32]:
    """Rows in the main directions of the pool, and the length of what is left, (n, SKETCH + 1)."""
    n, d = x.shape
    if d <= SKETCH + 1:
        return x
    sample = x[:: max(n // SAMPLED, 1)]
    basis = np.ascontiguousarray(sample[:SKETCH].T)
    basis = np.pad(basis, ((0, 0), (0, SKETCH - basis.shape[1])))
    for _ in range(3):  # subspace iteration; any orthonormal basis gives a valid bound
        basis = np.linalg.qr(sample.T @ (sample @ basis))[0]
    sketch = np.empty((n, SKETCH + 1), dtype=np.float32)

    def fill(rows: tuple[int, int]) -> None:
        block = x[slice(*rows)]
        inside = block @ basis
        whole = np.einsum("ij,ij->i", block, block, dtype=np.float64, casting="same_kind")
        part = np.einsum("ij,ij->i", inside, inside, dtype=np.float64, casting="same_kind")
        rest = np.sqrt(np.maximum(whole - part, 0.0))
        # A short rest is lost in the difference of two long ones.
        short = rest < 0.1 * np.sqrt(whole)
        rest[short] = np.linalg.norm(block[short] - inside[short] @ basis.T, axis=1)
        sketch[slice(*rows), :-1] = inside
        sketch[slice(*rows), -1] = rest

    list(map_ordered(fill, ranges(0, n, 8 * ROWS), threads))
    return sketch
