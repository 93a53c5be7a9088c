"""Which pick is nearest to each candidate: streamed matrix products with the picks that may be."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from mmselect.arrays import Array, Floats, Index, check_rows
from mmselect.core.sampling.distances import (
    COSINE_ERROR,
    TILE_ROWS,
    Tile,
    Tiles,
    Units,
    cosines,
    nearest,
    paired,
    row_minima,
    unit,
)
from mmselect.core.sampling.groups import Groups, by_class, in_order
from mmselect.core.sampling.points import Points
from mmselect.engine import SERIAL, Engine, blas_threads, join_rows, map_rows, ranges
from mmselect.tasks import Function, gather

PASS_ROWS = 256
"""Pool rows of one matrix product in a pass over everything."""

BLOCK_NUMBERS = 1 << 22
"""Numbers of the rows that are compared by groups at a time; 2,048 rows at most."""

TRIED = 256
"""Rows on which groups are tried, where there are at least 16 times as many."""

WORTH = 1 / 4
"""Share of all pairs above which scattered products save nothing over one of all pairs."""


def nearest_picks(
    points: Points,
    picks: Index,
    *,
    candidates: Index | None = None,
    engine: Engine = SERIAL,
) -> tuple[Index, Floats]:
    """Which pick stands for each candidate: the nearest one, by streamed matrix products.

    Of gradients, most picks are ruled out by class (:mod:`~mmselect.core.sampling.groups`), where
    some rows show that this saves work. Distances are float64 sums.

    Parameters
    ----------
    points : Points
        What was sampled from.
    picks : (k,) ndarray of int
        Rows in pick order.
    candidates : (r,) ndarray of int, optional
        Rows to ask for, increasing; None is all.
    engine
        As for :func:`d2_sample`.

    Returns
    -------
    which : (r,) ndarray of int
        Position in `picks`; the earliest pick on ties.
    distance : (r,) ndarray of float64
        ‖g_i − g_pick‖, 0 for a pick and for its copies.

    Raises
    ------
    DataError
        If a row's numbers cannot be used.

    Examples
    --------
    >>> from mmselect.core.sampling.points import feature_points
    >>> nearest_picks(feature_points({"x": np.array([[0.0], [1.0], [9.0]])}), np.array([2, 0]))
    (array([1, 1, 0]), array([0., 1., 0.]))
    """
    rows = check_rows(candidates, len(points))
    with blas_threads():
        points = points.settled(rows, engine)
        block, step = _comparison(points, np.asarray(picks, dtype=np.intp), rows)
        squared, which, *_ = _of_all(block, points, rows, step, engine)
    return which, np.sqrt(squared)


def _comparison(
    points: Points, picks: Index, rows: Index
) -> tuple[Function[tuple[Array, ...]], int]:
    """Choose how blocks of rows are compared, and their size; some rows show what groups save."""
    tiles = Tiles()
    for start in range(0, len(picks), TILE_ROWS):
        some = picks[start : start + TILE_ROWS]
        found, norms = points.measured(some, gather(points.sources, some))
        tiles.add(unit(found), norms)
    if len(points.widths) > 1 and len(picks) > TILE_ROWS and len(rows) >= 16 * TRIED:
        groups = by_class(tiles.since(0))
        some = rows[np.linspace(0, len(rows) - 1, TRIED).astype(np.intp)]
        pairs = nearest_of_groups(points, groups, some, gather(points.sources, some))[2]
        if pairs.mean() < WORTH * len(picks):
            step = PASS_ROWS * min(max(BLOCK_NUMBERS // (PASS_ROWS * sum(points.widths)), 1), 8)
            return partial(nearest_of_groups, points.detached(), groups), step
    return partial(nearest_of_groups, points.detached(), in_order(tiles.since(0))), PASS_ROWS


def nearest_of_groups(
    points: Points, groups: Groups, rows: Index, arrays: list[Array]
) -> tuple[Floats, Index, Index]:
    """Find the nearest of grouped points to each row of a block.

    Each row is compared with the group that can come nearest, then with those that still can.
    What lies within rounding of a row's nearest is measured again, so that neither groups nor the
    shape of a product decide.

    Parameters
    ----------
    points : Points
    groups : Groups
    rows : (b,) ndarray of int
    arrays : list of ndarray
        What the sources hold of them.

    Returns
    -------
    squared : (b,) ndarray of float64
        Squared distances, exact but for the rounding of factors.
    which : (b,) ndarray of int
        The earliest on ties.
    pairs : (b,) ndarray of int
        With how many points each was compared.
    """
    units, norms = _units(points, rows, arrays)
    bound, best = groups.bounds(units, norms), np.full(len(rows), np.inf)
    first = np.zeros(bound.shape, bool)
    first[bound.argmin(axis=0), np.arange(len(rows))] = True
    found = [_compared(groups, units, norms, first, best)]
    rest = (bound <= best) & ~first
    found.append(_compared(groups, units, norms, rest, best))
    row, column, least = (np.concatenate(parts) for parts in zip(*found, strict=True))
    near = least <= best[row]
    row, column = row[near], column[near]
    again = paired(units, norms, groups.units, groups.norms, row, column)
    squared, which = row_minima(row, groups.order[column], again, len(rows))
    return squared, which, np.diff(groups.starts) @ (first | rest)


def _compared(
    groups: Groups, units: Units, norms: Floats, wanted: Array, best: Floats
) -> tuple[Index, Index, Floats]:
    """Compare rows with the groups that are wanted; `best` falls to the largest that can be.

    Returns
    -------
    row, column : (p,) ndarray of int
        Pairs that may be a row's nearest.
    least : (p,) ndarray of float64
        The smallest that ‖g_j‖² − 2⟨g_i, g_j⟩ of each can be.
    """
    none = np.zeros(0, np.intp)
    found = [(none, none, np.zeros(0))]
    for g in np.flatnonzero(wanted.any(axis=1)).tolist():
        at = np.flatnonzero(wanted[g])
        some = at if len(at) < len(norms) else slice(None)
        own = slice(groups.starts[g], groups.starts[g + 1])
        lengths = groups.norms[own]
        cosine = cosines(tuple(u[some] for u in units), tuple(v[own] for v in groups.units))
        value = cosine * (-2 * lengths)
        value *= norms[some, None]
        value += np.square(lengths)
        error = 2 * COSINE_ERROR * lengths.max() * norms[some]
        smallest = value.min(axis=1)
        best[some] = np.minimum(best[some], smallest + error)
        limit = best[some] + error
        hit = np.flatnonzero(smallest <= limit)
        row, column = np.nonzero(value[hit] <= limit[hit, None])
        row = hit[row]
        least = value[row, column] - 2 * COSINE_ERROR * lengths[column] * norms[at[row]]
        found.append((at[row], own.start + column, least))
    row, column, least = (np.concatenate(parts) for parts in zip(*found, strict=True))
    return row, column, least


def _units(points: Points, rows: Index, arrays: list[Array]) -> tuple[Units, Floats]:
    """Compute unit factors and lengths, of some rows at a time: steps take float64 copies."""
    units = tuple(np.empty((len(rows), width), np.float32) for width in points.widths)
    norms = np.empty(len(rows))
    for start, stop in ranges(0, len(rows), PASS_ROWS):
        part = slice(start, stop)
        found, norms[part] = points.measured(rows[part], [array[part] for array in arrays])
        for whole, own in zip(units, unit(found), strict=True):
            whole[part] = own
    return units, norms


def nearest_of_tiles(
    points: Points, tiles: list[Tile], rows: Index, engine: Engine
) -> tuple[Floats, Index]:
    """Squared distance of every candidate to the nearest point of the tiles, and which that is."""
    block = partial(_nearest_of_block, points.detached(), tiles)
    squared, which = _of_all(block, points, rows, PASS_ROWS, engine)
    return squared, which


def _of_all(
    block: Function[tuple[Array, ...]], points: Points, rows: Index, step: int, engine: Engine
) -> tuple[Array, ...]:
    """Compare all rows, block by block."""
    how: dict[str, Any] = {"step": step, "engine": engine, "what": "comparing picks"}
    return join_rows(map_rows(block, points.sources, rows, **how), len(rows))


def _nearest_of_block(
    points: Points, tiles: list[Tile], rows: Index, arrays: list[Array]
) -> tuple[Floats, Index]:
    found, norms = points.measured(rows, arrays)
    units = unit(found)
    squared, which = np.full(len(rows), np.inf), np.zeros(len(rows), np.intp)
    for start, tile, lengths in tiles:
        new, at = nearest(units, norms, tile, lengths)
        better = new < squared
        squared[better], which[better] = new[better], start + at[better]
    return squared, which
