"""How fast, and in how much memory, ``score --strategy smem`` runs, against SciPy and plain NumPy.

    python benchmarks/bench_smem.py            # n = 50,000, c = 3,129, float32: 1.9 GB on disk
    python benchmarks/bench_smem.py --vqa      # n = 443,757, float16: 8.3 GB on disk, memory only
    python benchmarks/bench_smem.py --rows 5000
    python benchmarks/bench_smem.py --halves   # float16 beside float32 and NumPy's conversion

Both heads, their divergence and the fused head. All three run on one core; CPU seconds, medians of
interleaved runs; SciPy and NumPy on the first rows only where the pool is large, scaled by rows.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from unittest.mock import patch

import numpy as np
from common import cpu_seconds, drop_from_cache, interleaved, machine, make_logits_pool, own_memory
from scipy.spatial.distance import jensenshannon
from scipy.special import softmax
from scipy.stats import entropy

import mmselect
from mmselect.core.scores import softmax as softmax_kernel
from mmselect.core.scores.information import entropy as fused_entropy
from mmselect.core.scores.information import information
from mmselect.engine import blas_threads

PEER_ROWS = 10_000
HEADS = ("/unimodal_logits/head0", "/unimodal_logits/head1", "/multimodal_logits")


def scipy_smem(a: np.ndarray, b: np.ndarray, f: np.ndarray) -> np.ndarray:
    """SMEM as one writes it with SciPy."""
    p, q, r = (softmax(x, axis=1) for x in (a, b, f))
    heads = (entropy(p, axis=1) + entropy(q, axis=1)) / 2
    return heads + jensenshannon(p, q, axis=1) ** 2 + entropy(r, axis=1)


def numpy_smem(a: np.ndarray, b: np.ndarray, f: np.ndarray, rows: int = 64) -> np.ndarray:
    """SMEM as one writes it with NumPy, in chunks that stay in the cache: up to twice as fast."""

    def log_softmax(x: np.ndarray) -> np.ndarray:
        d = x - x.max(axis=1, keepdims=True)
        return d - np.log(np.exp(d).sum(axis=1, keepdims=True))

    def chunk(a: np.ndarray, b: np.ndarray, f: np.ndarray) -> np.ndarray:
        la, lb, lf = log_softmax(a), log_softmax(b), log_softmax(f)
        pa, pb, pf = np.exp(la), np.exp(lb), np.exp(lf)
        ha, hb, hf = (-(p * log).sum(axis=1) for p, log in ((pa, la), (pb, lb), (pf, lf)))
        mix = (pa + pb) / 2
        jsd = -(mix * np.log(mix)).sum(axis=1) - (ha + hb) / 2
        return (ha + hb) / 2 + jsd + hf

    parts = [
        chunk(a[s : s + rows], b[s : s + rows], f[s : s + rows]) for s in range(0, len(a), rows)
    ]
    return np.concatenate(parts)


def kernel(a: np.ndarray, b: np.ndarray, f: np.ndarray, rows: int = 256) -> np.ndarray:
    """Run ours on arrays in memory, in the blocks that the command takes."""
    parts = []
    for s in range(0, len(a), rows):
        heads = information({"a": a[s : s + rows], "b": b[s : s + rows]})
        parts.append(heads.entropy.mean(axis=0) + heads.jsd + fused_entropy(f[s : s + rows]))
    return np.concatenate(parts)


def compare(path: Path, n: int, runs: int) -> None:
    """Print ratios of CPU time on one core, and how far the numbers are apart."""
    with mmselect.open_pool(path) as pool, blas_threads(1):
        few = min(n, PEER_ROWS)
        blocks = [np.array(pool.columns[name][:few]) for name in HEADS]
        row = sum(pool.columns[name].row_bytes for name in HEADS)

        def ours() -> np.ndarray:
            return mmselect.score(pool, "smem", threads=1).score

        expected = scipy_smem(*(x.astype(np.float64) for x in blocks))
        apart = np.abs(ours()[:few] / expected - 1).max()
        seconds = interleaved(
            runs,
            ours=ours,
            kernel=lambda: kernel(*blocks),
            scipy=lambda: scipy_smem(*blocks),
            numpy=lambda: numpy_smem(*blocks),
        )
    scale = n / few
    print(f"mmselect   {seconds['ours']:8.2f} s of CPU, {n * row / seconds['ours'] / 1e9:.2f} GB/s")
    alone = seconds["kernel"] * scale
    print(f"its kernel {alone:8.2f} s of CPU, {n * row / alone / 1e9:.2f} GB/s, from memory")
    for name in ("scipy", "numpy"):
        ratio = seconds[name] * scale / seconds["ours"]
        print(
            f"{name:<10} {seconds[name] * scale:8.2f} s of CPU, from memory, ratio {ratio:.1f}, "
            f"to the kernel {seconds[name] / seconds['kernel']:.1f}"
        )
    print(f"largest relative difference from SciPy in float64: {apart:.1e}")


def halves(folder: Path, n: int, c: int, runs: int) -> None:
    """Print CPU time on float16, with NumPy's own conversion in place of ours, and on float32."""
    names = {dtype: folder / f"{dtype}.h5" for dtype in ("f2", "f4")}
    for dtype, path in names.items():
        make_logits_pool(path, n, c, 2, dtype)

    def numpy_converts() -> None:
        with patch.object(softmax_kernel, "widen", lambda block, out: block.astype(out.dtype)):
            mmselect.score(names["f2"], "smem", threads=1)

    seconds = interleaved(
        runs,
        ours=lambda: mmselect.score(names["f2"], "smem", threads=1),
        numpy=numpy_converts,
        single=lambda: mmselect.score(names["f4"], "smem", threads=1),
    )
    ours = seconds["ours"]
    print(f"float16 {ours:.2f} s of CPU, n = {n:,}, c = {c:,}")
    print(f"with NumPy's conversion {seconds['numpy']:.2f} s, ratio {seconds['numpy'] / ours:.2f}")
    print(f"float32 {seconds['single']:.2f} s, ratio {seconds['single'] / ours:.2f}")


