"""BLAS on as many threads as a block of code wants: one inside a task of the engine."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any


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
