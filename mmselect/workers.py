"""Workers beside the threads of this process: other processes here, or a cluster, by joblib.

Whatever backend joblib has can do the tasks of the engine: they name files, rows and a function of
this package, so all that workers need is the package and the same files under the same names.
"""

from __future__ import annotations

import atexit
import logging
import os
import pickle
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mmselect.arrays import Array
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


def mapper_of(engine: str, threads: int, ordered: bool = True) -> Mapper | None:
    """Make what does tasks, by the name of an engine; None: threads of this process.

    Results are in order, or else as they come.

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
    workers = {"processes": _processes, "dask": _dask, "ray": _ray}[kind]
    return partial(_map, partial(workers, address, threads, ordered))


def _call(function: Function, task: Any) -> Any:
    return function(task)


class Workers(NamedTuple):
    """Who does tasks: one of joblib's backends.

    Attributes
    ----------
    parallel : joblib.Parallel
        Gives results as they come, in order if that was asked for.
    shared : object
        What is sent with each task: the function of all, or what a worker gets as that.
    call : callable
        What a worker does with both.
    at_once : int, optional
        Tasks to give at a time, where results come only when all are there.
    """

    parallel: Any
    shared: Any
    call: Callable[[Function, Any], Any] = _call
    at_once: int | None = None


def _map(
    open_workers: Callable[[Function], Workers], function: Function, tasks: Iterable[Any]
) -> Iterator[Any]:
    """Results of tasks."""
    from joblib import delayed

    with _told_clearly():
        parallel, shared, call, at_once = open_workers(function)
        for some in _batches(tasks, at_once):
            yield from parallel(delayed(call)(shared, task) for task in some)


def _batches(tasks: Iterable[Any], size: int | None) -> Iterator[Iterable[Any]]:
    """Cut tasks into lists of `size`, each made when it is asked for; None: all, as they come."""
    if size is None:
        yield tasks
        return
    todo = iter(tasks)
    while some := list(islice(todo, size)):
        yield some


def _parallel(form: str, **backend: Any) -> Any:
    from joblib import Parallel, parallel_config

    with parallel_config(**backend):
        return Parallel(return_as=form, batch_size=1, mmap_mode="c")


@contextmanager
def _told_clearly() -> Iterator[None]:
    """Turn what engines raise when workers are lost into one error; what tasks raise stays."""
    try:
        yield
    except Exception as error:
        kind = type(error)
        if kind.__module__.split(".")[0] in ("joblib", "distributed", "ray", "concurrent"):
            said = str(error).partition("\n")[0].partition(". ")[0]
            raise EngineError(f"a worker was lost: {kind.__name__}: {said}") from error
        raise


AS_THEY_COME = {True: "generator", False: "generator_unordered"}
"""What joblib calls results in order, or not."""


def _processes(_address: str, threads: int, ordered: bool, function: Function) -> Workers:
    parallel = _parallel(AS_THEY_COME[ordered], backend="loky", n_jobs=threads)
    return Workers(parallel, function, partial(_call_of, os.getpid()))


def _call_of(parent: int, function: Function, task: Any) -> Any:
    """Do a task in a process that was started here, and that ends with the one that did so.

    Where one process was asked for, joblib starts none.
    """
    if os.getpid() != parent:
        end_with(parent)
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles Ctrl-C and ends us
    return function(task)


def _dask(address: str, threads: int, ordered: bool, function: Function) -> Workers:
    """Workers of dask; what all tasks share is sent to each of them once."""
    client, shared = _dask_client(address, threads), Aligned(function)
    how = {"backend": "dask", "n_jobs": -1, "client": client, "scatter": [shared]}
    return Workers(_parallel(AS_THEY_COME[ordered], **how), shared)


@dataclass(frozen=True)
class Aligned:
    """A function whose arrays lie in a worker as they do here, at a multiple of 16 bytes.

    In dask's frames they lie anywhere, and NumPy multiplies what is not aligned in another order.
    Workers pass it on to each other, so it stays what it is.
    """

    function: Function

    def __call__(self, task: Any) -> Any:
        """Do a task."""
        return self.function(task)

    def __reduce__(self) -> tuple[Any, ...]:
        import cloudpickle

        buffers: list[pickle.PickleBuffer] = []
        told = cloudpickle.dumps(self.function, 5, buffer_callback=buffers.append)
        return _aligned, (told, [np.frombuffer(buffer.raw(), np.uint8) for buffer in buffers])


def _aligned(told: bytes, blocks: list[Array]) -> Aligned:
    buffers = [block.copy() if block.ctypes.data % 16 else block for block in blocks]
    return Aligned(pickle.loads(told, buffers=buffers))


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
    _at_end(made.close)
    return made


def _at_end(close: Callable[[], Any]) -> None:
    """Leave a cluster when this process ends, before what its library does then by itself."""
    _closers.append(close)
    atexit.register(disconnect)


def disconnect() -> None:
    """Leave all clusters, and end workers that were started here for one."""
    _dask_client.cache_clear()
    _ray_pool.cache_clear()
    while _closers:
        _closers.pop()()


BEFORE = "distributed.nanny.pre-spawn-environ"
"""Where dask keeps the environment with which it starts workers."""

KEEP_FREED = {"MALLOC_TRIM_THRESHOLD_": str(256 << 20), "MALLOC_MMAP_THRESHOLD_": str(32 << 20)}
"""Lets workers use freed memory again: dask has them give it back, and scratch is paged in anew."""

CONNECT = 30
"""Seconds to wait for a scheduler to answer."""


def _ray(address: str, threads: int, ordered: bool, function: Function) -> Workers:
    """Workers of ray, whose backend yields no results before all are there: it gets some at a time.

    That is one for each where results are wanted as they come. What all tasks share is put where
    any of them can take it from.
    """
    with needing("--engine ray", "ray", "ray"):
        import ray
    parallel, workers = _ray_pool(address, threads)
    return Workers(parallel, ray.put(function), _call_shared, (AT_ONCE if ordered else 1) * workers)


def _call_shared(shared: Any, task: Any) -> Any:
    import ray

    return ray.get(shared)(task)


@cache
def _ray_pool(address: str, threads: int) -> tuple[Any, int]:
    """Start workers, and count them: where ray is used already, at an address, or here.

    They are kept, as starting them takes seconds. There is one for each processor that is free, as
    the cluster counts, and each takes one: ray would put too many on one machine else.
    """
    import ray
    from ray.util.joblib import register_ray

    if _ray_pool.cache_info().currsize:
        disconnect()  # workers of another number, who hold all processors
    if not ray.is_initialized():
        _ray_init(address, threads)
    register_ray()
    workers = max(int(ray.available_resources().get("CPU", 0)), 1)
    how = {"backend": "ray", "n_jobs": workers, "ray_remote_args": {"num_cpus": 1}}
    parallel = _parallel("list", **how).__enter__()
    _at_end(partial(parallel.__exit__, None, None, None))
    return parallel, workers


def _ray_init(address: str, threads: int) -> None:
    """Let ray tell nobody of its use, start no dashboard, and print nothing."""
    import ray

    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    local = {"address": "local", "num_cpus": threads, "include_dashboard": False}
    asked = {"address": address} if address else local
    try:
        if ":" in address:  # ray would look for five minutes
            host, _, port = address.rpartition("/")[2].rpartition(":")
            socket.create_connection((host, int(port)), CONNECT).close()
        with _signals_kept():
            ray.init(**asked, log_to_driver=False, logging_level=logging.CRITICAL)
    except (OSError, ValueError) as error:
        found = str(error).partition("\n")[0]
        raise EngineError(f"ray: expected a cluster at {address}, found none: {found}") from None
    ray._private.worker._worker_logs_enabled = False  # it prints news of workers on stdout
    _at_end(ray.shutdown)


@contextmanager
def _signals_kept() -> Iterator[None]:
    """Leave SIGTERM as it was before the ``with`` block: ray would take it from the command."""
    ended = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, ended)


AT_ONCE = 16
"""Tasks for each worker before results are taken, where they come all at once."""


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
