"""How fast ``mmselect pack`` is against ``cp`` and a sync: the same bytes, read, checked, on disk.

Both run as processes, in turn, and write a new file beside the source each time; start-up counts.
``cp`` copies the source as it is, also where the pool is larger (compressed parquet) or smaller
(``--dtype``). Peak memory is that of a run by itself. Parquet has to be decoded: what pyarrow takes
for that alone, from start to end of a process that writes nothing, stands beside it.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from common import machine

WIDTH, BLOCK = 512, 1 << 14
SHARDS = 8

Made = tuple[Path, str, list[str]]
"""What `cp` copies, what `pack` is told, and further options."""


def blocks(rows: int) -> Iterator[np.ndarray]:
    """Rows of 512 random float32, some 32 MB at a time."""
    block = np.random.default_rng(0).standard_normal((BLOCK, WIDTH), np.float32)
    for start in range(0, rows, BLOCK):
        yield block[: rows - start]


def npy(path: Path, rows: int) -> None:
    """Write an npy file."""
    out = np.lib.format.open_memmap(path, "w+", np.float32, (rows, WIDTH))
    for i, block in enumerate(blocks(rows)):
        out[i * BLOCK : (i + 1) * BLOCK] = block
    out.flush()


def make_npy(folder: Path, rows: int) -> Made:
    """Write one npy file."""
    npy(folder / "x.npy", rows)
    return folder / "x.npy", "x.npy", []


def make_float16(folder: Path, rows: int) -> Made:
    """Write one npy file, to be stored in half its bytes."""
    return *make_npy(folder, rows)[:2], ["--dtype", "float16"]


def make_shards(folder: Path, rows: int) -> Made:
    """Write a folder of npy files."""
    (folder / "x").mkdir()
    for i in range(SHARDS):
        npy(folder / "x" / f"part-{i}.npy", rows // SHARDS)
    return folder / "x", "x", []


def make_h5(folder: Path, rows: int, **how: Any) -> Made:
    """Write one dataset of an HDF5 file."""
    with h5py.File(folder / "x.h5", "w") as file:
        out = file.create_dataset("x", (rows, WIDTH), "f4", **how)
        for i, block in enumerate(blocks(rows)):
            out[i * BLOCK : (i + 1) * BLOCK] = block
    return folder / "x.h5", "x.h5:/x", []


def make_chunked(folder: Path, rows: int) -> Made:
    """Write the same in chunks."""
    return make_h5(folder, rows, chunks=(256, WIDTH))


def make_parquet(folder: Path, rows: int) -> Made:
    """Write a parquet file with a column of fixed-size lists, as pyarrow writes it."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema({"x": pa.list_(pa.float32(), WIDTH)})
    with pq.ParquetWriter(folder / "x.parquet", schema) as writer:
        for block in blocks(rows):
            lists = pa.FixedSizeListArray.from_arrays(pa.array(block.reshape(-1)), WIDTH)
            writer.write_batch(pa.record_batch([lists], schema=schema))
    return folder / "x.parquet", "x.parquet:x", []


KINDS = {
    "npy": make_npy,
    "shards": make_shards,
    "float16": make_float16,
    "h5": make_h5,
    "chunked": make_chunked,
    "parquet": make_parquet,
}


DECODE = """
import sys, pyarrow.parquet as pq
for _ in pq.ParquetFile(sys.argv[1], pre_buffer=False, buffer_size=1 << 20).iter_batches(
    1024, use_threads=False
):
    pass
"""
"""Reads a parquet file as pack does, and does nothing with it."""


def run(command: list[str], target: Path) -> tuple[float, float]:
    """Wall and CPU seconds of a command until what it wrote is on the disk."""
    os.sync()
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    subprocess.run(["sync", *map(str, [target, *target.glob("*")])], check=True)
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def peak(command: list[str]) -> float:
    """Megabytes that a command takes at most, by itself."""
    said = "import resource, subprocess, sys; subprocess.run(sys.argv[1:], stdout=-3, check=True);"
    said += "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024)"
    asked = [sys.executable, "-c", said, *command]
    return float(subprocess.run(asked, check=True, capture_output=True).stdout)


def compare(kind: str, rows: int, runs: int, folder: Path) -> str:
    """Measure one kind of source."""
    source, said, options = KINDS[kind](folder, rows)
    pool, copy = folder / "pool.h5", folder / "copy"
    pack = [sys.executable, "-m", "mmselect", "pack", "-q", "-o", str(pool), *options]
    pack += ["--features", f"image={folder / said}"]
    decode = [sys.executable, "-c", DECODE, str(source)]
    times: dict[str, list[tuple[float, float]]] = {"cp": [], "pack": [], "decode": []}
    for _ in range(runs):
        times["cp"].append(run(["cp", "-r", str(source), str(copy)], copy))
        shutil.rmtree(copy) if copy.is_dir() else copy.unlink()
        times["pack"].append(run(pack, pool))
        pool.unlink()
        if kind == "parquet":
            times["decode"].append(run(decode, source))
    (wall_cp, cpu_cp), (wall, cpu) = (
        [statistics.median(column) for column in zip(*each, strict=True)]
        for each in (times["cp"], times["pack"])
    )
    floor = [statistics.median(column) for column in zip(*times["decode"], strict=True)]
    said_floor = "  decoding alone {:.2f} s ({:.2f} CPU)".format(*floor) if floor else ""
    return (
        f"{kind:8}  cp {wall_cp:6.2f} s ({cpu_cp:5.2f} CPU)  pack {wall:6.2f} s ({cpu:5.2f} CPU)  "
        f"ratio {wall / wall_cp:4.2f} ({cpu / cpu_cp:4.2f})  peak {peak(pack):4.0f} MB" + said_floor
    )


def main() -> None:
    """Print medians of both, and their ratio, for each kind of source."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gigabytes", type=float, default=2.0)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--folder", help="where to write; the system's own for temporary files")
    parser.add_argument("kinds", nargs="*", default=[*KINDS], metavar="KIND", help=", ".join(KINDS))
    asked = parser.parse_args()
    print(f"{machine()}; {asked.gigabytes:g} GB; load {os.getloadavg()[0]:.1f}")
    rows = int(asked.gigabytes * 1e9) // (4 * WIDTH) // SHARDS * SHARDS
    for kind in asked.kinds:
        with tempfile.TemporaryDirectory(dir=asked.folder) as name:
            print(compare(kind, rows, asked.runs, Path(name)), flush=True)


if __name__ == "__main__":
    main()
