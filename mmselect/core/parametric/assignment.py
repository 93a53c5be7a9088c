"""Which parameter owns each sample: the exact argmax, for a fraction of the products.

Parameters move little from step to step, so most samples can be proved to keep their owner:

- A drift that all parameters share changes no argmax. What counts is the drift of each less the
  mean drift; `path` adds up its length for each parameter, `far` adds up the largest.
- A sample whose owner leads by more than owner and others can have moved since keeps it, unseen.
- Otherwise it is compared with its nearest `LISTED` parameters, all others being bounded from
  outside by what they were when the list was made plus how far anything moved since: the skin of
  the neighbour lists of molecular dynamics (Verlet, 1967), here in the space of similarities.
- Otherwise it is compared with all parameters, and may get a new list: in float64 if float32 cannot
  tell who owns it.
"""

from __future__ import annotations

import numpy as np

from mmselect.arrays import Floats, Index, Rows, Singles
from mmselect.core.coverage.directions import norms_of
from mmselect.core.parametric.objective import SUMMED, TILE, Matrix, owned_sums
from mmselect.engine import SERIAL, Engine, ranges

LISTED = 12
"""Parameters in a sample's list."""

FEWEST = 64
"""Up to so many parameters, comparing with all of them is as fast."""

ALL_ROWS, LIST_ROWS = 512, 32
"""Samples in a block when compared with all parameters, and with their lists."""

NEAR_ROWS = 128
"""Samples at a time whose owner float32 cannot tell: they are compared in float64."""


