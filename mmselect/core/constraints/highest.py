"""The highest of keys among the rows that are allowed."""

from __future__ import annotations

from heapq import heappop, heapreplace
from itertools import pairwise

import numpy as np

from mmselect.arrays import Floats, Index
from mmselect.core.constraints.allowed import Allowed

BLOCK = 256
"""Rows that share one upper bound of their keys."""


class Highest:
    """Finds the allowed row whose key, per cost, is highest; keys may fall, in place.

    Rows stand in blocks, those of one balanced group together, so that a group opens and closes by
    whole blocks. Each block has an upper bound on the keys of its free rows.

    Parameters
    ----------
    key : (n,) ndarray of float64
    allowed : Allowed
    tie : float
        Difference of keys, relative to 10 more than the key, below which they are equal.

    Examples
    --------
    >>> Highest(np.array([1.0, 3.0, 3.0]), Allowed(3, 2)).first()
    1
    """

    def __init__(self, key: Floats, allowed: Allowed, tie: float = 0.0) -> None:
        self.key, self.allowed, self.tie = key, allowed, tie
        cells = np.zeros(len(key), np.intp) if allowed.cells is None else allowed.cells
        self.order = np.argsort(cells, kind="stable")
        edges = [*np.flatnonzero(np.diff(cells[self.order], prepend=-1)).tolist(), len(key)]
        starts = [s for a, b in pairwise(edges) for s in range(a, b, BLOCK)]
        self.starts = np.array([*starts, len(key)], np.intp)
        self.cell = cells[self.order[starts]]
        self.block = np.empty(len(key), np.intp)
        self.block[self.order] = np.repeat(np.arange(len(starts)), np.diff(self.starts))
        self.bound = np.maximum.reduceat(self._values(self.order), starts)
        self.slack = 10 * tie * np.maximum.reduceat(1 / allowed.cost[self.order], starts)

    def first(self) -> int:
        """Return the lowest row whose key equals the highest."""
        self.bound[self.block[self.allowed.revived]] = np.inf  # until it is looked at
        bound = self._open_bounds()
        block = int(bound.argmax())
        while bound[block] != (top := self._refresh(block)):
            bound = self._open_bounds()
            block = int(bound.argmax())
        lowest, seen = len(self.key), set[int]()
        for near in np.flatnonzero(bound * (1 + self.tie) + self.slack >= top).tolist():
            if (cell := int(self.cell[near])) in seen:
                continue  # the rows of a cell stand in order: its first block has the lowest
            rows = self.order[self.starts[near] : self.starts[near + 1]]
            values = self._values(rows)
            equal = values * (1 + self.tie) + 10 * self.tie / self.allowed.cost[rows] >= top
            if equal.any():
                lowest = min(lowest, int(rows[equal.argmax()]))
                seen.add(cell)
                if self.allowed.cells is None:
                    break
        return lowest

    def _open_bounds(self) -> Floats:
        if self.allowed.cells is None:
            return self.bound
        return np.where(self.allowed.open[self.cell], self.bound, -np.inf)

    def _values(self, rows: Index) -> Floats:
        values = self.allowed.per_cost(self.key[rows], rows)
        return np.where(self.allowed.free[rows], values, -np.inf)

    def _refresh(self, block: int) -> float:
        rows = self.order[self.starts[block] : self.starts[block + 1]]
        self.bound[block] = self._values(rows).max()
        return float(self.bound[block])


def top(scores: Floats, k: int, allowed: Allowed | None = None) -> Index:
    """Positions of the `k` largest scores, largest first, ties to the lower position.

    With `allowed`, those that it allows, until it ends: see :func:`take_highest`.

    Examples
    --------
    >>> top(np.array([1.0, 3.0, 3.0, 2.0]), 3)
    array([1, 2, 3])
    """
    if allowed is not None:
        return take_highest(scores, allowed)
    return np.argsort(-scores, kind="stable")[:k]


def take_highest(scores: Floats, allowed: Allowed) -> Index:
    """Pick by score until nothing is allowed; with costs by score per cost, from 0 on.

    Parameters
    ----------
    scores : (n,) ndarray of float64
        Larger comes first, ties go to the lower row.
    allowed : Allowed
        Told of every pick.

    Returns
    -------
    (k,) ndarray of int
        Rows in pick order.

    Examples
    --------
    >>> from mmselect.core.constraints.caps import Cap
    >>> twins = Cap(np.array([0, 0, 1, 1]), 1)
    >>> take_highest(np.array([4.0, 3.0, 2.0, 1.0]), Allowed(4, 2, caps=[twins])).tolist()
    [0, 2]
    """
    values = scores if allowed.costs is None else shifted(scores) / allowed.costs
    order = np.argsort(-values, kind="stable")
    if allowed.take_in_order(order):
        return np.array(allowed.taken, np.intp)
    queue = Queue(order, allowed)
    while not allowed.done:
        allowed.take(queue.first())
    return np.array(allowed.taken, np.intp)


