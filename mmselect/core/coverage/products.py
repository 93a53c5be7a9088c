"""Most similar rows by matrix products: of all rows, or of those in some inverted lists."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import NamedTuple

import numpy as np
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray

from mmselect.arrays import Index, Singles
from mmselect.core.presence import Pairs, similarities
from mmselect.engine import Engine, join_rows, ranges

SEARCH = "finding neighbours"
"""What progress is told while rows look for their neighbours."""

QUERIES = 1024
"""Rows whose neighbours are searched together when all rows are looked at."""

LISTED = 8192
"""Rows whose neighbours are searched together in inverted lists: those of the same lists."""

TILE = 4096
"""Rows that they are compared with in one product."""

SAMPLED = 16
"""One of so many columns is looked at to guess what the largest numbers exceed."""

PADDED = 128
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
        found[start:stop] = _better(nothing, products[start:stop], 0, count)[0]
    return found


def _nothing(rows: int) -> tuple[Index, Singles]:
    """No columns and no numbers."""
    return np.empty((rows, 0), dtype=np.int64), np.empty((rows, 0), dtype=np.float32)


def _better(
    known: tuple[Index, Singles], products: Singles, first: int, count: int
) -> tuple[Index, Singles]:
    """Columns and numbers of the `count` largest of every row, of known ones and some more.

    What is known comes from lower columns than `first`, that of the first product. Where there are
    fewer in all, all of them.
    """
    (columns, numbers), b = known, len(products)
    columns, numbers = columns[:b], numbers[:b]
    least = numbers.min(axis=1) if numbers.shape[1] == count else None
    length, column, number = _above(products, min(count, products.shape[1]), least)
    there = np.arange(length.max(initial=0)) < length[:, None]
    more = np.full(there.shape, -np.inf, dtype=np.float32), np.zeros(there.shape, dtype=np.int64)
    more[0][there], more[1][there] = number, column + first
    numbers, columns = np.hstack([numbers, more[0]]), np.hstack([columns, more[1]])
    if numbers.shape[1] <= count:
        return columns, numbers
    place = _places(numbers, count)
    return np.take_along_axis(columns, place, axis=1), np.take_along_axis(numbers, place, axis=1)


def _above(products: Singles, count: int, least: Singles | None) -> tuple[Index, Index, Singles]:
    """Find numbers that may be among the `count` largest of their row: how many, columns, numbers.

    They are at least `least`; without it a sample of the columns says what may be enough.
    """
    b, n = products.shape
    place = -(-5 * count // (4 * SAMPLED)) + 4  # more than their share of the sample
    guessed = least is None and place < n // SAMPLED
    if least is None:
        sample, rank = (products[:, ::SAMPLED], place) if guessed else (products, count)
        least = _least(sample, rank)

    def found() -> tuple[Index, Index]:
        at = np.flatnonzero(products >= least[:, None])
        return at, np.diff(np.searchsorted(at, np.arange(b + 1) * n))

    at, length = found()
    if guessed and (short := length < count).any():
        least[short] = _least(products[short], count)
        at, length = found()
    return length, at - np.repeat(np.arange(b) * n, length), products.ravel()[at]


def _least(numbers: Singles, count: int) -> Singles:
    """Find the `count`-th largest number of every row."""
    place = numbers.shape[1] - count
    least: Singles = np.partition(numbers, place, axis=1)[:, place]
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
    search = partial(_search_all, x, count - 1, pairs)
    found = engine.map(search, ranges(0, len(x), QUERIES), SEARCH, sent=True)
    similar, rows = join_rows(found, len(x))
    return similar, rows


def _search_all(x: Singles, others: int, pairs: Pairs | None, rows: tuple[int, int]) -> Neighbours:
    """Neighbours of some rows, that many besides themselves."""
    own = np.arange(*rows)
    strips = {strip: _nothing(strip[1] - strip[0]) for strip in ranges(0, len(own), PADDED)}
    for start, stop in ranges(0, len(x) if others else 0, TILE):
        products = similarities(x, slice(*rows), slice(start, stop), pairs)
        inside = np.arange(max(start, rows[0]), min(stop, rows[1]))
        products[inside - rows[0], inside - start] = -np.inf
        for strip, known in strips.items():
            strips[strip] = _better(known, products[slice(*strip)], start, others)
    column, value = (np.concatenate(part) for part in zip(*strips.values(), strict=True))
    return _with_own(x[slice(*rows)], own, value, column, pairs)


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
    blocks = list(_blocks(np.diff(lists.starts)[lists.probes].sum(axis=1)[lists.rows]))
    search = partial(_search_lists, x, lists, count - 1, pairs)
    for block, near in zip(blocks, engine.map(search, blocks, SEARCH, sent=True), strict=True):
        own = lists.rows[slice(*block)]
        similar[own], found[own] = near
    return similar, found


def _search_lists(
    x: Singles, lists: Lists, others: int, pairs: Pairs | None, block: tuple[int, int]
) -> Neighbours:
    """Neighbours of the rows at some places of the lists, that many besides themselves."""
    own = lists.rows[slice(*block)]
    begins = np.zeros((len(own), lists.probes.shape[1] + 1), dtype=np.int64)
    np.cumsum(np.diff(lists.starts)[lists.probes[own]], axis=1, out=begins[:, 1:])
    width = max(begins[:, -1].max(), others)
    products = np.full((len(own), width), -np.inf, dtype=np.float32)
    queries = x[slice(*block)]
    _multiply(x, lists, own, queries, begins, products, pairs)
    _leave_out_own(lists, block, begins, products)
    columns = _largest(products, others) if others else own[:, None][:, :0]
    likeness = np.take_along_axis(products, columns, axis=1)
    listed = _listed(lists, own, begins, columns)
    return _with_own(queries, own, likeness, listed, pairs)


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
        length = likeness.shape[1]
        runs = as_strided(flat, (max(flat.size - length, 0) + 1, length), 2 * flat.strides)
        runs[places] = likeness  # each run lies in its own place of its own row


def _leave_out_own(lists: Lists, block: tuple[int, int], begins: Index, products: Singles) -> None:
    """Set the products of these rows with themselves to -inf."""
    places, every = np.arange(*block), np.arange(len(products))
    number = np.searchsorted(lists.starts, places, side="right") - 1
    slot = (lists.probes[lists.rows[slice(*block)]] == number[:, None]).argmax(axis=1)
    products[every, begins[every, slot] + places - lists.starts[number]] = -np.inf


def _listed(lists: Lists, own: Index, begins: Index, columns: Index) -> Index:
    """Rows that stand in these columns of the products."""
    listed = np.empty(columns.shape, dtype=np.int64)
    for a, b in ranges(0, len(own), PADDED):
        ends = begins[a:b, 1:]
        before = np.cumsum(ends[:, -1]) - ends[:, -1]
        inside = np.minimum(columns[a:b], ends[:, -1:] - 1)  # behind all lists: similar -inf
        number = lists.probes[own[a:b]].ravel()
        shift = lists.starts[number] - begins[a:b, :-1].ravel()
        of_column = np.repeat(shift, np.diff(begins[a:b], axis=1).ravel())
        listed[a:b] = lists.rows[of_column[before[:, None] + inside] + inside]
    return listed
