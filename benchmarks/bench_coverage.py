"""k-center, facility location and its neighbours against plain forms and public peers, as ratios.

    python benchmarks/bench_coverage.py [--kcenter 20000x1000] [--facility 10000x500]
        [--passes 20000x1000] [--unknown 20000x1000] [--pool mmselect/data/emoji.h5:381]
        [--neighbours 50000] [--data own] [--data realistic] [--rounds 5]

Data: `own`, whose variance lies in some 100 directions, and `realistic` (coldstart_data.py), where
it does not; `emoji` is the real pool of the package, of 3,812 rows at most, and any other name is
the file of a pool, of which the first n rows are taken. Ours and the plain form take turns,
`rounds` times, and medians are divided; on one thread, in CPU seconds, where nothing else is said.
Every pick of a plain form costs the same, so a few are timed and multiplied; their picks are
compared too.

The plain k-center is one matrix-vector product and a running minimum per pick, on features that are
joined and centred already; what that takes is told, too, since ours does it. Both run on one thread
(CPU seconds), and then on two (wall seconds, which need a quiet machine). The plain facility
location is one product of all candidates with all clients per pick; beside it stands one product of
all pairs, each once. The plain neighbours are faiss's own search of the same lists. Peers, where
installed: `lightly-mundig` (k-center, compiled) and `apricot-select` (facility location).
"""

from __future__ import annotations

import argparse
import resource
from contextlib import contextmanager
from functools import partial
from statistics import median
from time import perf_counter, process_time, sleep

import numpy as np
from coldstart_data import DATA
from common import machine

import mmselect
from mmselect.core.coverage import exact
from mmselect.core.coverage import sparse as sparse_form
from mmselect.core.coverage.facility import facility
from mmselect.core.coverage.inverted import among_lists, inverted_lists
from mmselect.core.coverage.kcenter import kcenter
from mmselect.core.coverage.neighbours import PROBES
from mmselect.core.coverage.products import among_all
from mmselect.core.features import as_modalities
from mmselect.core.joined import joined
from mmselect.core.unit_rows import unit_rows
from mmselect.demo import EMOJI
from mmselect.engine import SERIAL, Engine, blas_threads

IDLE = 0.1
"""Seconds after which threads of BLAS that found no more work have stopped to look for it."""


