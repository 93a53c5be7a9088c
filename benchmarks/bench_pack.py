"""How fast ``mmselect pack`` is against ``cp`` and a sync: the same bytes, read, checked, on disk.

Both run as processes, in turn, and write a new file beside the source each time; start-up counts.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from common import machine

WIDTH, BLOCK = 512, 1 << 14


def make_features(path: Path, size: int) -> None:
    """Write an npy file of `size` bytes or a little less: float32 rows of 512."""
    rows, rng = size // (4 * WIDTH), np.random.default_rng(0)
    out = np.lib.format.open_memmap(path, "w+", np.float32, (rows, WIDTH))
    block = rng.standard_normal((BLOCK, WIDTH), np.float32)
    for start in range(0, rows, BLOCK):
        out[start : start + BLOCK] = block[: rows - start]
    out.flush()


def run(command: list[str], target: Path) -> tuple[float, float]:
    """Wall and CPU seconds of a command until what it wrote is on the disk."""
    target.unlink(missing_ok=True)
    os.sync()
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    subprocess.run(["sync", str(target)], check=True)
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    """Print medians of both, and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gigabytes", type=float, default=2.0)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--folder", help="where to write; the system's own for temporary files")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=asked.folder) as name:
        source, pool, copy = (Path(name) / each for each in ("x.npy", "x.h5", "copy.npy"))
        make_features(source, int(asked.gigabytes * 1e9))
        pack = [sys.executable, "-m", "mmselect", "pack", "-q", "-o", str(pool)]
        pack += ["--features", f"image={source}"]
        times: dict[str, list[tuple[float, float]]] = {"cp": [], "pack": []}
        for _ in range(asked.runs):
            times["cp"].append(run(["cp", str(source), str(copy)], copy))
            copy.unlink()
            times["pack"].append(run(pack, pool))
            pool.unlink()
    print(f"{machine()}; {asked.gigabytes:g} GB; load {os.getloadavg()[0]:.1f}")
    medians = {
        name: [statistics.median(column) for column in zip(*runs, strict=True)]
        for name, runs in times.items()
    }
    for name, (wall, cpu) in medians.items():
        print(f"{name:5} {wall:6.2f} s wall {cpu:6.2f} s CPU")
    wall, cpu = (a / b for a, b in zip(medians["pack"], medians["cp"], strict=True))
    print(f"pack / cp: {wall:.2f} wall, {cpu:.2f} CPU")


if __name__ == "__main__":
    main()
