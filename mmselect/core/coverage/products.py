"""Most similar rows by matrix products, and the largest numbers of rows."""

from __future__ import annotations

from functools import partial

import numpy as np
from numpy.typing import NDArray

from mmselect.arrays import Index, Rows, Singles
from mmselect.core.presence import Pairs, compared
from mmselect.engine import Engine, join_rows, ranges

SEARCH = "finding neighbours"
"""What progress is told while rows look for their neighbours."""

QUERIES = 1024
"""Rows whose neighbours are searched together when all rows are looked at."""

TILE = 4096
"""Rows that they are compared with in one product."""

SAMPLED = 16
"""One of so many columns is looked at to guess what the largest numbers exceed."""

PADDED = 128
"""Rows whose largest numbers are parted from the rest together."""

LOWEST = np.finfo(np.float32).min
"""What is less is no number of a row, but stands where it has none."""

Neighbours = tuple[Singles, NDArray[np.int32]]


def largest(products: Singles, count: int) -> NDArray[np.int64]:
    """Columns of the `count` largest numbers of every row, the largest first.

    Of equals the lower columns. A sample of columns gives a bound that few other numbers exceed.

    Parameters
    ----------
    products : float32 array, shape (b, n)
    count : int
        At most n.

    Returns
    -------
    int64 array, shape (b, count)

    Examples
    --------
    >>> largest(np.array([[3, 9, 9, 1, 9]], dtype=np.float32), 2).tolist()
    [[1, 2]]
    """
    columns = _largest(products, count)
    order = np.argsort(-np.take_along_axis(products, columns, axis=1), axis=1, kind="stable")
    return np.take_along_axis(columns, order, axis=1)


def _largest(products: Singles, count: int) -> Index:
    """Columns of the `count` largest numbers of every row, in ascending order."""
    found, nothing = np.empty((len(products), count), dtype=np.int64), _nothing(PADDED)
    for start, stop in ranges(0, len(products), PADDED):
        found[start:stop] = better(nothing, products[start:stop], 0, count)[0]
    return found


def _nothing(rows: int) -> tuple[Index, Singles]:
    """No columns and no numbers."""
    return np.empty((rows, 0), dtype=np.int64), np.empty((rows, 0), dtype=np.float32)


def better(
    known: tuple[Index, Singles], products: Singles, first: int, count: int
) -> tuple[Index, Singles]:
    """Columns and numbers of the `count` largest of every row, of known ones and some more.

    What is known comes from lower columns than `first`, that of the first product. Where there are
    fewer in all, all of them.
    """
    (columns, numbers), b = known, len(products)
    columns, numbers = columns[:b], numbers[:b]
    least = numbers.min(axis=1) if numbers.shape[1] == count else np.full(b, -np.inf, np.float32)
    length, column, number = _above(products, min(count, products.shape[1]), least)
    there = np.arange(length.max(initial=0)) < length[:, None]
    more = np.full(there.shape, -np.inf, dtype=np.float32), np.zeros(there.shape, dtype=np.int64)
    more[0][there], more[1][there] = number, column + first
    numbers, columns = np.hstack([numbers, more[0]]), np.hstack([columns, more[1]])
    if numbers.shape[1] <= count:
        return columns, numbers
    place = _places(numbers, count)
    return np.take_along_axis(columns, place, axis=1), np.take_along_axis(numbers, place, axis=1)


