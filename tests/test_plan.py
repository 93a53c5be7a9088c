"""The plan of a dry run against what the run then uses."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import pytest

BENCHMARK = Path(__file__).parent.parent / "benchmarks" / "bench_plan.py"

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="peaks are read from /proc")


def test_plans_of_cheap_strategies_hold(tmp_path: Path) -> None:
    spec = importlib.util.spec_from_file_location("bench_plan", BENCHMARK)
    assert spec is not None and spec.loader is not None
    bench = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(bench)
    pool = tmp_path / "pool.h5"
    bench.make_pool(pool, 100_000)
    found = [
        *bench.measure(pool, ["random"], ["ids", "json", "label-studio"], "50%"),
        *bench.measure(pool, ["smem", "coreset"], ["csv"], "50", ("", "d2")),
    ]
    assert len(found) == 6
    assert [run for run in found if not run.holds] == []


def test_joined_features_are_told(pool: Path, cli) -> None:
    for more in (("-s", "kmeans"), ("-s", "entropy", "--spread", "facility")):
        asked = ("select", pool, "-b", 3, *more, "--dry-run")
        assert ", with /features/image, /features/text joined in it" in cli(*asked).out
        told = json.loads(cli(*asked, "--format", "json").out)
        assert told["joined"] == ["/features/image", "/features/text"]
    assert "joined" not in cli("select", pool, "-b", 3, "-s", "entropy", "--dry-run").out
