"""How many more seeds it takes to tell two strategies apart."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from mmselect.replay.comparison import MOST_SEEDS, POWER, interval, more_seeds, power


@pytest.mark.parametrize(("effect", "seeds", "confidence"), [(0.5, 20, 0.95), (1.0, 8, 0.99)])
def test_power_is_how_often_the_test_finds_it(effect: float, seeds: int, confidence: float) -> None:
    drawn = np.random.default_rng(0).normal(effect, 1, (20_000, seeds))
    found = stats.ttest_1samp(drawn, 0, axis=1).pvalue < 1 - confidence
    assert power(effect, seeds, confidence) == pytest.approx(found.mean(), abs=0.012)


def test_no_seed_less_would_do() -> None:
    rng = np.random.default_rng(1)
    counted = 0
    for _ in range(40):
        differences = rng.normal(0.3, 1, 6)
        more = more_seeds(differences, 0.98)
        _, low, high = interval(differences, 0.98)
        if low > 0 or high < 0:
            assert more == 0
            continue
        effect = abs(differences.mean()) / differences.std(ddof=1)
        if math.isinf(more):
            assert power(effect, MOST_SEEDS, 0.98) < POWER
            continue
        counted += 1
        assert power(effect, 6 + int(more), 0.98) >= POWER
        assert more == 1 or power(effect, 5 + int(more), 0.98) < POWER
    assert counted > 10


def test_nothing_to_say() -> None:
    assert math.isnan(more_seeds(np.array([0.1])))
    assert math.isnan(more_seeds(np.array([0.1, 0.1, 0.1])))  # copies
    assert math.isnan(more_seeds(np.zeros(3)))
    assert more_seeds(np.array([1.0, -1.0, 1e-9])) == math.inf
