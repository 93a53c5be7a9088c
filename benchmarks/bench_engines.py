"""What it costs to let processes or a cluster on this machine do the work, in place of threads.

    python benchmarks/bench_engines.py [POOL] [--rounds 3] [--workers 2] [--engines threads ray]

For each engine: seconds until a first tiny task is back, and milliseconds of each further one; then
wall and CPU seconds (of all processes, and of this one) of a score, of D² picks and of a check,
interleaved; without a pool of facility location over realistic features. All engines have to give
the same.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial
from statistics import median
from typing import Any

import numpy as np
import psutil
from coldstart_data import realistic

import mmselect
from mmselect.core.coverage.facility import facility
from mmselect.core.coverage.neighbours import nearest_neighbours
from mmselect.engine import DEFAULT_MEMORY, Engine
from mmselect.pool.checking import check
from mmselect.workers import mapper_of

ENGINES = ["threads", "processes", "dask"]


def cpu() -> float:
    """CPU seconds of this process and of all that it started."""
    own = psutil.Process()
    times = [process.cpu_times() for process in (own, *own.children(recursive=True))]
    return sum(each.user + each.system for each in times)


def tiny(engine: str, workers: int) -> tuple[float, float]:
    """Seconds until the first task is back, and of each of 200 more."""
    mapper = mapper_of(engine, workers)
    assert mapper is not None
    marks = [time.perf_counter()]
    for tasks in (1, 200):
        assert len(list(mapper(abs, range(tasks)))) == tasks
        marks.append(time.perf_counter())
    return marks[1] - marks[0], (marks[2] - marks[1]) / 200


def searches(workers: int) -> dict[str, Callable[[str], Any]]:
    some, many = realistic(20_000), np.concatenate(realistic(60_000), axis=1)
    many -= many.mean(axis=0)
    many /= np.linalg.norm(many, axis=1, keepdims=True)

    def engine(by: str) -> Engine:
        return Engine(workers, mapper=mapper_of(by, workers))

    return {
        "neighbours of 60,000 x 1,024, 256 each": lambda by: nearest_neighbours(
            many.copy(), 256, engine(by)
        )[1],
        "facility, exact, 1,000 of 20,000 x 1,024": lambda by: (
            facility(some, 1000, engine=engine(by)).picks
        ),
    }


def works(pool: str, workers: int) -> dict[str, Callable[[str], Any]]:
    how: dict[str, Any] = {"threads": workers}

    def checked(by: str) -> str:
        return str(check([pool], Engine(workers, DEFAULT_MEMORY, mapper_of(by, workers))))

    return {
        "score -s margin": lambda by: mmselect.score(pool, "margin", engine=by, **how).score,
        "select -s badge -b 1000": lambda by: (
            mmselect.select(pool, "badge", 1000, engine=by, **how).indices
        ),
        "check": checked,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("pool", nargs="?")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--engines", nargs="+", default=ENGINES, help="the first is to be threads")
    asked = parser.parse_args()
    for engine in asked.engines[1:]:
        first, each = tiny(engine, asked.workers)
        print(f"{engine}: first task after {first:.1f} s, then {1000 * each:.1f} ms each")
    every = partial(works, asked.pool) if asked.pool else searches
    for name, work in every(asked.workers).items():
        found: dict[str, list[tuple[float, ...]]] = {engine: [] for engine in asked.engines}
        results = set()
        for _ in range(asked.rounds):
            for engine in asked.engines:
                clocks = (time.perf_counter, cpu, time.process_time)
                before = [clock() for clock in clocks]
                made = work(engine)
                spent = tuple(c() - b for c, b in zip(clocks, before, strict=True))
                results.add(made if isinstance(made, str) else made.tobytes())
                found[engine].append(spent)
        assert len(results) == 1, name
        for engine, rounds in found.items():
            wall, spent, here = (median(column) for column in zip(*rounds, strict=True))
            print(
                f"{name}: {engine}: {wall:.2f} s wall, {spent:.2f} s CPU, of them {here:.2f} here"
            )


if __name__ == "__main__":
    main()
