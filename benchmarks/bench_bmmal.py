"""Time and memory of the whole command ``mmselect select -s bmmal``, from a pool on disk.

    python benchmarks/bench_bmmal.py --size small --rounds 7      # and in units of badge
    python benchmarks/bench_bmmal.py --size vqa --folder /tmp/vqa    # 6.6 GB twice on disk

Contributions, weights, norms and sampling; CPU time and peak memory are the operating system's
account of the finished process. ``--memory`` smaller than the factors shows that picks stay.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import statistics
import subprocess
import sys
import tempfile
import time
from multiprocessing import get_context
from pathlib import Path

import h5py
import numpy as np
from bench_d2 import CHUNK, SIZES, make_pool
from common import machine

import mmselect


def write(path: Path, logits: np.ndarray, features: dict[str, np.ndarray]) -> None:
    """Write a pool; the linear head is recovered from logits and features."""
    n, d = len(logits), sum(z.shape[1] for z in features.values())
    some = slice(0, min(n, 2 * d + 64))
    z = np.hstack([np.ones((some.stop, 1)), *(x[some] for x in features.values())])
    head = np.linalg.lstsq(z, logits[some].astype(np.float64))[0].astype(np.float32)
    with h5py.File(path, "w") as handle:
        handle.attrs.update(format="mmselect-pool", format_version="1.0")
        handle["classifier/bias"], column = head[0], 1
        for name, x in features.items():
            handle[f"classifier/weight/{name}"] = head[column : column + x.shape[1]].T
            column += x.shape[1]
        named = {"multimodal_logits": logits, **{f"features/{k}": x for k, x in features.items()}}
        for name, x in named.items():
            dataset = handle.create_dataset(name, x.shape, np.float32)
            for start in range(0, n, CHUNK):
                dataset[start : start + CHUNK] = x[start : start + CHUNK]


def prepare(path: Path, n: int, c: int, d: int) -> None:
    """Make the arrays, or take them from the folder, and write the pool beside them."""
    if (path.parent / "logits.npy").exists():
        arrays = {p.stem: np.load(p, mmap_mode="r") for p in path.parent.glob("*.npy")}
        write(path, arrays.pop("logits"), dict(sorted(arrays.items())))
    else:
        write(path, *make_pool(path.parent, n, c, d))


def run(path: Path, k: int, strategy: str, *more: str) -> None:
    """Run the command once and print what it took."""
    command = [sys.executable, "-m", "mmselect", "select", str(path), "-s", strategy, "-q"]
    started = time.perf_counter()
    process = subprocess.Popen([*command, "-b", str(k), *more], stdout=subprocess.PIPE)
    assert process.stdout is not None
    picks = hashlib.sha256(process.stdout.read()).hexdigest()[:12]
    _, status, used = os.wait4(process.pid, 0)
    wall = time.perf_counter() - started
    print(
        f"{strategy} {' '.join(more)}: {wall:.1f} s wall, {used.ru_utime + used.ru_stime:.1f} s of "
        f"CPU, peak RSS {used.ru_maxrss / 1e6:.2f} GB, exit {status}, picks {picks}",
        flush=True,
    )


def in_turns(path: Path, k: int, rounds: int) -> None:
    """Print what badge and bmmal take within this process, on one thread, without start-up."""
    taken: dict[str, list[float]] = {"badge": [], "bmmal": []}
    for _ in range(rounds + 1):
        for strategy, seconds in taken.items():
            started = time.process_time()
            mmselect.select(path, strategy, k, threads=1)
            seconds.append(time.process_time() - started)
    badge, bmmal = (statistics.median(seconds[1:]) for seconds in taken.values())
    print(f"badge {badge:.3f}, bmmal {bmmal:.3f} s of CPU, {bmmal / badge:.2f} times")


def main() -> None:
    """Make the pool, run, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=SIZES, default="small")
    parser.add_argument(
        "--folder", type=Path, help="keep arrays and pool here, or take those there"
    )
    parser.add_argument("--rounds", type=int, default=0, help="badge and bmmal in turns, no start")
    options = parser.parse_args()
    n, c, d, k = SIZES[options.size]
    print(machine())
    print(f"n = {n:,}, c = {c:,}, Σd = {d:,}, k = {k:,}, float32", flush=True)
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        path = folder / "pool.h5"
        if not path.exists():  # in a process of its own: what it maps would count as ours
            process = get_context("spawn").Process(target=prepare, args=(path, n, c, d))
            process.start()
            process.join()
        print(f"{path.stat().st_size / 1e9:.2f} GB on disk", flush=True)
        run(path, k, "badge")
        run(path, k, "bmmal")
        run(path, k, "bmmal", "--memory", "16MB", "--threads", "1")
        if options.rounds:
            in_turns(path, k, options.rounds)


if __name__ == "__main__":
    main()
