"""Which rows may be picked next, kept up to date pick by pick."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from mmselect.arrays import Floats, Index
from mmselect.core.constraints.balance import Balance
from mmselect.core.constraints.caps import Cap, CapState, first_of_each
from mmselect.core.constraints.quotas import Quotas, Reserves
from mmselect.errors import ParameterError

ROUNDING = 1e-12
"""Share of a budget that sums of costs may be off."""

NOTHING = np.zeros(0, np.intp)

Mask = NDArray[np.bool_]


class Allowed:
    """Which of n rows may be picked next (``methods.md`` 5c); told of each pick.

    - A **cap** bars, for good, what its group may no longer pick.
    - **Quotas** hold in reserve what the cheapest rows cost that still meet them; a row is allowed
      if it fits beside the reserves. Where each row costs 1: as soon as the picks that are left are
      needed, only what still needs them is allowed. Reserves may shrink, so that a row comes back.
    - **Balance** opens the groups with the fewest picks among those that have free rows.
    - With **costs**, rows that no longer fit in the budget are not allowed.

    A pick touches the rows whose state it changes, and no others.

    Parameters
    ----------
    n : int
        Rows.
    budget : float
        Picks; with `costs` what all picks may cost together.
    caps : sequence of Cap
    quotas : sequence of Quotas
        One for each column. Each looks at itself alone; where nothing is left that several of them
        allow, the latest is given up.
    balance : sequence of (n,) ndarray of int
        Groups of each balanced column, from 0. Where no row is in an open group of every column,
        the later columns do not count for that pick.
    dealt : (n,) ndarray of int, optional
        Groups, from 0, that get picks in proportion to their rows; it counts after `balance`.
    costs : (n,) ndarray of float64, optional
        Above 0; None is 1 for each row.

    Attributes
    ----------
    taken : list of int
        Picks so far, in order.
    free : (n,) ndarray of bool
        Rows that nothing but balance keeps out.
    cells : (n,) ndarray of int, or None
        Joint group of each row in the balanced columns.
    revived : (r,) ndarray of int
        Rows that the latest pick made free again; rare.
    reopened : bool
        Whether the latest pick allowed rows that were not allowed before it.
    most : int
        Bound on the number of picks.

    Raises
    ------
    ParameterError
        If a shape is not that of the rows, or a cost is not a finite number above 0.

    Examples
    --------
    At most one pick of each of the groups 0 and 1:

    >>> allowed = Allowed(4, 2, caps=[Cap(np.array([0, 0, 1, 1]), 1)])
    >>> allowed.take(1)
    >>> allowed.mask().tolist()
    [False, False, True, True]
    """

    def __init__(
        self,
        n: int,
        budget: float,
        *,
        caps: Sequence[Cap] = (),
        quotas: Sequence[Quotas] = (),
        balance: Sequence[Index] = (),
        dealt: Index | None = None,
        costs: Floats | None = None,
    ) -> None:
        groups = [*balance, *([] if dealt is None else [dealt])]
        _check(n, [*(c.codes for c in caps), *(q.codes for q in quotas), *groups], costs)
        self.costs, self.cost = costs, np.ones(n) if costs is None else costs
        self.budget = self.left = float(budget)
        self.rounding = 0.0 if costs is None else ROUNDING * self.budget
        self.most = min(int(self.budget), n)
        if costs is not None:
            prices = np.cumsum(np.sort(costs))
            self.most = int(np.searchsorted(prices, self.budget + self.rounding, "right"))
        self.taken = list[int]()
        self.free, self.count = np.ones(n, bool), n
        self.barred, self.unfit = np.zeros(n, bool), np.zeros(n, np.int32)
        self.caps = [CapState(cap, self.cost, self.rounding) for cap in caps]
        whole = Quotas(np.full(n, -1), np.zeros(0), np.zeros(0, bool))
        spending = () if costs is None else (whole,)
        self.reserves = [Reserves(q, self.cost, self.rounding) for q in (*spending, *quotas)]
        self.quotas = list(quotas)
        self.balance = Balance(balance, dealt) if len(balance) or dealt is not None else None
        self.cells = self.balance.cells if self.balance else None
        for rows in (rows for cap in self.caps for rows in cap.start()):
            self._bar(rows)
        self._settle()

    @property
    def done(self) -> bool:
        """Whether the budget is spent, or no row is allowed."""
        return not self.count or (self.costs is None and len(self.taken) >= self.budget)

    @property
    def expected(self) -> int:
        """How many picks the budget is good for; with costs by their mean."""
        if self.costs is None:
            return self.most
        return max(min(int(self.budget / self.cost.mean()), self.most), 1)

    @property
    def steady(self) -> int:
        """After how many picks, at the earliest, balance reopens a group."""
        return max(int(self.open.sum()), 1) if self.balance else len(self.free)

    @property
    def open(self) -> Mask:
        """Which cells may be picked from next."""
        return self.balance.open if self.balance else np.ones(1, bool)

    def mask(self) -> Mask:
        """Which rows are allowed, (n,); not to be written to."""
        return self.free if self.cells is None else self.free & self.open[self.cells]

    def among(self, rows: Index) -> Mask:
        """Which of some rows are allowed, (r,)."""
        free: Mask = self.free[rows]
        return free if self.cells is None else free & self.open[self.cells[rows]]

    def allows(self, row: int) -> bool:
        """Whether a row is allowed."""
        return bool(self.free[row] and (self.cells is None or self.open[self.cells[row]]))

    def per_cost(self, gains: Floats, rows: Index | slice = slice(None)) -> Floats:
        """Gains of some rows, (r,), divided by what the rows cost."""
        return gains if self.costs is None else gains / self.costs[rows]

    def take(self, row: int) -> None:
        """Pick a row that is allowed, and find what is allowed next."""
        self.taken.append(row)
        self.left -= float(self.cost[row])
        for reserves in self.reserves:
            reserves.take(row)
        if self.balance:
            self.balance.take(row)
        self._bar_pick(row)
        for cap in self.caps:
            if (rows := cap.take(row)) is not None:
                self._bar(rows)
        if self.reserves or self.balance:
            self._settle()

    def take_in_order(self, order: Index) -> bool:
        """Pick the first allowed of `order`, again and again, where that needs no look at each.

        With one limit of groups and nothing else, a row is taken if fewer than the limit of its
        group come before it. Returns whether it was so; then the selection has ended.
        """
        simple = len(self.caps) == 1 and self.caps[0].whole and not self.taken
        if not simple or self.reserves or self.balance:
            return False
        cap, most = self.caps[0], int(self.budget)
        self.taken = order[first_of_each(cap.codes[order], cap.limit, most)].tolist()
        self.free[:], self.count = False, 0
        return True

    def shortfalls(self) -> Iterator[tuple[int, int, float]]:
        """Quotas that are not met: number of the column, group, and what is missing."""
        for number, reserves in enumerate(self.reserves[len(self.reserves) - len(self.quotas) :]):
            for group in np.flatnonzero(reserves.needs > self.rounding).tolist():
                yield number, group, float(reserves.needs[group])

    def _bar(self, rows: Index) -> None:
        """Keep out some rows for good."""
        fresh = rows[~self.barred[rows]]
        self.barred[fresh] = True
        for reserves in self.reserves:
            reserves.lose(fresh)
        self._close(fresh)

    def _bar_pick(self, row: int) -> None:
        """Keep out the row that is picked: as `_bar`, without arrays where nobody needs one."""
        self.barred[row] = True
        for reserves in self.reserves:
            reserves.lose_one(row)
        if self.free[row]:
            self.free[row] = False
            self.count -= 1
            if self.balance:
                self.balance.lose_one(row)

    def _settle(self) -> None:
        """Find what reserves and balance make of the latest pick."""
        self.revived, self.reopened = NOTHING, False
        if self.reserves:
            revived = [rows for reserves in self.reserves for rows in self._fit(reserves)]
            while not self.count and (reserves := self._given_up()):
                revived += self._fit(reserves)
            self.revived = np.concatenate([NOTHING, *revived])
            self.reopened = len(self.revived) > 0
        if self.balance:
            self.reopened |= self.balance.settle()

    def _fit(self, reserves: Reserves) -> list[Index]:
        """Keep out what does not fit beside reserves; which rows became free because they fit."""
        revived = []
        for rows, change in reserves.changes(self.left):
            self.unfit[rows] += change
            if change > 0:
                self._close(rows)
                continue
            freed = rows[~self.barred[rows] & (self.unfit[rows] == 0)]
            self.free[freed] = True
            self.count += len(freed)
            if self.balance:
                self.balance.gain(freed)
            revived.append(freed)
        return revived

    def _close(self, rows: Index) -> None:
        """Rows that were free are so no longer."""
        closed = rows[self.free[rows]] if self.reserves else rows  # else only bars keep out
        self.free[closed] = False
        self.count -= len(closed)
        if self.balance and len(closed):
            self.balance.lose(closed)

    def _given_up(self) -> Reserves | None:
        """Give up the latest quotas, if they may be what keeps all rows out."""
        waiting = [reserves for reserves in self.reserves if not reserves.given_up]
        fits = ~self.barred & (self.cost <= self.left + self.rounding)
        if not waiting or not fits.any():
            return None
        waiting[-1].give_up()
        return waiting[-1]


def _check(n: int, codes: Sequence[Index], costs: Floats | None) -> None:
    for each in (*codes, *(() if costs is None else (costs,))):
        if each.shape != (n,):
            raise ParameterError(f"constraints: expected shape ({n},), found {each.shape}")
    if costs is not None and not (np.isfinite(costs) & (costs > 0)).all():
        raise ParameterError("costs: expected finite numbers above 0")
