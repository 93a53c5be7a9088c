"""Farthest-first traversal: which row is farthest, found from few distances."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TypeAlias

import numpy as np

from mmselect.arrays import Floats, Index, Rows, Singles
from mmselect.core.constraints.allowed import Allowed
from mmselect.core.coverage.directions import main_directions, sketched, squared_norms
from mmselect.core.joined import Joined
from mmselect.engine import SERIAL, Engine, Progress, ranges

ROWS = 256
"""Rows compared with centers in one matrix product, at least."""

NUMBERS = 1 << 18
"""Numbers, or products, up to which more rows than those are compared together."""

FILLED = 2048
"""Rows that a thread looks at in one task at first."""

BLOCK = 512
"""Rows at the top that are looked at together, and those picked among, to begin with."""

GUIDES = 48
"""Directions in which the center that looks nearest is found."""

SKETCH = 127
"""Directions in which distances are bounded from below before they are computed."""

SKETCHED = 512
"""Centers up to which sketches cost more than the products that they save."""

FEW = 64
"""New centers up to which one product with all of them costs less than to find the nearest."""

PAIRS = 256
"""Pairs of row and center whose distances are computed together."""

SHARED = 1 << 27
"""Products, and numbers read, below which one thread is done before others have begun."""

READ = 32
"""Products that take as long as to read a number."""

LEFT = 0.02
"""Share of a block's pairs left by the sketch above which one whole product tells them apart."""

HELD = 128 << 20
"""Bytes of rows that are held ready: those of smaller pools are not made anew in every round."""


Compared: TypeAlias = tuple[Singles, int, int]
"""How near each row's nearest center is; products of a row and a center, and of single pairs."""


def fits_ready(n: int, width: int, memory: int) -> bool:
    """Whether all rows are held ready in float32, beside what they are made of.

    Examples
    --------
    >>> fits_ready(1000, 1024, 1 << 28), fits_ready(180_000, 1024, 1 << 32)
    (True, False)
    """
    return 4 * n * width <= min(HELD, memory)


