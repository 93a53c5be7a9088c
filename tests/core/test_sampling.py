"""D² sampling: the law, by chi-square and where the draw is forced; and what must not matter."""

from dataclasses import replace
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from mmselect.core.sampling import d2 as sampling
from mmselect.core.sampling.balanced import BalancedPoints
from mmselect.core.sampling.d2 import Sampled, d2_sample
from mmselect.core.sampling.gradients import GradientPoints, full
from mmselect.core.sampling.nearest import nearest_picks
from mmselect.core.sampling.points import (
    FeaturePoints,
    Points,
    factors,
    feature_points,
    squared_norms,
)
from mmselect.core.scores.coalitions import linear_shapley
from mmselect.core.scores.linear import LinearLogits
from mmselect.core.scores.shapley import balance_weights, contributions
from mmselect.engine import Engine, blas_threads
from mmselect.errors import BudgetError, DataError, ParameterError, SelectionError

RUNS = 1000


def naive(g, k, rng, w=1.0):
    """k-means++ as the paper has it."""
    picks = [int(np.argmax(w * (g**2).sum(1)))]
    while len(picks) < k:
        law = w * ((g[:, None] - g[picks]) ** 2).sum(2).min(1)
        picks.append(int(rng.choice(len(g), p=law / law.sum())))
    return picks


def law_of_three(g, w=1.0, power=2):
    """Probability of every ordered (second, third) pick."""
    first = int(np.argmax(w * (g**2).sum(1)))
    distance = np.sqrt(((g[:, None] - g[None]) ** 2).sum(2)) ** power
    law = {}
    for second, third in permutations(range(len(g)), 2):
        one = w * distance[:, first]
        two = w * np.minimum(distance[:, first], distance[:, second])
        if one[second]:
            law[second, third] = one[second] / one.sum() * two[third] / two.sum()
    return {pair: p for pair, p in law.items() if p}


def p_value(law, draw):
    """Of a chi-square test of `RUNS` draws; 0 where a draw is impossible."""
    seen = [tuple(draw(seed)[1:3]) for seed in range(RUNS)]
    if not set(seen) <= set(law):
        return 0.0
    # Rare outcomes are pooled, as the test needs.
    rare = [pair for pair, p in law.items() if p * RUNS < 8]
    groups = [[pair] for pair in law if pair not in set(rare)] + ([rare] if rare else [])
    counts = [sum(seen.count(pair) for pair in group) for group in groups]
    expected = np.array([sum(law[pair] for pair in group) for group in groups])
    return chisquare(counts, RUNS * expected / expected.sum()).pvalue


def gradients(n, c, d, seed, offset=0.0, weights=True):
    rng = np.random.default_rng(seed)
    features = {m: (offset + rng.standard_normal((n, d))).astype("f4") for m in ("a", "b")}
    w = rng.uniform(0.2, 1, (n, 2)) if weights else None
    return GradientPoints(rng.standard_normal((n, c)).astype("f4") * 2, features, w)


def embedding(points: Points):
    parts = [part.astype(float) for part in factors(points)]
    if len(parts) == 1:
        return parts[0] + points.origin
    return np.einsum("nc,nd->ncd", *parts).reshape(len(points), -1)


@pytest.fixture
def quick():
    """Entering a BLAS limit costs more than a tiny sample: enter it once."""
    with blas_threads():
        yield


def picks_of(points, **options):
    return lambda seed: d2_sample(
        points, 3, np.random.default_rng(seed), **options
    ).indices.tolist()


# --- the law ---------------------------------------------------------------------------------


def test_gradients_follow_the_law(quick):
    points = gradients(7, 3, 2, seed=1)
    law = law_of_three(embedding(points))
    assert p_value(law, picks_of(points)) > 1e-3


def test_the_naive_sampler_passes_and_wrong_ones_fail(quick, monkeypatch):
    points = gradients(7, 3, 2, seed=1)
    g = embedding(points)
    law = law_of_three(g)
    assert p_value(law, lambda seed: naive(g, 3, np.random.default_rng(seed))) > 1e-3
    # Distances in place of their squares.
    assert p_value(law_of_three(g, power=1), picks_of(points)) < 1e-6
    # Proposals accepted as they are drawn: U in place of D².
    with monkeypatch.context() as wrong:
        wrong.setattr(
            sampling, "_to_picks", lambda run, units, norms, base: np.full(len(norms), 1e9)
        )
        wrong.setattr(sampling, "between", lambda u, r: 1e9 * (1 - np.eye(len(r))))
        assert p_value(law, picks_of(points)) < 1e-6
    # Picks of the same batch forgotten.
    with monkeypatch.context() as wrong:
        wrong.setattr(sampling, "between", lambda u, r: np.full((len(r), len(r)), np.inf))
        assert p_value(law, picks_of(points)) < 1e-6


