"""Draft the next picks of a facility location: no proof, but cheap and mostly right."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import numpy as np

from mmselect.arrays import Floats, Index, Singles
from mmselect.core.constraints.allowed import Allowed
from mmselect.core.coverage.columns import TILE, Columns, Mask, settle
from mmselect.core.presence import compared
from mmselect.engine import ranges

CELLS = 1024
"""Groups of similar clients by whose means candidates are judged at first."""

LIKELIEST = 128
"""Candidates, the best by cells, whose true gains are known when one is drafted."""


SAMPLED = 256
"""Candidates from which it is learnt how far samples are from the means of their cells."""

BLUR = 2.5
"""How far a client's similarities may be from those of its cell's mean, in standard deviations."""


class Cells:
    """Clients in groups of similar ones, and the similarity of every candidate to their means.

    Parameters
    ----------
    columns : Columns
        Of the pool; none is computed.

    Examples
    --------
    >>> from mmselect.engine import SERIAL
    >>> cells = Cells(Columns(np.eye(2, dtype=np.float32), np.ones(2), SERIAL))
    >>> best = cells.best(np.array([0, 0.25], dtype=np.float32))
    >>> cells.gains(np.arange(2), best).round(3).tolist()
    [1.0, 0.75]
    """

    def __init__(self, columns: Columns) -> None:
        from scipy.sparse import csr_array

        x, pairs, n = columns.x, columns.pairs, columns.x.shape[0]
        sampled = np.linspace(0, n - 1, min(CELLS, n)).astype(np.intp)
        chosen = x[sampled]

        def nearest(rows: tuple[int, int]) -> Index:
            part = slice(*rows)
            found: Index = compared(x[part], chosen, part, sampled, pairs).argmax(axis=1)
            return found

        def compare(rows: tuple[int, int]) -> None:
            part = slice(*rows)
            self.likeness[part] = compared(x[part], means, part, sampled, pairs)

        tiles = list(ranges(0, n, TILE))
        self.cell = np.concatenate(list(columns.engine.map(nearest, tiles, "sorting into cells")))
        self.client_weights = columns.weights
        self.weights = np.bincount(self.cell, columns.weights, len(sampled))
        share = (columns.weights * self._inverse()[self.cell]).astype(np.float32)
        means = np.zeros(chosen.shape, np.float32)
        for start, stop in tiles:
            places = (self.cell[start:stop], np.arange(stop - start))
            shape = (len(sampled), stop - start)
            means += csr_array((share[start:stop], places), shape=shape) @ x[start:stop]
        self.likeness = np.empty((n, len(sampled)), np.float32)
        list(columns.engine.map(compare, tiles, "drafting"))
        some = np.arange(0, n, max(n // SAMPLED, 1))
        apart = compared(x[some], chosen, some, sampled, pairs) - self.likeness[some]
        self.blur = np.float32(max(BLUR * float(apart.std()), 1e-6))

    def _inverse(self) -> Floats:
        weights = self.weights
        return np.divide(1, weights, out=np.zeros_like(weights), where=weights > 0)

    def best(self, best: Singles) -> Singles:
        """Mean of what the clients of each cell have, (cells,)."""
        total = np.bincount(self.cell, self.client_weights * best, len(self.weights))
        return (total * self._inverse()).astype(np.float32)

    def gains(self, candidates: Index, best: Singles) -> Floats:
        """Estimate gains of some candidates, (c,).

        A client's excess e over what it has is that of its cell's mean, more or less: its mean is
        taken over a range of ± h about it, which is (e + h)² / 4h where e lies within it.
        """
        over, h = self.likeness[candidates], self.blur
        over -= best - h
        inside = np.clip(over, 0, 2 * h)
        over -= 2 * h
        np.maximum(over, 0, out=over)
        over += inside * inside / (4 * h)
        gains: Floats = (over @ self.weights.astype(np.float32)).astype(np.float64)
        return gains


class Drafter:
    """Greedy among the candidates that are the likeliest by cells, by their true gains.

    Parameters
    ----------
    columns : Columns
        It comes to hold those of the likeliest candidates.
    taken : bool array, shape (n,)
        What has been picked.
    allowed : Allowed, optional
        It is told of nothing: a copy is.
    cells : Cells, optional
        None: only candidates whose columns are held are drafted.

    Examples
    --------
    >>> from mmselect.engine import SERIAL
    >>> x = np.array([[0, 1], [1, 0], [0.8, 0.1]], dtype=np.float32)
    >>> columns = Columns(x, np.ones(3), SERIAL)
    >>> drafter = Drafter(columns, np.zeros(3, bool), None, Cells(columns))
    >>> drafter.next(np.zeros(3, np.float32))
    1
    """

    def __init__(
        self, columns: Columns, taken: Mask, allowed: Allowed | None, cells: Cells | None = None
    ) -> None:
        self.columns, self.taken, self.allowed = columns, taken.copy(), deepcopy(allowed)
        self.cells = cells
        self.by_cells = np.full(len(taken), np.inf)
        self.gains = np.where(columns.slot >= 0, np.inf, -np.inf)  # bounds; unknown ones are out

    def next(self, best: Singles) -> int | None:
        """Draft a pick, given what clients have; None if nothing is gained or allowed."""
        mask, cost = ~self.taken, 1.0 if self.allowed is None else self.allowed.cost
        if self.allowed is not None:
            mask &= self.allowed.mask()

        def highest(bounds: Floats, fresh: Mask) -> Index:
            value = bounds / cost
            return np.flatnonzero((value >= value[fresh & mask].max(initial=0.0)) & mask)

        def truly(rows: Index) -> Floats:
            return self.columns.gains(rows, best)

        if self.cells is not None:
            likely = self._likeliest(self.cells, best, mask, cost)
            self.gains[likely[np.isneginf(self.gains[likely])]] = np.inf
        settle(self.gains, np.zeros(len(mask), bool), highest, truly)
        worth = np.where(mask, self.gains / cost, -np.inf)
        pick = int(np.argmax(worth))
        if not worth[pick] > 0:
            return None
        self.taken[pick] = True
        if self.allowed is not None:
            self.allowed.take(pick)
        return pick

    def _likeliest(self, cells: Cells, best: Singles, mask: Mask, cost: Any) -> Index:
        """Find the candidates with the highest gains by cells."""
        cell_best = cells.best(best)

        def likeliest(bounds: Floats, fresh: Mask) -> Index:
            value = bounds / cost
            known = value[fresh & mask]
            least = -np.inf
            if len(known) > LIKELIEST:
                least = np.partition(known, -LIKELIEST)[-LIKELIEST]
            return np.flatnonzero((value >= least) & mask)

        def in_cells(rows: Index) -> Floats:
            return cells.gains(rows, cell_best)

        return settle(self.by_cells, np.zeros(len(mask), bool), likeliest, in_cells, 4 * LIKELIEST)
