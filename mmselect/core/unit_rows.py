"""Unit rows of all modalities side by side, made of what is stored when they are asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from mmselect.arrays import Array, Floats, Index, Rows, Singles, native
from mmselect.core.chosen import Chosen, held_bytes, over_blocks
from mmselect.core.features import centred_norms, column_means, inverse, row_norms
from mmselect.core.presence import Present
from mmselect.engine import SERIAL, Engine, ranges
from mmselect.errors import located
from mmselect.tasks import concurrent, take

STRIP = 1 << 16
"""Numbers that are in cache while rows are made of them."""

READ = 1024
"""Rows that are read together."""

WIDENED = 128
"""Pairs whose features are in float64 together."""


@dataclass(frozen=True)
class UnitRows:
    """Rows whose products are similarities: the mean cosine, if both have all modalities.

    Build it with :func:`unit_rows`. A slice or an array of positions gives rows in float32, which
    are computed in float64: less a mean that is far away, they are as exact as any.

    Attributes
    ----------
    arrays : tuple of (n, d_m) ndarray or Chosen
        As they are stored, in memory or on disk.
    means : tuple of (d_m,) ndarray of float64 or None
        What is taken off each modality; None: nothing.
    scales : tuple of (n,) ndarray of float64
        What rows are multiplied by then: 0 where they lack the modality, or have no direction.
    zero_rows : dict of str to int
        Rows of each modality without a direction, of those that have it.
    at : (r,) ndarray of int or None
        Rows that these are, in this order; None: all as stored.
    """

    arrays: tuple[Array | Chosen, ...]
    means: tuple[Floats | None, ...]
    scales: tuple[Floats, ...]
    zero_rows: dict[str, int]
    at: Index | None = None

    def __len__(self) -> int:
        return len(self.scales[0] if self.at is None else self.at)

    @property
    def shape(self) -> tuple[int, int]:
        """Rows, and the width of all modalities."""
        return len(self), sum(array.shape[1] for array in self.arrays)

    @property
    def dtype(self) -> np.dtype[Any]:
        """That of the rows."""
        return np.dtype(np.float32)

    def __getitem__(self, index: Any) -> Singles:
        rows = np.arange(len(self.scales[0]))[index] if self.at is None else self.at[index]
        out = np.empty((len(rows), self.shape[1]), np.float32)
        for start, stop in ranges(0, len(rows), READ):
            part = rows[start:stop]
            for m, array in enumerate(self.arrays):
                self._put(m, part, take(array, part), out[start:stop])
        return out

    def _put(self, m: int, rows: Any, block: Array, out: Singles) -> None:
        """Make what was read of some rows and one modality, in its columns of `out`."""
        share = np.float32(len(self.arrays) ** -0.5)  # a product of complete rows: the mean cosine
        left, mean = sum(array.shape[1] for array in self.arrays[:m]), self.means[m]
        lengths = self.scales[m][rows, None]
        width = block.shape[1]
        for start, stop in ranges(0, len(block), max(STRIP // max(width, 1), 1)):
            wide = native(block[start:stop]).astype(np.float64)  # once: mixed steps convert each
            if mean is not None:
                wide -= mean
            wide *= lengths[start:stop]
            target = out[start:stop, left : left + width]
            np.multiply(wide.astype(np.float32), share, out=target)

    def chosen(self, rows: Index) -> UnitRows:
        """Take some of these rows, in any order."""
        return replace(self, at=rows if self.at is None else self.at[rows])

    def whole(self, engine: Engine = SERIAL) -> Singles:
        """Make all rows."""
        out = np.empty(self.shape, np.float32)
        if self.at is not None:
            for start, stop in ranges(0, len(out), READ):
                out[start:stop] = self[start:stop]
            return out
        for m, array in enumerate(self.arrays):

            def fill(first: int, block: Array, m: int = m) -> None:
                rows = slice(first, first + len(block))
                self._put(m, rows, block, out[rows])

            list(over_blocks(fill, array, engine, "joining features"))
        return out

    def products(self, rows: Index, others: Index) -> Floats:
        """Multiply each row with its other in float64, (r,), by their places in the pool.

        `others` has a row for each, or one for all.
        """
        found, one = np.zeros(len(rows)), len(others) == 1
        for array, mean, scale in zip(self.arrays, self.means, self.scales, strict=True):
            right = _less(array[others], mean) if one else None
            for start, stop in ranges(0, len(rows), WIDENED):
                left, other = rows[start:stop], others if one else others[start:stop]
                beside = _less(array[other], mean) if right is None else right
                product = np.vecdot(_less(array[left], mean), beside)
                found[start:stop] += product * (scale[left] * scale[other])
        return found / len(self.arrays)


def _less(rows: Array, mean: Floats | None) -> Floats:
    """Rows in float64, less the mean."""
    wide: Floats = rows.astype(np.float64)
    if mean is not None:
        wide -= mean
    return wide


def unit_rows(
    features: Mapping[str, Array],
    *,
    center: bool = False,
    present: Present | None = None,
    engine: Engine = SERIAL,
) -> UnitRows:
    """Look at all rows, for their means and lengths, and make :class:`UnitRows` of them.

    Parameters
    ----------
    features : mapping of str to (n, d_m) array, in memory or to be read block by block
    center : bool
        Remove each modality's mean first.
    present : mapping of str to (n,) ndarray of bool, optional
        Which rows have a modality; the features of the others are zeros and count for no mean.
    engine : Engine

    Raises
    ------
    DataError
        If a row holds nan or an infinity, or is too large.

    Examples
    --------
    >>> rows = unit_rows({"a": np.array([[3.0, 4.0], [0.0, 2.0]])})
    >>> rows[:].round(3).tolist(), rows.products(np.array([1]), np.array([0])).round(3).tolist()
    ([[0.6000000238418579, 0.800000011920929], [0.0, 1.0]], [0.8])
    """
    means, scales, zero_rows = [], [], {}
    for name, array in features.items():
        with located(dataset=name):
            there = (present or {}).get(name)
            mean = column_means(array, there, engine) if center else None
            scale = _scales(array, mean, engine)
        if there is not None:
            scale[~there] = 0
        zero_rows[name] = int((scale[slice(None) if there is None else there] == 0).sum())
        means.append(mean)
        scales.append(scale)
    return UnitRows(tuple(features.values()), tuple(means), tuple(scales), zero_rows)


def _scales(array: Array, mean: Floats | None, engine: Engine) -> Floats:
    """One over the length of rows less the mean, (n,)."""

    def measure(first: int, block: Array) -> Floats:
        norms = row_norms(block := native(block), first)
        if mean is not None:
            norms = centred_norms(block - mean, norms, array.dtype)
        return inverse(norms)

    return np.concatenate(list(over_blocks(measure, array, engine, "normalising rows")))


def held_as(columns: Sequence[Rows], n: int, memory: int) -> tuple[bool, bool]:
    """Say whether n rows of some features are held as stored, and whether as they are made.

    There is one copy of what is held at all (:func:`~mmselect.core.chosen.held_bytes`), but two
    where both fit: rows as made where these take no more than those stored, which are read from the
    file then.

    Examples
    --------
    >>> x = np.zeros((9, 4), np.float32)
    >>> [held_as([x], 9, memory) for memory in (288, 144, 143)]
    [(True, True), (False, True), (False, False)]
    >>> held_as([x, x.astype("f2")], 9, 216)
    (True, False)
    """
    stored = held_bytes(columns, n, memory)
    made = 4 * n * sum(column.shape[1] for column in columns)
    if not stored:
        return False, False
    if made > stored or not all(map(concurrent, columns)):
        return True, False
    return stored + made <= memory, True
