"""k-center greedy and facility location against their naive NumPy forms and public peers.

    python benchmarks/bench_coverage.py [--kcenter 180000x5000] [--facility 10000x500]

One thread, CPU seconds. The naive k-center is one matrix-vector product and a running minimum per
pick; the naive facility location one product of all candidates with all clients per pick. Every
pick of a naive form costs the same, so a few are timed (before and after the fast run) and
multiplied; in that run their picks are compared too. Peers, where installed: `lightly-mundig`
(k-center, compiled) and `apricot-select` (facility location).
"""

from __future__ import annotations

import argparse
import resource
from statistics import median
from time import process_time

import numpy as np
from coldstart_data import clustered

from mmselect.core.coverage.facility import facility
from mmselect.core.coverage.kcenter import kcenter
from mmselect.core.features import as_modalities, join
from mmselect.engine import blas_threads


def cpu(call):
    began = process_time()
    result = call()
    return result, process_time() - began


def naive_kcenter(x, first, picks):
    squares = np.einsum("ij,ij->i", x, x)
    nearest, pick, found, seconds = np.full(len(x), np.inf, np.float32), first, [first], []
    for _ in range(picks):
        began = process_time()
        np.minimum(nearest, squares + squares[pick] - 2 * (x @ x[pick]), out=nearest)
        nearest[pick] = -1
        pick = int(np.argmax(nearest))
        seconds.append(process_time() - began)
        found.append(pick)
    return found, seconds


def bench_kcenter(n, k, width):
    features = clustered(n, (width // 2, width // 2))
    for unit in (True, False):
        found, fast = cpu(lambda unit=unit: kcenter(features, k, unit=unit))
        x, _, _ = join(as_modalities(features), unit=unit)
        x -= x.mean(0)
        same, seconds = naive_kcenter(x, int(found.picks[0]), 24)
        agree = sum(a == b for a, b in zip(same, found.picks.tolist(), strict=False))
        naive = median(seconds) * k
        print(
            f"k-center, {'unit norm' if unit else 'raw'}, n={n:,} d={width:,} k={k:,}: "
            f"fast {fast:.1f} s, naive {naive:.1f} s (24 picks timed, extrapolated; "
            f"{agree} of {len(same)} equal): {naive / fast:.1f}x",
            flush=True,
        )
        peer_mundig(x, k)
        del x


def peer_mundig(x, k):
    try:
        from lightly_mundig import Selection
    except ImportError:
        print("lightly-mundig is not installed: no peer for k-center")
        return
    n, picks = min(len(x), 20_000), min(k, 500)
    part = np.ascontiguousarray(x[:n])
    # It starts from row 0 and takes no other start: so do we, by calling row 0 labeled.
    selection = Selection()
    selection.add_diversifying_strategy(part, 1.0)
    peer, theirs = cpu(lambda: selection.run_selection([], n, picks))
    found, ours = cpu(lambda: kcenter([part], picks - 1, labeled=[peer[0]]))
    exact = by_definition(part, peer[0], picks)[1:]
    same = [
        sum(a == b for a, b in zip(exact, one, strict=True))
        for one in (peer[1:], found.picks.tolist())
    ]
    print(
        f"  at n={n:,} k={picks:,}: lightly-mundig {theirs:.2f} s, ours {ours:.2f} s; of "
        f"{picks - 1:,} picks by the definition in float64 it has {same[0]} at their place, "
        f"ours {same[1]}"
    )


def by_definition(x, pick, picks):
    wide, found = x.astype(np.float64), [pick]
    nearest = np.full(len(x), np.inf)
    while len(found) < picks:
        np.minimum(nearest, ((wide - wide[pick]) ** 2).sum(1), out=nearest)
        nearest[pick] = -1
        pick = int(nearest.argmax())
        found.append(pick)
    return found


def naive_facility(x, picks):
    best, seconds, found = np.zeros(len(x), np.float32), [], []
    for _ in range(picks):
        began = process_time()
        gain = np.zeros(len(x))
        for a in range(0, len(x), 1024):
            similar = np.maximum(x[a : a + 1024] @ x.T, 0)
            gain += np.maximum(similar - best[a : a + 1024, None], 0).sum(0)
        gain[found] = -1
        found.append(int(np.argmax(gain)))
        np.maximum(best, x @ x[found[-1]], out=best)
        seconds.append(process_time() - began)
    return found, seconds


def bench_facility(n, k, width):
    features = clustered(n, (width // 2, width // 2))
    found, fast = cpu(lambda: facility(features, k))
    x, _, _ = join(as_modalities(features), center=True)
    x *= np.float32(0.5**0.5)
    same, seconds = naive_facility(x, 3)
    naive = median(seconds) * k
    print(
        f"facility, n={n:,} d={width:,} k={k:,}: fast {fast:.1f} s, naive {naive:.1f} s "
        f"(3 picks timed, extrapolated; picks {same} and {found.picks[:3].tolist()}): "
        f"{naive / fast:.1f}x",
        flush=True,
    )
    sparse, seconds_sparse = cpu(lambda: facility(features, k, form="sparse"))
    best = np.maximum((x @ x[sparse.picks].T).max(1), 0).mean()
    exact = np.maximum((x @ x[found.picks].T).max(1), 0).mean()
    print(f"  {sparse.form}: {seconds_sparse:.1f} s, covers {best:.4f} (exact: {exact:.4f})")
    peer_apricot(x, found, k)


def peer_apricot(x, found, k):
    try:
        from apricot import FacilityLocationSelection
    except Exception as error:  # numba and friends fail in many ways on a new Python
        print(f"apricot-select cannot be used ({type(error).__name__}): no peer for facility")
        return
    if len(x) > 20_000:
        print("apricot-select keeps n² similarities: left out at this size")
        return
    similar = np.maximum(x @ x.T, 0).astype(np.float64)
    FacilityLocationSelection(2, metric="precomputed", optimizer="lazy").fit(similar)  # compile
    peer, seconds = cpu(
        lambda: FacilityLocationSelection(k, metric="precomputed", optimizer="lazy").fit(similar)
    )
    agree = sum(int(a) == int(b) for a, b in zip(peer.ranking, found.picks, strict=True))
    _, product = cpu(lambda: np.maximum(x @ x.T, 0))
    print(
        f"  apricot-select (lazy, similarities given): {seconds:.1f} s, and {product:.1f} s for "
        f"the n² similarities; {agree} of {k} picks at the same place"
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--kcenter", action="append", help="n x k, for example 180000x5000")
    parser.add_argument("--facility", action="append", help="n x k, for example 10000x500")
    parser.add_argument("--width", type=int, default=1024)
    options = parser.parse_args()
    neither = not options.kcenter and not options.facility
    with blas_threads(1):
        for bench, sizes in (
            (bench_kcenter, options.kcenter or (["20000x1000", "60000x2000"] if neither else [])),
            (bench_facility, options.facility or (["5000x250", "10000x500"] if neither else [])),
        ):
            for size in sizes:
                n, k = (int(part) for part in size.split("x"))
                bench(n, k, options.width)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"peak memory of this process {peak:.2f} GB")


if __name__ == "__main__":
    main()
