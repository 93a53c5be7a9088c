"""What it costs to let processes or a cluster on this machine do the work, in place of threads.

    python benchmarks/bench_engines.py POOL [--rounds 3] [--workers 2] [--engines threads ray]

For each engine: seconds until a first tiny task is back, and milliseconds of each further one; then
wall and CPU seconds (of all processes) of a score, of D² picks and of a check, interleaved. All
engines have to give the same.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import psutil

import mmselect
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
    parser.add_argument("pool")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--engines", nargs="+", default=ENGINES, help="the first is to be threads")
    asked = parser.parse_args()
    for engine in asked.engines[1:]:
        first, each = tiny(engine, asked.workers)
        print(f"{engine}: first task after {first:.1f} s, then {1000 * each:.1f} ms each")
    for name, work in works(asked.pool, asked.workers).items():
        found: dict[str, list[tuple[float, float]]] = {engine: [] for engine in asked.engines}
        results = set()
        for _ in range(asked.rounds):
            for engine in asked.engines:
                start, before = time.perf_counter(), cpu()
                made = work(engine)
                results.add(made if isinstance(made, str) else made.tobytes())
                found[engine].append((time.perf_counter() - start, cpu() - before))
        assert len(results) == 1, name
        for engine, pairs in found.items():
            wall, spent = (median(column) for column in zip(*pairs, strict=True))
            print(f"{name}: {engine}: {wall:.2f} s wall, {spent:.2f} s CPU")


if __name__ == "__main__":
    main()
