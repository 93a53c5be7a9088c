"""Balance: no group more than one pick ahead of any that still has rows; picks in proportion."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mmselect.arrays import Index


class Balance:
    """Which groups of the balanced columns may be picked from next.

    Parameters
    ----------
    columns : sequence of (n,) ndarray of int
        Groups of each balanced column, from 0.
    dealt : (n,) ndarray of int, optional
        Groups of a last column, which get picks in proportion to their rows: the next one goes to
        the group of least (picks + ½) / rows (the divisors of Webster and Sainte-Laguë).

    Attributes
    ----------
    cells : (n,) ndarray of int
        Joint group of each row: one number for each combination of the columns' groups.
    live : (cells,) ndarray of int
        Free rows in each cell.
    open : (cells,) ndarray of bool
        Cells with free rows all of whose groups have the fewest picks.
    waived : int
        Picks made while no row was in such a cell, so that later columns did not count.
    """

    def __init__(self, columns: Sequence[Index], dealt: Index | None = None) -> None:
        self.dealt = dealt is not None
        sizes = [np.ones(int(column.max(initial=0)) + 1) for column in columns]
        if dealt is not None:
            columns, sizes = [*columns, dealt], [*sizes, np.bincount(dealt).astype(np.float64)]
        self.sizes = sizes
        self.cells = np.zeros(len(columns[0]), np.intp)
        for column in columns:
            joint = self.cells * (int(column.max(initial=0)) + 1) + column
            _, first, self.cells = np.unique(joint, return_index=True, return_inverse=True)
        self.groups = [column[first] for column in columns]
        self.live = np.bincount(self.cells, minlength=len(first))
        self.picks = [np.zeros(int(group.max(initial=0)) + 1, np.intp) for group in self.groups]
        self.waiving, self.waived = False, 0
        self.open = self.live > 0
        self.opened = int(self.open.sum())
        self.fresh = self.dealt

    def take(self, row: int) -> None:
        """Count a pick; its cell is open, and then no longer, since its groups are ahead."""
        cell = int(self.cells[row])
        for group, picks in zip(self.groups, self.picks, strict=True):
            picks[group[cell]] += 1
        self.waived += self.waiving
        self._close_one(cell)
        self.fresh |= len(self.groups) > 1 or self.dealt

    def lose_one(self, row: int) -> None:
        """Do without one row: as `lose`, without arrays."""
        cell = int(self.cells[row])
        self.live[cell] -= 1
        if not self.live[cell]:
            self._close_one(cell)
        self.fresh |= len(self.groups) > 1

    def lose(self, rows: Index) -> None:
        """Rows are no longer free."""
        cells = self.cells[rows]
        np.subtract.at(self.live, cells, 1)
        for cell in set(cells[self.live[cells] == 0].tolist()):
            self._close_one(cell)
        self.fresh |= len(self.groups) > 1

    def gain(self, rows: Index) -> None:
        """Rows are free again."""
        np.add.at(self.live, self.cells[rows], 1)
        self.fresh = True

    def settle(self) -> bool:
        """Open the groups with the fewest picks, if that may have changed; whether any opened."""
        if self.opened and not self.fresh:
            return False
        before, alive = self.open, self.live > 0
        self.open, self.waiving, self.fresh = alive, False, False
        last = len(self.groups) - 1 if self.dealt else -1
        for number, (group, picks) in enumerate(zip(self.groups, self.picks, strict=True)):
            served = (picks + 0.5)[group] / self.sizes[number][group]
            fits = self.open & (served == served[alive].min(initial=np.inf))
            self.waiving |= not fits.any() and number != last
            self.open = fits if fits.any() else self.open
        self.opened = int(self.open.sum())
        return bool((self.open & ~before).any())

    def _close_one(self, cell: int) -> None:
        if self.open[cell]:
            self.open[cell] = False
            self.opened -= 1
