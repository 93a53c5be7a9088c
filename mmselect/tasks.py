"""Tasks over rows: which rows each has, and how they are read.

Two kinds of block are kept apart. A **compute block** has a size that follows from the shapes
alone, so that numbers do not depend on the machine; a thread takes whole compute blocks. A **read
block** is how much is read from a file at a time; ``--memory`` sets it, and it is a whole number of
compute blocks.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from math import prod
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from mmselect.blas import blas_threads

if TYPE_CHECKING:  # the command line takes sizes from here, and NumPy is slow to load
    from mmselect.arrays import Array, Index, Rows

Result = TypeVar("Result")

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


def windows(
    sources: Sequence[Rows], rows: Index, step: int, memory: int
) -> Iterator[list[RowTask]]:
    """Tasks of one block; what only the calling thread may read is read ahead, by windows."""
    from mmselect.arrays import Pieces, concurrent, increasing

    if not len(rows):
        yield [RowTask(rows, [source[0:0] for source in sources])]
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
        yield [
            RowTask(rows[a:b], [x if x is None else x.take(a, b, stop) for x in pieces])
            for a, b in ranges(start, stop, step)
        ]


def keep_freed_memory() -> None:
    """Free a large block that was never touched.

    From then on glibc hands out blocks up to that size from memory that it has, in place of mapping
    each anew: paging in the scratch of every compute block took half the time of a pass for norms.
    """
    import numpy as np

    np.empty(30 << 20, np.uint8)  # glibc learns from blocks up to 32 MB


def _announce(sources: Sequence[Rows], rows: Index) -> None:
    """Tell sources that lie on disk which rows are read next, so that the disk is ahead of us."""
    from mmselect.arrays import dense

    if dense(rows):
        for source in sources:
            if announce := getattr(source, "announce", None):
                announce(int(rows[0]), int(rows[-1]) + 1)


def reader(
    function: Callable[[Index, list[Array]], Result], sources: Sequence[Rows | None], step: int
) -> Callable[[RowTask], Result]:
    """Make what does a task on any thread: each reads into the same memory again and again."""
    import numpy as np

    from mmselect.arrays import dense, take

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
        return function(task.rows, blocks)

    return run


class Job(NamedTuple):
    """What is done to every task by workers, and the sources that they open themselves."""

    function: Callable[[Index, list[Array]], Any]
    sources: list[Rows | None]
    step: int


class WorkTask(NamedTuple):
    """Some compute blocks for a worker: their rows, and those of sources that it cannot open."""

    rows: Index | slice
    loaded: list[Array | None]


def job_of(
    function: Callable[[Index, list[Array]], Any], sources: Sequence[Rows], step: int
) -> Job:
    """Make what workers are sent once: of sources in memory nothing."""
    return Job(function, [source if portable(source) else None for source in sources], step)


def portable(source: Rows) -> bool:
    """Whether another process can open `source` itself: it names files, and is sent as names."""
    return bool(getattr(source, "portable", False))


def work_tasks(sources: Sequence[Rows], rows: Index, step: int, memory: int) -> Iterator[WorkTask]:
    """Cut rows into tasks of whole blocks for workers; arrays in memory are cut too."""
    from mmselect.arrays import increasing, take

    width = sum(prod(source.shape[1:]) * source.dtype.itemsize for source in sources)
    size = max(min(SENT, memory) // max(width, 1) // step, 1) * step
    for start, stop in ranges(0, len(rows), size):
        part = rows[start:stop]
        loaded = [None if portable(source) else take(source, part) for source in sources]
        first, last = int(part[0]), int(part[-1])
        run = last - first + 1 == len(part) and increasing(part)
        yield WorkTask(slice(first, last + 1) if run else part, loaded)


def work(job: Job, task: WorkTask) -> tuple[list[Any], list[Index]]:
    """Do a task in any process: its results by block, and which rows each watch saw empty."""
    import numpy as np

    from mmselect.arrays import concurrent, take

    at = task.rows
    rows = np.arange(at.start, at.stop) if isinstance(at, slice) else at
    keep_freed_memory()
    with blas_threads():
        read = [
            block if source is None or concurrent(source) else take(source, rows)
            for source, block in zip(job.sources, task.loaded, strict=True)
        ]
        run = reader(job.function, job.sources, job.step)
        results = [
            run(RowTask(rows[a:b], [block if block is None else block[a:b] for block in read]))
            for a, b in ranges(0, len(rows), job.step)
        ]
    return results, [rows[watch.empty[rows]] for watch in _watches(job.sources)]


def note_seen(sources: Sequence[Rows], seen: Sequence[Index]) -> None:
    """Let the watches of this process know what those of a worker saw."""
    own = [source if portable(source) else None for source in sources]
    for watch, rows in zip(_watches(own), seen, strict=True):
        watch.empty[rows] = True


def _watches(sources: Sequence[Rows | None]) -> list[Any]:
    return [watch for source in sources for watch in getattr(source, "watches", ())]
