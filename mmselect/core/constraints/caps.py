"""Caps: at most so many picks of each group."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mmselect.arrays import Floats, Index


@dataclass(frozen=True)
class Cap:
    """At most `limit` picks of each group.

    Attributes
    ----------
    codes : (n,) ndarray of int
        Group of each row, from 0; -1: in none.
    limit : float
        Picks of a group, or what they may cost together.
    by_cost : bool
        Whether costs count, in place of picks.
    """

    codes: Index
    limit: float
    by_cost: bool = False


class CapState:
    """What each group of a cap may still pick: its rows, the dearest first, and a place in them.

    A pick bars a slice of its group: all of it, or with costs what no longer fits. Every row is
    barred once.
    """

    def __init__(self, cap: Cap, cost: Floats, rounding: float) -> None:
        known = np.flatnonzero(cap.codes >= 0)
        codes, self.codes = cap.codes[known], cap.codes
        self.weight = cost if cap.by_cost else np.ones(len(cost))
        order = np.lexsort((known, -self.weight[known], codes))
        self.rows = known[order]
        self.below = -self.weight[self.rows]  # increasing within a group
        bounds = np.searchsorted(codes[order], np.arange(int(codes.max(initial=-1)) + 2)).tolist()
        self.next, self.stop = bounds[:-1], bounds[1:]
        self.left = [float(cap.limit)] * len(self.next)
        self.rounding, self.whole, self.limit = rounding, not cap.by_cost, cap.limit

    def start(self) -> list[Index]:
        """Rows that never fit."""
        if self.whole and (not self.left or self.left[0] >= 1):
            return []
        return [self._barred(group) for group in range(len(self.left))]

    def take(self, row: int) -> Index:
        """Rows that picking this one bars."""
        group = int(self.codes[row])
        if group < 0:
            return self.rows[:0]
        self.left[group] -= float(self.weight[row])
        if self.whole and self.left[group] >= 1:
            return self.rows[:0]
        return self._barred(group)

    def _barred(self, group: int) -> Index:
        start, stop = self.next[group], self.stop[group]
        if not self.whole:
            most = -(self.left[group] + self.rounding)
            stop = start + int(np.searchsorted(self.below[start:stop], most))
        self.next[group] = stop
        return self.rows[start:stop]
