"""Time and memory of ``mmselect select -s facility`` in its sparse form, from a pool on disk.

    python benchmarks/bench_facility.py --size 180000x18000
    python benchmarks/bench_facility.py --size 400000x40000 --folder DIR     # 2.1 GB, kept there

Rounds of active learning with doubt: 1 % of the rows are labeled; the second round adds the picks
of the first to them. Every round runs without ``--cache``, and again with the cache that the first
one filled; the picks must be the same. CPU seconds and peak memory are the operating system's
account of the finished process.

Data: ReLU features of class clusters in a 96-dimensional latent space, 2 × 512 wide, a linear head
fitted by a few gradient steps, and a head for each modality that knows its own half.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import subprocess
import sys
import tempfile
import time
from multiprocessing import get_context
from pathlib import Path

import h5py
import numpy as np
from common import machine

CLASSES, LATENT, WIDTHS, BLOCK = 101, 96, {"image": 512, "text": 512}, 8192


def make_pool(path: Path, n: int, dtype: str) -> None:
    """Write a pool block by block, so that it takes no memory."""
    rng = np.random.default_rng(0)
    centre = rng.standard_normal((CLASSES, LATENT), np.float32)
    mixing = {m: rng.standard_normal((LATENT, d), np.float32) / 10 for m, d in WIDTHS.items()}

    def draw(rows: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        label, found = rng.integers(0, CLASSES, rows), {}
        for name, width in WIDTHS.items():
            latent = centre[label] + np.float32(1.1) * rng.standard_normal((rows, LATENT), "f4")
            noise = np.float32(0.2) * rng.standard_normal((rows, width), "f4")
            found[name] = np.maximum(latent @ mixing[name] + noise, 0)
        return label, found

    heads = fitted(*draw(BLOCK))
    with h5py.File(path, "w") as handle:
        handle.attrs.update(format="mmselect-pool", format_version="1.1")
        shapes = {f"features/{m}": d for m, d in WIDTHS.items()}
        shapes |= {f"unimodal_logits/{m}": CLASSES for m in WIDTHS}
        shapes |= {"multimodal_logits": CLASSES}
        sets = {p: handle.create_dataset(p, (n, width), dtype) for p, width in shapes.items()}
        handle["labeled"] = rng.random(n) < 0.01
        for start in range(0, n, BLOCK):
            stop = min(start + BLOCK, n)
            _, x = draw(stop - start)
            logits = {name: x[name] @ heads[name] for name in WIDTHS}
            for name in WIDTHS:
                sets[f"features/{name}"][start:stop] = x[name]
                sets[f"unimodal_logits/{name}"][start:stop] = logits[name]
            sets["multimodal_logits"][start:stop] = sum(logits.values())


def fitted(
    label: np.ndarray, x: dict[str, np.ndarray], classes: int = CLASSES
) -> dict[str, np.ndarray]:
    """Fit a linear head on all modalities by some gradient steps, and cut it by modality."""
    joined, truth = np.hstack([*x.values()]), np.eye(classes, dtype="f4")[label]
    head = np.zeros((joined.shape[1], classes), "f4")
    scale = 30 * classes**0.5 / (joined**2).sum(1).mean() / len(joined)
    for _ in range(60):
        z = joined @ head
        p = np.exp(z - z.max(1, keepdims=True))
        head -= scale * joined.T @ (p / p.sum(1, keepdims=True) - truth)
    return dict(
        zip(x, np.split(head, np.cumsum([z.shape[1] for z in x.values()])[:-1]), strict=True)
    )


def run(what: str, path: Path, k: int, target: Path, *more: str) -> str:
    """Run the command once, print what it took, and return a digest of its picks."""
    command = [sys.executable, "-m", "mmselect", "select", str(path), "-s", "facility"]
    command += ["-b", str(k), "-p", "form=sparse", "-q", "-o", str(target), *more]
    started = time.perf_counter()
    process = subprocess.Popen(command)
    _, status, used = os.wait4(process.pid, 0)
    wall = time.perf_counter() - started
    picks = hashlib.sha256(target.read_bytes()).hexdigest()[:12] if target.exists() else "none"
    print(
        f"{what}: {wall:.1f} s wall, {used.ru_utime + used.ru_stime:.1f} s of CPU, "
        f"peak RSS {used.ru_maxrss / 1e6:.2f} GB, exit {os.waitstatus_to_exitcode(status)}, "
        f"picks {picks}",
        flush=True,
    )
    return picks


def main() -> None:
    """Make the pool, run, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", default="60000x6000", help="n x k")
    parser.add_argument("--dtype", default="float32", choices=("float16", "float32"))
    parser.add_argument("--folder", type=Path, help="keep pool and cache here")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--no-plain", action="store_true", help="only with the cache")
    parser.add_argument("--more", nargs="*", default=[], help="options of select")
    options = parser.parse_args()
    n, k = map(int, options.size.split("x"))
    print(machine())
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        path = folder / f"pool-{n}-{options.dtype}.h5"
        if not path.exists():  # in a process of its own: what it maps would count as ours
            process = get_context("spawn").Process(target=make_pool, args=(path, n, options.dtype))
            process.start()
            process.join()
        print(f"n = {n:,}, k = {k:,}, {path.stat().st_size / 1e9:.2f} GB on disk", flush=True)
        more, kept = options.more, ["--cache", str(folder / "cache")]
        for number in range(1, options.rounds + 1):
            target, again = folder / f"picks-{number}.txt", folder / f"picks-{number}-cached.txt"
            found = []
            if not options.no_plain:
                found.append(run(f"round {number}", path, k, target, *more))
            found.append(run(f"round {number} --cache", path, k, again, *more, *kept))
            assert len({*found}) == 1, "picks differ with the cache"
            more = [*more, "--labeled", str(again)]


if __name__ == "__main__":
    main()