def data(name, n, width):
    """Features of a generator, or of the first rows of a pool's file."""
    if name in DATA:
        return DATA[name](n, (width // 2,) * 2)
    with mmselect.open_pool(EMOJI if name == "emoji" else name) as pool:
        return [pool.columns[f"/features/{name}"][:n] for name in pool.names("/features")]


def cpu(call):
    began = process_time()
    result = call()
    return result, process_time() - began


def plain_kcenter(x, first, picks, clock):
    """Pick plainly, and return the median seconds of a pick."""
    squares = np.einsum("ij,ij->i", x, x)
    nearest, pick, found, seconds = np.full(len(x), np.inf, np.float32), first, [first], []
    for _ in range(picks):
        began = clock()
        np.minimum(nearest, squares + squares[pick] - 2 * (x @ x[pick]), out=nearest)
        nearest[pick] = -1
        pick = int(np.argmax(nearest))
        seconds.append(clock() - began)
        found.append(pick)
    return found, median(seconds)


def bench_kcenter(name, features, k, rounds):
    for unit in (False, True):
        joining, ours, theirs = [], {1: [], 2: []}, {1: [], 2: []}
        # One after the other: threads of BLAS that wait for work use up time of the next ones.
        for threads, clock in ((1, process_time), (2, perf_counter)):
            for _ in range(rounds):
                x, seconds = cpu(lambda unit=unit: centred(features, unit))
                joining.append(seconds)
                began = clock()
                found = kcenter(features, k, unit=unit, engine=Engine(threads))
                ours[threads].append(clock() - began)
                with blas_threads(threads):
                    plain, seconds = plain_kcenter(x, int(found.picks[0]), min(16, k - 1), clock)
                theirs[threads].append(seconds * k)
                sleep(IDLE)
        agree = sum(a == b for a, b in zip(plain, found.picks.tolist(), strict=False))
        ours, theirs = ([median(seconds[t]) for t in (1, 2)] for seconds in (ours, theirs))
        whole = theirs[0] + median(joining[:rounds])
        print(
            f"k-center, {name}, {'unit' if unit else 'raw'}, {len(x):,} x {x.shape[1]:,}, k={k:,}, "
            f"{agree} of {len(plain)} picks equal\n"
            f"  one thread, CPU: ours {ours[0]:.4f} s, plain {theirs[0]:.4f} s, "
            f"with joining {whole:.4f} s: {theirs[0] / ours[0]:.2f}x, {whole / ours[0]:.2f}x\n"
            f"  two, wall: ours {ours[1]:.4f} s, plain {theirs[1]:.4f} s: "
            f"{theirs[1] / ours[1]:.2f}x; the faster of both: {min(theirs) / min(ours):.2f}x",
            flush=True,
        )
        peer_mundig(x, k)


def centred(features, unit):
    """Join modalities and take the mean off: what the plain form is given."""
    return joined(as_modalities(features), unit=unit, center=True)[:]


def peer_mundig(x, k):
    try:
        from lightly_mundig import Selection
    except ImportError:
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


def plain_facility(x, picks):
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
    return found, median(seconds)


def one_pass(x):
    """Multiply all pairs, each once."""
    for a in range(0, len(x), 1024):
        for b in range(a, len(x), 1024):
            x[a : a + 1024] @ x[b : b + 1024].T


@contextmanager
def patched(module, **values):
    before = {name: getattr(module, name) for name in values}
    try:
        vars(module).update(values)
        yield
    finally:
        vars(module).update(before)


def normalised(features):
    return unit_rows(as_modalities(features), center=True).whole()


def bench_facility(name, features, k, rounds):
    x, ours, plain, passes, sparsely = normalised(features), [], [], [], []
    for _ in range(rounds):
        found, seconds = cpu(lambda: facility(features, k, form="exact"))
        ours.append(seconds)
        same, seconds = plain_facility(x, 1)
        plain.append(seconds * k)
        passes.append(cpu(lambda: one_pass(x))[1])
        sparse, seconds = cpu(lambda: facility(features, k, form="sparse"))
        sparsely.append(seconds)
    ours, plain, passes, sparsely = (median(t) for t in (ours, plain, passes, sparsely))
    print(
        f"facility, {name}, {len(x):,} x {x.shape[1]:,}, k={k:,}: exact {ours:.2f} s, plain "
        f"{plain:.1f} s (picks {same} and {found.picks[:1].tolist()}): {plain / ours:.0f}x; one "
        f"pass over all pairs {passes:.2f} s: {ours / passes:.1f} passes",
        flush=True,
    )
    covers = [np.maximum((x @ x[one.picks].T).max(1), 0).mean() for one in (sparse, found)]
    print(f"  {sparse.form}: {sparsely:.2f} s, objective {covers[0] / covers[1]:.4f} of exact")
    peer_apricot(x, found, k, ours)


def bench_unknown(name, features, k, _rounds):
    """Cover with less and more for what is not known, at some budgets up to k, against exact."""
    x, budgets = normalised(features), sorted({max(k // part, 1) for part in (50, 10, 5, 1)})

    def covers(picks):
        return [np.maximum((x @ x[picks[:few]].T).max(1), 0).mean() for few in budgets]

    whole = covers(facility(features, k, form="exact").picks)
    print(f"unknown similarities, {name}, {len(x):,} x {x.shape[1]:,}, picks {budgets}", flush=True)
    for count in (64, 128, 256):
        for share in (0, 0.5, 1):
            with patched(sparse_form, UNKNOWN=np.float32(share)):
                found = facility(features, k, form="sparse", neighbours=count)
            ratios = " ".join(
                f"{a / b:.4f}" for a, b in zip(covers(found.picks), whole, strict=True)
            )
            print(f"  {count} neighbours, {share} of the smallest: {ratios}", flush=True)


def bench_passes(name, features, k, rounds):
    """Compare the exact form with one product of all pairs, each once, and nothing else."""
    x, ours, passes = normalised(features), [], []
    for _ in range(rounds):
        found, seconds = cpu(lambda: facility(features, k, form="exact"))
        ours.append(seconds)
        passes.append(cpu(lambda: one_pass(x))[1])
    ours, passes = median(ours), median(passes)
    print(
        f"facility, {name}, {len(x):,} x {x.shape[1]:,}, k={k:,}: exact {ours:.2f} s, one pass "
        f"over all pairs {passes:.2f} s: {ours / passes:.1f} passes; {found.work}",
        flush=True,
    )


def bench_pool(path, k, rounds):
    """Draft and prove on a real pool whose similarities could be held, against holding them."""
    with mmselect.open_pool(path) as pool:
        columns = {p: c for p, c in pool.columns.items() if p.startswith("/features/")}
        features = {p: c[np.arange(pool.n)] for p, c in columns.items()}
    seconds = {"held": [], "drafted": []}
    pairs, found = exact.PAIRS, {}
    for _ in range(rounds):
        for how, most in (("held", exact.MATRIX_BYTES), ("drafted", 0)):
            with patched(exact, MATRIX_BYTES=most, PAIRS=min(pairs, pool.n * 100)):
                found[how], taken = cpu(lambda: facility(features, k, form="exact"))
            seconds[how].append(taken)
    held, drafted = (median(seconds[how]) for how in ("held", "drafted"))
    same = np.array_equal(found["held"].picks, found["drafted"].picks)
    print(
        f"facility, {path}, n={pool.n:,}, k={k:,}: all similarities held {held:.2f} s, drafted "
        f"and proved {drafted:.2f} s, same picks: {same}; {found['drafted'].work}",
        flush=True,
    )


def bench_neighbours(name, features, rounds, counts=(64, 128, 256)):
    """Search lists ourselves and by faiss, 2,048 rows of which are timed and multiplied."""
    import faiss

    faiss.omp_set_num_threads(1)
    x, lists = normalised(features), int(4 * len(features[0]) ** 0.5)
    index = faiss.IndexIVFFlat(
        faiss.IndexFlatIP(x.shape[1]), x.shape[1], lists, faiss.METRIC_INNER_PRODUCT
    )
    index.cp.niter, index.cp.max_points_per_centroid, index.cp.seed = 6, 39, 1
    _, training = cpu(lambda: index.train(x))
    index.add(x)
    flat = faiss.IndexFlatIP(x.shape[1])
    flat.add(x)
    index.nprobe, asked = PROBES, np.arange(0, len(x), max(len(x) // 2048, 1))[:2048]
    centres = index.quantizer.reconstruct_n(0, lists)

    def by_lists(count):
        lists = inverted_lists(x, centres, PROBES, SERIAL)
        return among_lists(x.copy(), lists, count, SERIAL)

    for way, search, theirs in (
        ("lists", by_lists, index),
        ("all", lambda count: among_all(x, count, SERIAL), flat),
    ):
        for count in counts:
            ours, peer = [], []
            for _ in range(rounds):
                (_, found), seconds = cpu(partial(search, count))
                ours.append(seconds)
                (_, expected), seconds = cpu(partial(theirs.search, x[asked], count))
                peer.append(seconds * len(x) / len(asked))
            recall = [
                np.isin(a[a >= 0], b).mean() for a, b in zip(expected, found[asked], strict=True)
            ]
            print(
                f"neighbours, {name}, {len(x):,} x {x.shape[1]:,}, {count} among {way}: ours "
                f"{median(ours):.2f} s, faiss {median(peer):.2f} s, recall {np.mean(recall):.5f}: "
                f"{median(peer) / median(ours):.1f}x",
                flush=True,
            )
    print(f"  faiss took {training:.2f} s for the centres of {lists} lists")


def peer_apricot(x, found, k, ours):
    try:
        from apricot import FacilityLocationSelection
    except Exception:  # numba and friends fail in many ways on a new Python
        return
    if len(x) > 20_000:  # it keeps n² similarities
        return
    similar = np.maximum(x @ x.T, 0).astype(np.float64)
    FacilityLocationSelection(2, metric="precomputed", optimizer="lazy").fit(similar)  # compile
    peer, seconds = cpu(
        lambda: FacilityLocationSelection(k, metric="precomputed", optimizer="lazy").fit(similar)
    )
    agree = sum(int(a) == int(b) for a, b in zip(peer.ranking, found.picks, strict=True))
    _, product = cpu(lambda: np.maximum(x @ x.T, 0))
    print(
        f"  apricot-select (lazy, similarities given): {seconds:.2f} s, and {product:.2f} s for "
        f"the n² similarities: {(seconds + product) / ours:.1f}x; {agree} of {k} picks at the "
        f"same place"
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--kcenter", action="append", default=[], help="n x k: 180000x5000")
    parser.add_argument("--facility", action="append", default=[], help="n x k: 10000x500")
    parser.add_argument("--passes", action="append", default=[], help="n x k: exact form alone")
    parser.add_argument("--unknown", action="append", default=[], help="n x k: sparse form alone")
    parser.add_argument("--pool", action="append", default=[], help="FILE:k, a real pool")
    parser.add_argument("--neighbours", action="append", default=[], help="n: 50000", type=int)
    parser.add_argument("--data", action="append", help="own, realistic, emoji, FILE")
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    if not (
        options.kcenter
        or options.facility
        or options.neighbours
        or options.passes
        or options.unknown
        or options.pool
    ):
        options.kcenter, options.facility = ["1000x100", "20000x1000"], ["5000x250", "16000x800"]
        options.neighbours = [20_000]
    print(machine(), flush=True)
    with blas_threads(1):
        for path, k in (pool.rsplit(":", 1) for pool in options.pool):
            bench_pool(path, int(k), options.rounds)
        for name in options.data or [*DATA, "emoji"]:
            for bench, sizes in (
                (bench_kcenter, options.kcenter),
                (bench_facility, options.facility),
                (bench_passes, options.passes),
                (bench_unknown, options.unknown),
            ):
                for n, k in (map(int, size.split("x")) for size in sizes):
                    bench(name, data(name, n, options.width), k, options.rounds)
            for n in options.neighbours:
                bench_neighbours(name, data(name, n, options.width), options.rounds)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"peak memory of this process {peak:.2f} GB")


if __name__ == "__main__":
    main()
