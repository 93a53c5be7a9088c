"""Quotas: at least so much of each of several groups, by holding its price in reserve."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mmselect.arrays import Floats, Index

BLOCK = 512
"""Rows whose costs are summed together."""


@dataclass(frozen=True)
class Quotas:
    """At least so much of each of several groups that exclude each other.

    Attributes
    ----------
    codes : (n,) ndarray of int
        Group of each row, from 0; -1: in none.
    needs : (m,) ndarray of float64
        Picks of each group, or what they have to cost together.
    by_cost : (m,) ndarray of bool
        Which of them count costs.
    """

    codes: Index
    needs: Floats
    by_cost: NDArray[np.bool_]


class Reserves:
    """What is left for a row beside the quotas of one column; without any, the whole budget.

    The reserve of a group is what its cheapest rows cost that still meet its quota. A row fits if
    it costs no more than what is left less all reserves; one of a group whose quota is not met may
    cost the dearest row in the group's reserve more, since it stands in for that one.

    The rows of a group are sorted, the dearest first: what does not fit are the first few of them.
    """

    def __init__(self, quotas: Quotas, cost: Floats, rounding: float) -> None:
        groups, self.cost, self.rounding = len(quotas.needs), cost, rounding
        self.codes = np.where(quotas.codes < 0, groups, quotas.codes)
        order = np.lexsort((np.arange(len(cost)), -cost, self.codes))
        self.rows = order
        self.bounds = np.searchsorted(self.codes[order], np.arange(groups + 2)).tolist()
        self.below = -cost[order]
        self.dearest = float(cost.max(initial=0.0))
        self.same = bool(len(cost) and cost.min() == self.dearest)
        self.barred = [0] * (groups + 1)
        self.needs, self.by_cost = quotas.needs.astype(np.float64), quotas.by_cost
        self.open = np.diff(self.bounds)  # rows of each group that no cap bars
        self.reserve, self.last = np.full(groups, np.inf), np.zeros(groups)  # bounds at first
        self.stale = np.ones(groups, bool)
        self.given_up = not groups
        self.held = float(self.reserve.sum())  # at least what all reserves are, as `reserve`
        self.cheap = [] if self.same else [self._cheapest(group) for group in range(groups)]

    def _cheapest(self, group: int) -> Cheapest:
        return Cheapest(self.rows[slice(*self.bounds[group : group + 2])][::-1], self.cost)

    def take(self, row: int) -> None:
        """Count a pick: its group needs less."""
        group = int(self.codes[row])
        if group < len(self.needs):
            self.needs[group] -= self.cost[row] if self.by_cost[group] else 1.0
            self.stale[group] = True

    def lose(self, rows: Index) -> None:
        """Do without rows that are barred or picked: reserves may need dearer ones."""
        codes = self.codes[rows]
        lost = np.bincount(codes, minlength=len(self.open))
        self.open -= lost
        changed = np.flatnonzero(lost[:-1])
        self.stale[changed] = True
        more = lost[changed] * self.dearest  # an upper bound until refreshed
        self.reserve[changed] += more
        self.held += float(more.sum())
        if self.cheap:
            for group in changed.tolist():
                self.cheap[group].lose(rows[codes == group])

    def lose_one(self, row: int) -> None:
        """Do without one row: as `lose`, without arrays."""
        group = int(self.codes[row])
        self.open[group] -= 1
        if group == len(self.needs):
            return
        self.stale[group] = True
        self.reserve[group] += self.dearest
        self.held += self.dearest
        if self.cheap:
            self.cheap[group].lose(np.array([row]))

    def give_up(self) -> None:
        """Hold nothing in reserve any more."""
        self.given_up = True

    def changes(self, left: float) -> Iterator[tuple[Index, int]]:
        """Rows that no longer fit, with 1, and rows that fit again, with -1."""
        if left - self.held >= self.dearest and not any(self.barred):
            return
        rest = left + self.rounding
        fits = [rest] * len(self.barred)
        if not self.given_up:
            for group in np.flatnonzero(self.stale).tolist():
                self._refresh(group)
            self.held = float(self.reserve.sum())
            rest -= self.held
            fits = [rest + last for last in (*self.last.tolist(), 0.0)]
        for group, most in enumerate(fits):
            start, stop = self.bounds[group : group + 2]
            count = int(np.searchsorted(self.below[start:stop], -most))
            old, self.barred[group] = self.barred[group], count
            if count > old:
                yield self.rows[start + old : start + count], 1
            elif count < old:
                yield self.rows[start + count : start + old], -1

    def _refresh(self, group: int) -> None:
        """Compute the reserve of a group, and the dearest row in it."""
        self.stale[group] = False
        need, count = float(self.needs[group]), int(self.open[group])
        if need <= self.rounding or not count:
            self.reserve[group] = self.last[group] = 0.0
        elif self.same:
            weight = self.dearest if self.by_cost[group] else 1.0
            least = min(int(np.ceil((need - self.rounding) / weight)), count)
            self.reserve[group], self.last[group] = least * self.dearest, self.dearest
        else:
            price = self.cheap[group].price(need - self.rounding, bool(self.by_cost[group]))
            self.reserve[group], self.last[group] = price


class Cheapest:
    """What the cheapest of some rows cost that are still there.

    Rows stand in blocks, the cheapest first. A block's sums are made anew when it loses a row, so
    that no rounding builds up, and a price takes one look at all blocks and one into a block.
    """

    def __init__(self, rows: Index, cost: Floats) -> None:
        blocks = -(-len(rows) // BLOCK) or 1
        self.cost, self.there = np.zeros(blocks * BLOCK), np.zeros(blocks * BLOCK, bool)
        self.cost[: len(rows)], self.there[: len(rows)] = cost[rows], True
        self.place = np.empty(len(cost), np.int32)
        self.place[rows] = np.arange(len(rows))
        self.counts, self.sums = np.zeros(blocks), np.zeros(blocks)
        self._sum(np.arange(blocks))

    def lose(self, rows: Index) -> None:
        """Do without some rows."""
        places = self.place[rows]
        self.there[places] = False
        blocks = (places // BLOCK).astype(np.intp)
        self._sum(np.unique(blocks) if len(blocks) > 1 else blocks)

    def price(self, need: float, by_cost: bool) -> tuple[float, float]:
        """Cost of the cheapest that are, or cost, at least so much; and of the last of them.

        All of them where they are not enough; there has to be one.
        """
        met, spent = np.cumsum(self.sums if by_cost else self.counts), np.cumsum(self.sums)
        block = min(int(np.searchsorted(met, need)), int(np.flatnonzero(self.counts)[-1]))
        part = slice(block * BLOCK, (block + 1) * BLOCK)
        cost = self.cost[part][self.there[part]]
        price = np.cumsum(cost)
        before, paid = (met[block - 1], spent[block - 1]) if block else (0.0, 0.0)
        within = price if by_cost else np.arange(1.0, len(cost) + 1)
        at = min(int(np.searchsorted(within, need - before)), len(cost) - 1)
        return float(paid + price[at]), float(cost[at])

    def _sum(self, blocks: Index) -> None:
        there = self.there.reshape(-1, BLOCK)[blocks]
        self.counts[blocks] = there.sum(axis=1)
        self.sums[blocks] = (self.cost.reshape(-1, BLOCK)[blocks] * there).sum(axis=1)
