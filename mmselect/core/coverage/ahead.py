"""Speculate and verify: bounds of all gains before the picks are made, and why they are a proof."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from mmselect.arrays import Floats, Index, Singles
from mmselect.core.constraints.allowed import Allowed
from mmselect.core.coverage.columns import BATCH, TILE, Columns, Mask, excess
from mmselect.core.coverage.drafting import Cells, Drafter
from mmselect.core.coverage.survey import ROUNDING, Edges, Found, survey, tile_gains
from mmselect.core.presence import compared
from mmselect.engine import ranges

COVERS = 10
"""Covers of a draft, about, at which all gains are computed."""

STEPS = 128
"""Picks drafted at most."""

SAMPLED = 256
"""Clients from which the number of pairs that still matter is estimated."""

SAME = 1e-6
"""What differs by less is bounded, not compared."""

PIECE = 1024
"""Clients whose similarities are computed together where bounds are made exact."""

NEARLY = 1 / 32
"""Share of clients that may lack pairs: theirs are computed when the others are held."""

ROOM = 1.5
"""Pairs for which there is room, of the most that are held by an estimate."""

REPAIR = 1 / 3
"""Share of clients for whom gains, or pairs, are computed anew rather than all of them."""


class Ahead:
    """Bounds of all gains for the next picks, from one pass over all pairs.

    A draft says which picks come next, probably, and so with what clients will be covered. One pass
    gives all gains for some of these covers. For *any* two covers b and b',

        gain(j | b) = Σ_i w_i max(0, s_ij - b_i) ≤ gain(j | b') + Σ_i w_i max(0, b'_i - b_i),

    since a term rises by no more than b_i falls. With b what clients have, and b' a cover of the
    draft, this bounds all gains at once: the second sum is 0 as soon as the drafted picks are made,
    in any order, and small where another pick does nearly the same. Who does not reach the best
    gain that is known by it is not the next pick, whatever the draft is worth; who does is looked
    at. So a wrong draft costs time, and no pick depends on it.

    The bound is made exact, for some candidates, by the clients in whom b and b' differ.

    Parameters
    ----------
    columns : Columns
    best : float32 array, shape (n,)
        What clients have.
    taken : bool array, shape (n,)
        What has been picked.
    left : int
        Picks still to be made.
    allowed : Allowed, optional
        It is told of nothing.
    rounding : float32
        Error of one float32 similarity at most.
    most : float
        Pairs that may be held.

    Attributes
    ----------
    picks : list of int
        What is left of the draft.
    edges : Found or None
        Pairs that matter once the draft is picked, if they are few and picks are left then.
    spent : float
        Columns of similarities, or as many others, computed since.
    """

    def __init__(
        self,
        columns: Columns,
        best: Singles,
        taken: Mask,
        left: int,
        allowed: Allowed | None,
        rounding: np.float32,
        most: float,
    ) -> None:
        self.columns, self.rounding, self.picks = columns, rounding, list[int]()
        self.blind = _blind(columns)
        covers, few = self._draft(best, taken, left, allowed, most)
        self.steps, self.made = _spread(len(covers)), 0
        self.covers = np.stack([covers[step] for step in self.steps])
        hold = few and len(self.picks) < left
        self.least = self._least(self.covers[-1])
        least = self.least if hold else None
        how = (columns.weights, columns.engine, columns.pairs, int(ROOM * most) if hold else 0)
        self.gains, edges = survey(columns.x, self.covers, least, *how)
        self.edges = edges if hold else None
        self.spent, self.drawn = 0.0, columns.computed

    def _draft(
        self, best: Singles, taken: Mask, left: int, allowed: Allowed | None, most: float
    ) -> tuple[list[Singles], bool]:
        """Draft until few pairs matter: covers before the first pick and after each, and if so."""
        columns, covers, drafter = self.columns, [best], None
        n = len(best)
        rows = np.arange(0, n, max(n // SAMPLED, 1))
        sample = list(self._with_all(rows))
        while True:
            least = self._least(covers[-1])[rows, None]
            above = sum(np.count_nonzero(products > least) for _, products in sample)
            few = bool(above / len(rows) * n < most)
            if few or len(self.picks) >= min(left, STEPS):
                return covers, few
            drafter = drafter or Drafter(columns, taken, allowed, Cells(columns))
            pick = drafter.next(covers[-1])
            if pick is None:
                return covers, few
            self.picks.append(pick)
            covers.append(np.maximum(covers[-1], columns.of(pick)))

    def _least(self, best: Singles) -> Singles:
        """Similarities above it may be above what clients have, at `best` or better, (n,)."""
        least: Singles = np.where(self.blind, np.float32(np.inf), best - 2 * self.rounding)
        return least

    @property
    def worn(self) -> bool:
        """Whether what was found out is used up."""
        drawn = self.columns.computed - self.drawn + self.spent
        return not self.picks or drawn > len(self.least) / 2

    def told(self, pick: int, best: Singles, taken: Mask, allowed: Allowed | None) -> None:
        """Learn what was picked; where the draft said otherwise, draft among known columns."""
        self.made += 1
        if self.picks[:1] == [pick]:
            del self.picks[0]
            return
        count, covers = len(self.picks) - 1, [best]
        drafter, self.picks = Drafter(self.columns, taken, allowed), []
        while len(covers) <= count and (found := drafter.next(covers[-1])) is not None:
            self.picks.append(found)
            covers.append(np.maximum(covers[-1], self.columns.of(found)))
        later = range(self.made + 1, self.made + len(covers))
        numbers = [number for number, step in enumerate(self.steps) if step in later]
        if numbers:
            self._revise(numbers, np.stack([covers[self.steps[q] - self.made] for q in numbers]))

    def _revise(self, numbers: list[int], covers: Singles) -> None:
        """Replace covers, if not too many clients differ, and let gains follow through these."""
        columns, old = self.columns, self.covers[numbers]
        clients = np.flatnonzero((np.abs(old - covers) > SAME).any(axis=0))
        if len(clients) > REPAIR * len(self.least):
            return
        new, counts = old.copy(), columns.weights.astype(np.float32)
        new[:, clients] = covers[:, clients]

        def change(candidates: tuple[int, int]) -> Floats:
            total = np.zeros((len(numbers), candidates[1] - candidates[0]))
            own = columns.x[slice(*candidates)]
            for start, stop in ranges(0, len(clients), PIECE):
                some = clients[start:stop]
                part = slice(*candidates)
                products = compared(own, columns.x[some], part, some, columns.pairs)
                had = tile_gains(products, old[:, None, some], counts[some], rows=False)
                have = tile_gains(products, new[:, None, some], counts[some], rows=False)
                total += have - (1 - 2 * ROUNDING) * had  # so that it errs upwards
            return total

        changes = columns.engine.map(change, ranges(0, len(self.least), TILE))
        self.gains[numbers] += np.concatenate(list(changes), axis=1)
        self.covers[numbers] = new
        self.spent += len(clients)

    def bounds(self, best: Singles) -> Floats:
        """At least the gains of all candidates, given what clients have, (n,)."""
        slack = np.maximum(self.covers - best, 0) @ self.columns.weights
        bounds: Floats = (self.gains * (1 + ROUNDING) + slack[:, None]).min(axis=0)
        return bounds

    def tighten(
        self, best: Singles, near: Callable[[], Index], bound: Callable[[Index, Floats], None]
    ) -> None:
        """Make bounds exact for candidates that are near, or lower until they are not.

        The clients in whom what they have differs from the nearest cover are gone through, those
        who may count most first, each time with the candidates that are still near.

        Parameters
        ----------
        best : float32 array, shape (n,)
        near : callable
            Candidates that are near; none comes near in between.
        bound : callable
            Told what some candidates' gains are at most.
        """
        number, clients = self._nearest(best)
        cover, weights, columns = self.covers[number], self.columns.weights, self.columns
        slack = weights * np.maximum(cover - best, 0)
        bounds = self.gains[number] * (1 + ROUNDING) + slack.sum()
        for start, stop in ranges(0, len(clients), PIECE):
            candidates, some = near(), clients[start:stop]
            if not len(candidates):
                return
            there = columns.x[some]

            def change(
                part: tuple[int, int], candidates: Index, some: Index, there: Singles
            ) -> Floats:
                rows = candidates[slice(*part)]
                products = compared(columns.x[rows], there, rows, some, columns.pairs)
                had = excess(products.copy(), cover[some], weights[some])
                lost: Floats = had + slack[some].sum()
                return excess(products, best[some], weights[some]) - lost

            parts = ((part, candidates, some, there) for part in ranges(0, len(candidates), BATCH))
            changes = columns.engine.map(lambda task: change(*task), parts)
            bounds[candidates] += np.concatenate(list(changes))
            bound(candidates, bounds[candidates])
            self.spent += len(candidates) * len(some) / len(best)

    def _nearest(self, best: Singles) -> tuple[int, Index]:
        """Find the cover from which fewest clients differ, and these, the greatest weight first."""
        differ = np.abs(self.covers - best)
        number = int(np.argmin((differ > SAME).sum(axis=1)))
        clients = np.flatnonzero(differ[number] > SAME)
        order = np.argsort(-self.columns.weights[clients] * differ[number, clients], kind="stable")
        return number, clients[order]

    def pairs(self, best: Singles) -> Found | None:
        """All pairs in which a client may still improve; None if too many lack so far."""
        if self.edges is None:
            return None
        lacking = (self.least > best - self.rounding) & ~self.blind
        if lacking.sum() > (REPAIR if self.worn else NEARLY) * len(best):
            return None
        if lacking.any():
            self.edges.leave_out(lacking)
            for edges in self._pairs(np.flatnonzero(lacking), self._least(best)):
                self.edges.add(edges)
        return self.edges

    def _pairs(self, clients: Index, least: Singles) -> Iterator[Edges]:
        for start, stop in ranges(0, len(clients), BATCH):
            rows = clients[start:stop]
            for first, products in self._with_all(rows):
                row, column = np.nonzero(products > least[rows, None])
                value = products[row, column]
                yield rows[row].astype(np.int32), (column + first).astype(np.int32), value

    def _with_all(self, rows: Index) -> Iterator[tuple[int, Singles]]:
        """Similarities of some rows to all, some of them at a time: from which on, and these."""
        columns = self.columns
        own = columns.x[rows]
        for start, stop in ranges(0, len(columns.weights), TILE):
            part = slice(start, stop)
            yield start, compared(own, columns.x[part], rows, part, columns.pairs)


def _blind(columns: Columns) -> Mask:
    """Rows of zeros, which are similar to nothing."""
    tiles = ranges(0, len(columns.weights), TILE)
    return ~np.concatenate([columns.x[start:stop].any(axis=1) for start, stop in tiles])


def _spread(count: int) -> list[int]:
    """Return steps from 0 to `count` - 1, closer at the beginning, where gains fall fast."""
    steps = count ** (np.arange(COVERS) / (COVERS - 1)) - 1
    return sorted(set(np.rint(steps).astype(int).tolist()))
