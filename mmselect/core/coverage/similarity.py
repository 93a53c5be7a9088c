"""Similarities in float64, and what labeled samples cover by them: ties are decided here."""

from __future__ import annotations

import numpy as np

from mmselect.arrays import Array, Floats, Index, Singles
from mmselect.core.features import Given, centred_norms, column_means, inverse, row_norms
from mmselect.core.presence import Pairs, similarities
from mmselect.engine import Engine, ranges

TILE = 2048
"""Rows that are compared together, or whose lengths are found together."""

WIDENED = 128
"""Pairs whose features are in float64 together."""


class Similarity:
    """Similarities in float64 of some pairs of rows, from the features (n, d_m) as given.

    Parameters
    ----------
    given : Given
    center : bool
        Remove each modality's mean first.

    Examples
    --------
    >>> from mmselect.core.features import checked
    >>> similarity = Similarity(checked([np.array([[3.0, 4.0], [0.0, 2.0], [1.0, 0.0]])], 1), False)
    >>> similarity.between(np.array([1, 2]), np.array([0])).round(6).tolist()
    [0.8, 0.6]
    """

    def __init__(self, given: Given, center: bool) -> None:
        self.arrays, self.pairs = list(given.features.values()), given.pairs()
        there = [given.present.get(name) for name in given.features]
        self.means = [
            column_means(array, mask) if center else None
            for array, mask in zip(self.arrays, there, strict=True)
        ]
        self.scales = [
            _scales(array, mean) for array, mean in zip(self.arrays, self.means, strict=True)
        ]

    def between(self, rows: Index, others: Index) -> Floats:
        """Mean cosine, over the modalities that both have, of each row and its other, (r,).

        `others` has a row for each, or one for all.
        """
        found, one = np.zeros(len(rows)), len(others) == 1
        for start, stop in ranges(0, len(rows), WIDENED):
            left, right = rows[start:stop], others if one else others[start:stop]
            for array, mean, scale in zip(self.arrays, self.means, self.scales, strict=True):
                product = np.vecdot(_less(array[left], mean), _less(array[right], mean))
                found[start:stop] += product * (scale[left] * scale[right])
        found /= len(self.arrays)
        if self.pairs is not None:
            found *= self.pairs.factor[self.pairs.code[rows], self.pairs.code[others]]
        return found


def _less(rows: Array, mean: Floats | None) -> Floats:
    """Rows in float64, less the mean."""
    wide: Floats = rows.astype(np.float64)
    if mean is not None:
        wide -= mean
    return wide


def _scales(array: Array, mean: Floats | None) -> Floats:
    """One over the length of rows less the mean, (n,)."""
    scales = np.empty(len(array))
    for start, stop in ranges(0, len(array), TILE):
        norms = row_norms(array[start:stop].astype(np.float64))
        if mean is not None:
            norms = centred_norms(_less(array[start:stop], mean), norms, array.dtype)
        scales[start:stop] = inverse(norms)
    return scales


def rounding_of(width: int) -> np.float32:
    """Error of a float32 similarity at most, for features of so many columns in all."""
    return np.float32((width / 8 + 16) * 2.0**-23)


def labeled_cover(x: Singles, given: Given, similarity: Similarity, engine: Engine) -> Floats:
    """Largest similarity of each candidate to a labeled row, at least 0, in float64.

    Float32 products say which labeled rows may be the nearest.

    Parameters
    ----------
    x : float32 array, shape (n, d)
        Products of complete rows are similarities.
    given : Given
    similarity : Similarity
    engine : Engine

    Examples
    --------
    >>> from mmselect.core.features import checked
    >>> from mmselect.engine import SERIAL
    >>> x = np.array([[1.0, 0.0], [0.6, 0.8], [0.0, -1.0]], dtype=np.float32)
    >>> given = checked([x], 1, labeled=[0])
    >>> labeled_cover(x, given, Similarity(given, False), SERIAL).round(6).tolist()
    [0.6, 0.0]
    """
    pairs, apart = given.pairs(), 2 * rounding_of(x.shape[1])
    labeled = _distinct(x, given.labeled, pairs)

    def cover(part: tuple[int, int]) -> Floats:
        clients, near = given.candidates[slice(*part)], []
        best, exact = np.zeros(len(clients), np.float32), np.zeros(len(clients))
        for start, stop in ranges(0, len(labeled), TILE):
            products = similarities(x, clients, labeled[start:stop], pairs)
            np.maximum(best, products.max(axis=1), out=best)
            products[products == 0] = -np.inf  # rows of zeros are similar to nothing
            client, other = np.nonzero(products >= (best - apart)[:, None])
            near.append((client, other + start, products[client, other]))
        for client, other, value in near:
            left = value >= (best - apart)[client]
            rows, others = clients[client[left]], labeled[other[left]]
            np.maximum.at(exact, client[left], similarity.between(rows, others))
        return exact

    tiles = ranges(0, len(given.candidates), TILE)
    return np.concatenate(list(engine.map(cover, tiles, "comparing with labeled")))


def _distinct(x: Singles, rows: Index, pairs: Pairs | None) -> Index:
    """Rows without copies of others: of many, all would be as near."""
    has = np.zeros(len(x), np.intp) if pairs is None else pairs.code
    found = {(has[row], hash(x[row].tobytes())): row for row in rows}
    return np.array([*found.values()], dtype=np.intp)
