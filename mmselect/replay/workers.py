"""Worker processes of a replay, which end with the process that started them."""

from __future__ import annotations

import contextlib
import itertools
import os
import queue
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from joblib import Parallel, delayed

from mmselect.engine import Progress
from mmselect.workers import end_with


def run_tasks(
    function: Callable[..., Any], tasks: Sequence[tuple[Any, ...]], jobs: int
) -> Iterator[tuple[int, Any]]:
    """Call a function with each tuple of arguments.

    Parameters
    ----------
    function : callable
    tasks : sequence of tuple
        Arguments of each call.
    jobs : int
        Processes; with 1 everything runs in this one.

    Yields
    ------
    int, object
        Position of a task and what its call returned, as calls finish.
    """
    if jobs == 1:
        for i, task in enumerate(tasks):
            yield i, function(*task)
        return
    calls = (delayed(_in_worker)(os.getpid(), i, function, task) for i, task in enumerate(tasks))
    yield from Parallel(n_jobs=jobs, return_as="generator_unordered")(calls)


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


def _in_worker(
    parent: int, i: int, function: Callable[..., Any], task: tuple[Any, ...]
) -> tuple[int, Any]:
    end_with(parent)
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles Ctrl-C and ends us
    return i, function(*task)


def counter(progress: Progress | None, total: int) -> Callable[[], None]:
    """Make a function that reports, each time it is called, that one more is done."""
    counted = itertools.count(1)
    if progress is None or not total:
        return lambda: None
    progress(0, total)
    return lambda: progress(next(counted), total)
