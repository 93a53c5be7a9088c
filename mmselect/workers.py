"""Workers beside the threads of this process: other processes here, or a cluster, by joblib.

Whatever backend joblib has can do the tasks of the engine: they name files, rows and a function of
this package, so all that workers need is the package and the same files under the same names.
"""

from __future__ import annotations

import atexit
import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from typing import Any

from mmselect.cache import Cache
from mmselect.engine import Engine, Progress, processors
from mmselect.errors import EngineError, needing
from mmselect.tasks import Mapper

POLL_SECONDS = 0.5

Function = Callable[[Any], Any]


def engine_of(ask: Any, progress: Progress | None = None) -> Engine:
    """Make the engine that was asked for, by the fields of :class:`mmselect.ask.Working`."""
    threads, folder = ask.threads or processors(), getattr(ask, "cache", None)
    kept = None if folder is None else Cache(Path(folder))
    return Engine(threads, ask.memory, mapper_of(ask.engine, threads), progress, kept)


def mapper_of(engine: str, threads: int) -> Mapper | None:
    """Make what does tasks in order, by the name of an engine; None: threads of this process.

    Raises
    ------
    NeedsError
        If what the engine needs is not installed.
    EngineError
        If there is no scheduler where it should be.
    """
    kind, _, address = engine.partition("=")
    if kind == "threads":
        return None
    if kind == "processes":
        return partial(_map, partial(_processes, threads))
    return partial(_map, partial({"dask": _dask, "ray": _ray}[kind], address, threads))


def _map(
    backend: Callable[[Function], dict[str, Any]], function: Function, tasks: Iterable[Any]
) -> Iterator[Any]:
    """Results of tasks in order, by one of joblib's backends."""
    from joblib import Parallel, delayed, parallel_config

    with _told_clearly():
        how = backend(function)
        call = delayed(how.pop("call", _call))
        form = how.pop("return_as", "generator")
        with parallel_config(**how):
            work = Parallel(return_as=form, batch_size=1, mmap_mode="c")
        yield from work(call(function, task) for task in tasks)


def _call(function: Function, task: Any) -> Any:
    return function(task)


@contextmanager
def _told_clearly() -> Iterator[None]:
    """Turn what engines raise when workers are lost into one error; what tasks raise stays."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        kind = type(error)
        if kind.__module__.split(".")[0] in ("joblib", "distributed", "ray", "concurrent"):
            said = str(error).partition("\n")[0].partition(". ")[0]
            raise EngineError(f"a worker was lost: {kind.__name__}: {said}") from error
        raise


def _processes(threads: int, _function: Function) -> dict[str, Any]:
    return {"backend": "loky", "n_jobs": threads, "call": partial(_call_of, os.getpid())}


def _call_of(parent: int, function: Function, task: Any) -> Any:
    """Do a task in a process that was started here, and that ends with the one that did so."""
    end_with(parent)
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles Ctrl-C and ends us
    return function(task)


def _dask(address: str, threads: int, function: Function) -> dict[str, Any]:
    """Ways of dask; what all tasks share is sent to every worker once."""
    client = _dask_client(address, threads)
    return {"backend": "dask", "n_jobs": -1, "client": client, "scatter": [function]}


@cache
def _dask_client(address: str, threads: int) -> Any:
    """Connect to a scheduler, by its address or its file; without one, start workers here."""
    with needing("--engine dask", "distributed", "dask"):
        import dask
        from distributed import Client, LocalCluster
    if not address:
        local = {"n_workers": threads, "threads_per_worker": 1, "dashboard_address": ":0"}
        with dask.config.set({BEFORE: {**dask.config.get(BEFORE), **KEEP_FREED}}):
            cluster = LocalCluster(**local, silence_logs=logging.CRITICAL)
        return _left_open(Client(_left_open(cluster)))
    named = "scheduler_file" if Path(address).exists() else "address"
    try:
        return _left_open(Client(**{named: address}, timeout=CONNECT))
    except (OSError, TimeoutError, ValueError) as error:
        found = str(error).split("\n")[0][:200]
        raise EngineError(f"dask: expected a scheduler at {address}, found none: {found}") from None


_closers: list[Callable[[], Any]] = []


def _left_open(made: Any) -> Any:
    _closers.append(made.close)
    return made


@atexit.register
def disconnect() -> None:
    """Leave all clusters, and end workers that were started here for one."""
    _dask_client.cache_clear()
    while _closers:
        _closers.pop()()


BEFORE = "distributed.nanny.pre-spawn-environ"
"""Where dask keeps the environment with which it starts workers."""

KEEP_FREED = {"MALLOC_TRIM_THRESHOLD_": str(256 << 20), "MALLOC_MMAP_THRESHOLD_": str(32 << 20)}
"""Lets workers use freed memory again: dask has them give it back, and scratch is paged in anew."""

CONNECT = 30
"""Seconds to wait for a scheduler."""


def _ray(address: str, _threads: int, _function: Function) -> dict[str, Any]:
    """Ways of ray, whose backend yields no results before all are there."""
    with needing("--engine ray", "ray", "ray"):
        import ray
        from ray.util.joblib import register_ray
    if not ray.is_initialized():
        ray.init(address=address or None, log_to_driver=False)
    register_ray()
    return {"backend": "ray", "n_jobs": -1, "return_as": "list"}


@cache
def end_with(parent: int) -> None:
    """Let this process end when its parent does, however that one ends: a thread looks for it.

    Linux could send a signal (``PR_SET_PDEATHSIG``), but would send it when the *thread* that
    started this process ends, and the workers outlive that one for the next call.
    """
    threading.Thread(target=_watch, args=(parent,), daemon=True).start()


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(POLL_SECONDS)
    os._exit(1)
