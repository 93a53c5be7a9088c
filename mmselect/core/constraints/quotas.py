"""Quotas: at least so much of each of several groups, by holding its price in reserve."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mmselect.arrays import Floats, Index


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

    def take(self, row: int) -> None:
        """Count a pick: its group needs less."""
        group = int(self.codes[row])
        if group < len(self.needs):
            self.needs[group] -= self.cost[row] if self.by_cost[group] else 1.0
            self.stale[group] = True

    def lose(self, rows: Index) -> None:
        """Do without rows that are barred or picked: reserves may need dearer ones."""
        lost = np.bincount(self.codes[rows], minlength=len(self.open))
        self.open -= lost
        changed = lost[:-1] > 0
        self.stale |= changed
        self.reserve[changed] += lost[:-1][changed] * self.dearest  # an upper bound until refreshed

    def give_up(self) -> None:
        """Hold nothing in reserve any more."""
        self.given_up = True

    def changes(self, left: float, barred: NDArray[np.bool_]) -> Iterator[tuple[Index, int]]:
        """Rows that no longer fit, with 1, and rows that fit again, with -1."""
        if not any(self.barred) and left - self.reserve.sum() >= self.dearest:
            return
        rest = left + self.rounding
        fits = [rest] * len(self.barred)
        if not self.given_up:
            for group in np.flatnonzero(self.stale).tolist():
                self._refresh(group, barred)
            rest -= float(self.reserve.sum())
            fits = [rest + last for last in (*self.last.tolist(), 0.0)]
        for group, most in enumerate(fits):
            start, stop = self.bounds[group : group + 2]
            count = int(np.searchsorted(self.below[start:stop], -most))
            old, self.barred[group] = self.barred[group], count
            if count > old:
                yield self.rows[start + old : start + count], 1
            elif count < old:
                yield self.rows[start + count : start + old], -1

    def _refresh(self, group: int, barred: NDArray[np.bool_]) -> None:
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
            rows = self.rows[slice(*self.bounds[group : group + 2])][::-1]
            cost = self.cost[rows[~barred[rows]]]
            price = np.cumsum(cost)
            met = price if self.by_cost[group] else np.arange(1.0, len(cost) + 1)
            at = min(int(np.searchsorted(met, need - self.rounding)), len(cost) - 1)
            self.reserve[group], self.last[group] = price[at], cost[at]
