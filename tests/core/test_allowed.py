"""Constraints: the state that every greedy asks, and every greedy, against plain forms."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parent))

from slow_constraints import Rules, Slow, random_rules

from mmselect.core.constraints.caps import first_of_each
from mmselect.core.constraints.highest import shifted, take_at_random, take_highest
from mmselect.core.constraints.quotas import Cheapest
from mmselect.core.coverage import ahead, exact, traversal
from mmselect.core.coverage.facility import facility
from mmselect.core.coverage.kcenter import kcenter
from mmselect.core.coverage.matching import match_distinct
from mmselect.core.sampling.d2 import d2_sample
from mmselect.core.sampling.points import feature_points

SEEDS = st.integers(0, 2**32 - 1)


@settings(max_examples=300)
@given(SEEDS)
def test_what_is_allowed_is_what_the_definition_says(seed: int) -> None:
    rng = np.random.default_rng(seed)
    rules = random_rules(rng, int(rng.integers(1, 14)))
    state, slow = rules.state(), Slow(rules)
    while True:
        assert state.done == slow.done
        if state.done:
            break
        assert state.mask().tolist() == slow.now.tolist()
        assert state.count == state.free.sum()
        row = int(rng.choice(np.flatnonzero(slow.now)))
        state.take(row)
        slow.take(row)
    assert rules.cost()[state.taken].sum() <= rules.budget
    assert len(state.taken) <= state.most


def plain_greedy(rules: Rules, value) -> list[int]:
    """Take, while any row is allowed, the best of those that are, ties to the lower row."""
    slow = Slow(rules)
    while not slow.done:
        values = np.where(slow.now, value(slow.taken), -np.inf)
        near = values >= values.max() - 1e-9 * (1 + abs(values.max()))
        slow.take(int(np.flatnonzero(near)[0]))
    return slow.taken


@settings(max_examples=150)
@given(SEEDS)
def test_top_k_takes_the_best_that_is_allowed(seed: int) -> None:
    rng = np.random.default_rng(seed)
    rules = random_rules(rng, int(rng.integers(1, 14)))
    scores = rng.integers(-2, 3, rules.n).astype(float)
    worth = scores if rules.costs is None else shifted(scores) / rules.costs
    assert take_highest(scores, rules.state()).tolist() == plain_greedy(rules, lambda _: worth)


def cosines(x: np.ndarray) -> np.ndarray:
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    return np.maximum(unit @ unit.T, 0)


@settings(max_examples=80)
@given(SEEDS, st.sampled_from(["exact", "drafted", "sparse"]))
def test_facility_takes_the_best_that_is_allowed(seed: int, form: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        if form == "drafted":
            form = "exact"
            patch.setattr(exact, "MATRIX_BYTES", 0)
            patch.setattr(exact, "PAIRS", seed % 100)
            patch.setattr(exact, "PAIRS_EACH", 0)
            patch.setattr(ahead, "STEPS", 1 + seed % 4)
        cover_what_is_allowed(seed, form)


def cover_what_is_allowed(seed: int, form: str) -> None:
    rng = np.random.default_rng(seed)
    rules = random_rules(rng, int(rng.integers(2, 14)))
    x = rng.integers(-3, 4, (rules.n, 3)) + np.array([0.5, 0.25, 0.125])
    similar = cosines(x)

    def gain(taken: list[int]) -> np.ndarray:
        best = similar[:, taken].max(axis=1, initial=0.0)
        gains = np.maximum(similar - best[:, None], 0).sum(axis=0)
        return np.where(gains < 1e-6, 0, gains) / rules.cost()

    state = rules.state()
    if state.done:
        return
    how = {"form": form, "neighbours": rules.n, "center": False}
    found = facility([x], state.expected, allowed=state, **how)
    assert found.picks.tolist() == state.taken
    check_greedy(rules, state.taken, gain)


def check_greedy(rules: Rules, picks: list[int], gain) -> None:
    """Each pick is allowed and the best of its time, up to rounding; the last is the last."""
    slow = Slow(rules)
    for pick in picks:
        values = np.where(slow.now, gain(slow.taken), -np.inf)
        assert slow.now[pick] and values[pick] >= values.max() - 1e-5
        slow.take(pick)
    assert slow.done


@settings(max_examples=120)
@given(SEEDS, st.booleans())
def test_kcenter_takes_the_farthest_that_is_allowed(seed: int, few: bool) -> None:
    with pytest.MonkeyPatch.context() as patch:
        if few:  # rows looked at together: what comes back may be none of them
            for name, value in (("WHOLE", 0), ("BLOCK", 2), ("FEW", seed % 2)):
                patch.setattr(traversal, name, value)
        reach_what_is_allowed(seed)


def reach_what_is_allowed(seed: int) -> None:
    rng = np.random.default_rng(seed)
    labeled = int(rng.integers(0, 3))
    rules = random_rules(rng, int(rng.integers(2, 14)))
    x = rng.integers(-4, 5, (rules.n + labeled, 2)).astype(float)
    own, mean = x[labeled:], x.mean(axis=0)

    def distance(taken: list[int]) -> np.ndarray:
        others = np.concatenate([x[:labeled], own[taken]])
        others = others if len(others) else mean[None]
        apart = np.linalg.norm(own[:, None] - others, axis=2).min(axis=1)
        return apart / rules.cost()

    state = rules.state()
    if state.done:
        return
    found = kcenter([x], state.expected, labeled=np.arange(labeled), allowed=state)
    assert (found.picks - labeled).tolist() == state.taken == plain_greedy(rules, distance)
    expected = [(distance(state.taken[:i]) * rules.cost())[p] for i, p in enumerate(state.taken)]
    np.testing.assert_allclose(found.gains**2, np.square(expected), atol=1e-3)


@pytest.mark.parametrize("balanced", [False, True])
def test_random_is_uniform_among_what_is_allowed(balanced: bool) -> None:
    group, value = np.array([0, 0, 0, 1, 2, 2]), np.array([0, 0, 1, 1, 1, 1])
    seen: dict[tuple[int, ...], int] = {}
    for seed in range(2000):
        rules = Rules(6, 3, caps=[(group, 1, False)], balance=[value] * balanced)
        picks = take_at_random(rules.state(), np.random.default_rng(seed))
        seen[tuple(picks.tolist())] = seen.get(tuple(picks.tolist()), 0) + 1
    expected = law(rules, lambda _: np.ones(6))
    assert set(seen) <= set(expected)
    counts = np.array([seen.get(picks, 0) for picks in expected])
    assert chi_square(counts, np.array(list(expected.values()))) < 4.5


def law(rules: Rules, weight) -> dict[tuple[int, ...], float]:
    """Chance of every sequence of picks, each drawn by weight among those that are allowed."""
    found: dict[tuple[int, ...], float] = {}

    def walk(taken: list[int], chance: float) -> None:
        slow = Slow(rules)
        for row in taken:
            slow.take(row)
        if slow.done:
            found[tuple(taken)] = chance
            return
        weights = np.where(slow.now, weight(taken), 0.0)
        if not weights.sum():
            weights = slow.now / rules.cost()
        for row in np.flatnonzero(weights).tolist():
            walk([*taken, row], chance * weights[row] / weights.sum())

    walk([], 1.0)
    return found


def chi_square(counts: np.ndarray, chances: np.ndarray) -> float:
    """Standard deviations by which the counts are off, all together."""
    expected = counts.sum() * chances
    freedom = len(counts) - 1
    return float(((counts - expected) ** 2 / expected).sum() - freedom) / np.sqrt(2 * freedom)


@pytest.mark.parametrize("kind", ["group", "balance", "quota", "cost"])
def test_d2_sampling_follows_the_law_with_weight_0_for_what_is_not_allowed(kind: str) -> None:
    x = np.array([[0.0], [1.0], [1.0], [3.0], [4.5], [9.0]])
    value = np.array([0, 1, 0, 1, 0, 1])
    rules = {
        "group": Rules(6, 3, caps=[(np.array([0, 1, 0, 1, 2, 2]), 1, False)]),
        "balance": Rules(6, 4, balance=[value]),
        "quota": Rules(6, 3, quotas=[(np.where(value == 0, 0, -1), [2], [False])]),
        "cost": Rules(6, 5, costs=np.array([1.0, 2, 1, 3, 1, 2])),
    }[kind]
    points = feature_points({"x": x})

    def weight(taken: list[int]) -> np.ndarray:
        if not taken:  # the first is the largest norm, per cost
            norms = np.where(rules.open_to_caps([]), (x[:, 0] ** 2) / rules.cost(), 0)
            return norms == norms.max()
        apart = ((x - x[taken].T) ** 2).min(axis=1)
        return apart / rules.cost()

    expected = law(rules, weight)
    seen = dict.fromkeys(expected, 0)
    for seed in range(1200):
        state = rules.state()
        found = d2_sample(points, state.expected, np.random.default_rng(seed), allowed=state)
        assert found.indices.tolist() == state.taken
        seen[tuple(state.taken)] += 1
    assert chi_square(np.array(list(seen.values())), np.array(list(expected.values()))) < 4.5


@settings(max_examples=60)
@given(SEEDS)
def test_matching_takes_the_nearest_that_is_allowed_point_after_point(seed: int) -> None:
    rng = np.random.default_rng(seed)
    rules = random_rules(rng, int(rng.integers(2, 40)))
    x = rng.integers(-3, 4, (rules.n, 2)).astype(np.float32)
    points = rng.integers(-3, 4, (int(rng.integers(1, rules.n + 1)), 2)).astype(np.float32)
    state = rules.state()
    picks = match_distinct(x, points, allowed=state)
    products = points @ x.T
    plain = plain_greedy(rules, lambda taken: products[len(taken) % len(points)])
    assert picks.tolist() == state.taken == plain


@pytest.mark.parametrize("kind", ["group", "balance", "at-most"])
def test_fewer_picks_are_the_first_of_more(kind: str) -> None:
    rng = np.random.default_rng(3)
    n = 300
    x, scores = rng.standard_normal((n, 4)), rng.standard_normal(n)
    value = rng.integers(0, 5, n)
    more: dict[str, Any] = {
        "group": {"caps": [(rng.integers(0, 150, n), 1, False)]},
        "balance": {"balance": [value]},
        "at-most": {"caps": [(np.where(value == 0, 0, -1), 7, False)]},
    }[kind]
    points = feature_points({"x": x})
    ways = {
        "top": lambda a: take_highest(scores, a),
        "random": lambda a: take_at_random(a, np.random.default_rng(5)),
        "d2": lambda a: d2_sample(points, 1, np.random.default_rng(5), allowed=a).indices,
        "exact": lambda a: facility([x], 1, allowed=a).picks,
        "sparse": lambda a: facility([x], 1, form="sparse", neighbours=9, allowed=a).picks,
        "kcenter": lambda a: kcenter([x], 1, allowed=a).picks,
    }
    for name, way in ways.items():
        few, many = (way(Rules(n, k, **more).state()).tolist() for k in (20, 90))
        assert len(many) == 90 and many[:20] == few, name


@settings(max_examples=80)
@given(SEEDS)
def test_prices_are_those_of_the_cheapest_that_are_left(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n = int(rng.integers(1, 3000))  # several blocks
    cost = rng.integers(1, 9, n) / 4
    rows = np.argsort(cost, kind="stable")
    cheap, there = Cheapest(rows, cost), np.ones(n, bool)
    while there.sum() > 1:
        left = np.sort(cost[there])
        need, by_cost = float(rng.integers(1, n + 1)), bool(rng.integers(2))
        met = np.cumsum(left) if by_cost else np.arange(1.0, len(left) + 1)
        at = min(int(np.searchsorted(met, need)), len(left) - 1)
        assert cheap.price(need, by_cost) == (left[: at + 1].sum(), left[at])
        some = np.flatnonzero(there)
        gone = rng.choice(some, int(rng.integers(1, len(some))), replace=False)
        cheap.lose(gone)
        there[gone] = False


@settings(max_examples=80)
@given(SEEDS)
def test_a_ranking_gives_the_first_few_of_each_group(seed: int) -> None:
    rng = np.random.default_rng(seed)
    groups, limit = rng.integers(-1, 5, int(rng.integers(0, 60))), int(rng.integers(1, 4))
    most, counts, expected = int(rng.integers(1, 30)), np.zeros(5), []
    for place, group in enumerate(groups.tolist()):
        if group < 0 or counts[group] < limit:
            expected.append(place)
            counts[group] += group >= 0
    assert first_of_each(groups, limit, most).tolist() == expected[:most]


def test_constraints_that_do_not_bind_change_no_pick() -> None:
    rng = np.random.default_rng(4)
    n, k = 500, 60
    x, scores = rng.standard_normal((n, 6)), rng.standard_normal(n)
    points = feature_points({"x": x})

    def loose():
        return Rules(n, k, caps=[(np.arange(n), 1, False)], balance=[np.zeros(n, int)]).state()

    def rng_():
        return np.random.default_rng(0)

    assert take_highest(scores, loose()).tolist() == np.argsort(-scores)[:k].tolist()
    assert take_at_random(loose(), rng_()).tolist() == rng_().permutation(n)[:k].tolist()
    for form in ("exact", "sparse"):
        how = {"form": form, "neighbours": 20}
        plain = facility([x], k, **how).picks
        assert facility([x], k, allowed=loose(), **how).picks.tolist() == plain.tolist()
    plain = kcenter([x], k, labeled=[0, 3]).picks
    bare = Rules(n - 2, k, caps=[(np.arange(n - 2), 1, False)]).state()
    assert kcenter([x], k, labeled=[0, 3], allowed=bare).picks.tolist() == plain.tolist()
    free = Rules(n, k, caps=[(np.arange(n), 1, False)]).state()
    plain = d2_sample(points, k, rng_()).indices
    assert d2_sample(points, k, rng_(), allowed=free).indices.tolist() == plain.tolist()
