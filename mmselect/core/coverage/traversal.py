"""Farthest-first traversal: which row is farthest, found from few distances."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import chain
from typing import Any, TypeAlias, TypeVar

import numpy as np

from mmselect.arrays import Floats, Index, Rows, Singles
from mmselect.core.constraints.allowed import Allowed
from mmselect.core.coverage.centers import Centers, apart, farthest
from mmselect.core.coverage.directions import main_directions, sketched, squared_norms
from mmselect.core.coverage.nearties import Exact
from mmselect.core.joined import Joined, fits_ready
from mmselect.engine import Engine, Progress, ranges
from mmselect.tasks import take

ROWS = 256
"""Rows compared with centers in one matrix product, or each with its own, at least."""

NUMBERS = 1 << 18
"""Numbers, or products, up to which more rows than those are compared together."""

FILLED = 2048
"""Rows that a thread looks at in one task at first."""

WHOLE = 1 << 32
"""Multiplications of all pairs of rows up to which all rows know all centers, none being chosen."""

DRAFTED = 32
"""Rows at the top whose products with each other tell several picks at once, at first."""

MULTIPLIED = 128
"""Rows up to which all products with each other are made, for their picks to be told by them."""

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

SHARED = 1 << 25
"""Products, and numbers read, below which one thread is done before others have begun."""

FALL, LIVE = 0.4, 0.7
"""How the squared radius is expected to fall, as a power of the picks; rows that it never comes
down to are left out of a greedy once fewer than this share are left."""

READ = 32
"""Products that take as long as to read a number."""

LEFT = 0.02
"""Share of a block's pairs left by the sketch above which one whole product tells them apart."""

Result = TypeVar("Result")

Compared: TypeAlias = tuple[Singles, int, int]
"""How near each row's nearest center is; products of a row and a center, and of single pairs."""


