"""Tables of ``build_trained.py``, from the rounds that are stored."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from build_evidence import REGIMES, TITLES, short
from numpy.typing import NDArray

from mmselect.replay.comparison import area, interval, joint_confidence

LOSSES = {"multimodal": "BMMAL's Eq. 1", "fused": "the fused loss alone"}
WEAK = {"clipart": "image", "emoji": "image", "mfeat": "mor", "stamps": "speech"}
"""The modality of each pool whose head is the least accurate after random picks."""

STORED = "stored"
OURS = "facility:doubt=fused+heads, stored"
WATCHED = (OURS, "facility:doubt=fused, stored", "facility:doubt=none, stored")
COMPARED = (*WATCHED, "margin", "badge", "bmmal")
QUESTIONS = (
    ("bmmal", "badge"),
    ("smem", "entropy"),
    ("smem:spread=d2", "bmmal"),
    (OURS, "bmmal"),
    (OURS, "badge"),
    (OURS, "alfa-mix"),
    (OURS, "facility:doubt=none, stored"),
    (OURS, "facility:doubt=fused, stored"),
    (OURS, "facility:doubt=fused+heads, learned"),
    ("facility:doubt=none, stored", "facility:doubt=none, learned"),
    ("coreset, stored", "coreset, learned"),
)
"""The first strategy less the second."""


class Setting(NamedTuple):
    """One file: a pool, how many labels, the loss; measures by strategy, (seeds, rounds)."""

    pool: str
    regime: str
    loss: str
    measures: dict[str, dict[str, NDArray[np.float64]]]

    def areas(self, measure: str) -> dict[str, NDArray[np.float64]]:
        """Mean of a measure on the way, by strategy and seed."""
        labeled = self.measures["labeled"]
        return {n: area(labeled[n], curve) for n, curve in self.measures[measure].items()}


def tables(folder: Path) -> Iterator[tuple[str, list[str]]]:
    """Make each table, with the name of its place on the page."""
    files = sorted(folder.glob("trained-*.csv"))
    settings = [read(file) for file in files if file.stem.count("-") == 3]
    for regime in REGIMES:
        some = [each for each in settings if each.regime == regime]
        yield regime, [line for loss in LOSSES for line in differences(some, loss)]
    yield "questions", list(questions(settings))
    yield "heads", list(weakest(settings))
    yield "steps", list(convergence(settings, [f for f in files if f.stem.count("-") == 4]))


def read(file: Path) -> Setting:
    """Read the rounds of one setting."""
    _, pool, regime, loss, *_ = file.stem.split("-")
    found: dict[str, dict[str, dict[str, list[float]]]] = {}
    with file.open(newline="") as handle:
        for row in csv.DictReader(handle):
            name, kind, seed = row.pop("strategy"), row.pop("features"), row.pop("seed")
            covers = name.startswith(("facility", "coreset"))
            for measure, value in row.items():
                rows = found.setdefault(measure, {}).setdefault(
                    f"{name}, {kind}" if covers else name, {}
                )
                rows.setdefault(seed, []).append(float(value or "nan"))
    arrays = {
        m: {n: np.array([*by.values()]) for n, by in some.items()} for m, some in found.items()
    }
    return Setting(pool, regime, loss, arrays)


def differences(settings: list[Setting], loss: str) -> Iterator[str]:
    """Every strategy against random, by pool; intervals hold for all strategies at once."""
    some = [each for each in settings if each.loss == loss]
    areas = [each.areas("accuracy") for each in some]
    title = f"{TITLES[some[0].regime].lower()}, {LOSSES[loss]}"
    yield f"| {title} | {' | '.join(each.pool for each in some)} | mean |"
    yield f"|---|{'---|' * len(some)}---|"
    level = [100 * float(each["random"].mean()) for each in areas]
    yield f"| `random`, accuracy | {' | '.join(f'{x:.1f}' for x in level)} | {np.mean(level):.1f} |"
    names = [name for name in areas[0] if name != "random"]
    gains = {name: [each[name] - each["random"] for each in areas] for name in names}
    for name in sorted(names, key=lambda name: -float(np.mean(gains[name]))):
        cells = [short(interval(gain, joint_confidence(len(names)))) for gain in gains[name]]
        yield f"| {shown(name)} | {' | '.join(cells)} | {100 * np.mean(gains[name]):+.1f} |"
    yield ""


def questions(settings: list[Setting]) -> Iterator[str]:
    """Pairs of strategies over all settings."""
    areas = [each.areas("accuracy") for each in settings]
    yield "| first, less second | mean | least | largest | above | below |"
    yield "|---|---|---|---|---|---|"
    for one, other in QUESTIONS:
        found = [
            interval(each[one] - each[other], joint_confidence(len(QUESTIONS))) for each in areas
        ]
        means = [100 * mean for mean, _, _ in found]
        above, below = sum(low > 0 for _, low, _ in found), sum(high < 0 for _, _, high in found)
        cells = [f"{x:+.1f}" for x in (np.mean(means), min(means), max(means))]
        yield f"| {shown(one)}, {shown(other)} | {' | '.join(cells)} | {above} | {below} |"


def weakest(settings: list[Setting]) -> Iterator[str]:
    """Compare the least accurate head of each pool with random, plain and balanced."""
    yield f"| weakest head | {' | '.join(shown(name) for name in COMPARED)} |"
    yield f"|---|{'---|' * len(COMPARED)}"
    for each in settings:
        cells = []
        both = [
            each.areas(f"{kind}.{WEAK[each.pool]}") for kind in ("accuracy", "accuracy.balanced")
        ]
        for name in COMPARED:
            confidence = joint_confidence(len(COMPARED))
            pair = [short(interval(a[name] - a["random"], confidence)) for a in both]
            cells.append(" / ".join(pair))
        where = f"{WEAK[each.pool]} of {each.pool}, {each.regime}, {each.loss}"
        yield f"| {where} | {' | '.join(cells)} |"


def convergence(settings: list[Setting], longer: list[Path]) -> Iterator[str]:
    """How well what is trained on is learned; and the same with twice the steps."""
    least = min(
        float(curve.mean())
        for each in settings
        for curve in each.measures["train_accuracy"].values()
    )
    yield f"Mean training accuracy of the fused head, least of all settings: {100 * least:.1f} %."
    for file in longer:
        twice = read(file)
        once = next(each for each in settings if each[:3] == twice[:3])
        a, b = once.areas("accuracy"), twice.areas("accuracy")
        yield ""
        yield f"| {twice.pool}, {twice.regime}, {LOSSES[twice.loss]} | steps | twice the steps |"
        yield "|---|---|---|"
        for name in ("random", *COMPARED):
            cells = [f"{100 * x[name].mean():.1f}" for x in (a, b)]
            yield f"| {shown(name)} | {' | '.join(cells)} |"


def shown(name: str) -> str:
    """Show a strategy, and on which features."""
    strategy, _, kind = name.partition(", ")
    return f"`{strategy}`{f', {kind}' if kind else ''}"
