"""The only loop over rows: blocks, threads or whoever else does the work, and the memory budget.

:func:`map_rows` cuts rows into compute blocks, has them worked on, and yields results in order::

    engine = Engine(threads=8, memory=10**9)
    results = map_rows(function, [logits, features], rows, step=compute_rows(width), engine=engine)

Two kinds of block are kept apart. A **compute block** has a size that follows from the shapes
alone, so that numbers do not depend on the machine; a thread takes whole compute blocks, and BLAS
runs on one thread inside each. A **read block** is how much is read from a file at a time;
``--memory`` sets it, and it is a whole number of compute blocks. So neither threads, memory, shards
nor an injected mapper can change a bit.
"""

from __future__ import annotations

import os
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache, partial
from itertools import chain
from math import prod
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias, TypeVar

from mmselect.errors import UsageError

if TYPE_CHECKING:  # the command line takes sizes and defaults from here, and NumPy is slow to load
    from mmselect.arrays import Array, Index, Rows

Progress: TypeAlias = Callable[[int, int], None]
"""Told ``(done, total)`` now and then."""

Mapper: TypeAlias = Callable[[Callable[[Any], Any], Iterable[Any]], Iterable[Any]]
"""Results of a function over tasks, in their order: ``map``, or ``ProcessPoolExecutor(8).map``."""

Result = TypeVar("Result")
Task = TypeVar("Task")

COMPUTE_BLOCK_ELEMENTS = 1 << 17
"""Elements of one matrix in a compute block: half a megabyte in float32, so it stays in cache."""

DEFAULT_MEMORY = 256 << 20
"""Bytes read from files at a time where the user sets no ``--memory``."""

AHEAD = 32 << 20
"""Bytes that the system is told of before they are read, where no ``--memory`` is needed."""

WINDOW = 8 << 20
"""Bytes that one thread reads for all at a time, and the rest of the chunk that they end in."""


def silent(_done: int, _total: int) -> None:
    """Stand in for a progress report that nobody asked for."""


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


