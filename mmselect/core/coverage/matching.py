"""What the coverage methods (k-center, facility location, k-means) return, and how they match."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from mmselect.arrays import Floats, Index, Rows, Singles
from mmselect.core.constraints.allowed import Allowed
from mmselect.core.coverage.directions import norms_of
from mmselect.engine import SERIAL, Engine, ranges

KEPT = 8
"""Most similar samples kept for each point before the matching asks for more."""

ROWS = 4096
"""Most rows that are compared in one product."""


@dataclass(frozen=True)
class Coverage:
    """Samples that cover a pool.

    Attributes
    ----------
    picks : int64 array, shape (k,)
        Rows in pick order.
    gains : float64 array, shape (k,)
        What each pick added; the method says in which measure.
    form : str
        How it was computed: "exact", or the name of the approximation.
    zero_rows : dict of str to int
        Rows without a direction, per modality.
    work : dict of str to int
        What was computed; the method says in which units. The same on every machine.
    """

    picks: Index
    gains: Floats
    form: str
    zero_rows: dict[str, int]
    work: dict[str, int] = field(default_factory=dict)


def match_distinct(
    x: Rows,
    points: Singles,
    *,
    nearest: bool = False,
    allowed: Allowed | None = None,
    at: Index | None = None,
    engine: Engine = SERIAL,
) -> Index:
    """For each point in order, the row not taken yet with the largest product, or the nearest.

    With `allowed`, the allowed row; and from the first point again for as long as any row is. What
    a point is matched to is no gain, so it is not divided by costs.

    Parameters
    ----------
    x : float32 Rows, shape (n, d)
    points : float32 array, shape (k, d)
        With ``k ≤ n``.
    nearest : bool
        Match the row at the least distance, not that with the largest product.
    allowed : Allowed, optional
        Which rows may be picked next; told of every pick. It ends the matching.
    at : int array, shape (n,), optional
        Positions of the rows in `allowed`; None is its first n.
    engine : Engine

    Returns
    -------
    int64 array, shape (k,)
        Distinct rows; among equals the lower row. Pick i is that of point i mod k.

    Examples
    --------
    >>> x = np.array([[1, 0], [1, 0], [0, 1]], dtype=np.float32)
    >>> match_distinct(x, x[[0, 0, 0]])
    array([0, 1, 2])
    """
    n = x.shape[0]
    match = _Match(x, nearest, engine)
    similar = _most_similar(x, points, match.shift, engine)
    at = np.arange(n) if at is None else at
    taken, picks = np.zeros(n, dtype=bool), list[int]()
    while len(picks) < len(points) if allowed is None else not allowed.done:
        closed = taken if allowed is None else ~allowed.mask()[at]
        if allowed is not None and closed.all():
            break
        point, rows = points[len(picks) % len(points)], similar[len(picks) % len(points)]
        free = rows[~closed[rows]]
        best = match.among(point, free, int(rows[-1])) if len(free) else None
        pick = match.among_all(point, closed) if best is None else best
        taken[pick] = True
        picks.append(pick)
        if allowed is not None:
            allowed.take(int(at[pick]))
    return np.array(picks, dtype=np.int64)


class _Match:
    """The best row for one point, decided in float64.

    The nearest row has the largest product less half its squared norm. That screens; the last word
    has the distance itself, for the centre of two rows is as far from the one as from the other.
    """

    def __init__(self, x: Rows, nearest: bool, engine: Engine) -> None:
        self.x, self.nearest, self.engine = x, nearest, engine
        self.shift = norms_of(x, engine) ** 2 / 2 if nearest else np.zeros(x.shape[0])
        self.unit_rounding = 2.0 * (x.shape[1] / 8 + 16) * 2.0**-24

    def _rounding(self, point: Singles, row: int) -> float:
        size = float(np.linalg.norm(point)) * float(np.linalg.norm(self.x[np.array([row])]))
        return float(self.unit_rounding * (size + abs(float(self.shift[row]))))

    def _exactly(self, point: Singles, rows: Index) -> Floats:
        wide = self.x[rows].astype(np.float64)
        terms = np.square(wide - point) / -2 if self.nearest else wide * point
        values: Floats = terms.sum(axis=1)
        return values

    def among(self, point: Singles, free: Index, last: int) -> int | None:
        """Best of a few rows; None if a row behind the `last` kept may be as good."""
        values = self._exactly(point, free)
        least = self._exactly(point, np.array([last]))[0] + self._rounding(point, last)
        if self.x.shape[0] > KEPT and values.max() <= least:
            return None
        return int(free[values == values.max()].min())

    def among_all(self, point: Singles, closed: NDArray[np.bool_]) -> int:
        blocks = ranges(0, self.x.shape[0], ROWS)
        products = self.engine.map(lambda part: self.x[slice(*part)] @ point, blocks)
        values = np.concatenate(list(products)).astype(np.float64) - self.shift
        values[closed] = -np.inf
        top = int(np.argmax(values))
        near = np.flatnonzero(values >= values[top] - 2 * self._rounding(point, top))
        return int(near[np.argmax(self._exactly(point, near))])


def _most_similar(x: Rows, points: Singles, shift: Floats, engine: Engine) -> Index:
    """Rows with the largest products for each point, (k, KEPT), best first."""
    kept = min(KEPT, x.shape[0])
    rows = max(kept, min(ROWS, (1 << 22) // len(points)))

    def block(part: tuple[int, int]) -> tuple[Singles, Index]:
        products = points @ x[slice(*part)].T
        products -= shift[slice(*part)].astype(np.float32)
        size = min(kept, products.shape[1])
        best = np.argpartition(products, -size, axis=1)[:, -size:]
        return np.take_along_axis(products, best, axis=1), best + part[0]

    values = np.empty((len(points), 0), dtype=np.float32)
    index = np.empty((len(points), 0), dtype=np.int64)
    for more, where in engine.map(block, ranges(0, x.shape[0], rows)):
        values, index = np.hstack([values, more]), np.hstack([index, where])
        best = np.argsort(-values, axis=1, kind="stable")[:, :kept]
        values = np.take_along_axis(values, best, axis=1)
        index = np.take_along_axis(index, best, axis=1)
    return index
