"""How often does the interval of "how many more labels" hold the truth? Asked of finished curves.

    python evidence/back_test.py --play --runs RUNS     # plays the long curves first: half an hour
    python evidence/back_test.py

For every strategy of a replay of the emoji pool the curve is fitted to the first rounds of five
seeds; the truth is the number of labels at which the mean curve of the other five seeds reaches the
accuracy that it has some rounds later. Fills the table of ``docs/evidence.md``.
"""

from __future__ import annotations

import argparse
import csv
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from build_evidence import DOCS, REGIMES, fill

from mmselect.demo import EMOJI
from mmselect.output.emitting import emit
from mmselect.output.tables import as_csv
from mmselect.replay.comparison import labels_to_reach
from mmselect.replay.forecast import fit, labels_for
from mmselect.replay.runs import replay

LONG = DOCS / "evidence" / "emoji-long.csv"
STRATEGIES = (
    *("random", "facility", "badge", "margin", "entropy", "bmmal", "coreset", "smem:spread=d2"),
)
CASES = (
    *(("emoji-few.csv", 4, 5), ("emoji-few.csv", 4, 6)),
    *(("emoji-many.csv", 4, 5), ("emoji-many.csv", 4, 6)),
    *(("emoji-long.csv", 6, 9), ("emoji-long.csv", 6, 12), ("emoji-long.csv", 6, 21)),
    *(("emoji-long.csv", 11, 13), ("emoji-long.csv", 11, 16), ("emoji-long.csv", 11, 21)),
)
"""A file of rounds, how many points are fitted, and the point whose accuracy is the target."""

FITTED, HELD_OUT = slice(0, 5), slice(5, 10)
"""Seeds."""


def main() -> None:
    parser = argparse.ArgumentParser(description="Back-test the labels that are foretold.")
    parser.add_argument("--play", action="store_true", help="play the long curves again")
    parser.add_argument("--runs", type=Path, help="keep finished runs here, and go on from them")
    given = parser.parse_args()
    if given.play:
        how = {"rounds": 20, "budget": REGIMES["few"], "seeds": 10, "folder": given.runs}
        columns = replay(EMOJI, STRATEGIES, **how).columns
        emit(as_csv({key: v for key, v in columns.items() if key != "seconds"}), LONG)
    fill("evidence forecast", "\n".join(table()))


def table() -> Iterator[str]:
    """Make the table: a row for each case, over all strategies."""
    yield "| rounds | labels fitted | labels wanted | cases | held | open above | off by |"
    yield "|---|---|---|---|---|---|---|"
    for name, points, place in CASES:
        cases = [found for c in curves(name) if (found := back_test(*c, points, place))]
        held, is_open, off = np.array(cases).T
        labeled = curves(name)[0][0][0]
        cells = [
            f"`{name}`",
            f"{labeled[0]:.0f} to {labeled[points - 1]:.0f}",
            f"{labeled[place - 1]:.0f}, {labeled[place - 1] / labeled[points - 1]:.2f} ×",
            f"{len(cases)}",
            f"{int(held.sum())}",
            f"{int(is_open.sum())}",
            f"{100 * (math.exp(np.median(off)) - 1):.0f} %" if np.isfinite(np.median(off)) else "–",
        ]
        yield f"| {' | '.join(cells)} |"


def back_test(
    labeled: np.ndarray, accuracy: np.ndarray, points: int, place: int
) -> tuple[bool, bool, float] | None:
    """Whether the bounds hold the truth, whether the upper is open, how far the median is off.

    None where the fitted seeds have reached the target already.
    """
    truth = accuracy[HELD_OUT].mean(axis=0)
    target = truth[place - 1]
    seen = accuracy[FITTED, :points]
    if target <= seen.mean(axis=0).max():
        return None
    actual = labels_to_reach(labeled[0], truth, target)
    median, low, high = labels_for(fit(labeled[FITTED, :points], seen), target)
    off = abs(math.log(median / actual)) if math.isfinite(median) else math.inf
    return low <= actual <= high, not math.isfinite(high), off


def curves(name: str) -> list[tuple[np.ndarray, np.ndarray]]:
    """Read labels and accuracies of a file, (seeds, rounds) for each strategy."""
    found: dict[str, dict[str, list[tuple[float, float]]]] = {}
    with (DOCS / "evidence" / name).open(newline="") as handle:
        for row in csv.DictReader(handle):
            seeds = found.setdefault(row["strategy"], {})
            point = (float(row["labeled"]), float(row["accuracy"]))
            seeds.setdefault(row["seed"], []).append(point)
    arrays = [np.array([*seeds.values()]) for seeds in found.values()]
    return [(both[:, :, 0], both[:, :, 1]) for both in arrays]


if __name__ == "__main__":
    main()