def processors() -> int:
    """How many processors this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def format_bytes(size: float) -> str:
    """Bytes for people, in decimal units.

    Examples
    --------
    >>> format_bytes(999), format_bytes(1_880_000_000)
    ('999 B', '1.88 GB')
    """
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} B" if unit == "B" else f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} TB"


@dataclass(frozen=True)
class Engine:
    """Who does the work, and with how much; nothing in it changes a result.

    Parameters
    ----------
    threads : int
        Threads of this process; default: the processors it may run on.
    memory : int
        Bytes to read at a time, where one thread reads for all.
    mapper : callable, optional
        Does the tasks of :func:`map_rows` in place of threads, in processes or on a cluster:
        ``(function, tasks) -> results in order``. It is called with as many tasks as `memory`
        holds; function and tasks can be pickled if what was given to :func:`map_rows` can.

    Raises
    ------
    UsageError
        If threads or memory is not positive.

    Examples
    --------
    >>> list(Engine(threads=2).map(lambda x: x * x, range(5)))
    [0, 1, 4, 9, 16]
    """

    threads: int = field(default_factory=processors)
    memory: int = DEFAULT_MEMORY
    mapper: Mapper | None = None

    def __post_init__(self) -> None:
        if self.threads < 1:
            raise UsageError(f"threads: expected at least 1, found {self.threads}")
        if self.memory < 1:
            raise UsageError(f"memory: expected at least 1 byte, found {self.memory}")

    def map(self, function: Callable[[Task], Result], tasks: Iterable[Task]) -> Iterator[Result]:
        """Results over tasks that share this process's memory, in order: always its own threads.

        Only a few tasks are under way at once, so a lazy `tasks` is read as it is needed. The first
        error in task order is raised, and nothing new is started after it; the same holds for
        Ctrl-C.
        """
        with blas_threads():
            if self.threads == 1:
                yield from map(function, tasks)
                return
            pending: deque[Future[Result]] = deque()
            executor = ThreadPoolExecutor(self.threads)
            try:
                for task in tasks:
                    pending.append(executor.submit(function, task))
                    if len(pending) > 2 * self.threads:
                        yield pending.popleft().result()
                while pending:
                    yield pending.popleft().result()
            finally:
                executor.shutdown(wait=True, cancel_futures=True)


def engine_of(ask: Any) -> Engine:
    """Make the engine that was asked for, by the fields of :class:`mmselect.ask.Working`."""
    return Engine(ask.threads or processors(), ask.memory)


SERIAL = Engine(threads=1)
"""One thread and the default memory: what the core does where it is told nothing."""


class RowTask(NamedTuple):
    """A compute block: its rows, and what was read for it; None: whoever does it reads."""

    rows: Index
    loaded: list[Array | None]


def map_rows(
    function: Callable[[Index, list[Array]], Result],
    sources: Sequence[Rows],
    rows: Index,
    *,
    step: int,
    engine: Engine = SERIAL,
) -> Iterator[Result]:
    """Results of `function` over compute blocks of `step` rows, in order.

    Parameters
    ----------
    function : callable
        Takes the row numbers of a block and the block of each source, which it must neither keep
        nor return a view of: a thread reads its next block into the same memory.
    sources : sequence of Rows
        Matrices over the same samples. Each thread reads its own block of those that any thread
        may read (:func:`~mmselect.arrays.concurrent`); the calling thread reads the others.
    rows : (n,) ndarray of int
        Rows to visit, in this order. With none, the function is called once with empty blocks, so
        that its results still have their shapes.
    step : int
        Rows of a compute block; blocks are cut by position in `rows`.
    engine : Engine
        Who does it. With a mapper the calling thread reads everything.

    Yields
    ------
    Result
        One for each compute block.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.arange(5.0)
    >>> list(map_rows(lambda rows, blocks: float(blocks[0].sum()), [x], np.arange(5), step=2))
    [1.0, 5.0, 4.0]
    """
    from mmselect.arrays import concurrent

    _keep_freed_memory()
    mapper = engine.mapper
    own = [mapper is None and concurrent(source) for source in sources]
    windows = _windows(sources, rows, step, own, engine)
    if mapper is None:
        yield from engine.map(_reader(function, sources, step), chain.from_iterable(windows))
        return
    with blas_threads():
        for window in windows:
            yield from mapper(partial(_apply, function), window)


def join_rows(
    results: Iterable[tuple[Array, ...]], n: int, progress: Progress | None = None
) -> tuple[Array, ...]:
    """Put the results of :func:`map_rows` together, where each is a tuple of arrays over the rows.

    Parameters
    ----------
    results : iterable of tuple of ndarray
        At least one, as :func:`map_rows` makes them.
    n : int
        Rows in all.
    progress : callable, optional
        Told ``(rows done, n)``.

    Returns
    -------
    tuple of ndarray

    Examples
    --------
    >>> import numpy as np
    >>> join_rows([(np.ones(2), np.arange(2)), (np.zeros(1), np.arange(1))], 3)
    (array([1., 1., 0.]), array([0, 1, 0]))
    """
    import numpy as np

    joined: tuple[Array, ...] = ()
    done = 0
    for parts in results:
        joined = joined or tuple(np.empty((n, *part.shape[1:]), part.dtype) for part in parts)
        stop = done + len(parts[0])
        for whole, part in zip(joined, parts, strict=True):
            whole[done:stop] = part
        done = stop
        if progress and n:
            progress(done, n)
    return joined


def _windows(
    sources: Sequence[Rows], rows: Index, step: int, own: Sequence[bool], engine: Engine
) -> Iterator[list[RowTask]]:
    """Tasks whose common sources were read ahead, a window of rows at a time."""
    from mmselect.arrays import Pieces, increasing

    if not len(rows):
        yield [RowTask(rows, [source[0:0] for source in sources])]
        return
    read = [source for source, alone in zip(sources, own, strict=True) if not alone]
    width = sum(prod(source.shape[1:]) * source.dtype.itemsize for source in read or sources)
    most = max(engine.memory // 2 // max(width, 1), 1)  # rows, as the next ones are read meanwhile
    in_order = bool(read) and increasing(rows)
    few = in_order and engine.mapper is None
    size = min(WINDOW if few else engine.memory, engine.memory // 2) if read else AHEAD
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


def _keep_freed_memory() -> None:
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


def _reader(
    function: Callable[[Index, list[Array]], Result], sources: Sequence[Rows], step: int
) -> Callable[[RowTask], Result]:
    """Make what does a task on any thread: each reads into the same memory again and again."""
    import numpy as np

    from mmselect.arrays import dense, take

    kept = threading.local()

    def room(source: Rows) -> Array | None:
        """Memory for a source that can read into it: twice a block, as gaps are read too."""
        shape = (2 * step, *source.shape[1:])
        return np.empty(shape, source.dtype) if hasattr(source, "read") else None

    def run(task: RowTask) -> Result:
        if not kept.__dict__:
            kept.rooms = [room(source) for source in sources]
        close = dense(task.rows)
        blocks = [
            take(source, task.rows, room, close) if block is None else block
            for source, room, block in zip(sources, kept.rooms, task.loaded, strict=True)
        ]
        return function(task.rows, blocks)

    return run


def _apply(function: Callable[[Index, list[Array]], Result], task: RowTask) -> Result:
    """Do a task wherever a mapper has sent it; everything it needs has been read."""
    with blas_threads():
        return function(task.rows, [block for block in task.loaded if block is not None])


@lru_cache(maxsize=1)
def _thread_pools(_modules: int) -> Any:
    """Find the libraries with threads of their own: 3 ms, so only when modules were imported."""
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()


class _SingleThreaded:
    """Counts who needs BLAS on one thread."""

    lock = threading.Lock()
    users = 0
    limits: Any = None


@contextmanager
def blas_threads(threads: int = 1) -> Iterator[None]:
    """Let BLAS use `threads` threads inside the ``with`` block (process-wide); 1 may be nested."""
    libraries = _thread_pools(len(sys.modules))
    if threads != 1:
        with libraries.limit(limits=threads, user_api="blas"):
            yield
        return
    state = _SingleThreaded
    with state.lock:
        if not state.users:
            state.limits = libraries.limit(limits=1, user_api="blas")
        state.users += 1
    try:
        yield
    finally:
        with state.lock:
            state.users -= 1
            if not state.users:
                state.limits.restore_original_limits()
