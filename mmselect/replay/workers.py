"""Who does the tasks of a replay: this process, others, a cluster, or threads that wait."""

from __future__ import annotations

import contextlib
import itertools
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

from mmselect.engine import Progress
from mmselect.workers import mapper_of


def run_tasks(
    function: Callable[..., Any],
    tasks: Sequence[tuple[Any, ...]],
    jobs: int,
    engine: str = "processes",
) -> Iterator[tuple[int, Any]]:
    """Call a function with each tuple of arguments.

    Parameters
    ----------
    function : callable
        What it holds, such as the first arguments of a `functools.partial`, is sent to each worker
        of a cluster once.
    tasks : sequence of tuple
        Arguments of each call.
    jobs : int
        Processes, or workers of a cluster that is made here; with 1 process everything runs in this
        one.
    engine : str
        Who does it; see `mmselect.workers.mapper_of`.

    Yields
    ------
    int, object
        Position of a task and what its call returned, as calls finish.
    """
    alone = jobs == 1 and engine == "processes"
    mapper = mapper_of("threads" if alone else engine, jobs, ordered=False) or map
    yield from mapper(partial(_numbered, function), enumerate(tasks))


def _numbered(function: Callable[..., Any], task: tuple[int, tuple[Any, ...]]) -> tuple[int, Any]:
    return task[0], function(*task[1])


def run_in_threads(
    function: Callable[..., Any], tasks: Sequence[tuple[Any, ...]], jobs: int
) -> Iterator[tuple[int, Any]]:
    """Do the same in threads of this process: for tasks that wait for commands."""
    if jobs == 1:
        yield from run_tasks(function, tasks, 1)
        return
    todo = iter([*enumerate(tasks)])  # next() of a list's iterator is one step: nothing is lost
    done: queue.SimpleQueue[tuple[int, Any, BaseException | None]] = queue.SimpleQueue()

    def work() -> None:
        for i, task in todo:
            try:
                done.put((i, function(*task), None))
            except BaseException as error:
                done.put((i, None, error))
                return

    for _ in range(min(jobs, len(tasks))):
        threading.Thread(target=work, daemon=True).start()
    for _ in tasks:
        while True:
            with contextlib.suppress(queue.Empty):
                i, result, error = done.get(timeout=1)  # Windows hears Ctrl-C only in between
                break
        if error is not None:
            raise error
        yield i, result


def counter(progress: Progress | None, total: int) -> Callable[[], None]:
    """Make a function that reports, each time it is called, that one more is done."""
    counted = itertools.count(1)
    if progress is None or not total:
        return lambda: None
    progress(0, total)
    return lambda: progress(next(counted), total)
