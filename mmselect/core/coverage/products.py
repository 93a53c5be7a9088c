"""Most similar rows by matrix products: of all rows, or of those in some inverted lists."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mmselect.arrays import Index, Singles
from mmselect.core.presence import Pairs, similarities
from mmselect.engine import Engine, join_rows, ranges

SEARCH = "finding neighbours"
"""What progress is told while rows look for their neighbours."""

QUERIES = 1024
"""Rows whose neighbours are searched together when all rows are looked at."""

LISTED = 4096
"""Rows whose neighbours are searched together in inverted lists: those of the same lists."""

TILE = 4096
"""Rows that they are compared with in one product."""

GROUPS = 512
"""Groups of columns, at least: four times as many as numbers are sought."""

PADDED = 256
"""Rows whose largest numbers are parted from the rest together."""

PRODUCTS = 1 << 25
"""Products with the rows of inverted lists that are held together, for each thread."""

Neighbours = tuple[Singles, NDArray[np.int32]]


class Lists(NamedTuple):
    """Inverted lists: which rows each holds, and into which each row looks.

    Attributes
    ----------
    rows : int array, shape (n,)
        All rows, list after list.
    starts : int array, shape (lists + 1,)
        List l holds ``rows[starts[l]:starts[l + 1]]``.
    probes : int array, shape (n, probes)
        Lists that a row looks into, in ascending order, without repeats.
    """

    rows: Index
    starts: Index
    probes: NDArray[np.int32]


def largest(products: Singles, count: int) -> NDArray[np.int64]:
    """Columns of the `count` largest numbers of every row, the largest first.

    Of equals the lower columns. The largest numbers of groups of columns give a bound that few
    numbers exceed, so none is sorted that cannot be among the largest.

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


def _largest(products: Singles, count: int) -> NDArray[np.int64]:
    """Columns of the `count` largest numbers of every row, in ascending order."""
    least = _least(_group_maxima(products, None, count), count)
    row, column = np.nonzero(products >= least[:, None])
    return column[_first(row, products[row, column], len(products), count)]


def _group_maxima(products: Singles, known: Singles | None, count: int) -> Singles:
    """Largest numbers of the groups of columns; columns so many apart are in the same one."""
    (b, n), groups = products.shape, max(4 * count, GROUPS)
    if known is None:
        known = np.full((b, groups), -np.inf, dtype=np.float32)
    whole = n - n % groups
    if whole:
        np.maximum(known, products[:, :whole].reshape(b, -1, groups).max(axis=1), out=known)
    np.maximum(known[:, : n - whole], products[:, whole:], out=known[:, : n - whole])
    return known


def _least(maxima: Singles, count: int) -> Singles:
    """At most the `count`-th largest number: so many groups have one that is no smaller."""
    place = maxima.shape[1] - count
    least: Singles = np.partition(maxima, place, axis=1)[:, place]
    return least


def _first(row: Index, value: Singles, rows: int, count: int) -> Index:
    """Places of the `count` largest values of each row, ascending, (rows, count); `row` ascends.

    Of equals the first ones. Every row has at least so many.
    """
    starts = np.searchsorted(row, np.arange(rows + 1))
    found = np.empty((rows, count), dtype=np.int64)
    for a, b in ranges(0, rows, PADDED):
        part = slice(starts[a], starts[b])
        place = np.arange(starts[a], starts[b]) - starts[row[part]]
        padded = np.full((b - a, place.max(initial=0) + 1), -np.inf, dtype=np.float32)
        padded[row[part] - a, place] = value[part]
        border = _least(padded, count)[:, None]
        more, equal = padded > border, padded == border
        equal &= np.arange(padded.shape[1]) < np.diff(starts[a : b + 1])[:, None]  # no padding
        wanted = count - more.sum(axis=1)
        more |= equal & (np.cumsum(equal, axis=1) <= wanted[:, None])
        found[a:b] = np.nonzero(more)[1].reshape(b - a, count) + starts[a:b, None]
    return found


