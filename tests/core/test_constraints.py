"""Constraints: the state that every greedy asks, and every greedy, against plain forms."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parent))

from slow_constraints import Rules, Slow, random_rules

from mmselect.core.constraints.highest import shifted, take_at_random, take_highest
from mmselect.core.coverage.facility import facility
from mmselect.core.coverage.kcenter import kcenter

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
@given(SEEDS, st.sampled_from(["exact", "sparse"]))
def test_facility_takes_the_best_that_is_allowed(seed: int, form: str) -> None:
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


@settings(max_examples=80)
@given(SEEDS)
def test_kcenter_takes_the_farthest_that_is_allowed(seed: int) -> None:
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
    np.testing.assert_allclose(found.gains, expected, atol=1e-3)  # float32 near 0


@pytest.mark.parametrize("balanced", [False, True])
def test_random_is_uniform_among_what_is_allowed(balanced: bool) -> None:
    group, value = np.array([0, 0, 0, 1, 2, 2]), np.array([0, 0, 1, 1, 1, 1])
    seen: dict[tuple[int, ...], int] = {}
    for seed in range(6000):
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
