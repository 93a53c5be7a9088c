"""Gradient factors against the materialised embedding, and the sketch's promise."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmselect.core.sampling.d2 import d2_sample
from mmselect.core.sampling.distances import between, nearest, unit
from mmselect.core.sampling.gradients import (
    GradientPoints,
    full,
    norm_parts,
    residual,
    residual_norms,
)
from mmselect.core.sampling.points import factors, feature_points, squared_norms
from mmselect.core.sampling.sketch import sketch, sketch_hashes
from mmselect.core.scores.coalitions import linear_shapley
from mmselect.core.scores.shapley import balance_weights, contributions
from mmselect.engine import Engine, map_rows
from mmselect.errors import DataError, ParameterError


def plain_residual(f, multilabel=False):
    f = f.astype(float)
    if multilabel:
        p = 1 / (1 + np.exp(-f))
        return p - (p >= 0.5)
    e = np.exp(f - f.max(axis=1, keepdims=True))
    a = e / e.sum(axis=1, keepdims=True)
    a[np.arange(len(f)), f.argmax(axis=1)] -= 1
    return a


def pool(n, c, widths, seed, dtype="f4"):
    rng = np.random.default_rng(seed)
    features = {f"m{i}": rng.standard_normal((n, d)).astype(dtype) for i, d in enumerate(widths)}
    weights = rng.uniform(0.1, 1, (n, len(widths)))
    return (3 * rng.standard_normal((n, c))).astype(dtype), features, weights


@settings(max_examples=40)
@given(
    n=st.integers(1, 30),
    c=st.integers(1, 8),
    widths=st.lists(st.integers(1, 6), min_size=1, max_size=4),
    seed=st.integers(0, 99),
    dtype=st.sampled_from(["f2", ">f4", "f8"]),
    multilabel=st.booleans(),
)
def test_factors_are_the_gradient(n, c, widths, seed, dtype, multilabel):
    logits, features, weights = pool(n, c, widths, seed, dtype)
    points = GradientPoints(logits, features, weights, multilabel)
    a = plain_residual(logits, multilabel)
    h = np.hstack(
        [w * z.astype(float) for w, z in zip(weights.T[:, :, None], features.values(), strict=True)]
    )
    g = (a[:, :, None] * h[:, None, :]).reshape(n, -1)
    parts = factors(points)
    assert all(part.dtype == np.float32 for part in parts)
    np.testing.assert_allclose(full(parts), g, atol=1e-6)
    np.testing.assert_allclose(squared_norms(points), (g**2).sum(1), rtol=1e-5, atol=1e-12)
    own, z = norm_parts(points)
    np.testing.assert_allclose(own * (z * weights**2).sum(1), (g**2).sum(1), rtol=1e-5, atol=1e-12)
    badge = squared_norms(GradientPoints(logits, features, None, multilabel))
    np.testing.assert_allclose(own * z.sum(1), badge, rtol=1e-12)


def test_a_sure_sample_keeps_its_digits():
    f = np.array([[40.0, 0.0, -2.0]], np.float32)
    others = np.exp([-40.0, -42.0])
    np.testing.assert_allclose(residual(f)[0], [-others.sum(), *others], rtol=1e-5)
    np.testing.assert_allclose(residual_norms(f), (others**2).sum() + others.sum() ** 2, rtol=1e-5)


def test_masks_and_ties():
    assert residual(np.array([[0.0, -np.inf, 0.0]])).tolist() == [[-0.5, 0, 0.5]]
    assert residual(np.array([[2.0, -1e300]])).tolist() == [[0, 0]]
    assert residual(np.array([[0.0, -0.0]]), multilabel=True).tolist() == [[-0.5, -0.5]]
    assert residual(np.array([[5.0]])).tolist() == [[0]]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("multilabel", [False, True])
def test_unusable_logits_are_named(value, multilabel):
    logits, features, _ = pool(2000, 3, [2], seed=0)
    logits[1234] = value
    points = GradientPoints(logits, features, multilabel=multilabel)
    with pytest.raises(DataError, match="logits") as error:
        squared_norms(points, np.arange(1000, 2000))
    assert error.value.rows == [1234]
    with pytest.raises(DataError):
        factors(points, np.array([1234]))
    assert np.isfinite(squared_norms(points, np.arange(1000))).all()


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e200])
def test_unusable_features_are_named(value):
    logits, features, _ = pool(10, 3, [2, 2], seed=0, dtype="f8")
    features["m1"][3, 1] = value
    points = GradientPoints(logits, features)
    said = "too large" if value == 1e200 else "expected finite numbers"
    for ask in (factors, squared_norms):
        with pytest.raises(DataError, match=rf"^m1: row.* {said}") as error:
            ask(points)
        assert error.value.rows == [3]


def test_shapes_that_do_not_fit():
    logits, features, weights = pool(10, 3, [2, 2], seed=0)
    for wrong in (
        (logits, {}, None),
        (logits[:9], features, None),
        (logits, features, weights[:, :1]),
    ):
        with pytest.raises(ParameterError):
            GradientPoints(*wrong)
    with pytest.raises(ParameterError):
        feature_points({})


def test_badge_is_bmmal_where_modalities_are_equal():
    logits, features, _ = pool(150, 4, [3], seed=1, dtype="f8")
    twice = {"a": features["m0"], "b": features["m0"]}
    head = np.random.default_rng(0).standard_normal((4, 3))
    phi, _ = linear_shapley(twice, {"a": head, "b": head})
    weights = balance_weights(contributions(phi))
    bmmal = d2_sample(GradientPoints(logits, twice, weights), 40, np.random.default_rng(0))
    badge = d2_sample(GradientPoints(logits, twice), 40, np.random.default_rng(0))
    assert bmmal.indices.tolist() == badge.indices.tolist()


def test_copies_have_the_same_bits_wherever_they_stand():
    logits, features, weights = pool(3, 101, [33, 64], seed=2)
    points = GradientPoints(
        np.tile(logits, (700, 1)),
        {m: np.tile(z, (700, 1)) for m, z in features.items()},
        np.tile(weights, (700, 1)),
    )
    norms = squared_norms(points).reshape(700, 3)
    assert (norms == norms[0]).all()
    some = np.array([0, 2097, 3, 999])
    for u in unit(factors(points, some)):
        assert (u == u[0]).all()


@settings(max_examples=30)
@given(seed=st.integers(0, 99), near=st.sampled_from([1e-5, 1e-3, 0.1]), f=st.integers(1, 2))
def test_distances_of_near_points(seed, near, f):
    rng = np.random.default_rng(seed)
    parts = [rng.standard_normal((6, 5)).astype("f4") for _ in range(f)]
    parts = [np.vstack([p, p + near * rng.standard_normal(p.shape).astype("f4")]) for p in parts]
    wide = [p.astype(float) for p in parts]
    g = wide[0] if f == 1 else np.einsum("nc,nd->ncd", *wide).reshape(12, -1)
    true = ((g[:, None] - g[None]) ** 2).sum(2)
    norms, units = np.linalg.norm(g, axis=1), unit(parts)
    above = np.triu_indices(12, 1)
    np.testing.assert_allclose(between(units, norms)[above], true[above], rtol=2e-2)
    left, right = (tuple(u[part] for u in units) for part in (slice(6), slice(6, 12)))
    squared, which = nearest(left, norms[:6], right, norms[6:])
    np.testing.assert_allclose(squared, true[:6, 6:].min(1), rtol=2e-2)
    np.testing.assert_array_equal(which, true[:6, 6:].argmin(1))


@pytest.mark.parametrize("dim", [64, 1024])
def test_the_sketch_keeps_inner_products(dim):
    logits, features, weights = pool(80, 20, [30, 40], seed=0)
    parts = factors(GradientPoints(logits, features, weights))
    hashes = sketch_hashes((20, 70), dim, np.random.default_rng(0))
    short = sketch(parts, hashes)
    assert short.shape == (80, dim)
    assert short.dtype == np.float32
    g, upper = full(parts), np.triu_indices(80, 1)
    norms, apart = np.linalg.norm(g, axis=1), np.square(g[:, None] - g).sum(axis=2)[upper]
    inner = ((short @ short.T - g @ g.T) / np.outer(norms, norms))[upper]
    assert np.sqrt(np.mean(inner**2)) < 1.6 / np.sqrt(dim)
    distance = np.square(short[:, None] - short).sum(axis=2)[upper] / apart - 1
    assert np.sqrt(np.mean(distance**2)) < 3 / np.sqrt(dim)
    # Linear in each factor, the same for every block of rows.
    np.testing.assert_allclose(sketch([p[3:5] for p in parts], hashes), short[3:5], atol=1e-6)


def test_the_sketch_is_unbiased():
    a, h = np.random.default_rng(0).standard_normal((2, 2, 6))
    truth = (a[0] @ a[1]) * (h[0] @ h[1])
    seen = []
    for seed in range(600):
        s = sketch((a, h), sketch_hashes((6, 6), 16, np.random.default_rng(seed))).astype(float)
        seen.append(s[0] @ s[1])
    assert abs(np.mean(seen) - truth) < 4 * np.std(seen) / np.sqrt(600)
    with pytest.raises(ParameterError):
        sketch_hashes((2, 2), 0, np.random.default_rng(0))


def test_streaming_reads_little_and_in_order():
    read = []

    class Source:
        shape, dtype = (100, 4), np.dtype("f4")

        def __getitem__(self, index):
            read.append(np.arange(100)[index])
            return np.zeros((len(read[-1]), 4), "f4")

    rows = np.concatenate([np.arange(40), np.arange(60, 100)])
    engine = Engine(threads=2, memory=2 * 16 * 20)
    sizes = list(map_rows(lambda at, x: len(at), [Source()], rows, step=7, engine=engine))
    assert sum(sizes) == 80
    assert max(map(len, read)) == 14
    assert (np.concatenate(read) == rows).all()
