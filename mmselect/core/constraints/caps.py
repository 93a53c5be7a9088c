"""Caps: at most so many picks of each group."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

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
    barred once. Rows are put in order when the first group closes; where :func:`first_of_each` can
    say what is allowed, none does.
    """

    def __init__(self, cap: Cap, cost: Floats, rounding: float) -> None:
        self.codes, self.cost = cap.codes, cost
        self.rounding, self.whole, self.limit = rounding, not cap.by_cost, cap.limit
        self.groups = int(cap.codes.max(initial=-1)) + 1

    @cached_property
    def left(self) -> list[float]:
        """What each group may still pick, or what its picks may still cost."""
        return [float(self.limit)] * self.groups

    @cached_property
    def lines(self) -> tuple[Index, Floats, list[int], list[int]]:
        """Rows by group, the dearest first; their negated costs; where each group begins, ends."""
        known = np.flatnonzero(self.codes >= 0)
        codes = self.codes[known]
        keys = (codes,) if self.whole else (-self.cost[known], codes)
        order = np.lexsort(keys)  # stable: equals stay in the order of the rows
        rows = known[order]
        bounds = np.searchsorted(codes[order], np.arange(self.groups + 1)).tolist()
        below = np.zeros(0) if self.whole else -self.cost[rows]  # increasing within a group
        return rows, below, bounds[:-1], bounds[1:]

    def start(self) -> list[Index]:
        """Rows that never fit."""
        if self.whole and self.limit >= 1:
            return []
        return [self._barred(group) for group in range(self.groups)]

    def take(self, row: int) -> Index | None:
        """Rows that picking this one bars."""
        group = int(self.codes[row])
        if group < 0:
            return None
        left = self.left
        left[group] -= 1.0 if self.whole else float(self.cost[row])
        if self.whole and left[group] >= 1:
            return None
        return self._barred(group)

    def _barred(self, group: int) -> Index:
        rows, below, begins, ends = self.lines
        start, stop = begins[group], ends[group]
        if not self.whole:
            most = -(self.left[group] + self.rounding)
            stop = start + int(np.searchsorted(below[start:stop], most))
        begins[group] = stop
        return rows[start:stop]


def first_of_each(groups: Index, limit: float, most: int) -> Index:
    """Find the places in a ranking that are among the first `limit` of their group.

    As much of the ranking is looked at as it takes to find `most`.

    Parameters
    ----------
    groups : (r,) ndarray of int
        Group at each place; below 0: in none.
    limit : float
    most : int
        How many places to find, if there are so many.

    Examples
    --------
    >>> first_of_each(np.array([3, 3, -1, 0, 3, -1]), 1, 3)
    array([0, 2, 3])
    """
    size = 2 * most
    while True:
        some = groups[:size]
        by_group = np.argsort(some, kind="stable")
        ordered = some[by_group]
        before = np.empty(len(some), np.intp)  # how many of its group come before each place
        before[by_group] = np.arange(len(some)) - np.searchsorted(ordered, ordered)
        places = np.flatnonzero((some < 0) | (before < limit))
        if len(places) >= most or size >= len(groups):
            return places[:most]
        size *= 2