def _above(products: Singles, count: int, least: Singles) -> tuple[Index, Index, Singles]:
    """Find numbers that may be among the `count` largest of their row: how many, columns, numbers.

    They are at least `least`; where that is -inf, a sample of the columns says what may be enough.
    """
    b, n = products.shape
    place = -(-5 * count // (4 * SAMPLED)) + 4  # more than their share of the sample
    free, guessed = least == -np.inf, place < n // SAMPLED
    if free.any():
        sample, rank = (products[:, ::SAMPLED], place) if guessed else (products, count)
        least = np.where(free, _least(sample, rank), least)

    def found() -> tuple[Index, Index]:
        at = np.flatnonzero(products >= np.maximum(least, LOWEST)[:, None])
        return at, np.diff(np.searchsorted(at, np.arange(b + 1) * n))

    at, length = found()
    if guessed and (short := free & (length < count)).any():
        least[short] = _least(products[short], count)
        at, length = found()
    return length, at - np.repeat(np.arange(b) * n, length), products.ravel()[at]


def _least(numbers: Singles, count: int) -> Singles:
    """Find the `count`-th largest number of every row, or -inf where it has none.

    NumPy takes ten times as long where more than half are equal and the smallest, but not where
    they are the largest.
    """
    there, place = np.count_nonzero(numbers > -np.inf, axis=1), numbers.shape[1] - count
    if 2 * there.sum() > numbers.size:
        least: Singles = np.partition(numbers, place, axis=1)[:, place]
    else:
        least = -np.partition(-numbers, count - 1, axis=1)[:, count - 1]
    return least


def _places(numbers: Singles, count: int) -> Index:
    """Places of the `count` largest numbers of each row, ascending; of equals the first ones."""
    border = _least(numbers, count)[:, None]
    wanted = numbers >= border
    if np.count_nonzero(wanted) > len(numbers) * count:
        above = numbers > border
        equal = wanted & ~above
        equal &= np.cumsum(equal, axis=1) <= count - above.sum(axis=1, keepdims=True)
        wanted = above | equal
    places: Index = np.flatnonzero(wanted).reshape(len(numbers), count) % numbers.shape[1]
    return places


def itself(x: Singles, rows: Index, pairs: Pairs | None) -> Singles:
    """Similarity of each of some rows to itself."""
    similar: Singles = np.vecdot(x, x)
    if pairs is not None:
        similar *= pairs.factor.diagonal()[pairs.code[rows]].astype(np.float32)
    return similar


def with_own(alike: Singles, own: Index, similar: Singles, found: Index) -> Neighbours:
    """Add to its neighbours each row itself, and put them in ascending order."""
    similar = np.concatenate([alike[:, None], similar], axis=1)
    found = np.concatenate([own[:, None], found], axis=1)
    order = np.argsort(found, axis=1, kind="stable")
    rows: NDArray[np.int32] = np.take_along_axis(found, order, axis=1).astype(np.int32)
    return np.take_along_axis(similar, order, axis=1), rows


def among_all(x: Rows, count: int, engine: Engine, pairs: Pairs | None = None) -> Neighbours:
    """Find the `count` most similar rows of every row; the row itself is always one of them.

    Parameters
    ----------
    x : (n, d) Rows of float32
        Products of rows are similarities. Any thread may read it.
    count : int
        At most n.
    engine : Engine
    pairs : Pairs, optional
        What makes products similarities where modalities lack; None: nothing.

    Returns
    -------
    similar : float32 array, shape (n, count)
    found : int32 array, shape (n, count)
        Rows in ascending order; of equally similar ones the lower.

    Examples
    --------
    >>> from mmselect.engine import SERIAL
    >>> x = np.array([[1, 0], [0, 1], [0.9, 0.1]], dtype=np.float32)
    >>> among_all(x, 2, SERIAL)[1].tolist()
    [[0, 2], [1, 2], [0, 2]]
    """
    search = partial(_search_all, x, count - 1, pairs)
    found = engine.map(search, ranges(0, x.shape[0], QUERIES), SEARCH, sent=True)
    similar, rows = join_rows(found, x.shape[0])
    return similar, rows


def _search_all(x: Rows, others: int, pairs: Pairs | None, rows: tuple[int, int]) -> Neighbours:
    """Neighbours of some rows, that many besides themselves."""
    own, queries = np.arange(*rows), x[slice(*rows)]
    strips = {strip: _nothing(strip[1] - strip[0]) for strip in ranges(0, len(own), PADDED)}
    for start, stop in ranges(0, x.shape[0] if others else 0, TILE):
        tile = queries if (start, stop) == rows else x[start:stop]  # NumPy tells its own transpose
        products = compared(queries, tile, slice(*rows), slice(start, stop), pairs)
        inside = np.arange(max(start, rows[0]), min(stop, rows[1]))
        products[inside - rows[0], inside - start] = -np.inf
        for strip, known in strips.items():
            strips[strip] = better(known, products[slice(*strip)], start, others)
    column, value = (np.concatenate(part) for part in zip(*strips.values(), strict=True))
    return with_own(itself(queries, own, pairs), own, value, column)
