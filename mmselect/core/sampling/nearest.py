"""Which pick is nearest to each candidate: a streamed matrix product with all picks."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from mmselect.arrays import Array, Floats, Index, check_rows
from mmselect.core.sampling.distances import TILE_ROWS, Tile, Tiles, nearest, unit
from mmselect.core.sampling.points import Points
from mmselect.engine import SERIAL, Engine, blas_threads, join_rows, map_rows
from mmselect.tasks import gather

PASS_ROWS = 256
"""Pool rows of one matrix product in a pass over everything."""


def nearest_picks(
    points: Points,
    picks: Index,
    *,
    candidates: Index | None = None,
    engine: Engine = SERIAL,
) -> tuple[Index, Floats]:
    """Which pick stands for each candidate: the nearest one, by a streamed matrix product.

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
        points, tiles = points.settled(rows, engine), Tiles()
        for start in range(0, len(picks), TILE_ROWS):
            some = np.asarray(picks[start : start + TILE_ROWS], dtype=np.intp)
            found, norms = points.measured(some, gather(points.sources, some))
            tiles.add(unit(found), norms)
        squared, which = nearest_of_tiles(points, tiles.since(0), rows, engine)
    return which, np.sqrt(squared)


def nearest_of_tiles(
    points: Points, tiles: list[Tile], rows: Index, engine: Engine
) -> tuple[Floats, Index]:
    """Squared distance of every candidate to the nearest point of the tiles, and which that is."""
    block = partial(_nearest_of_block, points.detached(), tiles)
    how: dict[str, Any] = {"step": PASS_ROWS, "engine": engine, "what": "comparing picks"}
    squared, which = join_rows(map_rows(block, points.sources, rows, **how), len(rows))
    return squared, which


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
