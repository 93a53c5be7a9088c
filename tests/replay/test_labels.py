"""How many labels a strategy needs, against the baseline's, and how sure that is."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats
from test_power import played

from mmselect.replay.comparison import joint_confidence, labels_interval
from mmselect.replay.summary import summarize


def noisy(rng: np.random.Generator, slope: float, seeds: int) -> tuple[np.ndarray, np.ndarray]:
    """Straight curves from 0.2 over 0 to 100 labels, moved up and down for each seed."""
    labeled = np.tile(np.arange(0, 101, 20.0), (seeds, 1))
    return labeled, 0.2 + slope * labeled + 0.02 * rng.standard_normal((seeds, 1))


def test_inside_is_what_a_test_does_not_refuse() -> None:
    labeled, accuracy = noisy(np.random.default_rng(0), 0.004, 5)
    level = 0.4 + 0.03 * np.random.default_rng(1).standard_normal(5)
    low, high = labels_interval(labeled, accuracy, level, 0.9)
    assert 0 < low < 50 < high < 100
    for x in range(101):
        d = [np.interp(x, a, b) for a, b in zip(labeled, accuracy, strict=True)] - level
        assert (stats.ttest_1samp(d, 0).pvalue >= 0.1) == (low <= x <= high)


def test_the_interval_holds_the_truth_as_often_as_it_says() -> None:
    """Curves of known slopes: what `random` has after 80 labels the other has after 40."""
    rng, held = np.random.default_rng(2), 0
    for _ in range(400):
        labeled, base = noisy(rng, 0.002, 5)
        _, ours = noisy(rng, 0.004, 5)
        low, high = labels_interval(labeled, ours, base[:, 4])
        held += low <= 40 <= high
    assert held / 400 == pytest.approx(0.95, abs=0.03)


def test_what_is_not_reached_is_open() -> None:
    labeled, accuracy = noisy(np.random.default_rng(3), 0.004, 4)
    low, high = labels_interval(labeled, accuracy, np.full(4, 0.6))
    assert low < 100 and high == math.inf
    assert labels_interval(labeled, accuracy, np.full(4, 0.9)) == (100, math.inf)
    assert labels_interval(labeled, accuracy, np.full(4, 0.0)) == (0, 0)
    alike = np.tile(accuracy[0], (4, 1))
    assert all(map(math.isnan, labels_interval(labeled, alike, np.full(4, 0.3))))
    assert all(map(math.isnan, labels_interval(labeled[:1], accuracy[:1], np.array([0.3]))))


def test_a_summary_says_it_for_every_strategy_at_once() -> None:
    rng = np.random.default_rng(4)
    curves = {n: np.sort(rng.uniform(0.3, 0.6, (4, 4)), axis=1) for n in ("a", "b", "random")}
    rows = summarize(played(curves))["strategies"]
    labeled = np.tile([10.0, 20, 30, 40], (4, 1))
    price = rows["random"]["labels_to_target"]
    level = np.array([np.interp(price, labeled[0], c) for c in curves["random"]])
    for name in ("a", "b"):
        low, high = labels_interval(labeled, curves[name], level, joint_confidence(2))
        share, *bounds = rows[name]["relative_labels"]
        assert bounds == [low / price, high / price]
        assert math.isnan(share) or share == rows[name]["labels_to_target"] / price
