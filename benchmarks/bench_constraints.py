"""What a limit for each of many groups costs, as a share of the selection: CPU time, in one run.

    python benchmarks/bench_constraints.py                       # n = 400,000, k = 40,000
    python benchmarks/bench_constraints.py -n 40000 -k 4000      # a tenth of it

For each way to pick: the time without constraints, with ``--group`` over n/4 groups, and how long
the state that is asked takes by itself, told the same picks again: that share is what constraints
cost a way that asks before each pick, however the picks differ. The top of a score (``entropy``)
asks once for all, so there the difference of the first two counts.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from mmselect.core.constraints.allowed import Allowed
from mmselect.core.constraints.caps import Cap
from mmselect.core.constraints.highest import top
from mmselect.core.coverage.facility import facility
from mmselect.core.coverage.kcenter import kcenter
from mmselect.core.sampling.d2 import d2_sample
from mmselect.core.sampling.points import feature_points
from mmselect.core.scores.information import entropy
from mmselect.engine import Engine


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure what constraints cost.")
    parser.add_argument("-n", type=int, default=400_000)
    parser.add_argument("-k", type=int, default=40_000)
    parser.add_argument("-d", type=int, default=64)
    parser.add_argument("--ways", default="entropy,d2,facility,coreset")
    given = parser.parse_args()
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((200, given.d))
    near = centres[rng.integers(0, 200, given.n)]
    x = (near + rng.standard_normal((given.n, given.d))).astype(np.float32)
    logits = (3 * rng.standard_normal((given.n, 100))).astype(np.float32)
    codes = rng.integers(0, given.n // 4, given.n)
    print(f"n = {given.n:,}, k = {given.k:,}, d = {given.d}, {given.n // 4:,} groups", flush=True)
    ways = methods(x, logits, given.k)
    for name in given.ways.split(","):
        free = timed(ways[name], None)
        allowed = Allowed(given.n, given.k, caps=[Cap(codes, 1)])
        bound = timed(ways[name], allowed)
        state = timed(again, given, codes, allowed.taken)
        share = f"state {state:.2f} s, {100 * state / free:.1f} % of the selection"
        print(f"{name:9} free {free:7.2f} s, bound {bound:7.2f} s; {share}", flush=True)


def methods(x: Any, logits: Any, k: int) -> dict[str, Callable[[Allowed | None], Any]]:
    """Ways to pick, each from its numbers on."""
    engine = Engine(1)
    points = feature_points({"x": x})

    def d2(allowed: Allowed | None) -> Any:
        return d2_sample(points, k, np.random.default_rng(0), allowed=allowed, engine=engine)

    return {
        "entropy": lambda allowed: top(entropy(logits), k, allowed),
        "d2": d2,
        "facility": lambda allowed: facility([x], k, allowed=allowed, engine=engine),
        "coreset": lambda allowed: kcenter([x], k, allowed=allowed, engine=engine),
    }


def again(given: Any, codes: Any, taken: list[int]) -> None:
    """Tell a fresh state the same picks."""
    state = Allowed(given.n, given.k, caps=[Cap(codes, 1)])
    for row in taken:
        state.take(row)


def timed(function: Callable[..., Any], *arguments: Any) -> float:
    """CPU seconds of a call."""
    began = time.process_time()
    function(*arguments)
    return time.process_time() - began


if __name__ == "__main__":
    main()
