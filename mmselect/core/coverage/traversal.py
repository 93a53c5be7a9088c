"""Farthest-first traversal: which row is farthest, found from few distances."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from mmselect.arrays import Floats, Index, Singles
from mmselect.core.constraints.allowed import Allowed
from mmselect.core.coverage.directions import main_directions, sketched, squared_norms
from mmselect.core.joined import Joined
from mmselect.engine import Engine, Progress, ranges

ROWS = 256
"""Rows compared with centers in one matrix product."""

BLOCK = 512
"""Rows at the top that are looked at together, and those picked among, to begin with."""

GUIDES = 48
"""Directions in which the center that looks nearest is found."""

SKETCH = 127
"""Directions in which distances are bounded from below before they are computed."""

SKETCHED = 512
"""Centers up to which sketches cost more than the products that they save."""

PAIRS = 256
"""Pairs of row and center whose distances are computed together."""

LEFT = 0.02
"""Share of a block's pairs left by the sketch above which one whole product tells them apart."""


class Traversal:
    """Farthest-first traversal over stale upper bounds.

    `bound[i]` is an upper bound, in float32, on the squared distance of row i to its nearest
    center. Among the first `seen[i]` centers, the one that a projection ranks nearest was measured;
    of the first `sure[i]`, every center that could be nearer was. `fine[i]` is the distance to the
    nearest of the first `fine_seen[i]` centers in float64.

    `basis` are the main directions of the pool. The first few of them (`guide`) rank centers by how
    near they may be; sketches rule centers out: a sketch is a row's coordinates in all of them and
    the norm of its residual, and the distance of two sketches is at most that of the rows.
    """

    def __init__(
        self,
        points: Joined,
        labeled: Index,
        k: int,
        engine: Engine,
        allowed: Allowed | None = None,
    ) -> None:
        n, d = points.shape
        self.points, self.engine, self.allowed = points, engine, allowed
        if allowed is not None:
            candidates = np.setdiff1d(np.arange(n), labeled, assume_unique=True)
            self.position = np.zeros(n, np.intp)
            self.position[candidates] = np.arange(len(candidates))
            self.scale = np.ones(n)  # of squared distances: 1/cost²
            self.scale[candidates] /= allowed.cost**2
        self.work = {"compared": 0, "measured": 0, "decided": 0}
        size = len(labeled) + k
        self.sketched = size > SKETCHED
        self.basis = main_directions(points, SKETCH if self.sketched else 0)
        guides = min(GUIDES, self.basis.shape[1])
        self.guide, self.squares = np.empty((n, guides), dtype=np.float32), np.empty(n)
        list(engine.map(self._fill, ranges(0, n, ROWS), "sketching rows"))
        self.count, self.labeled = 0, len(labeled)
        self.center_rows = np.empty(size, dtype=np.int64)
        self.centers = np.empty((size, d), dtype=np.float32)  # relative to the origin
        self.center_sketch = np.empty((size, self.basis.shape[1] + 1), dtype=np.float32)
        self.center_half_squares = np.empty(size, dtype=np.float32)
        self.bound = np.full(n, np.inf)
        self.seen, self.sure = np.zeros(n, dtype=np.int64), np.zeros(n, dtype=np.int64)
        self.fine, self.fine_seen = np.full(n, np.inf), np.zeros(n, dtype=np.int64)
        self.gains = np.zeros(k)
        # Rounding error of a product of d numbers: errors of either sign add up like √d.
        self.rounding = (1.5 * d**0.5 + 16) * 2.0**-24
        self._start(labeled)

    def _start(self, labeled: Index) -> None:
        """Take the labeled rows, or the row farthest from the mean, as the first centers."""
        if len(labeled):
            for a, b in ranges(0, len(labeled), ROWS):
                x = self.points[labeled[a:b]]
                self._add_centers(labeled[a:b], x, sketched(x, self.basis))
        else:
            self._start_from_mean()
        # Triangle inequality: ‖x - c‖ ≤ ‖x - mean‖ + ‖c - mean‖ bounds the first distances.
        norms = np.sqrt(self.squares)
        by_mean = (norms + norms[self.center_rows[: self.count]].min()) ** 2
        self.bound = np.minimum(self.bound, by_mean * (1 + 1e-6))

    @property
    def unfinished(self) -> bool:
        """Whether there is more to pick."""
        if self.allowed is not None:
            return not self.allowed.done
        return self.count < len(self.centers)

    def _rank(self, rows: Index, squared: Floats) -> Floats:
        """Squared distances of some rows as they are compared: per squared cost, where allowed."""
        if self.allowed is None:
            return squared
        allowed = self.allowed.among(self.position[rows])
        return np.where(allowed, squared * self.scale[rows], -np.inf)

    @property
    def picks(self) -> Index:
        """Rows picked so far, in pick order."""
        return self.center_rows[self.labeled : self.count]

    def _start_from_mean(self) -> None:
        rank = self._rank(np.arange(len(self.squares)), self.squares)
        top = rank.max()
        near = np.flatnonzero(rank >= top - 4 * self.rounding * top)
        squared = self._exactly_apart(near)
        rank = self._rank(near, squared)
        # Ties: the mean is rounded, so equal distances to it agree up to rounding only.
        first = int(np.argmax(rank >= rank.max() * (1 - 1e-12)))
        row = near[first : first + 1]
        self.gains[0] = squared[first]
        x = self.points[row]
        self._add_centers(row, x, sketched(x, self.basis))
        if self.allowed is not None:
            self.allowed.take(int(self.position[row[0]]))

    def run(self, progress: Progress | None) -> None:
        """Pick until the budget is spent."""
        everything, k = np.arange(len(self.bound)), len(self.gains)
        size = width = BLOCK
        while self.unfinished:
            before = self.count
            block, outside = self._top(everything, size)
            if self.sketched:
                self._find_nearest(block, self.count)
            active, waiting = self._top(block, width)
            least = max(outside, waiting)
            active = active[self._rank(active, self.bound[active]) > least]
            self._verify(active)
            self._greedy(active[self._rank(active, self.bound[active]) > least], least)
            made = self.count - before
            if self.allowed is not None and self.allowed.reopened:
                continue  # stopped by what may be picked again, not by a bound
            # The round was stopped by a bound outside its block, so double the block. Block sizes
            # change speed, never picks.
            if made < 4 and outside > waiting:
                size *= 2
            elif made < 4:
                width *= 2
            elif made > 64 or waiting > outside:
                size, width = max(size // 2, BLOCK), max(width // 2, BLOCK)
            if progress is not None:
                progress(min(self.count - self.labeled, k), k)

    def _fill(self, rows: tuple[int, int]) -> None:
        x = self.points[slice(*rows)]
        np.matmul(x, self.basis[:, : self.guide.shape[1]], out=self.guide[slice(*rows)])
        self.squares[slice(*rows)] = squared_norms(x)

    def _add_centers(self, rows: Index, x: Singles, sketch: Singles) -> None:
        new = slice(self.count, self.count + len(rows))
        self.center_rows[new], self.centers[new], self.center_sketch[new] = rows, x, sketch
        self.center_half_squares[new] = self.squares[rows] / 2
        self.bound[rows] = -np.inf
        self.count = new.stop

    def _top(self, rows: Index, size: int) -> tuple[Index, float]:
        """Those `size` of the rows with the largest bounds, ascending; the next largest bound."""
        bound = self._rank(rows, self.bound[rows])
        if size >= len(rows):
            return rows[bound >= 0], -np.inf
        order = np.argpartition(bound, len(rows) - size - 1)
        top = np.sort(order[len(rows) - size :])
        return rows[top[bound[top] >= 0]], float(bound[order[len(rows) - size - 1]])

    def _find_nearest(self, rows: Index, stop: int) -> None:
        """Measure each row's distance to the new center, before `stop`, that looks nearest."""

        def find(index: Index, start: int) -> tuple[int, int]:
            likeness = self._likeness(self.guide[index], slice(start, stop))
            nearest = start + likeness.argmax(axis=1)
            x = self.points[index]
            squared = self._distances(x, np.arange(len(index)), nearest)
            self.bound[index] = np.minimum(self.bound[index], squared)
            return likeness.size, len(index)

        self._in_blocks(find, rows, self.seen, stop)

    def _verify(self, rows: Index) -> None:
        """Measure all new centers that may be nearer than the bound."""

        def verify(index: Index, start: int) -> tuple[int, int]:
            x, squares, bound = self.points[index], self.squares[index], self.bound[index]
            compared, measured, pairs = 0, 0, None
            if self.sketched:
                bound, pairs = self._left_by_sketch(x, squares, bound, start)
                compared, measured = len(x) * (self.count - start), len(x)
            if pairs is None:
                pairs = self._left_by_products(x, squares, bound, start)
                compared += len(x) * (self.count - start)
            row, center = np.divmod(pairs, self.count - start)
            np.minimum.at(bound, row, self._distances(x, row, start + center))
            self.bound[index] = bound
            return compared, measured + len(pairs)

        self._in_blocks(verify, rows, self.sure, self.count)

    def _left_by_sketch(
        self, x: Singles, squares: Floats, bound: Floats, start: int
    ) -> tuple[Floats, Index | None]:
        """Bounds by the likeliest centers; pairs that may be nearer, or None if they are many."""
        likeness = self._likeness(sketched(x, self.basis), slice(start, self.count))
        likeliest, every = likeness.argmax(axis=1), np.arange(len(x))
        bound = np.minimum(bound, self._distances(x, every, start + likeliest))
        likeness[every, likeliest] = -np.inf
        least = (squares - bound - self._slack(squares, bound)) / 2
        pairs = np.flatnonzero(likeness > least.astype(np.float32)[:, None])
        return bound, None if len(pairs) > LEFT * likeness.size + 64 else pairs

    def _left_by_products(self, x: Singles, squares: Floats, bound: Floats, start: int) -> Index:
        """Pairs that may be nearer than the bound, and nearer than the row's other centers."""
        whole = x @ self.centers[start : self.count].T
        whole -= self.center_half_squares[start : self.count]
        least = np.maximum(whole.max(axis=1), (squares - bound) / 2)
        least -= self._slack(squares, bound) / 2
        return np.flatnonzero(whole > least.astype(np.float32)[:, None])

    def _slack(self, squares: Floats, bound: Floats) -> Floats:
        slack: Floats = 8 * self.rounding * (np.sqrt(squares) + np.sqrt(bound)) ** 2
        return slack

    def _in_blocks(
        self,
        compare: Callable[[Index, int], tuple[int, int]],
        rows: Index,
        known: Index,
        stop: int,
    ) -> None:
        """Compare rows with centers from `known` on; rows that miss as many go together.

        `compare` returns how many products and how many single distances it took.
        """
        rows = rows[known[rows] < stop]
        rows = rows[np.argsort(known[rows], kind="stable")]
        blocks = [rows[a:b] for a, b in ranges(0, len(rows), ROWS)]
        work = self.engine.map(lambda index: compare(index, int(known[index[0]])), blocks)
        for compared, measured in work:
            self.work["compared"] += compared
            self.work["measured"] += measured
        known[rows] = stop

    def _likeness(self, sketch: Singles, centers: slice) -> Singles:
        """``(‖x‖² - ‖x - c‖²)/2``: at least that by whole sketches, a guess by parts of them."""
        likeness = sketch @ self.center_sketch[centers, : sketch.shape[-1]].T
        likeness -= self.center_half_squares[centers]
        return likeness

    def _distances(self, x: Singles, rows: Index, centers: Index) -> Singles:
        """Squared distance of each ``x[row]`` to its center, (b,)."""
        squared = np.empty(len(rows), dtype=np.float32)
        for a, b in ranges(0, len(rows), PAIRS):
            apart = x[rows[a:b]] - self.centers[centers[a:b]]
            squared[a:b] = np.vecdot(apart, apart)
        return squared

    def _tolerance(self, squares: Any, bound: Any) -> Any:
        """Most that the squared distance of a row can be off: its nearest center is not far."""
        norm, distance = squares**0.5, bound**0.5
        products = 2 * self.rounding * norm * (norm + distance)
        return products + 8 * 2.0**-24 * (norm + distance) ** 2

    def _greedy(self, active: Index, outside: float) -> None:
        """Pick among the active rows for as long as no row outside can come before them."""
        x = self.points[active]
        sketch, bound, squares = sketched(x, self.basis), self.bound[active], self.squares[active]
        while self.unfinished and len(active):
            rank = self._rank(active, bound)
            best = int(np.argmax(rank))
            window = self._window(active, squares, bound, best)
            if not rank[best] - np.max(window) > outside:
                break
            near = np.flatnonzero(rank >= rank[best] - window)
            if len(near) > 1:
                self._measure(active[near], bound[near], x[near])
                fine = self._rank(active[near], self.fine[active[near]])
                best = int(near[np.argmax(fine)])  # the lower row of equals
                bound[best] = self.fine[active[best]]
            self.gains[self.count - self.labeled] = bound[best]
            self._add_centers(active[best : best + 1], x[best], sketch[best])
            self.work["compared"] += len(x)
            distances = squares - 2.0 * (x @ x[best] - self.center_half_squares[self.count - 1])
            bound = np.minimum(bound, np.maximum(distances, 0.0))
            bound[best] = -np.inf
            if self.allowed is not None:
                self.allowed.take(int(self.position[active[best]]))
                if self.allowed.reopened:  # what may be picked again is farther than `outside`
                    break
            # A row whose bound is below `outside` cannot be picked in this round: stop updating it.
            keep = self._rank(active, bound) > outside
            if 2 * keep.sum() < len(active):
                self._put_back(active, bound)
                active, bound, squares = active[keep], bound[keep], squares[keep]
                x, sketch = x[keep], sketch[keep]
        self._put_back(active, bound)

    def _window(self, rows: Index, squares: Floats, bound: Floats, best: int) -> Any:
        """Difference of ranks to the best that rounding may turn round."""
        if self.allowed is None:
            return 2 * self._tolerance(squares[best], bound[best])
        tolerance = self._tolerance(squares, np.maximum(bound, 0)) * self.scale[rows]
        return np.maximum(tolerance + tolerance[best], 2 * tolerance[best])

    def _put_back(self, rows: Index, bound: Floats) -> None:
        self.bound[rows] = bound
        self.seen[rows] = self.sure[rows] = self.count

    def _measure(self, rows: Index, bound: Floats, x: Singles) -> None:
        """Float64 distances of rows to the nearest of all centers, the far ones left out."""
        known = self.fine_seen[rows]
        missing = (known < self.count) & (self.fine[rows] > 0)
        rows, bound, x, known = rows[missing], bound[missing], x[missing], known[missing]
        if not len(rows):
            return
        start, squares = int(known.min()), self.squares[rows]
        likeness = x @ self.centers[start : self.count].T
        likeness -= self.center_half_squares[start : self.count]
        likeness[np.arange(start, self.count) < known[:, None]] = -np.inf
        # Error of the float32 bound, and of the product: each at most the tolerance.
        reach = np.minimum(bound, self.fine[rows]) + 4 * self._tolerance(squares, bound)
        row, center = np.nonzero(likeness >= ((squares - reach) / 2)[:, None])
        self.work["compared"] += likeness.size
        self.work["decided"] += len(row)
        exact = self._exactly_apart(rows[row], self.center_rows[start + center])
        np.minimum.at(self.fine, rows[row], exact)
        self.fine_seen[rows] = self.count

    def _exactly_apart(self, rows: Index, others: Index | None = None) -> Floats:
        """Squared distance of each row to its other, or to the mean of the pool, in float64."""
        squared, exact, mean = np.empty(len(rows)), self.points.exact, self.points.mean
        for a, b in ranges(0, len(rows), PAIRS):
            origin = mean if others is None else exact(others[a:b])
            squared[a:b] = ((exact(rows[a:b]) - origin) ** 2).sum(axis=1)
        return squared
