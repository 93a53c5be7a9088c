"""Tasks over rows: which rows each has, and how they are read.

Two kinds of block are kept apart. A **compute block** has a size that follows from the shapes
alone, so that numbers do not depend on the machine; a thread takes whole compute blocks. A **read
block** is how much is read from a file at a time; ``--memory`` sets it, and it is a whole number of
compute blocks.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from math import prod
from typing import Any, NamedTuple, TypeAlias, TypeVar

import numpy as np

from mmselect.arrays import Array, Index, Rows
from mmselect.blas import blas_threads

Result = TypeVar("Result")

Function: TypeAlias = Callable[[Index, list[Array]], Result]
"""Takes the row numbers of a compute block, and the block of each source."""

Mapper: TypeAlias = Callable[[Callable[[Any], Any], Iterable[Any]], Iterable[Any]]
"""Results of a function over tasks, in their order, such as ``map``; tasks are taken as needed."""

COMPUTE_BLOCK_ELEMENTS = 1 << 17
"""Elements of one matrix in a compute block: half a megabyte in float32, so it stays in cache."""

AHEAD = 32 << 20
"""Bytes that the system is told of before they are read, where no ``--memory`` is needed."""

WINDOW = 8 << 20
"""Bytes that one thread reads for all at a time, and the rest of the chunk that they end in."""

SENT = 32 << 20
"""Bytes that a worker reads for one task: some 20 ms of work, so that sending it costs little."""


def compute_rows(width: int) -> int:
    """Rows of one compute block for rows of `width` numbers: a power of two from 16 to 8192.

    Examples
    --------
    >>> compute_rows(3129), compute_rows(10), compute_rows(10**6)
    (32, 8192, 16)
    """
    rows = max(COMPUTE_BLOCK_ELEMENTS // max(width, 1), 1)
    return min(max(1 << (rows.bit_length() - 1), 16), 8192)


def ranges(start: int, stop: int, step: int) -> Iterator[tuple[int, int]]:
    """Cut ``[start, stop)`` at the multiples of `step`.

    Examples
    --------
    >>> list(ranges(3, 10, 4))
    [(3, 4), (4, 8), (8, 10)]
    """
    while start < stop:
        end = min(stop, (start // step + 1) * step)
        yield start, end
        start = end


class RowTask(NamedTuple):
    """A compute block: its rows, and what was read for it; None: whoever does it reads."""

    rows: Index
    loaded: list[Array | None]


def by_threads(
    function: Function[Result], sources: Sequence[Rows], rows: Index, step: int, memory: int
) -> tuple[Callable[[RowTask], Result], Iterator[RowTask]]:
    """Cut rows into compute blocks for threads: what any of them does to one, and the blocks."""
    keep_freed_memory()
    return _reader(function, sources, step), _row_tasks(sources, rows, step, memory)


def _row_tasks(sources: Sequence[Rows], rows: Index, step: int, memory: int) -> Iterator[RowTask]:
    """Tasks of one block; what only the calling thread may read is read ahead, by windows."""
    if not len(rows):
        yield RowTask(rows, [source[0:0] for source in sources])
        return
    own = [concurrent(source) for source in sources]
    read = [source for source, alone in zip(sources, own, strict=True) if not alone]
    width = sum(prod(source.shape[1:]) * source.dtype.itemsize for source in read or sources)
    most = max(memory // 2 // max(width, 1), 1)  # rows, as the next ones are read meanwhile
    in_order = bool(read) and increasing(rows)
    size = min(WINDOW if in_order else memory, memory // 2) if read else AHEAD
    window = max(size // max(width, 1) // step, 1) * step
    pieces = [
        None if alone else Pieces(source, rows, most if in_order else 0)
        for source, alone in zip(sources, own, strict=True)
    ]
    for start, stop in ranges(0, len(rows), window):
        _announce(sources, rows[stop if start else 0 : stop + window])
        yield from [
            RowTask(rows[a:b], [x if x is None else x.take(a, b, stop) for x in pieces])
            for a, b in ranges(start, stop, step)
        ]


def keep_freed_memory() -> None:
    """Free a large block that was never touched.

    From then on glibc hands out blocks up to that size from memory that it has, in place of mapping
    each anew: paging in the scratch of every compute block took half the time of a pass for norms.
    """
    np.empty(30 << 20, np.uint8)  # glibc learns from blocks up to 32 MB


def _announce(sources: Sequence[Rows], rows: Index) -> None:
    """Tell sources that lie on disk which rows are read next, so that the disk is ahead of us."""
    if dense(rows):
        for source in sources:
            if announce := getattr(source, "announce", None):
                announce(int(rows[0]), int(rows[-1]) + 1)


def _reader(
    function: Function[Result], sources: Sequence[Rows | None], step: int
) -> Callable[[RowTask], Result]:
    """Make what does a task on any thread: each reads into the same memory again and again."""
    kept = threading.local()

    def room(source: Rows | None) -> Array | None:
        """Memory for a source that can read into it: twice a block, as gaps are read too."""
        if source is None or not hasattr(source, "read"):
            return None
        return np.empty((2 * step, *source.shape[1:]), source.dtype)

    def run(task: RowTask) -> Result:
        if not kept.__dict__:
            kept.rooms = [room(source) for source in sources]
        close = dense(task.rows)
        blocks = [
            take(source, task.rows, room, close) if block is None else block  # type: ignore[arg-type]
            for source, room, block in zip(sources, kept.rooms, task.loaded, strict=True)
        ]
        with np.errstate(invalid="ignore"):  # as in Engine.map, here for other processes, too
            return function(task.rows, blocks)

    return run


class WorkTask(NamedTuple):
    """Some compute blocks for a worker: their rows, and those of sources that it cannot open."""

    rows: Index | slice
    loaded: list[Array | None]


def by_workers(
    mapper: Mapper,
    function: Function[Result],
    sources: Sequence[Rows],
    rows: Index,
    step: int,
    memory: int,
) -> Iterator[Result]:
    """Let a mapper do tasks of several blocks; take over what workers saw on the way.

    Workers are sent once what all tasks share: of sources in memory nothing.
    """
    own = [source if portable(source) else None for source in sources]
    with blas_threads():
        for results, seen in mapper(
            partial(_work, function, own, step), _work_tasks(sources, rows, step, memory)
        ):
            for watch, empty in zip(_watches(own), seen, strict=True):
                watch.empty[empty] = True
            yield from results


def alone(function: Callable[[Any], Result], task: Any) -> Result:
    """Do a task that is no range of rows in any process, as one thread of the engine does it."""
    keep_freed_memory()
    with blas_threads(), np.errstate(invalid="ignore"):
        return function(task)


def portable(source: Rows) -> bool:
    """Whether another process can open `source` itself: it names files, and is sent as names."""
    return bool(getattr(source, "portable", False))


def _work_tasks(sources: Sequence[Rows], rows: Index, step: int, memory: int) -> Iterator[WorkTask]:
    """Cut rows into tasks of whole blocks for workers; arrays in memory are cut too."""
    width = sum(prod(source.shape[1:]) * source.dtype.itemsize for source in sources)
    size = max(min(SENT, memory) // max(width, 1) // step, 1) * step
    for start, stop in ranges(0, len(rows), size):
        part = rows[start:stop]
        loaded = [None if portable(source) else take(source, part) for source in sources]
        first, last = int(part[0]), int(part[-1])
        run = last - first + 1 == len(part) and increasing(part)
        yield WorkTask(slice(first, last + 1) if run else part, loaded)


def _work(
    function: Function[Result], sources: Sequence[Rows | None], step: int, task: WorkTask
) -> tuple[list[Result], list[Index]]:
    """Do a task in any process: its results by block, and which rows each watch saw empty."""
    at = task.rows
    rows = np.arange(at.start, at.stop) if isinstance(at, slice) else at
    keep_freed_memory()
    with blas_threads():
        read = [
            _ready(source, sent, rows) for source, sent in zip(sources, task.loaded, strict=True)
        ]
        run = _reader(function, sources, step)
        results = [
            run(RowTask(rows[a:b], [block if block is None else block[a:b] for block in read]))
            for a, b in ranges(0, len(rows), step)
        ]
    return results, [rows[watch.empty[rows]] for watch in _watches(sources)]


def _ready(source: Rows | None, sent: Array | None, rows: Index) -> Array | None:
    """Take what was sent, which dask lets lie anywhere, or read all; None: read block by block."""
    if source is None:
        return np.require(sent, requirements="A")
    return None if concurrent(source) else take(source, rows)


def _watches(sources: Sequence[Rows | None]) -> list[Any]:
    return [watch for source in sources for watch in getattr(source, "watches", ())]


def concurrent(source: Rows) -> bool:
    """Whether any thread may read `source`: arrays in memory, and sources whose `plain` is true.

    Examples
    --------
    >>> concurrent(np.zeros((2, 2)))
    True
    """
    return isinstance(source, np.ndarray) or bool(getattr(source, "plain", False))


def increasing(rows: Index) -> bool:
    """Whether each of `rows` is larger than the one before."""
    return bool(np.all(np.diff(rows) > 0))


def dense(rows: Index) -> bool:
    """Whether `rows` are increasing and make up half of their span or more.

    Examples
    --------
    >>> dense(np.array([3, 5, 6])), dense(np.array([3, 9]))
    (True, False)
    """
    return bool(len(rows)) and int(rows[-1] - rows[0]) < 2 * len(rows) and increasing(rows)


def take(
    source: Rows, rows: Index, memory: Array | None = None, close: bool | None = None
) -> Array:
    """Read `rows` of `source`: as one slice where most of it is wanted, else one by one.

    Parameters
    ----------
    source : Rows
    rows : (b,) ndarray of int
    memory : ndarray, optional
        Room for 2 b rows that a source with ``read(start, stop, out)`` may read into; the result
        is then valid until it is used again.
    close : bool, optional
        :func:`dense` of the rows, if the caller knows it.

    Returns
    -------
    (b, …) ndarray

    Examples
    --------
    >>> take(np.arange(5), np.array([1, 3])).tolist()
    [1, 3]
    """
    if not len(rows):
        return source[0:0]
    if not (dense(rows) if close is None else close):
        return source[rows]
    first, stop = int(rows[0]), int(rows[-1]) + 1
    read = getattr(source, "read", None)
    if memory is None or read is None:
        block = source[first:stop]
    else:
        block = read(first, stop, memory[: stop - first])
    return block if stop - first == len(rows) else block[rows - first]


def gather(sources: Sequence[Rows], rows: Index) -> list[Array]:
    """Read scattered `rows` of each source, in file order and each row once.

    Examples
    --------
    >>> gather([np.arange(5)], np.array([3, 1, 3]))
    [array([3, 1, 3])]
    """
    unique, inverse = np.unique(rows, return_inverse=True)
    return [take(source, unique)[inverse] for source in sources]


class Pieces:
    """Rows of a source, read a piece at a time, so that no chunk is decompressed twice.

    Parameters
    ----------
    source : Rows
        Where it is chunked, with ``chunk_end(row)``: the first row, from `row` on, that begins one.
    rows : (n,) ndarray of int
    most : int
        Rows up to which a piece may grow to the end of a chunk.
    """

    def __init__(self, source: Rows, rows: Index, most: int) -> None:
        self.source, self.rows, self.most = source, rows, most
        self.blocks: list[tuple[int, Array]] = []
        self.stop = 0

    def take(self, start: int, stop: int, ahead: int) -> Array:
        """Rows at positions from `start` to `stop`; where that needs a piece, one up to `ahead`."""
        if stop > self.stop:
            end, chunk_end = ahead, getattr(self.source, "chunk_end", None)
            if chunk_end and self.most:
                border = chunk_end(int(self.rows[ahead - 1]) + 1)
                whole = int(np.searchsorted(self.rows, border))
                end = max(ahead, min(whole, self.stop + self.most))
            self.blocks.append((self.stop, take(self.source, self.rows[self.stop : end])))
            self.stop = end
        self.blocks = [(first, x) for first, x in self.blocks if first + len(x) > start]
        found = [x[max(start - first, 0) : stop - first] for first, x in self.blocks]
        return found[0] if len(found) == 1 else np.concatenate(found)