def _with_own(
    own_x: Singles, own: Index, similar: Singles, found: Index, pairs: Pairs | None
) -> Neighbours:
    """Add to its neighbours each row itself, and put them in ascending order."""
    itself = np.vecdot(own_x, own_x)
    if pairs is not None:
        itself *= pairs.factor.diagonal()[pairs.code[own]].astype(np.float32)
    similar = np.concatenate([itself[:, None], similar], axis=1)
    found = np.concatenate([own[:, None], found], axis=1)
    order = np.argsort(found, axis=1, kind="stable")
    rows: NDArray[np.int32] = np.take_along_axis(found, order, axis=1).astype(np.int32)
    return np.take_along_axis(similar, order, axis=1), rows


def among_all(x: Singles, count: int, engine: Engine, pairs: Pairs | None = None) -> Neighbours:
    """Find the `count` most similar rows of every row; the row itself is always one of them.

    Parameters
    ----------
    x : float32 array, shape (n, d)
        Products of rows are similarities.
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
    n, others = len(x), count - 1

    def search(rows: tuple[int, int]) -> Neighbours:
        own, maxima, parts = np.arange(*rows), None, []
        for start, stop in ranges(0, n if others else 0, TILE):
            products = similarities(x, slice(*rows), slice(start, stop), pairs)
            inside = np.arange(max(start, rows[0]), min(stop, rows[1]))
            products[inside - rows[0], inside - start] = -np.inf
            maxima = _group_maxima(products, maxima, others)
            row, column = np.nonzero(products >= _least(maxima, others)[:, None])
            parts.append((row, column + start, products[row, column]))
        if maxima is None:
            nobody = np.empty((len(own), 0), np.float32)
            return _with_own(x[slice(*rows)], own, nobody, own[:, None][:, :0], pairs)
        row, column, value = (np.concatenate(part) for part in zip(*parts, strict=True))
        left = value >= _least(maxima, others)[row]
        row, column, value = row[left], column[left], value[left]
        order = np.argsort(row, kind="stable")  # tiles came one after the other
        row, column, value = row[order], column[order], value[order]
        first = _first(row, value, len(own), others)
        return _with_own(x[slice(*rows)], own, value[first], column[first], pairs)

    found = engine.map(search, ranges(0, n, QUERIES), SEARCH)
    similar, rows = join_rows(found, n)
    return similar, rows


def inverted_lists(x: Singles, centres: Singles, probes: int, engine: Engine) -> Lists:
    """Put every row into the list of its most similar centre, and find the lists it looks into.

    Parameters
    ----------
    x : float32 array, shape (n, d)
    centres : float32 array, shape (lists, d)
    probes : int
        Lists that each row looks into; its own is always one of them.
    engine : Engine

    Examples
    --------
    >>> from mmselect.engine import SERIAL
    >>> x = np.array([[1, 0], [0, 1], [0.9, 0.1]], dtype=np.float32)
    >>> inverted_lists(x, x[:2], 1, SERIAL).rows.tolist()
    [0, 2, 1]
    """

    def nearest(rows: tuple[int, int]) -> NDArray[np.int32]:
        return largest(x[slice(*rows)] @ centres.T, min(probes, len(centres))).astype(np.int32)

    near = np.concatenate(
        list(engine.map(nearest, ranges(0, len(x), QUERIES), "sorting into lists"))
    )
    starts = np.concatenate([[0], np.cumsum(np.bincount(near[:, 0], minlength=len(centres)))])
    rows = np.argsort(near[:, 0], kind="stable")
    return Lists(rows, starts, np.sort(near, axis=1))


def put_in_order(x: Singles, rows: Index) -> None:
    """Put the rows of `x` in this order, in place: what is read together lies together.

    Examples
    --------
    >>> x = np.array([[0.0], [1.0], [2.0]], dtype=np.float32)
    >>> put_in_order(x, np.array([2, 0, 1]))
    >>> x.ravel().tolist()
    [2.0, 0.0, 1.0]
    """
    sources, done = rows.tolist(), np.zeros(len(rows), dtype=bool)
    for first in range(len(sources)):
        if done[first]:
            continue
        saved, at = x[first].copy(), first
        while (source := sources[at]) != first:
            x[at] = x[source]
            done[at], at = True, source
        x[at], done[at] = saved, True


def among_lists(
    x: Singles, lists: Lists, count: int, engine: Engine, pairs: Pairs | None = None
) -> Neighbours:
    """Find the `count` most similar rows of every row among the lists that it looks into.

    Rows of the same lists are searched together: one product for each list that any of them looks
    into. `x` is in the order of the lists (:func:`put_in_order`); what is returned is not. It is
    what :func:`among_all` returns; where the lists hold too few rows, the missing ones are similar
    -inf.

    Examples
    --------
    >>> from mmselect.engine import SERIAL
    >>> x = np.array([[1, 0], [0, 1], [0.9, 0.1]], dtype=np.float32)
    >>> lists = inverted_lists(x, x[:2], 1, SERIAL)
    >>> put_in_order(x, lists.rows)
    >>> among_lists(x, lists, 2, SERIAL)[1][0].tolist()
    [0, 2]
    """
    n = len(x)
    similar = np.empty((n, count), dtype=np.float32)
    found = np.empty((n, count), dtype=np.int32)
    ends = np.cumsum(np.diff(lists.starts)[lists.probes], axis=1, dtype=np.int64)

    def search(block: tuple[int, int]) -> None:
        own = lists.rows[slice(*block)]
        begins = np.column_stack([np.zeros(len(own), dtype=np.int64), ends[own]])
        width = max(begins[:, -1].max(), count - 1)
        products = np.full((len(own), width), -np.inf, dtype=np.float32)
        queries = x[slice(*block)]
        _multiply(x, lists, own, queries, begins, products, pairs)
        _leave_out_own(lists, block, begins, products)
        columns = _largest(products, count - 1) if count > 1 else own[:, None][:, :0]
        likeness = np.take_along_axis(products, columns, axis=1)
        listed = _listed(lists, own, begins, columns)
        similar[own], found[own] = _with_own(queries, own, likeness, listed, pairs)

    list(engine.map(search, _blocks(ends[lists.rows, -1]), SEARCH))
    return similar, found


def _blocks(widths: Index) -> Iterator[tuple[int, int]]:
    """Ranges of at most `LISTED` rows whose products with all that they look at fit in memory."""
    waiting = list(ranges(0, len(widths), LISTED))[::-1]
    while waiting:
        a, b = waiting.pop()
        if b - a > 1 and (b - a) * int(widths[a:b].max()) > PRODUCTS:
            middle = (a + b) // 2
            waiting += [(middle, b), (a, middle)]
        else:
            yield a, b


def _multiply(
    x: Singles,
    lists: Lists,
    own: Index,
    queries: Singles,
    begins: Index,
    products: Singles,
    pairs: Pairs | None,
) -> None:
    """Fill in the similarities of some rows to all in their lists, list after list."""
    probes, flat = lists.probes[own], products.ravel()
    order = np.argsort(probes, axis=None, kind="stable")
    present, first = np.unique(probes.ravel()[order], return_index=True)
    for number, asking in zip(present, np.split(order, first[1:]), strict=True):
        query, slot = np.divmod(asking, probes.shape[1])
        part = slice(lists.starts[number], lists.starts[number + 1])
        places = query * products.shape[1] + begins[query, slot]
        likeness = queries[query] @ x[part].T
        if pairs is not None:
            likeness *= pairs.of(own[query], lists.rows[part])
        flat[places[:, None] + np.arange(likeness.shape[1])] = likeness


def _leave_out_own(lists: Lists, block: tuple[int, int], begins: Index, products: Singles) -> None:
    """Set the products of these rows with themselves to -inf."""
    places, every = np.arange(*block), np.arange(len(products))
    number = np.searchsorted(lists.starts, places, side="right") - 1
    slot = (lists.probes[lists.rows[slice(*block)]] == number[:, None]).argmax(axis=1)
    products[every, begins[every, slot] + places - lists.starts[number]] = -np.inf


def _listed(lists: Lists, own: Index, begins: Index, columns: Index) -> Index:
    """Rows that stand in these columns of the products."""
    apart = np.arange(len(own))[:, None] * (1 + max(begins.max(), columns.max(initial=0)))
    ended = np.searchsorted((begins[:, 1:] + apart).ravel(), columns + apart, side="right")
    slot = ended - np.arange(len(own))[:, None] * (begins.shape[1] - 1)
    slot = np.minimum(slot, begins.shape[1] - 2)  # columns behind all lists: similar -inf
    within = columns - np.take_along_axis(begins, slot, axis=1)
    starts = lists.starts[np.take_along_axis(lists.probes[own], slot, axis=1)]
    listed: Index = lists.rows[np.minimum(starts + within, len(lists.rows) - 1)]
    return listed