def whole_command(path: Path, size: int) -> None:
    """Print wall time, CPU time and own memory of the command itself, warm and cold."""
    for state in ("cold", "warm", "warm", "warm"):
        if state == "cold":
            drop_from_cache(path)
        started = time.perf_counter()
        command = [sys.executable, "-m", "mmselect", "score", str(path), "-s", "smem", "-q"]
        subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
        wall = time.perf_counter() - started
        print(f"command, {state} file: {wall:.2f} s wall, {size / wall / 1e9:.2f} GB/s")
    drop_from_cache(path)
    started = time.perf_counter()
    subprocess.run(["cat", str(path)], stdout=subprocess.DEVNULL, check=True)
    wall = time.perf_counter() - started
    print(f"cat, cold file: {wall:.2f} s wall, {size / wall / 1e9:.2f} GB/s")


def memory(path: Path) -> None:
    """Print the peak of the memory that is the process's own."""
    with own_memory() as peak:
        mmselect.score(path, "smem")
    print(f"peak of own memory (RssAnon): {peak[0] / 1e6:.0f} MB")


def main() -> None:
    """Make the pool, run, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=50_000)
    parser.add_argument("--classes", type=int, default=3129)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--vqa", action="store_true")
    parser.add_argument("--halves", action="store_true")
    options = parser.parse_args()
    n, dtype = (443_757, "f2") if options.vqa else (options.rows, "f4")
    print(machine())
    with tempfile.TemporaryDirectory() as folder:
        if options.halves:
            halves(Path(folder), n, options.classes, options.runs)
            return
        path = Path(folder) / "pool.h5"
        make_logits_pool(path, n, options.classes, 2, dtype)
        size = path.stat().st_size
        print(
            f"n = {n:,}, c = {options.classes:,}, two heads and the fused head, {dtype}, "
            f"{size / 1e9:.2f} GB"
        )
        if options.vqa:
            seconds = statistics.median(
                [cpu_seconds(lambda: mmselect.score(path, "smem")) for _ in range(1)]
            )
            print(f"score: {seconds:.1f} s of CPU")
        else:
            compare(path, n, options.runs)
            whole_command(path, size)
        memory(path)


if __name__ == "__main__":
    main()
