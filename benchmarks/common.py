"""What the benchmarks share: pools of any size, clocks, and a table."""

from __future__ import annotations

import os
import platform
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np


def machine() -> str:
    """Name the processor and how many of its cores this process may use."""
    text = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    names = [line.split(":", 1)[1].strip() for line in text.splitlines() if "model name" in line]
    cores = len(os.sched_getaffinity(0))
    return f"{names[0] if names else platform.processor()}, {cores} cores, NumPy {np.__version__}"


def make_logits_pool(path: Path, n: int, c: int, heads: int, dtype: str, block: int = 4096) -> None:
    """Write a pool of unimodal and fused logits, block by block: a few likely classes per row."""
    names = [f"unimodal_logits/head{j}" for j in range(heads)] + ["multimodal_logits"]
    with h5py.File(path, "w") as handle:
        handle.attrs.update(format="mmselect-pool", format_version="1.0")
        sets = [handle.create_dataset(name, (n, c), dtype) for name in names]
        rng = np.random.default_rng(0)
        for start in range(0, n, block):
            rows = min(block, n - start)
            likely = rng.integers(0, c, (rows, 3))
            for dataset in sets:
                x = rng.standard_normal((rows, c), np.float32) * 2
                np.put_along_axis(x, likely, rng.uniform(4, 14, (rows, 3)).astype("f4"), axis=1)
                dataset[start : start + rows] = x.astype(dtype)


def cpu_seconds(function: Callable[[], Any]) -> float:
    """User and system time of this process while `function` runs."""
    before = time.process_time()
    function()
    return time.process_time() - before


def interleaved(runs: int, **functions: Callable[[], Any]) -> dict[str, float]:
    """Median CPU seconds of each function, run in turn, so that drift meets all alike."""
    times: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(runs):
        for name, function in functions.items():
            times[name].append(cpu_seconds(function))
    return {name: statistics.median(values) for name, values in times.items()}


@contextmanager
def own_memory() -> Iterator[list[int]]:
    """Sample this process's anonymous memory; the list holds the peak in bytes afterwards.

    Pages of a file that is mapped read-only are the page cache's, and are not in it.
    """
    peak, stop = [0], threading.Event()

    def watch() -> None:
        while not stop.wait(0.002):
            text = Path("/proc/self/status").read_text()
            kilobytes = int(text.split("RssAnon:")[1].split()[0])
            peak[0] = max(peak[0], kilobytes * 1024)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield peak
    finally:
        stop.set()
        thread.join()


def drop_from_cache(path: Path) -> None:
    """Ask the kernel to forget a file's pages, so that the next read comes from the disk."""
    handle = os.open(path, os.O_RDONLY)
    os.fsync(handle)
    os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(handle)