def balanced(n, c, d, seed, lacking=False, offset=0.0):
    """Points by a linear head: their weights are found when rows are read, or known."""
    rng = np.random.default_rng(seed)
    features = {m: (offset + rng.standard_normal((n, d))).astype("f4") for m in ("a", "b")}
    has = None
    if lacking:
        has = np.stack([np.ones(n, bool), rng.random(n) < 0.5], axis=1)
        features["b"][~has[:, 1]] = 0
    head = LinearLogits(features, {m: rng.standard_normal((c, d)) for m in features})
    plain = GradientPoints(head, features)
    phi, _ = linear_shapley(features, head.weight)
    known = replace(plain, weights=balance_weights(contributions(phi, has), has))
    return BalancedPoints(plain, head, has), known


@pytest.mark.parametrize("lacking", [False, True])
def test_weights_found_on_the_way_give_the_picks_of_known_ones(lacking):
    # Those follow the law: test_gradients_follow_the_law has weights.
    points, known = balanced(300, 2, 3, seed=0, lacking=lacking, offset=12.0)
    one, other = (d2_sample(x, 290, np.random.default_rng(3)) for x in (points, known))
    assert one.passes > 0  # and past a pass, which computes all weights
    assert one.indices.tolist() == other.indices.tolist()
    np.testing.assert_allclose(one.gains, other.gains, rtol=1e-6)
    norms = squared_norms(known)
    assert one.indices[0] == norms.argmax()
    assert one.gains[0] == pytest.approx(norms.max())
    picks = one.indices[:40]
    which, distance = nearest_picks(points, picks)
    assert which.tolist() == nearest_picks(known, picks)[0].tolist()
    assert (distance[picks] == 0).all()


def test_weights_are_found_for_few_rows():
    points, _ = balanced(20_000, 12, 8, seed=0)
    picked = d2_sample(points, 200, np.random.default_rng(0))
    assert picked.passes == 0 and picked.drawn < 1000


def test_weights_above_1_are_refused():
    z = {"a": np.ones((1, 1)), "b": np.ones((1, 1))}
    with pytest.raises(ParameterError, match=r"expected numbers from 0 to 1, found 0.5 to 2"):
        GradientPoints(np.zeros((1, 2)), z, np.array([[0.5, 2]]))


def test_weighted_features_follow_the_law(quick):
    rng = np.random.default_rng(3)
    points = feature_points({"a": rng.standard_normal((7, 2)), "b": rng.standard_normal((7, 1))})
    w = rng.uniform(0, 1, 7) ** 4
    w[2] = 0
    g = embedding(points)
    assert p_value(law_of_three(g, w), picks_of(points, weights=w)) > 1e-3
    assert p_value(law_of_three(g), picks_of(points, weights=w)) < 1e-6


def test_the_law_holds_where_passes_fire(quick):
    # Gradients that all but coincide: bounds from lengths are useless, and passes make the table.
    points = gradients(7, 2, 2, seed=5, offset=12.0, weights=False)
    counts = [d2_sample(points, 3, np.random.default_rng(seed)).passes for seed in range(50)]
    assert np.mean(counts) > 0.5
    assert p_value(law_of_three(embedding(points)), picks_of(points)) > 1e-3


