"""How many more seeds it takes to tell two strategies apart."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from mmselect.replay.comparison import interval, joint_confidence
from mmselect.replay.power import (
    MOST_SEEDS,
    POWER,
    more_seeds,
    power,
    visible,
    visible_effect,
)
from mmselect.replay.rounds import Run
from mmselect.replay.runs import Replay
from mmselect.replay.summary import foresight, summarize


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
    copies = np.array([0.1, 0.1 + 1e-16, 0.1])  # but for the last digit
    assert math.isnan(more_seeds(copies)) and math.isnan(visible([copies], 3))
    assert math.isnan(interval(copies)[1])
    assert more_seeds(np.array([1.0, -1.0, 1e-9])) == math.inf


@pytest.mark.parametrize(("seeds", "confidence"), [(3, 0.95), (5, 0.98), (20, 0.95)])
def test_the_smallest_difference_is_found_four_times_out_of_five(
    seeds: int, confidence: float
) -> None:
    effect = visible_effect(seeds, confidence)
    drawn = np.random.default_rng(2).normal(effect, 1, (20_000, seeds))
    found = stats.ttest_1samp(drawn, 0, axis=1).pvalue < 1 - confidence
    assert found.mean() == pytest.approx(POWER, abs=0.012)


def test_the_smallest_difference_follows_the_spread_of_the_pairs() -> None:
    first, second = np.random.default_rng(3).normal(0, (0.02, 0.06), (5, 2)).T
    alone = visible([first], 5)
    assert alone == pytest.approx(visible_effect(5) * first.std(ddof=1))
    both = visible([first, second], 9, 0.99)
    pooled = np.sqrt((first.var(ddof=1) + second.var(ddof=1)) / 2)
    assert both == pytest.approx(visible_effect(9, 0.99) * pooled)
    assert math.isnan(visible([np.array([0.1])], 5)) and math.isnan(visible([np.zeros(3)], 5))


def played(curves: dict[str, np.ndarray]) -> Replay:
    """Replays of given accuracies (seeds, rounds), one modality."""
    heads = ("accuracy", "accuracy.a", "accuracy.balanced", "accuracy.balanced.a", "macro_f1")
    runs = [
        Run(name, seed, [row(heads, r, x) for r, x in enumerate(values)], [], [])
        for name, accuracy in curves.items()
        for seed, values in enumerate(accuracy.tolist())
    ]
    return Replay({"strategies": list(curves), "modalities": ["a"]}, runs, [])


def row(heads: tuple[str, ...], number: int, accuracy: float) -> dict[str, float | None]:
    measured = dict.fromkeys(heads, accuracy)
    return {"round": number, "labeled": 10 * (number + 1), **measured, "seconds": number or None}


def test_each_pair_has_its_own_smallest_difference() -> None:
    rng = np.random.default_rng(4)
    curves = {name: rng.uniform(0.4, 0.6, (4, 3)) for name in ("a", "b", "random")}
    found = played(curves)
    summary = summarize(found)
    areas = {n: (c[:, 0] / 2 + c[:, 1] + c[:, 2] / 2) / 2 for n, c in curves.items()}
    for i, a in enumerate(curves):
        for j, b in enumerate(curves):
            spread = (areas[a] - areas[b]).std(ddof=1)
            least = visible_effect(4, joint_confidence(2)) * spread
            got = summary["visible"][i][j]
            assert math.isnan(got) if i == j else got == pytest.approx(least)
    assert summary["strategies"]["a"]["visible"] == summary["visible"][0][2]
    (said,) = foresight(found, 9)
    pooled = np.mean([(areas[n] - areas["random"]).var(ddof=1) for n in ("a", "b")]) ** 0.5
    least = visible_effect(9, joint_confidence(2)) * pooled
    assert said.startswith(
        "by the spread over the first 4 seeds, 9 will tell differences to random"
    )
    assert f"about {100 * least:.1f} points" in said
    assert foresight(played({"random": curves["random"]}), 9) == []
