"""Gains of some candidates of a facility location, from whole columns of similarities."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from mmselect.arrays import Floats, Index, Rows, Singles
from mmselect.core.presence import Pairs
from mmselect.engine import Engine, ranges

TILE = 2048
"""Clients whose similarities to some candidates are computed together."""

WIDENED = 64
"""Clients whose similarities are widened together: gains are summed in float64."""

BATCH = 256
"""Candidates whose gains are computed together."""

HELD = 1 << 26
"""Bytes that columns take at most, but for a batch: four times as many saved 2 % of the time."""

Mask = NDArray[np.bool_]


def settle(
    gains: Floats,
    fresh: Mask,
    near: Callable[[Floats, Mask], Index],
    evaluate: Callable[[Index], Floats],
    batch: int = BATCH,
) -> Index:
    """Replace bounds by gains until whatever may be the best is a gain (Minoux, 1978).

    Parameters
    ----------
    gains : float64 array, shape (n,)
        Gains where `fresh`, else at least the gains; changed in place, as is `fresh`.
    fresh : bool array, shape (n,)
    near : callable
        From both, the candidates that may be as good as the best of what is fresh.
    evaluate : callable
        Gains of some candidates.
    batch : int
        Candidates evaluated together, those of the largest bounds.

    Returns
    -------
    int array
        What is near in the end.

    Examples
    --------
    >>> true, gains, fresh = np.array([4.0, 6.0, 2.0]), np.array([5.0, 9.0, 3.0]), np.zeros(3, bool)
    >>> best = lambda gains, fresh: np.flatnonzero(gains >= gains[fresh].max(initial=0))
    >>> settle(gains, fresh, best, lambda rows: true[rows], 1).tolist(), gains.tolist()
    ([1], [5.0, 6.0, 3.0])
    """
    while True:
        rows = near(gains, fresh)
        stale = rows[~fresh[rows]]
        if not len(stale):
            return rows
        part = np.sort(stale[np.argsort(-gains[stale], kind="stable")[:batch]])
        gains[part], fresh[part] = evaluate(part), True


class Columns:
    """Similarities of all clients to the candidates that are asked about, as many as are held.

    Parameters
    ----------
    x : float32 Rows, shape (n, d)
        Products of rows are similarities.
    weights : float64 array, shape (n,)
    engine : Engine
        Columns may take its memory, but no more than `HELD`, some apart; the oldest make room.
    pairs : Pairs, optional
        As for :func:`~mmselect.core.presence.similarities`.

    Attributes
    ----------
    computed : int
        Columns computed so far.

    Examples
    --------
    >>> from mmselect.engine import SERIAL
    >>> x = np.array([[1, 0], [0.5, 0.5]], dtype=np.float32)
    >>> columns = Columns(x, np.ones(2), SERIAL)
    >>> columns.gains(np.array([0, 1]), np.array([0.25, 0], dtype=np.float32)).tolist()
    [1.25, 0.75]
    """

    def __init__(
        self, x: Rows, weights: Floats, engine: Engine, pairs: Pairs | None = None
    ) -> None:
        n = x.shape[0]
        self.x, self.weights, self.engine, self.pairs = x, weights, engine, pairs
        self.held = np.empty((columns_held(n, engine.memory), n), dtype=np.float32)
        self.slot, self.owner = np.full(n, -1), np.full(len(self.held), -1)
        self.computed = 0

    def of(self, candidate: int) -> Singles:
        """Similarities of all clients to a candidate, (n,)."""
        if self.slot[candidate] < 0:
            self.gains(np.array([candidate]), np.zeros(len(self.weights), np.float32))
        column: Singles = self.held[self.slot[candidate]]
        return column

    def gains(self, candidates: Index, best: Singles) -> Floats:
        """Σ_i w_i max(0, s_ij - best_i) of some candidates, each named once, (c,)."""
        gains, known = np.empty(len(candidates)), self.slot[candidates] >= 0
        for rows, there in ((np.flatnonzero(known), True), (np.flatnonzero(~known), False)):
            for start, stop in ranges(0, len(rows), BATCH):
                part = rows[start:stop]
                if not there:
                    self._make_room(candidates[part])
                gains[part] = self._sums(candidates[part], best, there)
        return gains

    def _sums(self, candidates: Index, best: Singles, known: bool) -> Floats:
        slots, own = self.slot[candidates], self.x[candidates[:0] if known else candidates]

        def tile(clients: tuple[int, int]) -> Floats:
            part = slice(*clients)
            if not known:
                products = self.x[part] @ own.T  # in this order a few columns are fast
                if self.pairs is not None:
                    products *= self.pairs.of(part, candidates)
                self.held[slots, part] = products.T
            return excess(self.held[slots, part], best[part], self.weights[part])

        total = np.zeros(len(candidates))
        for sums in self.engine.map(tile, ranges(0, len(self.weights), TILE)):
            total += sums
        return total

    def _make_room(self, candidates: Index) -> None:
        slots = np.arange(self.computed, self.computed + len(candidates)) % len(self.held)
        gone = self.owner[slots]
        self.slot[gone[gone >= 0]] = -1
        self.slot[candidates], self.owner[slots] = slots, candidates
        self.computed += len(candidates)


def columns_held(n: int, memory: int) -> int:
    """How many columns of n similarities are held.

    Examples
    --------
    >>> columns_held(20_000, 1 << 30), columns_held(20_000, 1 << 20), columns_held(100, 1 << 20)
    (838, 256, 100)
    """
    return min(max(min(memory, HELD) // (4 * n), BATCH), n)


def excess(products: Singles, best: Singles, weights: Floats) -> Floats:
    """Σ_i w_i max(0, s_ji - best_i) for every row j of `products`, which is overwritten.

    Examples
    --------
    >>> products = np.array([[1.0, 0.5], [3.0, 4.0]], dtype=np.float32)
    >>> excess(products, np.array([0.5, 1.0], dtype=np.float32), np.array([1.0, 2.0])).tolist()
    [0.5, 8.5]
    """
    products -= best
    np.maximum(products, np.zeros_like(best), out=products)  # faster than with a scalar
    total, wide = np.empty(len(products)), np.empty((WIDENED, len(best)))
    for start, stop in ranges(0, len(products), WIDENED):
        wide[: stop - start] = products[start:stop]
        total[start:stop] = wide[: stop - start] @ weights
    return total