def test_picks_after_a_pass_follow_the_law_too(quick):
    # Ten copies of each point: after the third pick nothing but copies is left to a pass.
    points = gradients(3, 3, 2, seed=2)
    logits, features = np.tile(points.logits, (9, 1)), np.tile(points.features["a"], (9, 1))
    tiled = GradientPoints(logits, {"a": features})
    result = d2_sample(tiled, 3, np.random.default_rng(0))
    assert sorted(result.indices % 3) == [0, 1, 2]
    after = [d2_sample(tiled, 4, np.random.default_rng(s)) for s in range(300)]
    assert all(len(r.warnings) == 1 and r.passes and r.gains[3] == 0 for r in after)
    left = np.bincount([r.indices[3] // 3 for r in after], minlength=9)
    assert chisquare(left).pvalue > 1e-3


def test_forced_draws_equal_the_naive_sampler():
    # Weights put the shortest point first; from there each point's D² dwarfs all later ones.
    x = np.diag(np.concatenate([[1e-30], 10.0 ** -np.arange(0, 30, 5)]))
    w = np.ones(len(x))
    w[0] = 1e75
    picked = d2_sample(feature_points({"x": x}), 7, np.random.default_rng(0), weights=w)
    assert picked.indices.tolist() == list(range(7))
    assert picked.indices.tolist() == naive(x, 7, np.random.default_rng(5), w)
    np.testing.assert_allclose(picked.gains[1:], 10.0 ** (-2 * np.arange(0, 30, 5)), rtol=1e-5)


def test_forced_values_among_copies():
    rng = np.random.default_rng(4)
    points = gradients(12, 4, 3, seed=4)
    at = rng.permutation(np.repeat(np.arange(12), 5))
    copies = GradientPoints(
        points.logits[at], {m: z[at] for m, z in points.features.items()}, points.weights[at]
    )
    picked = d2_sample(copies, 12, rng)
    assert sorted(at[picked.indices]) == list(range(12))
    assert not picked.warnings


@settings(max_examples=25)
@given(
    n=st.integers(1, 60),
    c=st.integers(1, 5),
    d=st.integers(1, 4),
    k=st.integers(1, 60),
    seed=st.integers(0, 99),
    offset=st.sampled_from([0.0, 3.0]),
)
def test_gains_are_the_naive_distances(n, c, d, k, seed, offset):
    points, k = gradients(n, c, d, seed, offset), min(n, k)
    picked = d2_sample(points, k, np.random.default_rng(seed))
    assert len(set(picked.indices.tolist())) == k
    g = embedding(points)
    assert picked.indices[0] == np.argmax((g**2).sum(1)) or c == 1
    for j in range(1, k):
        true = ((g[picked.indices[j]] - g[picked.indices[:j]]) ** 2).sum(1).min()
        np.testing.assert_allclose(picked.gains[j], true, rtol=2e-2, atol=1e-9)


# --- what must not matter --------------------------------------------------------------------


@settings(max_examples=20)
@given(n=st.integers(2, 400), seed=st.integers(0, 99), cut=st.floats(0, 1))
def test_a_smaller_budget_is_a_prefix(n, seed, cut):
    points = gradients(n, 3, 4, seed)
    whole = d2_sample(points, n, np.random.default_rng(seed))
    k = max(1, int(cut * n))
    part = d2_sample(points, k, np.random.default_rng(seed))
    assert part.indices.tolist() == whole.indices[:k].tolist()
    assert part.gains.tolist() == whole.gains[:k].tolist()


def same(one: Sampled, other: Sampled) -> bool:
    return bool(np.all(one.indices == other.indices) and np.all(one.gains == other.gains))


class Lazily:
    """A row source that is no array: rows are converted as they are read."""

    def __init__(self, array, dtype):
        self.array, self.shape, self.dtype = array, array.shape, np.dtype(dtype)

    def __getitem__(self, index):
        assert isinstance(index, slice) or np.all(np.diff(index) > 0)
        return self.array[index].astype(self.dtype)


def test_threads_memory_and_storage_do_not_matter():
    points = gradients(3000, 40, 32, seed=0, offset=1.5)
    options = {"candidates": np.flatnonzero(np.arange(3000) % 7)}
    one = d2_sample(points, 600, np.random.default_rng(1), **options)
    for threads, memory in [(2, 1 << 28), (3, 1), (1, 100_000)]:
        options["engine"] = Engine(threads, memory)
        assert same(one, d2_sample(points, 600, np.random.default_rng(1), **options))
    stored = GradientPoints(
        Lazily(points.logits, ">f4"),
        {m: Lazily(z, "f8") for m, z in points.features.items()},
        points.weights,
    )
    assert same(one, d2_sample(stored, 600, np.random.default_rng(1), **options))


def test_passes_do_not_depend_on_threads_or_memory():
    # Two classes and features far from zero: almost parallel gradients.
    points = gradients(300, 2, 3, seed=0, offset=12.0)
    one = d2_sample(points, 290, np.random.default_rng(1))
    assert one.passes >= 2
    assert same(one, d2_sample(points, 290, np.random.default_rng(1), engine=Engine(2, 5000)))


def counted(monkeypatch):
    """Note, for every whole pass, the picks that the table already knew and those it learns."""
    passes, whole = [], sampling._whole_pass

    def noted(run, base):
        passes.append((base, run.picked.count))
        return whole(run, base)

    monkeypatch.setattr(sampling, "_whole_pass", noted)
    return passes


def test_few_rows_are_drawn_where_gradients_differ(monkeypatch):
    passes = counted(monkeypatch)
    for weights, most in ((False, 2), (True, 3)):  # weights leave bounds alone to begin with
        points = gradients(3000, 40, 32, seed=0, weights=weights)
        picked = d2_sample(points, 600, np.random.default_rng(1))
        assert (picked.passes, passes) == (0, [])
        assert picked.drawn < most * 600


def test_whole_passes_come_when_rejections_have_cost_as_much(monkeypatch):
    # Almost parallel gradients: bounds from lengths reject nearly everything.
    passes = counted(monkeypatch)
    points = gradients(300, 2, 3, seed=0, offset=12.0)
    picked = d2_sample(points, 290, np.random.default_rng(1))
    assert picked.passes == len(passes)
    # Each pass goes on where the last one ended, so a pick is passed over once: 3 passes here.
    assert [base for base, _ in passes] == [0, *(count for _, count in passes[:-1])]
    assert 2 <= picked.passes <= 4
    assert picked.drawn < 4000


def test_equal_rows_take_one_pass_and_no_more(monkeypatch):
    passes = counted(monkeypatch)
    points = GradientPoints(np.tile([[1.0, 0.5]], (5000, 1)), {"a": np.ones((5000, 3))})
    picked = d2_sample(points, 300, np.random.default_rng(0))
    assert passes == [(0, 1)]
    assert 5000 <= picked.drawn < 5000 + 2 * sampling.BATCH[2]


def test_excluded_rows_are_as_if_absent():
    points, keep = gradients(300, 5, 4, seed=7), np.flatnonzero(np.arange(300) % 3)
    fewer = GradientPoints(
        points.logits[keep], {m: z[keep] for m, z in points.features.items()}, points.weights[keep]
    )
    among = d2_sample(points, 50, np.random.default_rng(0), candidates=keep)
    alone = d2_sample(fewer, 50, np.random.default_rng(0))
    assert among.indices.tolist() == keep[alone.indices].tolist()


def test_order_of_modalities_and_scale_do_not_matter():
    points = gradients(400, 6, 8, seed=3)
    one = d2_sample(points, 80, np.random.default_rng(0)).indices.tolist()
    turned = GradientPoints(
        points.logits, dict(reversed(points.features.items())), points.weights[:, ::-1]
    )
    assert d2_sample(turned, 80, np.random.default_rng(0)).indices.tolist() == one
    scaled = {m: z * np.float32(1.7e-22) for m, z in points.features.items()}
    tiny = GradientPoints(points.logits, scaled, points.weights)
    assert d2_sample(tiny, 80, np.random.default_rng(0)).indices.tolist() == one


# --- degenerate pools ------------------------------------------------------------------------


def test_equal_rows_are_drawn_uniformly_with_a_warning():
    points = GradientPoints(np.tile([[1.0, 0.5]], (1000, 1)), {"a": np.ones((1000, 3))})
    picked = d2_sample(points, 500, np.random.default_rng(0))
    assert len(set(picked.indices.tolist())) == 500
    assert picked.indices[0] == 0
    assert picked.passes == 1
    assert picked.warnings[0].startswith("499 of 500 picks were drawn uniformly")
    assert not picked.gains[1:].any()


@pytest.mark.parametrize("c", [1, 3])
def test_zero_gradients_are_drawn_uniformly(c):
    points = GradientPoints(np.zeros((20, c)), {"a": np.full((20, 2), float(c == 1))})
    picked = d2_sample(points, 20, np.random.default_rng(0))
    assert sorted(picked.indices) == list(range(20))
    assert picked.warnings


def test_copies_come_last_and_have_no_gain():
    points = gradients(50, 3, 2, seed=0)
    twice = GradientPoints(
        np.concatenate([points.logits] * 2),
        {m: np.concatenate([z] * 2) for m, z in points.features.items()},
        # Balance weights of copies can differ in their last digits.
        np.concatenate([points.weights, points.weights * (1 + 1e-8)]),
    )
    picked = d2_sample(twice, 100, np.random.default_rng(0))
    assert sorted(picked.indices[:50] % 50) == list(range(50))
    assert picked.gains[:50].all()
    assert not picked.gains[50:].any()


def test_mirrored_samples_have_the_same_gradient():
    # Two classes, no bias: z and −z have p − pseudo of opposite signs, so equal outer products.
    rng = np.random.default_rng(0)
    z = rng.standard_normal((30, 4))
    w = rng.standard_normal((4, 1))
    points = GradientPoints(np.hstack([z @ w, -z @ w]), {"a": z})
    mirrored = GradientPoints(np.vstack([points.logits, -points.logits]), {"a": np.vstack([z, -z])})
    picked = d2_sample(mirrored, 60, np.random.default_rng(0))
    assert sorted(picked.indices[:30] % 30) == list(range(30))
    assert not picked.gains[30:].any()


def test_low_dimensions_and_far_origins():
    rng = np.random.default_rng(0)
    x = 1e4 + rng.standard_normal((2000, 1)).astype("f4")
    picked = d2_sample(feature_points({"x": x}), 300, rng)
    assert not picked.warnings
    for j in (1, 10, 100, 299):
        true = np.min((x[picked.indices[j]] - x[picked.indices[:j]]) ** 2)
        np.testing.assert_allclose(picked.gains[j], true, rtol=1e-4)


def test_rows_of_weight_zero_are_picked_only_when_nothing_else_is_left():
    x = np.random.default_rng(0).standard_normal((30, 3))
    w = np.repeat([1.0, 0.0], 15)
    picked = d2_sample(feature_points({"x": x}), 20, np.random.default_rng(0), weights=w)
    assert sorted(picked.indices[:15]) == list(range(15))
    assert picked.warnings[0].startswith("5 of 20")
    nothing = d2_sample(feature_points({"x": x}), 3, np.random.default_rng(0), weights=0 * w)
    assert nothing.indices[0] == 0
    assert nothing.warnings


# --- nearest picks, progress, errors ---------------------------------------------------------


@pytest.mark.parametrize("kind", ["gradients", "features"])
def test_nearest_picks_are_the_nearest(kind):
    points = gradients(700, 4, 3, seed=0)
    if kind == "features":
        points = feature_points(points.features)
    picks = d2_sample(points, 300, np.random.default_rng(0)).indices
    rows = np.arange(0, 700, 2)
    which, distance = nearest_picks(points, picks, candidates=rows, engine=Engine(threads=2))
    g = embedding(points)
    true = np.sqrt(((g[rows, None] - g[picks]) ** 2).sum(2))
    np.testing.assert_allclose(distance, true.min(1), rtol=1e-2, atol=1e-6)
    np.testing.assert_allclose(true[np.arange(len(rows)), which], true.min(1), rtol=1e-4)
    own = np.isin(rows, picks)
    assert not distance[own].any()
    assert (picks[which[own]] == rows[own]).all()


def test_progress_ends_at_the_budget():
    seen = []
    d2_sample(
        gradients(200, 3, 2, 0), 90, np.random.default_rng(0), progress=lambda *x: seen.append(x)
    )
    assert seen[-1] == (90, 90)
    assert seen == sorted(seen)


def test_bad_rows_are_named_only_among_candidates():
    points = gradients(50, 3, 2, seed=0)
    points.features["b"][17, 1] = np.nan
    with pytest.raises(DataError, match=r"^b: row.* expected finite numbers") as error:
        d2_sample(points, 5, np.random.default_rng(0))
    assert error.value.rows == [17]
    good = np.delete(np.arange(50), 17)
    assert len(d2_sample(points, 5, np.random.default_rng(0), candidates=good).indices) == 5
    with pytest.raises(DataError) as error:
        d2_sample(
            feature_points({"x": np.ones((3, 1))}),
            1,
            np.random.default_rng(0),
            weights=np.array([1, np.nan, -1]),
        )
    assert error.value.rows == [1, 2]


def test_bad_requests():
    points, rng = gradients(9, 3, 2, seed=0), np.random.default_rng(0)
    with pytest.raises(BudgetError):
        d2_sample(points, 0, rng)
    with pytest.raises(SelectionError, match="at most 9 candidates, found 10"):
        d2_sample(points, 10, rng)
    with pytest.raises(ParameterError, match="weights"):
        d2_sample(points, 2, rng, weights=np.ones(3))
    for rows, kind in (
        ([3, 1], ParameterError),
        ([1, 1], ParameterError),
        ([0.5], ParameterError),
        ([-1, 2], SelectionError),
        ([8, 9], SelectionError),
    ):
        with pytest.raises(kind, match="candidates: expected"):
            d2_sample(points, 1, rng, candidates=np.array(rows))


def test_full_embedding_and_factors_give_the_same_law():
    points = gradients(9, 3, 2, seed=8)
    flat = FeaturePoints({"g": full(factors(points))}, np.zeros(12, "f4"))
    one = d2_sample(points, 9, np.random.default_rng(0))
    other = d2_sample(flat, 9, np.random.default_rng(0))
    assert one.indices.tolist() == other.indices.tolist()
    np.testing.assert_allclose(one.gains, other.gains, rtol=1e-3)
