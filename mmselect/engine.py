"""Row blocks, threads and the memory budget.

Two kinds of block are kept apart. A **compute block** has a size that follows from the shapes
alone, so that numbers do not depend on the machine; threads take whole compute blocks, and BLAS
runs on one thread inside each. A **read block** is how much is read from a file at a time;
``--memory`` sets it, and it is a whole number of compute blocks, so that it cannot change a result
either.
"""

from __future__ import annotations

import os
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from typing import TypeVar

from mmselect.errors import UsageError

Result = TypeVar("Result")
Task = TypeVar("Task")

COMPUTE_BLOCK_ELEMENTS = 1 << 17
"""Elements of one matrix in a compute block: half a megabyte in float32, so it stays in cache."""

DEFAULT_MEMORY = 256 << 20
"""Bytes read from files at a time where the user sets no ``--memory``."""

_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}


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


def thread_count(threads: int | None = None) -> int:
    """How many threads to use: `threads`, or the processors this process may run on."""
    if threads is None:
        return (
            len(os.sched_getaffinity(0))
            if hasattr(os, "sched_getaffinity")
            else os.cpu_count() or 1
        )
    if threads < 1:
        raise UsageError(f"threads: expected at least 1, found {threads}")
    return threads


def parse_memory(text: str) -> int:
    """Bytes in an amount such as ``4GB``, ``512MiB`` or ``1e9``.

    Raises
    ------
    UsageError
        If the text is not an amount of at least one byte.

    Examples
    --------
    >>> parse_memory("4GB"), parse_memory("512MiB"), parse_memory("1.5k")
    (4000000000, 536870912, 1500)
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d*)?(?:e\d+)?)\s*([KMGT]?)(i?)B?\s*", text, re.IGNORECASE)
    if match:
        number, unit, binary = match.groups()
        factor = _UNITS[unit.upper()]
        if binary:
            factor = 1 << (10 * list(_UNITS).index(unit.upper()))
        if (size := int(float(number) * factor)) >= 1:
            return size
    raise UsageError(f"memory: expected an amount such as 4GB or 512MiB, found {text!r}")


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


def map_ordered(
    function: Callable[[Task], Result], tasks: Iterable[Task], threads: int
) -> Iterator[Result]:
    """Results of `function` over `tasks`, in task order, worked on by `threads` threads.

    Only a few tasks are under way at once, so a lazy `tasks` is read as it is needed. The first
    error in task order is raised, and nothing new is started after it; the same holds for Ctrl-C.

    Examples
    --------
    >>> list(map_ordered(lambda x: x * x, range(5), threads=2))
    [0, 1, 4, 9, 16]
    """
    if threads == 1:
        yield from map(function, tasks)
        return
    pending: deque[Future[Result]] = deque()
    executor = ThreadPoolExecutor(threads)
    try:
        for task in tasks:
            pending.append(executor.submit(function, task))
            if len(pending) > 2 * threads:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        executor.shutdown(wait=True, cancel_futures=True)


def blas_threads(threads: int = 1) -> AbstractContextManager[object]:
    """Let BLAS use `threads` threads inside the ``with`` block (process-wide)."""
    from threadpoolctl import threadpool_limits

    context: AbstractContextManager[object] = threadpool_limits(threads, user_api="blas")
    return context
