"""Replay the emoji pool with one drawing of each emoji per round: what a constraint does.

    python evidence/build_constraints.py --runs RUNS

Plays every strategy that the pool has the data for (what is trained included: it needs torch) with
few labels, with and without ``--group character:1``, compares them seed by seed, and fills the
table of ``docs/evidence.md``.
"""

from __future__ import annotations

import argparse
import csv
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from build_evidence import DOCS, REGIMES, ROUNDS, STRATEGIES, fill, marked, plus_minus

from mmselect.demo import EMOJI
from mmselect.output.emitting import emit
from mmselect.output.tables import as_csv
from mmselect.replay.comparison import area, interval, joint_confidence
from mmselect.replay.runs import replay

REGIME, GROUP = "few", "character:1"
GROUPS = {"emoji-group-free.csv": None, "emoji-group.csv": GROUP}
"""What is played: where every round is kept, and the constraint."""


def main() -> None:
    parser = argparse.ArgumentParser(description="Replay the emoji pool with a constraint.")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--runs", type=Path, help="keep finished runs here, and go on from them")
    given = parser.parse_args()
    folder = given.runs or Path(tempfile.mkdtemp())
    for name, group in GROUPS.items():
        found = replay(
            EMOJI,
            STRATEGIES,
            rounds=ROUNDS,
            budget=REGIMES[REGIME],
            seeds=given.seeds,
            jobs=given.jobs,
            folder=folder,
            group=group,
        )
        columns = {key: v for key, v in found.columns.items() if key != "seconds"}
        emit(as_csv(columns), DOCS / "evidence" / name)
    fill("evidence constraints", "\n".join(table()))


def table() -> Iterator[str]:
    """Make the table: mean accuracy of both, and the difference, seed by seed."""
    free, bound = (areas(DOCS / "evidence" / name) for name in GROUPS)
    names = sorted(bound, key=lambda name: -float(np.mean(list(bound[name].values()))))
    seeds = len(next(iter(bound.values())))
    yield f"{seeds} seeds; the intervals hold for all strategies at once."
    yield ""
    yield f"| strategy | mean accuracy | with `--group {GROUP}` | difference |"
    yield "|---|---|---|---|"
    for name in names:
        both = np.array([(free[name][seed], bound[name][seed]) for seed in bound[name]])
        less = interval(both[:, 1] - both[:, 0], joint_confidence(len(names)))
        cells = [plus_minus(interval(both[:, 0])), plus_minus(interval(both[:, 1])), marked(less)]
        yield f"| `{name}` | {' | '.join(cells)} |"


def areas(place: Path) -> dict[str, dict[str, float]]:
    """Mean accuracy over the rounds, by strategy and seed."""
    curves: dict[str, dict[str, list[tuple[float, float]]]] = {}
    with place.open(newline="") as handle:
        for row in csv.DictReader(handle):
            point = (float(row["labeled"]), float(row["accuracy"]))
            curves.setdefault(row["strategy"], {}).setdefault(row["seed"], []).append(point)
    found: dict[str, dict[str, float]] = {}
    for strategy, by_seed in curves.items():
        for seed, points in by_seed.items():
            labeled, accuracy = np.array(points).T
            value = float(area(labeled[None], accuracy[None])[0])
            found.setdefault(strategy, {})[seed] = value
    return found


if __name__ == "__main__":
    main()