class Assignment:
    """Index of the samples and sums of what is owned, kept up to date while parameters move.

    Parameters
    ----------
    x : float32 Rows, shape (n, d)
        In memory, or made when asked for.
    engine : Engine

    Examples
    --------
    >>> x = np.eye(2, dtype=np.float32)
    >>> assignment = Assignment(x)
    >>> assignment.update(x[::-1].copy()).tolist(), assignment.sums.tolist()
    ([1, 0], [[0.0, 1.0], [1.0, 0.0]])
    """

    def __init__(self, x: Rows, engine: Engine = SERIAL) -> None:
        n, d = x.shape
        self.x, self.engine = x, engine
        self.norms = norms_of(x, engine)
        # Bound on the rounding errors of the two float32 products of a comparison.
        self.rounding = 4 * (d / 8 + 16) * 2.0**-24 * self.norms.max() * max(self.norms.max(), 1)
        self.owner: Index = np.zeros(n, dtype=np.int64)
        self.sums: Floats = np.empty((0, d))
        self.compared = 0  # samples compared with all parameters

    def update(self, theta: Singles) -> Index:
        """Owner of each sample: the parameter with the largest product, the lower of equals."""
        if not len(self.sums):
            self._start(theta)
            return self.owner
        before = self.owner.copy()
        self._move(theta)
        open_rows = np.flatnonzero(~(self.lead > self._reach()))
        if len(open_rows) and self.lists:
            open_rows = self._compare_with_lists(theta, open_rows)
        self._compare_with_all(theta, open_rows, self.lists and self._worth_listing())
        self._update_sums(before)
        return self.owner

    def _start(self, theta: Singles) -> None:
        n, k = self.x.shape[0], len(theta)
        self.previous = theta.copy()
        self.path, self.far, self.drift = np.zeros(k), 0.0, 0.0
        self.lead = np.zeros(n)  # similarity of the owner less the next best's, when last seen
        self.own_path, self.far_seen = np.zeros(n), np.zeros(n)
        self.lists = k > FEWEST
        if self.lists:
            self.listed = np.zeros((n, LISTED), dtype=np.int32)
            # Similarity of the best parameter off the list, relative to the mean parameter.
            self.outside, self.far_listed = np.zeros(n), np.zeros(n)
            self.skin = np.zeros(n)  # similarity of the owner less `outside`, when listed
        self.mean = theta.mean(axis=0, dtype=np.float64).astype(np.float32)
        self._compare_with_all(theta, np.arange(n), self.lists)
        self.sums = owned_sums(self.x, self.owner, k)

    def _move(self, theta: Singles) -> None:
        moved = theta - self.previous
        moved -= moved.mean(axis=0, dtype=np.float64).astype(np.float32)
        drift = np.sqrt(np.einsum("ij,ij->i", moved, moved, dtype=np.float64))
        drift *= 1 + 1e-5
        self.path += drift
        self.drift = float(drift.max())
        self.far += self.drift
        self.previous[:] = theta
        self.mean = theta.mean(axis=0, dtype=np.float64).astype(np.float32)

    def _reach(self) -> Floats:
        """Most by which a lead can have shrunk since the sample was last seen."""
        own = self.path[self.owner] - self.own_path
        reach: Floats = self.norms * (own + self.far - self.far_seen) + self.rounding
        return reach

    def _worth_listing(self) -> bool:
        """Whether lists made now would last a few steps: the skin comes from the data."""
        return bool(np.median(self.skin) > 4 * self.norms.max() * self.drift)

    def _settle(self, rows: Index, owner: Index, lead: Matrix) -> None:
        self.owner[rows], self.lead[rows] = owner, lead
        self.own_path[rows], self.far_seen[rows] = self.path[owner], self.far

    def _compare_with_lists(self, theta: Singles, rows: Index) -> Index:
        """Settle what the lists can settle; return the rows that stay open."""
        reach = self.norms[rows] * (self.far - self.far_listed[rows])
        hopeful = reach < self.skin[rows]
        tried = rows[hopeful]

        def compare(part: tuple[int, int]) -> Index:
            index = tried[slice(*part)]
            x, listed = self.x[index], self.listed[index]
            similar = np.matmul(theta[listed], x[:, :, None])[:, :, 0]
            outside = self.outside[index] + x @ self.mean
            outside += self.norms[index] * (self.far - self.far_listed[index])
            best, first, second = _two_best(similar)
            lead = first - np.maximum(second, outside)
            sure = lead > self.rounding
            self._settle(index[sure], listed[np.arange(len(index)), best][sure], lead[sure])
            unsure: Index = index[~sure]
            return unsure

        left = list(self.engine.map(compare, ranges(0, len(tried), LIST_ROWS)))
        still: Index = np.sort(np.concatenate([rows[~hopeful], *left]))
        return still

    def _compare_with_all(self, theta: Singles, rows: Index, listing: bool) -> None:
        self.compared += len(rows)

        def compare(part: tuple[int, int]) -> None:
            index = rows[slice(*part)]
            x = self.x[index]
            similar = x @ theta.T
            if listing:
                self._list(index, x, similar)
            best, first, second = _two_best(similar)
            lead = (first - second).astype(np.float64)
            near = np.flatnonzero(lead <= self.rounding)
            for start, stop in ranges(0, len(near), NEAR_ROWS):
                some = near[start:stop]
                best[some], first, second = _two_best(_exact_products(x[some], theta))
                lead[some] = first - second
            self._settle(index, best, lead)

        list(self.engine.map(compare, ranges(0, len(rows), ALL_ROWS)))

    def _list(self, index: Index, x: Singles, similar: Singles) -> None:
        order = np.argpartition(similar, -LISTED - 1, axis=1)[:, -LISTED - 1 :]
        top = np.take_along_axis(similar, order, axis=1)
        outside = top[:, 0].astype(np.float64)  # argpartition puts the least of them first
        self.listed[index] = np.sort(order[:, 1:], axis=1)  # so that the lower of equals wins
        self.outside[index] = outside - x @ self.mean
        self.far_listed[index] = self.far
        self.skin[index] = top.max(axis=1) - outside

    def _update_sums(self, before: Index) -> None:
        from scipy.sparse import csr_array

        rows = np.flatnonzero(before != self.owner)
        for start, stop in ranges(0, len(rows), SUMMED):
            part = rows[start:stop]
            pair = np.concatenate([before[part], self.owner[part]])
            touched, place = np.unique(pair, return_inverse=True)
            signs = np.repeat([-1.0, 1.0], len(part))
            column = np.tile(np.arange(len(part)), 2)
            change = csr_array((signs, (place, column)), (len(touched), len(part)))
            self.sums[touched] += change @ self.x[part].astype(np.float64)


def _exact_products(x: Singles, theta: Singles) -> Floats:
    """Products in float64, of a few parameters at a time: copies of all would take much memory."""
    wide, products = x.astype(np.float64), np.empty((len(x), len(theta)))
    for start, stop in ranges(0, len(theta), TILE):
        products[:, start:stop] = wide @ theta[start:stop].astype(np.float64).T
    return products


def _two_best(similar: Matrix) -> tuple[Index, Matrix, Matrix]:
    """Place of the largest of each row, it, and the next largest (-inf if there is none)."""
    rows = np.arange(len(similar))
    best = similar.argmax(axis=1)
    first = similar[rows, best]
    similar[rows, best] = -np.inf
    return best, first, similar.max(axis=1)