class Traversal:
    """Farthest-first traversal over stale upper bounds.

    `bound[i]` is an upper bound, up to rounding, on the squared distance of row i to its nearest
    center. Among the first `seen[i]` centers, the one that a projection ranks nearest was compared;
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
        held = np.empty((n, d) if fits_ready(n, d, engine.memory) else (0, d), dtype=np.float32)
        self.ready: Rows = held if len(held) else points
        size = len(labeled) + k
        self.together = max(ROWS, NUMBERS // max(d, size))
        self.sketched = size > SKETCHED
        self.basis = main_directions(points, SKETCH if self.sketched else 0)
        guides = min(GUIDES, self.basis.shape[1])
        self.guide, self.squares = np.empty((n, guides), dtype=np.float32), np.empty(n)
        list(engine.map(partial(self._fill, held), ranges(0, n, FILLED), "sketching rows"))
        self.norms = np.sqrt(self.squares)
        self.count, self.sketches, self.labeled = 0, 0, len(labeled)
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
            for a, b in ranges(0, len(labeled), self.together):
                self._add_centers(labeled[a:b], self.ready[labeled[a:b]])
        else:
            self._start_from_mean()
        # Triangle inequality: ‖x - c‖ ≤ ‖x - mean‖ + ‖c - mean‖ bounds the first distances.
        by_mean = (self.norms + self.norms[self.center_rows[: self.count]].min()) ** 2
        self.bound = np.minimum(self.bound, by_mean * (1 + 1e-6))
        if self.count <= FEW:
            self._verify(np.arange(len(self.bound)))

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
        self._add_centers(row, self.ready[row])
        if self.allowed is not None:
            self.allowed.take(int(self.position[row[0]]))

    def run(self, progress: Progress | None) -> None:
        """Pick until the budget is spent."""
        everything, k = np.arange(len(self.bound)), len(self.gains)
        size = width = least_size = min(max(len(everything) // 8, ROWS // 2), BLOCK)
        while self.unfinished:
            before = self.count
            block, outside = self._top(everything, size)
            if self.sketched:
                self._sketch_centers()
                self._find_nearest(block)
            else:
                self._verify(block)
            active, waiting = self._top(block, width)
            least = max(outside, waiting)
            if self.sketched:
                active = active[self._reach(active) > least]
                self._verify(active)
            self._greedy(active[self._reach(active) > least], least)
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
                size, width = max(size // 2, least_size), max(width // 2, least_size)
            if progress is not None:
                progress(min(self.count - self.labeled, k), k)

    def _fill(self, held: Singles, rows: tuple[int, int]) -> None:
        for a, b in ranges(*rows, self.together):
            x = self.points[a:b]
            held[a:b] = x[: len(held)]
            np.matmul(x, self.basis[:, : self.guide.shape[1]], out=self.guide[a:b])
            self.squares[a:b] = squared_norms(x)

    def _add_centers(self, rows: Index, x: Singles) -> None:
        new = slice(self.count, self.count + len(rows))
        self.center_rows[new], self.centers[new] = rows, x
        self.center_half_squares[new] = self.squares[rows] / 2
        self.bound[rows] = -np.inf
        self.count = new.stop

    def _sketch_centers(self) -> None:
        for a, b in ranges(self.sketches, self.count, ROWS):
            squares = self.squares[self.center_rows[a:b]]
            self.center_sketch[a:b] = sketched(self.centers[a:b], self.basis, squares)
        self.sketches = self.count

    def _reach(self, rows: Index) -> Floats:
        """Ranks that rows may have: their bounds, and what rounding may have taken off them."""
        bound = self.bound[rows]
        return self._rank(rows, bound + self._tolerance(self.norms[rows], bound))

    def _top(self, rows: Index, size: int) -> tuple[Index, float]:
        """Those `size` of the rows that reach farthest, ascending; how far the next one does."""
        bound = self._reach(rows)
        if size >= len(rows):
            return rows[bound >= 0], -np.inf
        order = np.argpartition(bound, len(rows) - size - 1)
        top = np.sort(order[len(rows) - size :])
        return rows[top[bound[top] >= 0]], float(bound[order[len(rows) - size - 1]])

    def _find_nearest(self, rows: Index) -> None:
        """Compare rows with the new center that looks nearest, or with all where they are few."""

        def find(index: Index, start: int) -> Compared:
            x, new = self.ready[index], self.count - start
            if new <= FEW:
                return self._nearest(x, start), len(x) * new, 0
            likeness = self._likeness(self.guide[index], start)
            centers = start + likeness.argmax(axis=1)
            return self._alike(x, centers), likeness.size, len(x)

        self._in_blocks(find, rows, self.seen)

    def _verify(self, rows: Index) -> None:
        """Compare rows with all new centers that may be nearer than their bounds."""

        def verify(index: Index, start: int) -> Compared:
            x, compared = self.ready[index], len(index) * (self.count - start)
            if not self.sketched or self.count - start <= FEW:
                return self._nearest(x, start), compared, 0
            nearest, pairs = self._left_by_sketch(x, index, start)
            if pairs is None:
                return self._nearest(x, start), 2 * compared, len(x)
            row, center = np.divmod(pairs, self.count - start)
            for a, b in ranges(0, len(pairs), PAIRS):
                own = row[a:b]
                np.maximum.at(nearest, own, self._alike(x[own], start + center[a:b]))
            return nearest, compared, len(x) + len(pairs)

        self._in_blocks(verify, rows, self.sure)

    def _left_by_sketch(self, x: Singles, rows: Index, start: int) -> tuple[Singles, Index | None]:
        """Compare with the likeliest centers; pairs that may be nearer; None if they are many."""
        squares = self.squares[rows]
        likeness = self._likeness(sketched(x, self.basis, squares), start)
        likeliest, every = likeness.argmax(axis=1), np.arange(len(x))
        nearest = self._alike(x, start + likeliest)
        likeness[every, likeliest] = -np.inf
        bound = np.minimum(self.bound[rows], np.maximum(squares - 2.0 * nearest, 0.0))
        slack = 8 * self.rounding * (self.norms[rows] + np.sqrt(bound)) ** 2
        least = (squares - bound - slack) / 2
        pairs = np.flatnonzero(likeness > least.astype(np.float32)[:, None])
        return nearest, None if len(pairs) > LEFT * likeness.size + 64 else pairs

    def _in_blocks(
        self, compare: Callable[[Index, int], Compared], rows: Index, known: Index
    ) -> None:
        """Compare rows with centers from `known` on; rows that miss as many go together."""
        rows = rows[known[rows] < self.count]
        rows = rows[np.argsort(known[rows], kind="stable")]
        blocks = [(rows[a:b], int(known[rows[a]])) for a, b in ranges(0, len(rows), self.together)]
        missed = self.count - known[rows].min(initial=self.count)
        large = len(rows) * self.points.shape[1] * (READ + missed) > SHARED
        found = list((self.engine if large else SERIAL).map(lambda block: compare(*block), blocks))
        if not blocks:
            return
        nearest, compared, measured = zip(*found, strict=True)
        squared = np.maximum(self.squares[rows] - 2.0 * np.concatenate(nearest), 0.0)
        self.bound[rows] = np.minimum(self.bound[rows], squared)
        self.seen[rows] = known[rows] = self.count
        begun = np.concatenate([np.full(len(block), start) for block, start in blocks])
        all_compared = (self.sure[rows] >= begun) & (self.count - begun <= FEW)
        self.sure[rows[all_compared]] = self.count
        self.work["compared"] += sum(compared)
        self.work["measured"] += sum(measured)

    def _nearest(self, x: Singles, start: int) -> Singles:
        """How near the nearest of all centers from `start` on is: ``(‖x‖² - ‖x - c‖²)/2``."""
        likeness = x @ self.centers[start : self.count].T
        likeness -= self.center_half_squares[start : self.count]
        nearest: Singles = likeness.max(axis=1)
        return nearest

    def _alike(self, x: Singles, centers: Index) -> Singles:
        """How near each row is to a center of its own, as in :meth:`_nearest`."""
        alike: Singles = np.vecdot(x, self.centers[centers]) - self.center_half_squares[centers]
        return alike

    def _likeness(self, sketch: Singles, start: int) -> Singles:
        """How near centers are at most, by whole sketches; by parts of them a guess."""
        centers = slice(start, self.count)
        likeness = sketch @ self.center_sketch[centers, : sketch.shape[-1]].T
        likeness -= self.center_half_squares[centers]
        return likeness

    def _tolerance(self, norms: Floats, bound: Floats) -> Floats:
        """Most that the squared distance of rows can be off: their nearest centers are not far."""
        both = norms + np.sqrt(np.maximum(bound, 0.0))
        tolerance: Floats = both * (2 * self.rounding * norms + 8 * 2.0**-24 * both)
        return tolerance

    def _greedy(self, active: Index, outside: float) -> None:
        """Pick among the active rows for as long as no row outside can come before them."""
        x, squares, bound = self.ready[active], self.squares[active], self.bound[active]
        # What rounding may turn round. Bounds only fall, and it with them.
        window = self._tolerance(self.norms[active], bound)
        window *= 1.0 if self.allowed is None else self.scale[active]
        while self.unfinished and len(active):
            rank = self._rank(active, bound)
            best = int(np.argmax(rank))
            least = rank[best] - window[best]
            if not least > outside:
                break
            near = np.flatnonzero(rank + window >= least)
            if len(near) > 1:
                self._measure(active[near], bound[near], x[near])
                fine = self._rank(active[near], self.fine[active[near]])
                best = int(near[np.argmax(fine)])  # the lower row of equals
                bound[best] = self.fine[active[best]]
            self.gains[self.count - self.labeled] = bound[best]
            self._add_centers(active[best : best + 1], x[best])
            self.work["compared"] += len(x)
            distances = squares - 2.0 * (x @ x[best] - self.center_half_squares[self.count - 1])
            np.minimum(bound, np.maximum(distances, 0.0), out=bound)
            bound[best] = -np.inf
            if self.allowed is not None:
                self.allowed.take(int(self.position[active[best]]))
                if self.allowed.reopened:  # what may be picked again is farther than `outside`
                    break
            # A row that does not reach `outside` cannot be picked in this round: stop updating it.
            keep = self._rank(active, bound) + window > outside
            if 2 * np.count_nonzero(keep) < len(active):
                self._put_back(active, bound)
                active, bound, squares = active[keep], bound[keep], squares[keep]
                x, window = x[keep], window[keep]
        self._put_back(active, bound)

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
        # Row by row, for they are few: a product of few rows with many takes four times as long.
        likeness = np.matmul(self.centers[start : self.count], x[:, :, None])[..., 0]
        likeness -= self.center_half_squares[start : self.count]
        likeness[np.arange(start, self.count) < known[:, None]] = -np.inf
        # Error of the float32 bound, and of the product: each at most the tolerance.
        reach = np.minimum(bound, self.fine[rows]) + 4 * self._tolerance(self.norms[rows], bound)
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
