"""Hold the peak memory that ``--dry-run`` announces against what the same run then uses.

    python benchmarks/bench_plan.py --samples 200000
    python benchmarks/bench_plan.py --strategies smem,bmmal --formats csv,json --budget 10%

Every strategy runs in a process of its own; its peak is the kernel's count. The plan holds if it is
at or above the peak, and at most 1.5 times it. Exit code 1 if one does not.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

import mmselect
from mmselect.strategies import registry

FACTOR = 1.5

SPREAD = ("entropy", "smem")
"""Scores that are spread out too: what that takes depends on the features, not on the score."""

RUN = """
import sys
from mmselect.cli import run
code = run(sys.argv[1:])
sys.stderr.write(open("/proc/self/status").read())
sys.exit(code)
"""
"""Runs a command and tells the largest size of its own memory, which Linux keeps per program."""


class Measured(NamedTuple):
    """Announced and used bytes of one run; used is 0 where it failed."""

    run: str
    planned: int
    used: int

    @property
    def holds(self) -> bool:
        """Whether the plan lies between what was used and that times `FACTOR`."""
        return self.used <= self.planned <= FACTOR * self.used


def make_pool(path: Path, n: int, d: int = 16, c: int = 10) -> None:
    """Write a pool with everything that a strategy of the package reads."""
    rng, names = np.random.default_rng(0), ("image", "text")

    def numbers(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape, np.float32)

    mmselect.write_pool(
        path,
        ids=[f"sample-{i:08d}" for i in range(n)],
        features={m: numbers(n, d) for m in names},
        unimodal_logits={m: numbers(n, c) for m in names},
        multimodal_logits=numbers(n, c),
        classifier_weight={m: numbers(c, d) for m in names},
        classifier_bias=np.zeros(c, np.float32),
        dropout_logits=numbers(n, 4, c),
        labels=rng.integers(0, c, n),
        labeled=np.arange(n) % 100 == 0,
        metadata={"loss": rng.random(n), "caption": [f"caption no. {i}" for i in range(n)]},
    )


def peak(arguments: Sequence[str]) -> int:
    """Bytes that a command's process holds at most; 0 where it fails."""
    done = subprocess.run(
        [sys.executable, "-c", RUN, *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    found = re.search(rb"VmHWM:\s*(\d+) kB", done.stderr)
    return int(found[1]) * 1024 if found and not done.returncode else 0


def plan(arguments: Sequence[str]) -> int:
    """Bytes that the plan of a command announces."""
    command = [sys.executable, "-m", "mmselect", *arguments, "--dry-run", "--format", "json", "-q"]
    return int(
        json.loads(subprocess.run(command, check=True, capture_output=True).stdout)["peak_memory"]
    )


def measure(
    pool: Path,
    strategies: Sequence[str],
    formats: Sequence[str],
    budget: str,
    spreads: Sequence[str] = ("", "d2", "facility"),
) -> Iterator[Measured]:
    """Plan and run each strategy in each format, and some scores spread out."""
    for name in strategies:
        for spread in spreads if name in SPREAD else ("",):
            asked = ["select", str(pool), "-s", name, "-b", budget, "--threads", "2"]
            asked += ["--spread", spread] if spread else []
            planned = plan(asked)
            for form in formats:
                words = " ".join(filter(None, (name, spread, form)))
                yield Measured(words, planned, peak([*asked, "--format", form]))


def main() -> int:
    """Print one line per run."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--samples", type=int, default=200_000)
    parser.add_argument("--budget", default="200")
    parser.add_argument("--strategies")
    parser.add_argument("--formats", default="ids")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()))
    given = parser.parse_args()
    installed = [name for name, record in registry.BUILT_IN.items() if record.installed]
    every = ["auto", *(name.replace("NAME", "loss") for name in installed)]
    strategies = given.strategies.split(",") if given.strategies else every
    failures = 0
    with tempfile.TemporaryDirectory(dir=given.folder) as folder:
        pool = Path(folder) / "pool.h5"
        make_pool(pool, given.samples)
        for found in measure(pool, strategies, given.formats.split(","), given.budget):
            failures += not found.holds
            said = "holds" if found.holds else "DOES NOT HOLD"
            ratio = found.planned / max(found.used, 1)
            print(
                f"{found.run:<32} planned {found.planned / 1e6:>8.1f} MB  "
                f"used {found.used / 1e6:>8.1f} MB  {ratio:5.2f}  {said}",
                flush=True,
            )
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