def take_at_random(allowed: Allowed, rng: np.random.Generator) -> Index:
    """Pick uniformly among the rows allowed at each step; with costs by chances of 1/cost.

    Rows are drawn from one shuffled order, in which those that are kept out are passed over. With
    balance a group is drawn first, by the chances of its free rows together. Rows that are free
    again would come too soon in the old order, so then all is shuffled anew.

    Parameters
    ----------
    allowed : Allowed
        Told of every pick.
    rng : numpy.random.Generator

    Returns
    -------
    (k,) ndarray of int
        Rows in pick order.

    Examples
    --------
    >>> sorted(take_at_random(Allowed(3, 3), np.random.default_rng(0)).tolist())
    [0, 1, 2]
    """
    order = _shuffled(allowed, rng)
    if allowed.take_in_order(order):
        return np.array(allowed.taken, np.intp)
    queue = Queue(order, allowed)
    while not allowed.done:
        if len(allowed.revived):
            queue = Queue(_shuffled(allowed, rng), allowed)
        cell = None if allowed.cells is None else _draw_cell(allowed, rng)
        allowed.take(queue.first(cell))
    return np.array(allowed.taken, np.intp)


def _shuffled(allowed: Allowed, rng: np.random.Generator) -> Index:
    """All rows in random order; with costs by exponential clocks, the rate of each 1/cost."""
    if allowed.costs is None:
        return rng.permutation(len(allowed.free))
    return np.argsort(rng.standard_exponential(len(allowed.free)) * allowed.costs)


def _draw_cell(allowed: Allowed, rng: np.random.Generator) -> int:
    """Draw one of the open cells, by the chances of its free rows."""
    assert allowed.balance is not None
    chances = allowed.balance.live
    if allowed.costs is not None:
        cells = allowed.balance.cells
        chances = np.bincount(cells, allowed.free / allowed.costs, len(allowed.open))
    total = np.cumsum(chances * allowed.open)
    return int(np.searchsorted(total, rng.random() * total[-1], side="right"))


class Queue:
    """Rows in a fixed order, a line for each balanced group, from which the first one is taken."""

    def __init__(self, order: Index, allowed: Allowed) -> None:
        self.allowed = allowed
        self.rank = np.empty(len(order), np.intp)
        self.rank[order] = np.arange(len(order))
        cells = np.zeros(len(order), np.intp) if allowed.cells is None else allowed.cells
        self.order = order[np.argsort(cells[order], kind="stable")]
        starts = np.searchsorted(cells[self.order], np.arange(len(allowed.open)))
        self.starts, self.place = starts.tolist(), starts.tolist()
        self.head = self.rank[self.order[starts]]  # of each line, at most that of its first row
        self.heap = list[tuple[int, int]]()  # heads of the open lines, and of some that have closed

    def first(self, cell: int | None = None) -> int:
        """Return the first allowed row of a line, or of all lines."""
        if len(self.allowed.revived):
            for again in np.unique(self._cells(self.allowed.revived)).tolist():
                self.place[again] = self.starts[again]
                self.head[again] = -1
        if cell is not None or self.allowed.cells is None:
            return self._advance(cell or 0)
        if self.allowed.reopened or not self.heap:
            lines = np.flatnonzero(self.allowed.open)
            lines = lines[np.argsort(self.head[lines])]  # in order, which is a heap
            self.heap = list(zip(self.head[lines].tolist(), lines.tolist(), strict=True))
        while True:
            head, cell = self.heap[0]
            if not self.allowed.open[cell]:
                heappop(self.heap)
                continue
            row = self._advance(cell)
            if self.head[cell] == head:
                return row
            heapreplace(self.heap, (int(self.head[cell]), cell))

    def _cells(self, rows: Index) -> Index:
        return (
            np.zeros(len(rows), np.intp) if self.allowed.cells is None else self.allowed.cells[rows]
        )

    def _advance(self, cell: int) -> int:
        """Pass over rows that are not free."""
        place, order, free = self.place[cell], self.order, self.allowed.free
        while not free[order[place]]:
            place += 1
        self.place[cell] = place
        self.head[cell] = self.rank[order[place]]
        return int(order[place])


def shifted(scores: Floats) -> Floats:
    """Scores from 0 on: less the least of them where that is negative; -inf counts as the least.

    Examples
    --------
    >>> shifted(np.array([-3.0, -1.0])).tolist(), shifted(np.array([1.0, 2.0])).tolist()
    ([0.0, 2.0], [1.0, 2.0])
    >>> shifted(np.array([-np.inf, -3.0, -1.0])).tolist()
    [0.0, 0.0, 2.0]
    """
    least = min(float(scores.min(initial=0.0, where=np.isfinite(scores))), 0.0)
    return np.maximum(scores, least) - least