class Traversal:
    """Farthest-first traversal over stale upper bounds.

    `bound[i]` is an upper bound, up to rounding, on the squared distance of row i to its nearest
    center. Among the first `seen[i]` centers, the one that a projection ranks nearest was compared;
    of the first `sure[i]`, every center that could be nearer was.

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
        self.whole = len(held) > 0 and n * n * d <= WHOLE
        self.together = max(ROWS, NUMBERS // max(d, size))
        self.sketched = size > SKETCHED and not self.whole
        self.basis = main_directions(points, SKETCH if self.sketched else 0)
        guides = min(GUIDES, self.basis.shape[1])
        self.guide, self.squares = np.empty((n, guides), dtype=np.float32), np.empty(n)
        tasks = ranges(0, n, FILLED if READ * n * d > SHARED else n)
        list(engine.map(partial(self._fill, held), tasks, "sketching rows"))
        self.centers, self.labeled = Centers(size, d, self.basis), len(labeled)
        self.exact = Exact(points, self.centers, self.squares, self.work)
        self.bound = np.full(n, np.inf)
        self.seen, self.sure = np.zeros(n, dtype=np.int64), np.zeros(n, dtype=np.int64)
        self.k, self.from_mean = k, 0.0  # squared, of a first pick that no center is before
        self._start(labeled)

    def _start(self, labeled: Index) -> None:
        """Take the labeled rows, or the row farthest from the mean, as the first centers."""
        if len(labeled):
            for a, b in ranges(0, len(labeled), self.together):
                self._add_centers(labeled[a:b], self.ready[labeled[a:b]])
        else:
            self._start_from_mean()
        # Triangle inequality: ‖x - c‖ ≤ ‖x - mean‖ + ‖c - mean‖ bounds the first distances.
        norms = self.exact.norms
        by_mean = (norms + norms[self.centers.rows[: self.count]].min()) ** 2
        self.bound = np.minimum(self.bound, by_mean * (1 + 1e-6))
        if self.count <= FEW:
            self._verify(np.arange(len(self.bound)))

    @property
    def count(self) -> int:
        """Labeled and picked rows so far."""
        return self.centers.count

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
        return self.centers.rows[self.labeled : self.count]

    def squared(self) -> Floats:
        """Squared distance of each pick to the nearest center before it, from float64 sums."""
        squared = self.exact.before_each(max(self.labeled, 1), self.count)
        return squared if self.labeled else np.append(self.from_mean, squared)

    def _start_from_mean(self) -> None:
        rank = self._rank(np.arange(len(self.squares)), self.squares)
        top = rank.max()
        near = np.flatnonzero(rank >= top - 4 * self.exact.rounding * top)
        squared = self.exact.apart(near)
        rank = self._rank(near, squared)
        # Ties: the mean is rounded, so equal distances to it agree up to rounding only.
        first = int(np.argmax(rank >= rank.max() * (1 - 1e-12)))
        row = near[first : first + 1]
        self.from_mean = float(squared[first])
        self._add_centers(row, self.ready[row])
        if self.allowed is not None:
            self.allowed.take(int(self.position[row[0]]))

    def run(self, progress: Progress | None) -> None:
        """Pick until the budget is spent."""
        everything = np.arange(len(self.bound))
        while self.whole and self.unfinished:
            self._verify(everything)
            free = np.flatnonzero(self.bound >= 0) if self.labeled else everything
            self._greedy(free, -np.inf, progress)
        size = width = least_size = min(max(len(everything) // 8, ROWS // 2), BLOCK)
        while self.unfinished:
            before = self.count
            block, outside = self._top(everything, size)
            if self.sketched:
                self.centers.sketch_new()
                self._find_nearest(block)
            else:
                self._verify(block)
            active, waiting = self._top(block, width)
            least = max(outside, waiting)
            if self.sketched:
                active = active[self._reach(active) > least]
                self._verify(active)
            self._greedy(active[self._reach(active) > least], least, progress)
            made = self.count - before
            if made and self.allowed is not None and self.allowed.reopened:
                continue  # stopped by what may be picked again, not by a bound
            # The round was stopped by a bound outside its block, so double the block. Block sizes
            # change speed, never picks.
            if made < 4 and outside > waiting:
                size *= 2
            elif made < 4:
                width *= 2
            elif made > 64 or waiting > outside:
                size, width = max(size // 2, least_size), max(width // 2, least_size)

    def _fill(self, held: Singles, rows: tuple[int, int]) -> None:
        for a, b in ranges(*rows, self.together):
            x = self.points.read(a, b, held[a:b]) if len(held) else self.points[a:b]
            np.matmul(x, self.basis[:, : self.guide.shape[1]], out=self.guide[a:b])
            self.squares[a:b] = squared_norms(x)

    def _add_centers(self, rows: Index, x: Singles) -> None:
        self.centers.add(rows, x, self.squares[rows])
        self.bound[rows] = -np.inf

    def _reach(self, rows: Index) -> Floats:
        """Ranks that rows may have: their bounds, and what rounding may have taken off them."""
        bound = self.bound[rows]
        return self._rank(rows, bound + self.exact.tolerance(rows, bound))

    def _top(self, rows: Index, size: int) -> tuple[Index, float]:
        """Those `size` of the rows that reach farthest, ascending; how far the next one does."""
        reach = self._reach(rows)
        top, waiting = farthest(reach, size)
        return rows[top[reach[top] >= 0]], waiting

    def _find_nearest(self, rows: Index) -> None:
        """Compare rows with the new center that looks nearest, or with all where they are few."""

        def find(index: Index, start: int) -> Compared:
            x, new = self.ready[index], self.count - start
            if new <= FEW:
                return self.centers.nearest(x, start), len(x) * new, 0
            likeness = self.centers.by_sketch(self.guide[index], start)
            centers = start + likeness.argmax(axis=1)
            return self.centers.alike(x, centers), likeness.size, len(x)

        self._in_blocks(find, rows, self.seen)

    def _verify(self, rows: Index) -> None:
        """Compare rows with all new centers that may be nearer than their bounds."""

        def verify(index: Index, start: int) -> Compared:
            x, compared = take(self.ready, index), len(index) * (self.count - start)
            if not self.sketched or self.count - start <= FEW:
                return self.centers.nearest(x, start), compared, 0
            nearest, pairs = self._left_by_sketch(x, index, start)
            if pairs is None:
                return self.centers.nearest(x, start), 2 * compared, len(x)
            row, center = np.divmod(pairs, self.count - start)
            for a, b in ranges(0, len(pairs), ROWS):
                own = row[a:b]
                np.maximum.at(nearest, own, self.centers.alike(x[own], start + center[a:b]))
            return nearest, compared, len(x) + len(pairs)

        self._in_blocks(verify, rows, self.sure)

    def _left_by_sketch(self, x: Singles, rows: Index, start: int) -> tuple[Singles, Index | None]:
        """Compare with the likeliest centers; pairs that may be nearer; None if they are many."""
        squares = self.squares[rows]
        likeness = self.centers.by_sketch(sketched(x, self.basis, squares), start)
        likeliest, every = likeness.argmax(axis=1), np.arange(len(x))
        nearest = self.centers.alike(x, start + likeliest)
        likeness[every, likeliest] = -np.inf
        bound = np.minimum(self.bound[rows], np.maximum(squares - 2.0 * nearest, 0.0))
        slack = 8 * self.exact.rounding * (self.exact.norms[rows] + np.sqrt(bound)) ** 2
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
        if not blocks:
            return
        size = len(rows) * self.points.shape[1] * (READ + missed)
        found = self._share(lambda part: [compare(*block) for block in part], blocks, size)
        nearest, compared, measured = zip(*chain.from_iterable(found), strict=True)
        squared = np.maximum(self.squares[rows] - 2.0 * np.concatenate(nearest), 0.0)
        self.bound[rows] = np.minimum(self.bound[rows], squared)
        self.seen[rows] = known[rows] = self.count
        begun = np.concatenate([np.full(len(block), start) for block, start in blocks])
        all_compared = (self.sure[rows] >= begun) & (self.count - begun <= FEW)
        self.sure[rows[all_compared]] = self.count
        self.work["compared"] += sum(compared)
        self.work["measured"] += sum(measured)

    def _greedy(self, active: Index, outside: float, progress: Progress | None) -> None:
        """Pick among the active rows for as long as no row outside can come before them."""
        x, squares, bound = take(self.ready, active), self.squares[active], self.bound[active]
        # What rounding may turn round. Bounds only fall, and it with them.
        window = self.exact.tolerance(active, bound)
        window *= 1.0 if self.allowed is None else self.scale[active]
        size = DRAFTED
        while self.unfinished and len(active):
            rank, before = self._rank(active, bound), self.count
            best = int(np.argmax(rank))
            if not rank[best] - window[best] > outside:
                break
            top, waiting = farthest(rank + window, size)
            rest = max(outside, waiting)
            picks = self._draft(active[top], x[top], bound[top], window[top], rest)
            bound[top[picks]] = -np.inf
            made = self.count - before
            if made and self.unfinished:
                squared = np.maximum(squares - 2.0 * self._likeness(x, before), 0.0)
                self.work["compared"] += len(x) * made
                np.minimum(bound, squared, out=bound)
                if self.allowed is None:
                    lowest = bound.max() * (self.count / len(self.centers)) ** FALL
                    least = max(outside, lowest)
                    live = bound + window > least
                    if np.count_nonzero(live) < LIVE * len(live):
                        self._know(active, bound)
                        active, bound, window = active[live], bound[live], window[live]
                        x, squares, outside = x[live], squares[live], least
            if progress is not None:
                progress(min(self.count - self.labeled, self.k), self.k)
            if not made:
                size *= 2  # rows within rounding of each other fill the draft: it has to hold all
            elif size > MULTIPLIED or 8 * made < size:
                size = max(size // 2, DRAFTED)
            elif 2 * made > size:
                size = min(2 * size, MULTIPLIED)
            if made and not self.whole and self.allowed is not None and self.allowed.reopened:
                break  # what may be picked again is not among the active rows
        self._know(active, bound)

    def _likeness(self, x: Singles, start: int) -> Singles:
        """Likeness of rows to the nearest of all centers from `start` on."""
        size = x.size * (self.count - start)
        return np.concatenate(self._share(partial(self.centers.nearest, start=start), x, size))

    def _share(self, function: Callable[[Any], Result], work: Any, size: int) -> list[Result]:
        """Results for parts of rows or blocks, two for each thread where `size` is worth it."""
        if size <= SHARED or self.engine.threads == 1:
            return [function(work)]
        cuts = ranges(0, len(work), -(-len(work) // (2 * self.engine.threads)))
        return list(self.engine.map(function, [work[a:b] for a, b in cuts]))

    def _know(self, rows: Index, bound: Floats) -> None:
        """Bounds of rows that were compared with all centers."""
        self.bound[rows] = bound
        self.seen[rows] = self.sure[rows] = self.count

    def _draft(
        self, rows: Index, x: Singles, bound: Floats, window: Floats, least: float
    ) -> list[int]:
        """Pick among a few rows, which know all centers, while they are farther than `least`.

        Positions of the picks; they become centers together, which takes less time.
        """
        squares, every = self.squares[rows], None
        error = window if self.allowed is None else window / self.scale[rows]
        if len(x) <= MULTIPLIED:
            every = apart(x @ x.T, squares, squares[:, None]) + error
        self.work["compared"] += len(x) if every is None else every.size
        picks, known, room = list[int](), 0, len(self.centers) - self.count
        reach, twice = bound + error, 2 * window
        while len(picks) < room and self.unfinished:
            rank = self._rank(rows, reach)
            lowest = rank - twice
            best = int(lowest.argmax())
            nearest = lowest[best]
            if not nearest > least:
                break
            near = (rank >= nearest).nonzero()[0]
            if len(near) > 1:
                self._add_centers(rows[picks[known:]], x[picks[known:]])
                known = len(picks)
                fine = self.exact.nearest(rows[near], (reach - error)[near], x[near])
                fine = self._rank(rows[near], fine)
                best = int(near[np.argmax(fine)])  # the lower row of equals
            picks.append(best)
            if every is None:
                own = apart(x @ x[best], squares, squares[best]) + error
            else:
                own = every[best]
            np.minimum(reach, own, out=reach)
            reach[best] = -np.inf
            if self.allowed is not None:
                self.allowed.take(int(self.position[rows[best]]))
                if self.allowed.reopened:
                    break
        self._add_centers(rows[picks[known:]], x[picks[known:]])
        return picks
