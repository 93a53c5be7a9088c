"""Run a score strategy over all candidates: block by block, on all threads, in bounded memory."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from math import prod
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mmselect import engine
from mmselect.pool.reading import Column
from mmselect.request import Request
from mmselect.strategies.record import Columns, Progress

TASK_BLOCKS = 2
"""Compute blocks that a thread takes at once, so that handing over costs little."""


class Task(NamedTuple):
    """A block of rows that one thread scores.

    Attributes
    ----------
    start, stop : int
        The block.
    rows : integer array
        The candidates in it.
    loaded : dict of path to array
        Candidates' rows of the datasets that only one thread may read.
    """

    start: int
    stop: int
    rows: NDArray[np.intp]
    loaded: dict[str, NDArray[Any]]


def compute_scores(request: Request, progress: Progress | None = None) -> Columns:
    """Run a score strategy over all candidates, block by block, on all threads."""
    columns: Columns = {}
    done = 0
    with engine.blas_threads(1):
        results = engine.map_ordered(_score_block(request), _tasks(request), request.threads)
        for found in results:
            rows = len(found["score"])
            for name, values in found.items():
                if name not in columns:
                    columns[name] = np.empty(len(request.candidates), values.dtype)
                columns[name][done : done + rows] = values
            done += rows
            if progress:
                progress(done, len(request.candidates))
    if not columns:  # no candidate at all: one made-up row tells the names and types of the columns
        made_up = {**request.constants, **_zeros(request)}
        found = request.strategy.function(made_up, request.parameters)
        columns = {name: np.asarray(values)[:0] for name, values in found.items()}
    if len(request.candidates) > 1 and request.pool.sizes.get("c") == 1:
        request.warnings.append("one class only: all scores are equal")
    return columns


def _score_block(request: Request) -> Callable[[Task], Columns]:
    """Make the function that scores the candidates of one block."""
    constants = request.constants
    plain = {path: column for path, column in request.columns.items() if column.plain}
    buffers = threading.local()  # each thread reads into the same memory again and again

    def run(task: Task) -> Columns:
        arrays = {**constants, **task.loaded}
        for path, column in plain.items():
            arrays[path] = _read(column, task, buffers.__dict__)
        with request.pool.located(task.rows):
            columns: Columns = request.strategy.function(arrays, request.parameters)
        return {name: np.array(values) for name, values in columns.items()}

    return run


def _read(column: Column, task: Task, buffers: dict[str, NDArray[Any]]) -> NDArray[Any]:
    """Read the candidates' rows of a block: the block in one piece, unless few are wanted."""
    size = task.stop - task.start
    if 2 * len(task.rows) < size:
        return column.take(task.rows)
    if column.path not in buffers or len(buffers[column.path]) < size:
        buffers[column.path] = np.empty((size, *column.shape[1:]), column.dtype)
    block = column.read(task.start, task.stop, buffers[column.path][:size])
    return block if len(task.rows) == size else block[task.rows - task.start]


def _tasks(request: Request) -> Iterator[Task]:
    """Cut the pool into blocks that hold candidates, and load what one thread has to read."""
    pool, candidates = request.pool, request.candidates
    columns, step = request.columns, task_rows(request)
    locked = {path: column for path, column in columns.items() if not column.plain}
    row = sum(column.row_bytes for column in columns.values())
    # two such windows are alive at once: one being computed on, one being read
    window = max(request.memory // (2 * max(row, 1)) // step, 1) * step
    for start, stop in engine.ranges(0, pool.n, window):
        for column in columns.values():
            column.announce(stop if start else 0, stop + window)
        loaded = {path: column.read(start, stop) for path, column in locked.items()}
        for a, b in engine.ranges(start, stop, step):
            low, high = np.searchsorted(candidates, [a, b])
            if low < high:
                rows = candidates[low:high]
                yield Task(a, b, rows, {p: block[rows - start] for p, block in loaded.items()})


def task_rows(request: Request) -> int:
    """Rows of a task: they follow from the shapes alone."""
    widest = max((prod(column.shape[1:]) for column in request.columns.values()), default=1)
    return TASK_BLOCKS * engine.compute_rows(widest)


def _zeros(request: Request) -> dict[str, NDArray[Any]]:
    """One row of zeros of every dataset that the strategy reads."""
    columns = request.columns.items()
    return {path: np.zeros((1, *column.shape[1:]), column.dtype) for path, column in columns}
