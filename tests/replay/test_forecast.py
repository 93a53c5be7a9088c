"""How many more labels: planted curves, the grid by its definition, and what is said of it."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import Result
from test_playing import labeled_pool

from mmselect.errors import UsageError
from mmselect.replay.forecast import (
    ALPHAS,
    BETAS,
    REACHED,
    Palm,
    curve,
    fit,
    labels_for,
    parameters,
)
from mmselect.replay.summary import parse_target

pytestmark = pytest.mark.usefixtures("few_penalties")

PLANTED = Palm(0.83, 0.2, 0.7, 0.6, 50.0)


def drawn(rng: np.random.Generator, found: Palm, rounds: int, seeds: int = 5, noise: float = 0.004):
    labeled = np.tile(found.batch * np.arange(1, rounds + 1), (seeds, 1))
    level = noise * rng.standard_normal((seeds, 1))
    return labeled, curve(found, labeled) + level + noise * rng.standard_normal(labeled.shape)


def test_planted_numbers_are_found() -> None:
    rng = np.random.default_rng(0)
    labeled, accuracy = drawn(rng, PLANTED, 20, noise=0)
    found = parameters(labeled, accuracy + 1e-9 * rng.standard_normal((5, 1)))
    assert found == pytest.approx(PLANTED, rel=1e-3)


def test_weights_by_their_definition() -> None:
    labeled, accuracy = drawn(np.random.default_rng(1), PLANTED, 6)
    found = fit(labeled, accuracy)
    x, y = labeled[0] / labeled[0, -1], accuracy.mean(axis=0)
    centred = accuracy - accuracy.mean(axis=1, keepdims=True)
    noise = np.var(centred, axis=0, ddof=0).sum() * 5 / (4 * 5) / 5
    likely = {}
    for s in REACHED:
        for b in BETAS:
            for a in ALPHAS:
                k = -math.log(1 - s) / (1 + a) ** b
                shape = [1 - math.exp(-k * (u + a) ** b) for u in x]
                most = np.dot(shape, y) / np.dot(shape, shape)
                rss = sum((most * g - v) ** 2 for g, v in zip(shape, y, strict=True))
                if most <= 1:
                    likely[round(k, 9), round(b, 9), a] = (8 * noise + rss) ** -(13 / 2)
    columns = (found.k.round(9), found.beta.round(9), found.alpha, found.weight)
    kept = {tuple(place): weight for *place, weight in zip(*columns, strict=True)}
    shared = [
        (weight, kept[place]) for place, weight in likely.items() if kept.get(place, 0) > 1e-5
    ]
    assert len(shared) > 20
    ratios = np.array([a / b for a, b in shared])
    assert ratios == pytest.approx(ratios[0], rel=1e-6)


def test_quantiles_of_the_labels() -> None:
    """Where one curve has all the weight its labels are those of the curve."""
    labeled, accuracy = drawn(np.random.default_rng(2), PLANTED, 10)
    found = fit(labeled, accuracy)._replace(level=0.0)
    weight = np.zeros_like(found.weight)
    weight[3] = 1
    one = found._replace(weight=weight)
    goal = 0.9 * one.most[3]
    x = ((-math.log(1 - 0.9) / one.k[3]) ** (1 / one.beta[3]) - one.alpha[3]) * one.last
    assert labels_for(one, goal) == pytest.approx((x, x, x))
    assert labels_for(one, 1.01 * one.most[3]) == (math.inf,) * 3


def test_the_interval_holds_planted_truths() -> None:
    rng, held, tried = np.random.default_rng(3), 0, 0
    for _ in range(60):
        most, delta = rng.uniform(0.7, 0.95), rng.uniform(0.1, 0.4)
        true = Palm(most, delta, rng.uniform(0, 1), rng.uniform(0.4, 0.9), 40.0)
        labeled, accuracy = drawn(rng, true, 8)
        target = float(curve(true, np.array([480.0]))[0])
        median, low, high = labels_for(fit(labeled, accuracy), target)
        assert low <= median <= high
        held, tried = held + (low <= 480 <= high), tried + 1
    assert held / tried > 0.9


def test_nothing_is_said_without_seeds_or_rounds() -> None:
    labeled, accuracy = drawn(np.random.default_rng(4), PLANTED, 6)
    assert fit(labeled[:1], accuracy[:1]) is None
    assert fit(labeled[:, :3], accuracy[:, :3]) is None
    assert fit(labeled, np.tile(accuracy[0], (5, 1))) is None
    assert parameters(labeled[:1], accuracy[:1]) is None


def test_targets() -> None:
    assert parse_target("90%") == parse_target("0.9") == parse_target(" 90 % ") == 0.9
    for wrong in ("0", "1.2", "120%", "high", "nan%", "-5%"):
        with pytest.raises(UsageError, match="target: expected an accuracy above 0 and up to 1"):
            parse_target(wrong)


def test_what_a_person_sees(cli: Callable[..., Result], tmp_path: Path) -> None:
    known = labeled_pool(tmp_path / "known.h5")
    play = ["replay", known, "-s", "entropy,random", "-b", "6", "--start-budget", "10"]
    play += ["--rounds", "4", "--seeds", "3", "--runs", tmp_path / "runs"]
    assert "labels for" not in cli(*play).out.partition("wins over")[2]
    found = cli(*play, "--target", "99%", "--report", tmp_path / "report")
    assert found.code == 0 and "labels for 99.0 %" in found.out.partition("wins over")[2]
    summary = json.loads((tmp_path / "report" / "replay.json").read_text())["summary"]
    said = summary["forecast"]["strategies"]["entropy"]
    assert summary["forecast"]["targets"] == [0.99]
    assert len(said["labels"][0]) == 3 and set(said["parameters"]) == {*Palm._fields}
    assert "How many more labels?" in (tmp_path / "report" / "report.html").read_text()
