"""D² sampling over gradient factors against one float32 GEMV pair per pick.

Both sides get the same logits and features and start from them: softmax, norms and sampling are
timed. The plain form holds both factors in float32 and updates all n distances with two
matrix-vector products for every pick, as the best public implementations do. It is timed with BLAS
on one thread and on all, and the faster counts (on a busy machine more threads can be slower).
Where it would take too long, fewer picks are timed and the time of a pick is extrapolated linearly
(its cost does not change from pick to pick); the line says so.

The data are clusters with a long-tailed class distribution and a linear head fitted to a labeled
share in closed form (linear discriminant analysis), scaled to the confidence of a trained model.

    python benchmarks/bench_d2.py --size small
    python benchmarks/bench_d2.py --size medium --repeats 3
    python benchmarks/bench_d2.py --size vqa --folder /tmp/vqa
    python benchmarks/bench_d2.py --growth
    python benchmarks/bench_d2.py --size tiny --badge      # and scikit-activeml's Badge
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from mmselect.core.sampling.d2 import Sampled, d2_sample
from mmselect.core.sampling.gradients import GradientPoints
from mmselect.core.sampling.points import factors
from mmselect.engine import Engine, blas_threads, compute_rows, processors

SIZES = {  # n, c, Σd, k
    "tiny": (2_000, 20, 64, 100),
    "small": (45_000, 101, 1_024, 1_000),
    "medium": (180_000, 309, 1_024, 5_000),
    "vqa": (400_000, 3_129, 1_024, 40_000),
}
CHUNK = 4096


def make_pool(
    folder: Path | None, n: int, c: int, d: int, confidence: float = 0.6, seed: int = 0
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Make logits (n, c) and two modalities (n, d/2), the second weaker; on disk in a folder."""
    rng = np.random.default_rng(seed)
    strength = np.repeat([1.0, 0.6], [d // 2, d - d // 2]).astype(np.float32)
    centres = rng.standard_normal((c, d), dtype=np.float32) * strength
    # Real classes are not round: a shared low-rank covariance, stronger than the noise.
    spread = rng.standard_normal((32, d), dtype=np.float32)
    share = 1 / np.arange(1, c + 1) ** 0.7
    label = rng.choice(c, n, p=share / share.sum())
    noise = 4.0

    def chunk(start: int) -> np.ndarray:
        own = np.random.default_rng([seed, start])
        y = label[start : start + CHUNK]
        z = centres[y] + noise * own.standard_normal((len(y), d), dtype=np.float32)
        return z + own.standard_normal((len(y), 32), dtype=np.float32) @ spread

    # LDA on what is labeled: class means, shrunk to the common one, and a shared covariance.
    some = np.concatenate([chunk(s) for s in range(0, min(n, 4 * CHUNK), CHUNK)])
    covariance = noise**2 * np.eye(d, dtype=np.float32) + spread.T @ spread
    head = np.linalg.solve(covariance, (centres + some.mean(axis=0)).T).astype(np.float32)
    bias = (np.log(share) - 0.5 * np.einsum("cd,dc->c", centres, head)).astype(np.float32)
    scale = calibrate(some[:CHUNK] @ head + bias, confidence)

    shape = {"logits": (n, c), "image": (n, d // 2), "text": (n, d - d // 2)}
    out = {name: create(folder, name, s) for name, s in shape.items()}
    for start in range(0, n, CHUNK):
        z, part = chunk(start), slice(start, start + CHUNK)
        out["logits"][part] = scale * (z @ head + bias)
        out["image"][part], out["text"][part] = z[:, : d // 2], z[:, d // 2 :]
    logits = out.pop("logits")
    return logits, out


def calibrate(logits: np.ndarray, confidence: float) -> float:
    """Find the scale at which the mean largest probability is `confidence`."""
    low, high = 1e-3, 1e3
    for _ in range(40):
        scale = (low * high) ** 0.5
        x = scale * (logits - logits.max(axis=1, keepdims=True))
        low, high = (
            (scale, high) if (1 / np.exp(x).sum(axis=1)).mean() < confidence else (low, scale)
        )
    return scale


class FileRows:
    """Rows of a ``.npy`` file, read with plain reads: memory maps would count as memory used."""

    def __init__(self, path: Path) -> None:
        mapped = np.load(path, mmap_mode="r")
        self.shape, self.dtype, self.offset = mapped.shape, mapped.dtype, mapped.offset
        self.width = self.shape[1] * self.dtype.itemsize
        self.file = path.open("rb")

    def __getitem__(self, index: slice | np.ndarray) -> np.ndarray:
        if isinstance(index, slice):
            start, stop, _ = index.indices(self.shape[0])
            return self._read(start, np.empty((stop - start, self.shape[1]), self.dtype))
        out = np.empty((len(index), self.shape[1]), self.dtype)
        for i, row in enumerate(index.tolist()):
            self._read(row, out[i : i + 1])
        return out

    def _read(self, start: int, out: np.ndarray) -> np.ndarray:
        bytes_ = memoryview(out).cast("B") if out.size else memoryview(b"")
        done = 0
        while done < out.nbytes:  # the system may read less than it is asked for
            done += os.preadv(
                self.file.fileno(), [bytes_[done:]], self.offset + start * self.width + done
            )
        return out


def create(folder: Path | None, name: str, shape: tuple[int, int]) -> np.ndarray:
    if folder is None:
        return np.empty(shape, np.float32)
    folder.mkdir(parents=True, exist_ok=True)
    return np.lib.format.open_memmap(folder / f"{name}.npy", "w+", np.float32, shape)


def plain(points: GradientPoints, k: int, rng: np.random.Generator) -> tuple[float, float]:
    """Seconds before the first pick and seconds for each of k picks, two GEMVs per pick."""
    start = time.perf_counter()
    a, h = (np.empty((len(points), width), np.float32) for width in points.widths)
    step = compute_rows(max(points.widths))
    for s in range(0, len(points), step):
        a[s : s + step], h[s : s + step] = factors(points, np.arange(s, min(s + step, len(points))))
    norms = np.vecdot(a, a) * np.vecdot(h, h)
    ready = time.perf_counter()
    squared, pick = np.full(len(a), np.inf, np.float32), int(norms.argmax())
    for _ in range(k):
        np.minimum(squared, norms + norms[pick] - 2 * (a @ a[pick]) * (h @ h[pick]), out=squared)
        np.maximum(squared, 0, out=squared)
        squared[pick] = 0
        total = np.cumsum(squared, dtype=np.float64)
        pick = int(np.searchsorted(total, rng.random() * total[-1], side="right"))
    return ready - start, (time.perf_counter() - ready) / k


def whole_plain(points: GradientPoints, k: int, timed: int, threads: int) -> float:
    """Seconds that the plain form needs for k picks, from those of `timed` picks."""
    with blas_threads(threads):
        before, each = plain(points, timed, np.random.default_rng(1))
    how = "" if timed == k else f" (extrapolated from {timed} picks)"
    seconds = before + k * each
    print(
        f"  plain  {seconds:8.2f} s{how}, BLAS on {threads}: {before:.2f} s + {each:.5f} s a pick"
    )
    return seconds


def lazy(points: GradientPoints, k: int, threads: int) -> tuple[float, float, Sampled]:
    start, cpu = time.perf_counter(), time.process_time()
    picked = d2_sample(points, k, np.random.default_rng(1), engine=Engine(threads))
    return time.perf_counter() - start, time.process_time() - cpu, picked


def against_badge(points: GradientPoints, k: int) -> float | None:
    """scikit-activeml's Badge on the same logits and features, if it is installed."""
    try:
        from skactiveml.base import SkactivemlClassifier
        from skactiveml.pool import Badge
    except ImportError:
        print("scikit-activeml is not installed: its Badge is left out")
        return None

    class Exported(SkactivemlClassifier):  # type: ignore[misc]
        """A classifier whose probabilities are those of the pool."""

        def fit(self, *_: object) -> Exported:
            return self

        def predict_proba(self, X: np.ndarray, **_: object) -> tuple[np.ndarray, np.ndarray]:
            logits = np.asarray(points.logits)[X[:, 0].astype(int)]
            e = np.exp(logits - logits.max(axis=1, keepdims=True))
            h = np.concatenate([np.asarray(z) for z in points.features.values()], axis=1)
            return e / e.sum(axis=1, keepdims=True), h[X[:, 0].astype(int)]

    n, c = points.logits.shape
    X, y = np.arange(n, dtype=float)[:, None], np.full(n, np.nan)
    strategy = Badge(random_state=0)
    start = time.perf_counter()
    strategy.query(X, y, clf=Exported(classes=list(range(c))), fit_clf=False, batch_size=k)
    return time.perf_counter() - start


def median_of(repeats: int, measure: Callable[[], float]) -> float:
    return statistics.median(measure() for _ in range(repeats))


def growth(threads: int, repeats: int) -> None:
    """How the time grows when one of n, c, Σd and k grows four times."""
    base = {"n": 40_000, "c": 100, "Σd": 512, "k": 1_000}
    for name in (None, *base):
        size = {key: value * 4 if key == name else value for key, value in base.items()}
        logits, features = make_pool(None, size["n"], size["c"], size["Σd"])
        points = GradientPoints(logits, features)
        runs = [lazy(points, size["k"], threads) for _ in range(repeats)]
        seconds, cpu = (statistics.median(run[i] for run in runs) for i in (0, 1))
        label = "base " + str(base) if name is None else f"4 x {name}"
        print(f"{label}: {seconds:.3f} s, {cpu:.3f} s of CPU", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--size", choices=SIZES, default="small")
    for name in ("n", "classes", "width", "budget"):
        parser.add_argument(f"--{name}", type=int, help="replaces the size's own")
    parser.add_argument("--threads", type=int, default=processors())
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--confidence", type=float, default=0.6)
    parser.add_argument(
        "--plain-picks", type=int, default=100, help="picks timed of the plain form"
    )
    parser.add_argument("--no-plain", action="store_true")
    parser.add_argument("--folder", type=Path, help="keep the pool on disk here, and read it there")
    parser.add_argument("--badge", action="store_true", help="also time scikit-activeml's Badge")
    parser.add_argument("--growth", action="store_true", help="how time grows with each size")
    args = parser.parse_args()
    if args.growth:
        growth(args.threads, args.repeats)
        return
    given = (args.n, args.classes, args.width, args.budget)
    n, c, d, k = (g or s for g, s in zip(given, SIZES[args.size], strict=True))
    if args.folder and (args.folder / "logits.npy").exists():
        arrays = {p.stem: FileRows(p) for p in sorted(args.folder.glob("*.npy"))}
        logits = arrays.pop("logits")
    else:
        logits, arrays = make_pool(args.folder, n, c, d, args.confidence)
    weights = np.random.default_rng(2).uniform(0.3, 1, (logits.shape[0], 2))
    weights[:, 0] = 1
    points = GradientPoints(logits, arrays, weights)
    print(f"n={n:,} c={c:,} Σd={d:,} k={k:,} threads={args.threads}", flush=True)

    ours, theirs = [], []
    for _ in range(args.repeats):
        seconds, cpu, picked = lazy(points, k, args.threads)
        ours.append(seconds)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
        share = k / picked.drawn
        print(f"  lazy   {seconds:8.2f} s   {cpu:.2f} s of CPU, peak RSS {peak:.2f} GB", flush=True)
        print(f"  {picked.drawn:,} rows drawn, {share:.2f} accepted, {picked.passes} passes")
        if not args.no_plain:
            timed = min(k, args.plain_picks)
            theirs.append(min(whole_plain(points, k, timed, t) for t in {1, args.threads}))
    line = f"median: lazy {statistics.median(ours):.2f} s"
    if theirs:
        ratio = statistics.median(theirs) / statistics.median(ours)
        line += f", plain {statistics.median(theirs):.1f} s, {ratio:.0f} times as long"
    print(line)
    if args.badge and (seconds := against_badge(points, k)):
        print(
            f"scikit-activeml Badge: {seconds:.2f} s, {seconds / statistics.median(ours):.0f} times"
        )


if __name__ == "__main__":
    main()
