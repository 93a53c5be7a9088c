"""What labeled samples cover, by similarities in float64."""

from __future__ import annotations

import numpy as np

from mmselect.arrays import Floats, Index
from mmselect.core.features import Given
from mmselect.core.presence import Pairs, compared
from mmselect.core.unit_rows import UnitRows
from mmselect.engine import Engine, ranges

TILE = 2048
"""Rows that are compared together."""


def rounding_of(width: int) -> np.float32:
    """Error of a float32 similarity at most, for features of so many columns in all."""
    return np.float32((width / 8 + 16) * 2.0**-23)


def labeled_cover(x: UnitRows, given: Given, engine: Engine) -> Floats:
    """Largest similarity of each candidate to a labeled row, at least 0, in float64.

    Float32 products say which labeled rows may be the nearest.

    Parameters
    ----------
    x : UnitRows
        Of all samples.
    given : Given
    engine : Engine

    Examples
    --------
    >>> from mmselect.core.features import checked
    >>> from mmselect.core.unit_rows import unit_rows
    >>> from mmselect.engine import SERIAL
    >>> given = checked([np.array([[1.0, 0.0], [0.6, 0.8], [0.0, -1.0]])], 1, labeled=[0])
    >>> labeled_cover(unit_rows(given.features), given, SERIAL).round(6).tolist()
    [0.6, 0.0]
    """
    pairs, apart = given.pairs(), 2 * rounding_of(x.shape[1])
    labeled = _distinct(x, given.labeled, pairs)

    def cover(part: tuple[int, int]) -> Floats:
        clients, near = given.candidates[slice(*part)], []
        own = x[clients]
        best, exact = np.zeros(len(clients), np.float32), np.zeros(len(clients))
        for start, stop in ranges(0, len(labeled), TILE):
            others = labeled[start:stop]
            products = compared(own, x[others], clients, others, pairs)
            np.maximum(best, products.max(axis=1), out=best)
            products[products == 0] = -np.inf  # rows of zeros are similar to nothing
            client, other = np.nonzero(products >= (best - apart)[:, None])
            near.append((client, other + start, products[client, other]))
        for client, other, value in near:
            left = value >= (best - apart)[client]
            rows, others = clients[client[left]], labeled[other[left]]
            likeness = exact_similarities(x, rows, others, pairs)
            np.maximum.at(exact, client[left], likeness)
        return exact

    tiles = ranges(0, len(given.candidates), TILE)
    return np.concatenate(list(engine.map(cover, tiles, "comparing with labeled")))


def exact_similarities(x: UnitRows, rows: Index, others: Index, pairs: Pairs | None) -> Floats:
    """Similarity of each row to its other, (r,), or to one that is all of `others`, in float64."""
    found = x.products(rows, others)
    if pairs is not None:
        found *= pairs.factor[pairs.code[rows], pairs.code[others]]
    return found


def _distinct(x: UnitRows, rows: Index, pairs: Pairs | None) -> Index:
    """Rows without copies of others: of many, all would be as near."""
    has = np.zeros(len(x), np.intp) if pairs is None else pairs.code
    found = {}
    for start, stop in ranges(0, len(rows), TILE):
        part = rows[start:stop]
        for row, numbers in zip(part.tolist(), x[part], strict=True):
            found[has[row], hash(numbers.tobytes())] = row
    return np.array([*found.values()], dtype=np.intp)
