"""The only loop over rows: blocks, threads or whoever else does the work, and the memory budget.

:func:`map_rows` cuts rows into compute blocks, has them worked on, and yields results in order::

    engine = Engine(threads=8, memory=10**9)
    results = map_rows(function, [logits, features], rows, step=compute_rows(width), engine=engine)

Compute blocks have a size that follows from the shapes alone (:mod:`mmselect.tasks`), whoever does
the work does whole ones, and BLAS runs on one thread inside each. So neither threads, memory,
shards nor workers on other machines (:mod:`mmselect.workers`) can change a bit.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from operator import length_hint
from typing import Any, TypeVar

import numpy as np

from mmselect.arrays import Array, Index, Rows
from mmselect.blas import blas_threads as blas_threads
from mmselect.cache import Cache
from mmselect.errors import UsageError
from mmselect.progress import Progress as Progress
from mmselect.progress import phase
from mmselect.progress import silent as silent
from mmselect.tasks import Function, Mapper, alone, by_threads, by_workers
from mmselect.tasks import compute_rows as compute_rows
from mmselect.tasks import ranges as ranges

Result = TypeVar("Result")
Task = TypeVar("Task")

DEFAULT_MEMORY = 256 << 20
"""Bytes read from files at a time where the user sets no ``--memory``."""


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
        Does the tasks of :func:`map_rows` in place of threads, in processes or on other machines:
        ``(function, tasks) -> results in order``. Function and tasks can be pickled if what was
        given to :func:`map_rows` can. Workers open files themselves.
    progress : callable, optional
        Told of each phase of the work.
    cache : Cache, optional
        Keeps what later runs can use.
    pool : Executor, optional
        Its threads do the tasks; see :meth:`keeping_threads`.

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
    progress: Progress | None = None
    cache: Cache | None = None
    pool: Executor | None = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        if self.threads < 1:
            raise UsageError(f"threads: expected at least 1, found {self.threads}")
        if self.memory < 1:
            raise UsageError(f"memory: expected at least 1 byte, found {self.memory}")

    def __reduce__(self) -> tuple[Any, ...]:
        """Send to workers an engine of one thread: who is told, and who works, stays here."""
        return Engine, (1, self.memory)

    @contextmanager
    def keeping_threads(self) -> Iterator[Engine]:
        """Engine whose threads stay from one map to the next: to start them takes 0.2 ms.

        Examples
        --------
        >>> with Engine(threads=2).keeping_threads() as engine:
        ...     [sum(engine.map(abs, range(n))) for n in (3, 4)]
        [3, 6]
        """
        with ThreadPoolExecutor(max(self.threads - 1, 1)) as pool:
            yield replace(self, pool=pool)

    def phase(self, what: str) -> AbstractContextManager[Progress]:
        """Report of one phase of the work, which is what the ``with`` block does."""
        return phase(self.progress, what)

    def map(
        self,
        function: Callable[[Task], Result],
        tasks: Iterable[Task],
        what: str = "",
        sent: bool = False,
    ) -> Iterator[Result]:
        """Results over tasks that share this process's memory, in order, by its own threads.

        With `sent`, a mapper does them if there is one: each of its workers is sent the function
        once, with all that it holds, so that this pays where tasks are far more work than that.

        Only a few tasks are under way at once, so a lazy `tasks` is read as it is needed. The first
        error in task order is raised, and nothing new is started after it; the same holds for
        Ctrl-C. With `what`, tasks are counted first, and progress is told how many are done.
        """
        do: Mapper = self._map
        if sent and self.mapper is not None:
            do, function = self.mapper, partial(alone, function)
        if what:
            known = list(tasks)
            with self.phase(what) as report:
                for done, result in enumerate(do(function, known), 1):
                    yield result
                    report(done, len(known))
        else:
            yield from do(function, tasks)

    def _map(self, function: Callable[[Task], Result], tasks: Iterable[Task]) -> Iterator[Result]:
        function = np.errstate(invalid="ignore")(function)  # signalling nan is told of as any other
        with blas_threads():
            if self.threads == 1 or length_hint(tasks, 2) < 2:
                yield from map(function, tasks)
                return
            pending: deque[tuple[Task, Future[Result]]] = deque()
            pool = self.pool or ThreadPoolExecutor(self.threads - 1)
            try:
                for task in tasks:
                    pending.append((task, pool.submit(function, task)))
                    if len(pending) > 2 * self.threads:
                        yield _first(function, pending)
                while pending:
                    yield _first(function, pending)
            finally:
                wait([future for _, future in pending if not future.cancel()])
                if pool is not self.pool:
                    pool.shutdown()


def _first(
    function: Callable[[Task], Result], pending: deque[tuple[Task, Future[Result]]]
) -> Result:
    """Take the first task's result; until it is there, do here what no thread has begun.

    One that only waits is no loss where cores are free, but the system tends to put threads that it
    wakes on the core that they were woken from: two took turns there for milliseconds.
    """
    for place, (task, future) in enumerate(pending):
        if pending[0][1].done():
            break
        if future.cancel():
            own: Future[Result] = Future()
            try:
                own.set_result(function(task))
            except Exception as error:  # raised when it is this task's turn
                own.set_exception(error)
            pending[place] = task, own
    return pending.popleft()[1].result()


SERIAL = Engine(threads=1)
"""One thread and the default memory: what the core does where it is told nothing."""


def map_rows(
    function: Function[Result],
    sources: Sequence[Rows],
    rows: Index,
    *,
    step: int,
    engine: Engine = SERIAL,
    what: str = "reading rows",
) -> Iterator[Result]:
    """Results of `function` over compute blocks of `step` rows, in order.

    Parameters
    ----------
    function : callable
        Takes the row numbers of a block and the block of each source, which it must neither keep
        nor return a view of: a thread reads its next block into the same memory.
    sources : sequence of Rows
        Matrices over the same samples. Each thread reads its own block of those that any thread
        may read (:func:`~mmselect.tasks.concurrent`); the calling thread reads the others.
    rows : (n,) ndarray of int
        Rows to visit, in this order. With none, the function is called once with empty blocks, so
        that its results still have their shapes.
    step : int
        Rows of a compute block; blocks are cut by position in `rows`.
    engine : Engine
        Who does it. Workers of a mapper open what lies in files themselves
        (:func:`~mmselect.tasks.portable`), and get rows of arrays in memory.
    what : str
        What progress is told that is done.

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
    asked = (function, sources, rows, step, engine.memory)
    if engine.mapper is None or not len(rows):
        results = engine.map(*by_threads(*asked))
    else:
        results = by_workers(engine.mapper, *asked)
    with engine.phase(what) as report:
        for done, result in enumerate(results, 1):
            yield result
            report(min(done * step, len(rows)), len(rows))


def join_rows(results: Iterable[tuple[Array, ...]], n: int) -> tuple[Array, ...]:
    """Put the results of :func:`map_rows` together, where each is a tuple of arrays over the rows.

    Parameters
    ----------
    results : iterable of tuple of ndarray
        At least one, as :func:`map_rows` makes them.
    n : int
        Rows in all.

    Returns
    -------
    tuple of ndarray

    Examples
    --------
    >>> import numpy as np
    >>> join_rows([(np.ones(2), np.arange(2)), (np.zeros(1), np.arange(1))], 3)
    (array([1., 1., 0.]), array([0, 1, 0]))
    """
    joined: tuple[Array, ...] = ()
    done = 0
    for parts in results:
        joined = joined or tuple(np.empty((n, *part.shape[1:]), part.dtype) for part in parts)
        stop = done + len(parts[0])
        for whole, part in zip(joined, parts, strict=True):
            whole[done:stop] = part
        done = stop
    return joined
