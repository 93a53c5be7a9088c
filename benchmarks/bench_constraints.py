"""What a limit for each of many groups costs, as a share of the selection: CPU time, in one run.

    python benchmarks/bench_constraints.py                        # n = 400,000, k = 40,000
    python benchmarks/bench_constraints.py -n 40000 -k 4000       # a tenth of it
    python benchmarks/bench_constraints.py --kinds                # every kind of constraint

Selections from a pool on disk, with and without ``--group`` over n/4 groups, in turn; medians.
``own`` is what the constraint takes by itself: reading its column, the checks before any work, and
the state that is asked before each pick, told the picks again. It tells the cost where the other
difference does not, since other picks may take longer or less long to find.

With ``--kinds``, the top of random scores under each kind of constraint, from the arrays on.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import mmselect
from mmselect.ask import Selecting
from mmselect.core.constraints.allowed import Allowed
from mmselect.core.constraints.caps import Cap
from mmselect.core.constraints.highest import take_highest
from mmselect.core.constraints.quotas import Quotas
from mmselect.request import prepare


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure what constraints cost.")
    parser.add_argument("-n", type=int, default=400_000)
    parser.add_argument("-k", type=int, default=40_000)
    parser.add_argument("-d", type=int, default=64, help="features, of two modalities together")
    parser.add_argument("-s", "--strategies", default="random,margin,smem,badge,bmmal")
    parser.add_argument("--column", default="video", help="video: numbers; name: the same as text")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--kinds", action="store_true")
    given = parser.parse_args()
    if given.kinds:
        every_kind(given.n, given.k)
        return
    print(f"n = {given.n:,}, k = {given.k:,}, d = {given.d}, {given.n // 4:,} groups", flush=True)
    print("strategy     free, s  group, s   own, s  own, share of free", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "pool.h5"
        write(path, given.n, given.d)
        for name in given.strategies.split(","):
            measure(path, name, f"{given.column}:1", given)


def write(path: Path, n: int, d: int) -> None:
    """Write a pool of two modalities, with heads of 100 classes, in 200 clusters."""
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((200, d), dtype=np.float32)
    x = centres[rng.integers(0, 200, n)] + rng.standard_normal((n, d), dtype=np.float32)
    weight = 0.3 * rng.standard_normal((100, d), dtype=np.float32)
    parts = {"image": slice(0, d // 2), "text": slice(d // 2, d)}
    video = rng.integers(0, n // 4, n)
    mmselect.write_pool(
        path,
        ids=np.arange(n),
        features={m: x[:, part] for m, part in parts.items()},
        unimodal_logits={m: x[:, part] @ weight[:, part].T for m, part in parts.items()},
        multimodal_logits=x @ weight.T,
        classifier_weight={m: weight[:, part] for m, part in parts.items()},
        classifier_bias=np.zeros(100, np.float32),
        metadata={"video": video, "name": [f"video-{v:06d}" for v in video]},
    )


def measure(path: Path, name: str, group: str, given: Any) -> None:
    """Select with and without a limit, in turn, and tell the medians."""
    how: dict[str, Any] = {"strategy": name, "budget": given.k, "threads": 1}
    free, bound, own = [], [], []
    for _ in range(given.repeat):
        free.append(timed(lambda: mmselect.select(path, **how))[0])
        seconds, picks = timed(lambda: mmselect.select(path, **how, group=group))
        bound.append(seconds)
        own.append(alone(path, how, group, picks.indices))
    plain, with_it, itself = (float(np.median(times)) for times in (free, bound, own))
    share = f"{100 * itself / plain:.1f} %"
    print(f"{name:12} {plain:7.2f} {with_it:9.2f} {itself:8.2f}  {share}", flush=True)


def alone(path: Path, how: dict[str, Any], group: str, picks: Any) -> float:
    """CPU seconds of the constraint by itself; a ranking asks once for all picks."""
    with mmselect.open_pool(path) as pool:
        before = timed(lambda: prepare(pool, Selecting(**how)))[0]
        seconds, request = timed(lambda: prepare(pool, Selecting(**how, group=group)))
        assert request.constraints is not None
        constraints, order = request.constraints, np.concatenate([picks, np.arange(pool.n)])

    def told() -> None:
        state = constraints.allowed(how["budget"])
        if request.strategy.kind == "score" or how["strategy"] == "random":
            state.take_in_order(order)
            return
        for row in picks.tolist():
            state.take(row)

    return seconds - before + timed(told)[0]


def every_kind(n: int, k: int) -> None:
    """Tell what each kind of constraint takes to make, and for a pick of the top of a score."""
    rng = np.random.default_rng(0)
    video, site, half = (rng.integers(0, values, n) for values in (n // 4, 7, 2))
    cost, scores = 1 + rng.random(n), rng.standard_normal(n)
    each, seventh = [Cap(video, 1)], [Cap(np.where(site == 0, 0, -1), k // 14)]
    least = [Quotas(np.where(half == 0, 0, -1), np.array([0.6 * k]), np.array([False]))]
    kinds: dict[str, dict[str, Any]] = {
        f"group, {n // 4:,} values": {"caps": each},
        "group and at-most": {"caps": [*each, *seventh]},
        "at-least": {"quotas": least},
        "group and at-least": {"caps": each, "quotas": least},
        "balance, 7 values": {"balance": [site]},
        f"balance, {n // 4:,} values": {"balance": [video]},
        "balance, 7 and 2 values": {"balance": [site, half]},
        "group and balance": {"caps": each, "balance": [site]},
        "picks dealt to 2 patterns": {"dealt": half},
        "cost": {"costs": cost},
        "cost and group": {"costs": cost, "caps": each},
        "cost and at-least": {"costs": cost, "quotas": least},
    }
    print(f"n = {n:,}, k = {k:,}: made, ms; µs a pick", flush=True)
    for name, how in kinds.items():
        made, state = timed(lambda how=how: Allowed(n, k, **how))
        seconds, picks = timed(lambda state=state: take_highest(scores, state))
        print(f"{name:28} {1e3 * made:5.0f} {1e6 * seconds / len(picks):6.1f}", flush=True)


def timed(function: Callable[[], Any]) -> tuple[float, Any]:
    """CPU seconds of a call, and what it returns."""
    began = time.process_time()
    found = function()
    return time.process_time() - began, found


if __name__ == "__main__":
    main()
