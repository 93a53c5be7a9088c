"""Greedy facility location over all similarities, exactly."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from mmselect.arrays import Floats, Index, Rows, Singles
from mmselect.core.constraints.allowed import Allowed
from mmselect.core.coverage.ahead import Ahead
from mmselect.core.coverage.columns import Columns, Mask, settle
from mmselect.core.coverage.gains import STRIP, all_products, covered_sum
from mmselect.core.coverage.neighbours import first_gains, subtract_covered
from mmselect.core.coverage.similarity import exact_similarities, rounding_of
from mmselect.core.coverage.survey import Found
from mmselect.core.features import Given
from mmselect.core.unit_rows import UnitRows
from mmselect.engine import Engine, Progress, ranges

if TYPE_CHECKING:
    from scipy.sparse import csr_array

MATRIX_BYTES = 1 << 30
"""Bytes that all n² similarities may take: up to some 16,000 clients they are held."""

PAIRS, PAIRS_EACH = 12_000_000, 400
"""Once no more pairs than this, or this for each client, can still matter, they alone are held."""

GUESSED = 16
"""Candidates that are evaluated first where no draft says which."""

NOISE = 1e-6
"""Gains below it are float32 rounding and count as 0."""

TIE = 1e-10
"""Relative difference below which two gains in float64 are equal."""

NEAR_TIES = 64
"""Near-tied candidates (the lowest rows) that are decided in float64."""


def most_pairs(n: int) -> float:
    """How many pairs of n clients with candidates are held, by an estimate.

    Examples
    --------
    >>> most_pairs(20_000), most_pairs(50_000)
    (10800000.0, 18000000.0)
    """
    return 0.9 * max(PAIRS, PAIRS_EACH * n)


class ExactGreedy:
    """The exact greedy, all gains up to date after every pick.

    A pick changes gains only through the clients that it covers better, and by their similarities
    to the candidates. Where the matrix of all may be held, rows of it are all it takes. Else, the
    first picks, each of which changes most gains, are drafted and proved (:class:`Ahead`), until
    few pairs are left in which a client can still improve; from then on those are held.

    Two samples that know each other best have exactly the same gain, so ties are common: float32
    gains choose who may win, float64 similarities decide.
    """

    def __init__(
        self,
        x: Rows,
        given: Given,
        every: UnitRows,
        best: Floats,
        weights: Floats | None,
        engine: Engine,
        allowed: Allowed | None = None,
    ) -> None:
        n, d = x.shape
        self.x, self.every, self.k, self.engine = x, every, given.k, engine
        self.rows, self.pairs = given.candidates, given.pairs(given.candidates)
        self.pool_pairs = given.pairs()
        self.allowed = allowed
        self.weights = np.ones(n) if weights is None else weights
        # The rounding errors of n similarities are independent, so their sum grows like √n.
        self.spread = float(np.linalg.norm(self.weights))
        self.work = {"rows": 0, "passes": 0, "columns": 0, "decided": 0}
        self.best, self.exact_best = best.astype(np.float32), best
        self.rounding = rounding_of(d)
        self.doubtful = float(self.rounding * self.weights.sum())  # rounding adds up to it at most
        self.matrix = (
            all_products(x, engine, pairs=self.pairs) if 4 * n * n <= MATRIX_BYTES else None
        )
        self.edges: csr_array | None = None
        self.ahead: Ahead | None = None
        self.latest: int | None = None
        self.taken, self.fresh = np.zeros(n, bool), np.zeros(n, bool)
        if self.matrix is None:
            self.columns = Columns(x, self.weights, engine, self.pairs)

    def run(self, progress: Progress | None) -> tuple[Index, Floats]:
        """Pick until the budget is spent: picks in order, and what each added."""
        size = self.k if self.allowed is None else self.allowed.most
        picks, gains = np.empty(size, dtype=np.int64), np.zeros(size)
        n = len(self.best)
        self.gain = np.full(n, np.inf)
        if self.matrix is not None:
            every = np.arange(n)
            self.gain = self._sums(self.matrix, every, self.best, np.full_like(self.best, np.inf))
        step = 0
        while step < self.k if self.allowed is None else not self.allowed.done:
            if self.matrix is None and self.edges is None:
                self._prove(size - step)
            pick = self._choose()
            if self._lowered(pick):
                continue
            worth = self.gain[pick] >= NOISE
            if not worth and self.allowed is None:
                # Everything is covered: the rest of the budget goes to the lowest rows.
                picks[step:] = np.flatnonzero(self.gain > -np.inf)[: self.k - step]
                step = self.k
                break
            picks[step], added = pick, self._cover(pick)
            gains[step] = added if worth else 0.0
            if self.allowed is not None:
                self.allowed.take(pick)
            step += 1
            if progress is not None:
                progress(min(step, self.k), self.k)
        if progress is not None:
            progress(self.k, self.k)
        return picks[:step], gains[:step]

    def _window(self, gain: Any) -> Any:
        """Difference of two gains that float32 similarities may turn round."""
        return 4e-7 * (gain + self.spread)

    def _prove(self, left: int) -> None:
        """Know the gains of all that may be the next pick, and that the others' are lower.

        Or hold all pairs that still matter, and nothing else, once they are few.
        """
        ahead = self.ahead
        if ahead is not None and self.latest is not None:
            ahead.told(self.latest, self.best, self.taken, self.allowed)
            self.latest = None
        if self.fresh.any() and not len(self._stale()):
            return
        pairs = None if ahead is None else ahead.pairs(self.best)
        if ahead is None or (pairs is None and ahead.worn):
            ahead = self.ahead = None  # its pairs make room
            ahead = self.ahead = self._look_ahead(left)
            pairs = ahead.pairs(self.best)
        if pairs is None:
            self._settle(ahead)
        else:
            self.ahead = None
            self._hold(pairs)

    def _look_ahead(self, left: int) -> Ahead:
        self.work["passes"] += 1
        state = (self.columns, self.best, self.taken, left, self.allowed)
        return Ahead(*state, self.rounding, most_pairs(len(self.best)))

    def _settle(self, ahead: Ahead) -> None:
        self._bound(np.arange(len(self.best)), ahead.bounds(self.best))
        free = len(self.taken) - np.count_nonzero(self.taken)
        guess = ahead.picks[:1] or np.argsort(-self.gain, kind="stable")[: min(free, GUESSED)]
        rows = np.asarray(guess, dtype=np.intp)
        self.gain[rows], self.fresh[rows] = self.columns.gains(rows, self.best), True
        ahead.tighten(self.best, self._stale, self._bound)
        settle(self.gain, self.fresh, self._near, lambda rows: self.columns.gains(rows, self.best))
        self.work["columns"] = self.columns.computed

    def _bound(self, rows: Index, bounds: Floats) -> None:
        """Gains of some candidates are at most `bounds`, float32 similarities apart."""
        stale = rows[~self.fresh[rows]]
        least = (bounds + self._window(bounds))[~self.fresh[rows]]
        self.gain[stale] = np.minimum(self.gain[stale], least)

    def _stale(self) -> Index:
        near = self._near(self.gain, self.fresh)
        return near[~self.fresh[near]]

    def _hold(self, pairs: Found) -> None:
        del self.columns
        self.edges = pairs.by_client(len(self.best))
        self.by_candidate = self.edges.tocsc()
        gain = first_gains(self.edges, self.best.astype(np.float64), self.weights)
        self.gain = np.where(np.isneginf(self.gain), -np.inf, gain)

    def _sums(self, matrix: Singles, clients: Index, old: Singles, new: Singles) -> Floats:
        """Sum, for every candidate, what it gives these clients beyond `old`, up to `new`."""

        def sums(part: tuple[int, int]) -> Floats:
            chosen = slice(*part)
            rows = clients[chosen]
            return covered_sum(matrix[rows], old[chosen], new[chosen], self.weights[rows])

        total = np.zeros(len(self.best))
        strips = ranges(0, len(clients), max(STRIP // len(self.best), 1))
        for found in self.engine.map(sums, strips):
            total += found
        return total

    def _near(self, gain: Floats, fresh: Mask) -> Index:
        """Candidates that may be as good as the best of the fresh ones; those allowed, per cost."""
        free = gain > -np.inf if self.allowed is None else self.allowed.mask()
        cost = 1.0 if self.allowed is None else self.allowed.cost
        key = np.where(free, np.where(gain < NOISE, 0.0, gain) / cost, -np.inf)
        best = np.where(fresh, key, -np.inf)
        pick = int(np.argmax(best))
        window = self._window(max(gain[pick], 0.0)) if best[pick] > 0 else 0.0
        return np.flatnonzero(key + window / cost >= max(best[pick], 0.0))

    def _choose(self) -> int:
        """Choose the best candidate; near-ties by float64 similarities, then the lower row."""
        near = self._near(self.gain, np.ones(len(self.gain), bool))[:NEAR_TIES]
        if len(near) == 1 or self.gain[near].max() < NOISE:
            return int(near[0])
        cost = np.ones(len(near)) if self.allowed is None else self.allowed.cost[near]
        total = np.array([self._exact_gain(int(candidate)) for candidate in near]) / cost
        return int(near[np.argmax(total >= total.max() - TIE * (1 / cost + total.max()))])

    def _lowered(self, candidate: int) -> bool:
        """Correct a gain that is float32 rounding, which adds up over copies of a sample."""
        if not NOISE <= self.gain[candidate] < self.doubtful:
            return False
        gain = self._exact_gain(candidate)
        if lowered := gain < NOISE:
            self.gain[candidate] = gain
        return lowered

    def _improvable(self, candidate: int) -> Index:
        """Clients to which the candidate may be closer than what they have."""
        if self.edges is None:
            return np.flatnonzero(self._column(candidate) > self.best - self.rounding)
        part = slice(*self.by_candidate.indptr[candidate : candidate + 2])
        clients = self.by_candidate.indices[part]
        better = self.by_candidate.data[part] > self.best[clients] - self.rounding
        improvable: Index = clients[better]
        return improvable

    def _exact_gain(self, candidate: int) -> float:
        rows = self._improvable(candidate)
        likeness = self._likeness(rows, candidate)
        return float(self.weights[rows] @ np.maximum(likeness - self.exact_best[rows], 0.0))

    def _column(self, candidate: int) -> Singles:
        """Similarities of all clients to one candidate."""
        if self.matrix is None:
            return self.columns.of(candidate)
        column: Singles = self.matrix[candidate]
        return column

    def _likeness(self, rows: Index, candidate: int) -> Floats:
        self.work["decided"] += len(rows)
        one = self.rows[[candidate]]
        return exact_similarities(self.every, self.rows[rows], one, self.pool_pairs)

    def _cover(self, pick: int) -> float:
        """Make a pick, and return what it adds, in float64."""
        better = self._improvable(pick)
        likeness = self._likeness(better, pick)
        rises = likeness > self.exact_best[better]
        better, likeness = better[rises], likeness[rises]
        added = float(self.weights[better] @ (likeness - self.exact_best[better]))
        self.exact_best[better] = likeness
        old, new = self.best[better], likeness.astype(np.float32)
        self.best[better] = new
        if self.edges is not None:
            subtract_covered(self.edges, self.gain, better, old, new, self.weights)
        elif self.matrix is not None:
            self.gain -= self._sums(self.matrix, better, old, new)
            self.work["rows"] += len(better)
        elif (new > old).any():
            self.fresh[:] = False
        self.gain[pick], self.taken[pick], self.latest = -np.inf, True, pick
        return added
