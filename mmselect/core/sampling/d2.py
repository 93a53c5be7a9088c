"""k-means++ (D²) sampling: exact, and lazy about distances.

Row i is drawn with probability w_i D_i² / Σ w D², D_i² the squared distance to the nearest pick
(Arthur & Vassilvitskii 2007; ``methods.md`` 3.7). The plain form updates all n distances for every
pick. Here a table of upper bounds U_i ≥ w_i D_i² stands in for them: draw i with probability
U_i / ΣU, compute D_i² for that row only, accept with probability w_i D_i² / U_i. What is accepted
follows the law above whatever the bounds were; what is learned goes into the table. The first
bounds come from lengths alone, (‖g_i‖ + ‖g_j‖)², so nothing but the rows drawn is ever read again;
where lengths are costly, from those of points that are at least as long (`Points.outer`).

Rows are drawn in batches from one table and decided in order, against the picks that were accepted
before them in the same batch too, so a batch changes no probability. When the work on rejected rows
has grown to that of a pass over everything, such a pass makes the table exact. Batches and passes
follow from n and from what was accepted, never from the budget or the machine: the picks of a
budget are the first picks of any larger one.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from mmselect.arrays import Array, Floats, Index, check_budget, check_rows
from mmselect.core.constraints.allowed import Allowed
from mmselect.core.sampling.distances import Tiles, Units, between, nearest, unit
from mmselect.core.sampling.nearest import nearest_of_tiles
from mmselect.core.sampling.points import Points, factors, norms_of
from mmselect.engine import SERIAL, Engine, Progress, blas_threads, ranges
from mmselect.errors import DataError, ParameterError
from mmselect.tasks import gather

BATCH = 16, 512, 1024
"""Smallest batch, largest, and largest while most draws are rejected."""

FIRST_ROWS = 64
"""Rows read at a time in search of the first pick, where only bounds of lengths are known."""

THREADED_WORK = 1 << 30
"""Multiplications below which starting threads costs more than they save."""


@dataclass(frozen=True)
class Sampled:
    """What :func:`d2_sample` picked.

    Attributes
    ----------
    indices : (k,) ndarray of int
        Rows in pick order.
    gains : (k,) ndarray of float64
        w_i D_i² of each pick when it was picked, costs aside; of the first, w_i ‖g_i‖².
    warnings : tuple of str
        What a person should know, such as picks that were drawn uniformly.
    drawn, passes : int
        Rows evaluated one by one, and passes over all rows.
    """

    indices: Index
    gains: Floats
    warnings: tuple[str, ...] = ()
    drawn: int = 0
    passes: int = 0


def d2_sample(
    points: Points,
    budget: int,
    rng: np.random.Generator,
    *,
    candidates: Index | None = None,
    weights: Array | None = None,
    first: int | None = None,
    allowed: Allowed | None = None,
    engine: Engine = SERIAL,
    progress: Progress | None = None,
) -> Sampled:
    """Pick rows by (weighted) k-means++ sampling.

    The first pick is the largest w_i ‖g_i‖² (BADGE and BMMAL have w = 1; for other weights this is
    our choice), the lowest row on ties. Every further row is drawn with probability
    w_i D_i² / Σ w D² (``methods.md`` 3.7). When that sum is 0 the remaining rows are drawn
    uniformly, with a warning.

    With `allowed`, what it does not allow has weight 0 at that pick, and costs divide the weights.

    Parameters
    ----------
    points : Points
        :class:`~mmselect.core.sampling.gradients.GradientPoints` or
        :func:`~mmselect.core.sampling.points.feature_points`.
    budget : int
        Picks k, from 1 to the number of candidates.
    rng : numpy.random.Generator
        All randomness.
    candidates : (r,) ndarray of int, optional
        Rows that may be picked, increasing; None is all.
    weights : (r,) ndarray, optional
        w_i ≥ 0 of each candidate; None is 1.
    first : int, optional
        Position of the first pick among the candidates; None is the largest w_i ‖g_i‖².
    allowed : Allowed, optional
        Which candidates may be picked next, by position; told of every pick. It ends the sampling.
    engine : Engine, optional
        Who does the work; no pick depends on it.
    progress : callable, optional
        Called with the picks done and the budget.

    Returns
    -------
    Sampled

    Raises
    ------
    BudgetError, SelectionError
        If the budget is not positive, or above the candidates.
    ParameterError
        If candidates or weights have the wrong shape.
    DataError
        If a candidate's numbers, or a weight, cannot be used.

    Examples
    --------
    >>> from mmselect.core.sampling.points import feature_points
    >>> points = feature_points({"x": np.array([[0.0], [0.0], [1.0], [9.0]])})
    >>> picked = d2_sample(points, 3, np.random.default_rng(0))
    >>> sorted(picked.indices.tolist())[1:], picked.gains[:2].tolist()
    ([2, 3], [81.0, 81.0])
    """
    rows = check_rows(candidates, len(points))
    check_budget(budget, len(rows))
    scale = _check_weights(weights, rows)
    if allowed is not None and allowed.costs is not None:
        scale = (1 if scale is None else scale) / allowed.costs
    with blas_threads():
        outer = points.outer
        own, size = norms_of(outer, outer.detached().squared_norms, rows, engine)
        run = _Run(points, rows, np.sqrt(own), outer is not points, scale, engine, allowed)
        weight = run.weighted(size)
        first = _longest(run, weight) if first is None else first
        return _sample(run, first, float(weight[first]), budget, rng, progress)


@dataclass
class _Run:
    """The points, and what is known of them; `loose` norms are bounds until rows are read."""

    points: Points
    rows: Index
    norms: Floats
    loose: bool
    scale: Floats | None
    engine: Engine
    allowed: Allowed | None = None
    picked: Tiles = field(default_factory=Tiles)
    drawn: int = 0

    def weighted(self, squared: Floats, at: Index | slice = slice(None)) -> Floats:
        """Weigh the D² of the candidates `at`."""
        return squared if self.scale is None else self.scale[at] * squared

    def open(self, weights: Floats, closed: float = 0.0) -> Floats:
        """Weights of the candidates where they are allowed."""
        return weights if self.allowed is None else np.where(self.allowed.mask(), weights, closed)

    def unfinished(self, picks: int, budget: int) -> bool:
        """Whether to go on."""
        return picks < budget if self.allowed is None else not self.allowed.done

    def read(self, at: Index) -> tuple[Units, Floats]:
        """Read some candidates as unit factors and lengths."""
        rows, self.drawn = self.rows[at], self.drawn + len(at)
        if not self.loose:
            return unit(factors(self.points, rows)), self.norms[at]
        found, self.norms[at] = self.points.measured(rows, gather(self.points.sources, rows))
        return unit(found), self.norms[at]


def _longest(run: _Run, weight: Floats) -> int:
    """Find the largest w ‖g‖², the lowest candidate on ties.

    Of loose lengths, those that may be the largest are read, from the top: what `weight` says of
    all others, a bound, is below.
    """
    if run.loose:
        bound, best = run.open(weight, -1.0), -1.0
        order = np.argsort(-bound, kind="stable")
        for start, stop in ranges(0, len(order), FIRST_ROWS):
            at = order[start:stop]
            if bound[at[0]] < best:
                break
            weight[at] = run.weighted(np.square(run.read(at)[1]), at)
            best = max(best, float(weight[at][bound[at] >= 0].max(initial=-1)))
    return int(run.open(weight, -1.0).argmax())


def _sample(
    run: _Run,
    first: int,
    gain: float,
    budget: int,
    rng: np.random.Generator,
    progress: Progress | None,
) -> Sampled:
    """Lazy rejection; positions are positions in `run.rows`."""
    picks, gains = [first], [gain]
    if run.allowed is not None:
        run.allowed.take(first)
    run.picked.add(*run.read(np.array([first])))
    table = _bound(run, shortest := float(run.norms[first]))
    table[first] = 0
    base = wasted = passes = uniform = 0
    batch = BATCH[0]
    while run.unfinished(len(picks), budget):
        if not (total := np.cumsum(run.open(table)))[-1] > 0 and run.allowed is None:
            break
        if not total[-1] > 0:
            uniform += 1
            _one_at_random(run, picks, gains, rng)
            continue
        size = batch if run.allowed is None else min(batch, 4 * run.allowed.steady)
        at = _draw(total, rng.random(size))
        now, accepted = _decide(run, at, table, rng.random(size), base)
        wasted += (size - int(accepted.sum())) * (run.picked.count - base)
        batch = _next_batch(batch, int(accepted.sum()), run.picked.count)
        new = at[accepted]
        picks += new.tolist()
        gains += now[accepted].tolist()
        np.minimum.at(table, at, now)
        table[new] = 0
        if len(new) and (least := float(run.norms[new].min())) < shortest:
            table = np.minimum(table, _bound(run, shortest := least))
        wide = wasted >= len(table) * max(run.picked.count - base, 1)
        if wide and run.unfinished(len(picks), budget):
            np.minimum(table, run.weighted(_whole_pass(run, base)), out=table)
            table[picks] = 0
            base, wasted, passes = run.picked.count, 0, passes + 1
        if progress:
            progress(min(len(picks), budget), budget)
    return _result(run, picks, gains, budget, rng, (run.drawn, passes), uniform)


def _one_at_random(
    run: _Run, picks: list[int], gains: list[float], rng: np.random.Generator
) -> None:
    """Pick an allowed row where none has a distance; others may have one later."""
    assert run.allowed is not None
    chances = np.cumsum(run.open(1 / run.allowed.cost))
    picks += _draw(chances, rng.random(1)).tolist()
    gains.append(0.0)
    run.allowed.take(picks[-1])


def _decide(
    run: _Run, at: Index, table: Floats, uniform: Floats, base: int
) -> tuple[Floats, np.ndarray[tuple[int], np.dtype[np.bool_]]]:
    """Accept or reject the draws `at` in order; w D² when each was decided, and whether accepted.

    Distances to picks before `base` are in the table, which is exact up to there. A draw that is no
    longer allowed is rejected, as its weight is 0. Where a pick allows again what had no weight
    when the batch was drawn, the other draws are dropped, whatever they are.
    """
    units, norms = run.read(at)
    bound = table[at]
    now = np.minimum(bound, run.weighted(_to_picks(run, units, norms, base), at))
    among = between(units, norms)
    if run.scale is not None:
        among *= run.scale[at]
    accepted = np.zeros(len(at), bool)
    for b in range(len(at)):
        if uniform[b] * bound[b] < now[b]:
            if run.allowed is not None and not run.allowed.allows(int(at[b])):
                continue
            accepted[b] = True
            np.minimum(now[b + 1 :], among[b, b + 1 :], out=now[b + 1 :])
            if run.allowed is not None:
                run.allowed.take(int(at[b]))
                if run.allowed.reopened or run.allowed.done:
                    break
    run.picked.add(tuple(u[accepted] for u in units), norms[accepted])
    return now, accepted


def _to_picks(run: _Run, units: Units, norms: Floats, base: int) -> Floats:
    """Squared distance of a few points to their nearest pick from `base` on."""
    tiles = run.picked.since(base)
    work = len(norms) * run.picked.count * sum(run.points.widths)
    squared = np.full(len(norms), np.inf)
    engine = SERIAL if work < THREADED_WORK else run.engine
    for found, _ in engine.map(lambda tile: nearest(units, norms, tile[1], tile[2]), tiles):
        np.minimum(squared, found, out=squared)
    return squared


def _whole_pass(run: _Run, base: int) -> Floats:
    """Squared distance of every candidate to its nearest pick from `base` on."""
    run.points = run.points.settled(run.rows, run.engine)
    return nearest_of_tiles(run.points, run.picked.since(base), run.rows, run.engine)[0]


def _bound(run: _Run, shortest: float) -> Floats:
    """Bound w D² by w (‖g_i‖ + ‖g_j‖)² for the shortest pick j: the triangle inequality."""
    return run.weighted(np.square(run.norms + shortest))


def _draw(total: Floats, uniform: Floats) -> Index:
    """Positions with probability proportional to the steps of the running sum `total`."""
    at = np.searchsorted(total, uniform * total[-1], side="right")
    # The product can round up to the sum itself: then it is the last row of positive weight.
    last = int(np.searchsorted(total, total[-1], side="left"))
    return np.asarray(np.minimum(at, last))


def _next_batch(batch: int, accepted: int, count: int) -> int:
    """Grow with the picks, so that a table is stale for few; faster while it is mostly rejected."""
    smallest, largest, rejected = BATCH
    if 4 * accepted < batch:
        return min(2 * batch, rejected)
    return min(max(count // 4, smallest), largest)


def _result(
    run: _Run,
    picks: list[int],
    gains: list[float],
    budget: int,
    rng: np.random.Generator,
    counts: tuple[int, int],
    uniform: int = 0,
) -> Sampled:
    """Cut at the budget, or fill it uniformly where no distance is left."""
    budget = budget if run.allowed is None else len(picks)
    lacking = budget - len(picks)
    if lacking > 0:
        left = np.setdiff1d(np.arange(len(run.rows)), picks)
        # A permutation of all that is left, so that a larger budget only takes more of it.
        picks += rng.permutation(left)[:lacking].tolist()
        gains += [0.0] * lacking
    warnings: tuple[str, ...] = ()
    if filled := max(lacking, uniform):
        warnings = (
            f"{filled:,} of {budget:,} picks were drawn uniformly: all other candidates equal "
            "a pick, have an embedding of zero, or have weight zero",
        )
    at = np.array(picks[:budget], np.intp)
    paid = 1.0 if run.allowed is None else run.allowed.cost[at]
    return Sampled(run.rows[at], np.array(gains[:budget]) * paid, warnings, *counts)


def _check_weights(weights: Array | None, rows: Index) -> Floats | None:
    if weights is None:
        return None
    if weights.shape != rows.shape:
        raise ParameterError(f"weights: expected {rows.shape}, found {weights.shape}")
    scale = weights.astype(np.float64)
    bad = ~(np.isfinite(scale) & (scale >= 0))
    if bad.any():
        raise DataError("weights: expected numbers of at least 0", rows=rows[bad].tolist())
    return scale
