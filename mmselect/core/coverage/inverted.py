"""Most similar rows among those in some inverted lists, by matrix products."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import NamedTuple

import numpy as np
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray

from mmselect.arrays import Index, Rows, Singles
from mmselect.core.coverage.products import (
    PADDED,
    QUERIES,
    SEARCH,
    Neighbours,
    better,
    itself,
    largest,
    with_own,
)
from mmselect.core.presence import Pairs
from mmselect.engine import Engine, ranges

LISTED = 8192
"""Rows whose neighbours are searched together in inverted lists: those of the same lists."""

PRODUCTS = 1 << 25
"""Products with the rows of inverted lists that are held together, for each thread."""


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


class Part(NamedTuple):
    """Some lists one after the other, from `first` to `stop`, and their rows in that order."""

    first: int
    stop: int
    x: Singles


def inverted_lists(x: Rows, centres: Singles, probes: int, engine: Engine) -> Lists:
    """Put every row into the list of its most similar centre, and find the lists it looks into.

    Parameters
    ----------
    x : (n, d) Rows of float32
        Any thread may read it.
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
        list(engine.map(nearest, ranges(0, x.shape[0], QUERIES), "sorting into lists"))
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
    x: Rows, lists: Lists, count: int, engine: Engine, pairs: Pairs | None = None, room: int = 0
) -> Neighbours:
    """Find the `count` most similar rows of every row among the lists that it looks into.

    Rows of the same lists are searched together: one product for each list that any of them looks
    into. What is returned is what :func:`among_all` returns; where the lists hold too few rows, the
    row itself stands for the missing ones, similar -inf.

    All lists of an array are searched at once. Of other rows, as many lists as find room are in
    memory at a time: whatever looks into those is read, and keeps the most similar rows that it has
    met. Products have the same shapes, and so the same bits.

    Parameters
    ----------
    x : (n, d) Rows of float32
        An array is put in the order of the lists. Any thread may read it.
    lists : Lists
    count : int
    engine : Engine
    pairs : Pairs, optional
        What makes products similarities where modalities lack; None: nothing.
    room : int
        Bytes of rows in memory at a time, at least those of one list, if `x` is no array.

    Examples
    --------
    >>> from mmselect.engine import SERIAL
    >>> x = np.array([[1, 0], [0, 1], [0.9, 0.1]], dtype=np.float32)
    >>> lists = inverted_lists(x, x[:2], 1, SERIAL)
    >>> among_lists(x, lists, 2, SERIAL)[1][0].tolist()
    [0, 2]
    """
    n, d = x.shape
    blocks = list(_blocks(np.diff(lists.starts)[lists.probes].sum(axis=1)[lists.rows]))
    similar, found = np.full((n, count), -np.inf, np.float32), np.zeros((n, count), np.int32)
    alike = np.empty(n, np.float32)
    bounds = list(_bounds(lists.starts, n if isinstance(x, np.ndarray) else room // (4 * d)))
    with engine.phase(SEARCH) as report:
        for number, (first, stop) in enumerate(bounds):
            part = Part(first, stop, _in_lists(x, lists, first, stop, engine))
            rows = lists.rows[lists.starts[first] : lists.starts[stop]]
            alike[rows] = itself(part.x, rows, pairs)
            asking = [places for block in blocks if len(places := _asking(lists, part, block))]
            own = [lists.rows[places] for places in asking]
            search = partial(_search_part, None if len(rows) == n else x, lists, part, pairs)
            tasks = (
                (places, similar[rows, 1:], found[rows, 1:])
                for places, rows in zip(asking, own, strict=True)
            )
            results = engine.map(search, tasks, sent=True)
            for done, (rows, known) in enumerate(zip(own, results, strict=True), 1):
                similar[rows, 1:], found[rows, 1:] = known
                report(number * len(own) + done, len(bounds) * len(own))
            del part, search, results  # before the rows of the next part are read
    for block in blocks:
        rows = lists.rows[slice(*block)]
        others = np.where(similar[rows, 1:] > -np.inf, lists.rows[found[rows, 1:]], rows[:, None])
        similar[rows], found[rows] = with_own(alike[rows], rows, similar[rows, 1:], others)
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


def _bounds(starts: Index, rows: int) -> Iterator[tuple[int, int]]:
    """Ranges of lists that hold at most so many rows, or are one list; of about equal size.

    Examples
    --------
    >>> list(_bounds(np.array([0, 3, 4, 6, 9]), 5)), list(_bounds(np.array([0, 3, 9]), 9))
    ([(0, 2), (2, 4)], [(0, 2)])
    """
    first, lists = 0, len(starts) - 1
    while first < lists:
        left = int(starts[-1] - starts[first])
        share = -(-left // max(-(-left // max(rows, 1)), 1))
        stop = int(np.searchsorted(starts, starts[first] + share, side="right")) - 1
        stop = max(stop, first + 1)
        yield first, stop
        first = stop


def _in_lists(x: Rows, lists: Lists, first: int, stop: int, engine: Engine) -> Singles:
    """Rows of some lists, list after list, read in the order of the file; arrays in place."""
    if isinstance(x, np.ndarray):
        put_in_order(x, lists.rows)
        return x
    rows = lists.rows[lists.starts[first] : lists.starts[stop]]
    out, order = np.empty((len(rows), x.shape[1]), np.float32), np.argsort(rows)

    def fill(some: tuple[int, int]) -> None:
        out[order[slice(*some)]] = x[rows[order[slice(*some)]]]

    list(engine.map(fill, ranges(0, len(rows), QUERIES)))
    return out


def _lengths(lists: Lists, part: Part, rows: Index) -> Index:
    """How many rows there are in each list that some rows look into, in a part."""
    probes = lists.probes[rows]
    inside = (probes >= part.first) & (probes < part.stop)
    lengths: Index = np.where(inside, np.diff(lists.starts)[probes], 0)
    return lengths


def _asking(lists: Lists, part: Part, block: tuple[int, int]) -> Index:
    """Places in the lists of those rows of a block that look at any row of a part."""
    looking = _lengths(lists, part, lists.rows[slice(*block)]).any(axis=1)
    return block[0] + np.flatnonzero(looking)


def _search_part(
    x: Rows | None,
    lists: Lists,
    part: Part,
    pairs: Pairs | None,
    task: tuple[Index, Singles, NDArray[np.int32]],
) -> Neighbours:
    """Most similar others of rows at some places, of known ones and of those in a part.

    They are told by their places in the lists, in ascending order. Without `x` all are in the part,
    and the places a run.
    """
    places, similar, found = task
    if not similar.flags.writeable:  # as processes are sent them
        similar, found = similar.copy(), found.copy()
    if not (others := similar.shape[1]):
        return similar, found
    own, n = lists.rows[places], len(lists.rows)
    begins = np.zeros((len(own), lists.probes.shape[1] + 1), np.int64)
    np.cumsum(_lengths(lists, part, own), axis=1, out=begins[:, 1:])
    products = np.full((len(own), begins[:, -1].max()), -np.inf, np.float32)
    queries = part.x[places[0] : places[-1] + 1] if x is None else x[own]
    _multiply(queries, own, lists, part, begins, products, pairs)
    _leave_out_own(places, own, lists, part, begins, products)
    for a, b in ranges(0, len(own), PADDED):
        met = others if (similar[a:b] > -np.inf).any() else 0
        known = found[a:b, :met].astype(np.int64), similar[a:b, :met]
        at, numbers = better(known, products[a:b], n, others)
        listed = _places(lists, own[a:b], begins[a:b], at - n)
        there = slice(at.shape[1])  # fewer, where nobody has met as many as are wanted
        similar[a:b, there], found[a:b, there] = numbers, np.where(at < n, at, listed)
    return similar, found


def _multiply(
    queries: Singles,
    own: Index,
    lists: Lists,
    part: Part,
    begins: Index,
    products: Singles,
    pairs: Pairs | None,
) -> None:
    """Fill in the similarities of some rows to all in their lists of a part, list after list."""
    probes, flat, origin = lists.probes[own], products.ravel(), lists.starts[part.first]
    asked = np.flatnonzero((probes >= part.first) & (probes < part.stop))
    asked = asked[np.argsort(probes.ravel()[asked], kind="stable")]
    present, first = np.unique(probes.ravel()[asked], return_index=True)
    for number, asking in zip(present, np.split(asked, first[1:]), strict=True):
        query, slot = np.divmod(asking, probes.shape[1])
        start, stop = lists.starts[number : number + 2]
        places = query * products.shape[1] + begins[query, slot]
        likeness = queries[query] @ part.x[start - origin : stop - origin].T
        if pairs is not None:
            likeness *= pairs.of(own[query], lists.rows[start:stop])
        length = likeness.shape[1]
        runs = as_strided(flat, (max(flat.size - length, 0) + 1, length), 2 * flat.strides)
        runs[places] = likeness  # each run lies in its own place of its own row


def _leave_out_own(
    places: Index, own: Index, lists: Lists, part: Part, begins: Index, products: Singles
) -> None:
    """Set the products of these rows with themselves to -inf, where their lists are in the part."""
    number = np.searchsorted(lists.starts, places, side="right") - 1
    mine = np.flatnonzero((number >= part.first) & (number < part.stop))
    places, number = places[mine], number[mine]
    slot = (lists.probes[own[mine]] == number[:, None]).argmax(axis=1)
    products[mine, begins[mine, slot] + places - lists.starts[number]] = -np.inf


def _places(lists: Lists, own: Index, begins: Index, columns: Index) -> Index:
    """Places in the lists of what stands in these columns of the products; of others, any."""
    ends = begins[:, 1:]
    before = np.cumsum(ends[:, -1]) - ends[:, -1]
    inside = np.clip(columns, 0, ends[:, -1:] - 1)  # behind all lists: similar -inf
    shift = lists.starts[lists.probes[own].ravel()] - begins[:, :-1].ravel()
    of_column = np.repeat(shift, np.diff(begins, axis=1).ravel())
    places: Index = of_column[before[:, None] + inside] + inside
    return places
