"""Nearest picks by groups: those of the plain form, which compares every row with every pick."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from mmselect.core.sampling import nearest as module
from mmselect.core.sampling.d2 import d2_sample
from mmselect.core.sampling.distances import Tiles, unit
from mmselect.core.sampling.gradients import GradientPoints
from mmselect.core.sampling.groups import by_class
from mmselect.core.sampling.nearest import nearest_of_groups, nearest_picks
from mmselect.core.sampling.points import factors, feature_points
from mmselect.engine import Engine
from mmselect.tasks import gather


def pool(n, c, d, seed, *, signed=False, spread=3.0):
    """Gradients of samples in c clusters; features without negative numbers unless signed."""
    rng = np.random.default_rng(seed)
    label = rng.integers(0, c, n)
    x = rng.standard_normal((c, d))[label] + 0.7 * rng.standard_normal((n, d))
    x = x if signed else np.maximum(x, 0)
    head = rng.standard_normal((d, c)) * spread / np.sqrt(d)
    half = d // 2
    features = {"a": x[:, :half].astype("f4"), "b": x[:, half:].astype("f4")}
    return GradientPoints((x @ head).astype("f4"), features)


def by_groups(points, picks):
    """Compare all rows as one block; also with how many picks each was compared."""
    rows = np.arange(len(points))
    tiles, some = Tiles(), points.measured(picks, gather(points.sources, picks))
    tiles.add(unit(some[0]), some[1])
    groups = by_class(tiles.since(0))
    zero = np.flatnonzero(some[1] == 0)[1:]
    assert sorted([*groups.order, *zero]) == list(range(len(picks)))
    return nearest_of_groups(points, groups, rows, gather(points.sources, rows))


def plain(points, picks, which):
    """Measure all pairs in float64: the smallest squared distance, and that of the pick found."""
    (a, h), (b, g) = ([f.astype(np.float64) for f in factors(points, r)] for r in (None, picks))
    left, right = np.vecdot(a, a) * np.vecdot(h, h), np.vecdot(b, b) * np.vecdot(g, g)
    table = left[:, None] + right - 2 * (a @ b.T) * (h @ g.T)
    return table.min(axis=1), table[np.arange(len(a)), which], left + right[which]


def assert_plain(points, picks):
    """Hold what groups find to the plain form, but for the rounding of float32 factors."""
    squared, which, pairs = by_groups(points, picks)
    least, chosen, scale = plain(points, picks, which)
    rounding = 1e-6 * scale
    assert (chosen <= least + rounding).all()
    assert (np.abs(squared - chosen) <= rounding).all()
    (a, h), (b, g) = (factors(points, r) for r in (None, picks[which]))
    assert not squared[(a == b).all(axis=1) & (h == g).all(axis=1)].any()
    assert pairs.min() >= 1 and pairs.max() <= len(picks)


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("multilabel", [False, True])
@pytest.mark.parametrize(
    ("n", "c", "d", "k"),
    [(700, 12, 20, 300), (700, 2, 8, 300), (300, 300, 10, 290), (400, 5, 2, 33), (90, 4, 6, 1)],
)
def test_groups_find_the_nearest_picks(n, c, d, k, multilabel, signed):
    points = replace(pool(n, c, d, seed=k, signed=signed), multilabel=multilabel)
    assert_plain(points, d2_sample(points, k, np.random.default_rng(0)).indices)
    assert_plain(points, np.random.default_rng(1).permutation(n)[:k])  # in any order


def test_groups_find_nearest_picks_of_any_length():
    rng = np.random.default_rng(0)
    points = pool(800, 9, 16, seed=0, signed=True)
    size = (10.0 ** rng.integers(-12, 13, (800, 1))).astype("f4")
    picks = rng.permutation(800)[:300]
    assert_plain(replace(points, weights=rng.random((800, 2))), picks)
    points = replace(points, features={m: z * size for m, z in points.features.items()})
    assert_plain(points, picks)


def test_ties_go_to_the_earliest_pick():
    # Every sample stands six times among the picks, in an order that is no help.
    some = pool(60, 6, 10, seed=1)
    points = GradientPoints(
        np.tile(some.logits, (6, 1)), {m: np.tile(z, (6, 1)) for m, z in some.features.items()}
    )
    picks = np.random.default_rng(0).permutation(360)
    squared, which, _ = by_groups(points, picks)
    first = {int(sample): place for place, sample in reversed([*enumerate(picks % 60)])}
    assert which.tolist() == [first[i % 60] for i in range(360)]
    assert not squared.any()
    far = picks[picks % 60 < 30]  # the others are no copies of a pick
    which = by_groups(points, far)[1]
    earliest = {int(sample): place for place, sample in reversed([*enumerate(far % 60)])}
    assert all(earliest[int(far[place] % 60)] == place for place in which)


@pytest.mark.parametrize("kind", ["nothing", "one class", "bias only", "zero rows"])
def test_samples_without_a_direction_have_a_nearest_pick(kind):
    points = pool(500, 1 if kind == "one class" else 7, 10, seed=2)
    features = {m: z.copy() for m, z in points.features.items()}
    if kind == "nothing":
        features = {m: 0 * z for m, z in features.items()}
    if kind == "zero rows":
        for z in features.values():
            z[::3] = 0
    logits = np.tile(points.logits[:1], (500, 1)) if kind == "bias only" else points.logits
    points, picks = GradientPoints(logits, features), np.arange(499, 150, -1)
    assert_plain(points, picks)
    if kind in ("nothing", "one class"):
        squared, which, pairs = by_groups(points, picks)
        assert not squared.any() and not which.any()
        assert (pairs == 1).all()


def structured(n=5000, k=400):
    points = pool(n, 40, 24, seed=3)
    return points, d2_sample(points, k, np.random.default_rng(0)).indices


def test_groups_leave_few_pairs_to_measure():
    points, picks = structured()
    assert by_groups(points, picks)[2].mean() < 0.15 * len(picks)


def test_groups_are_used_where_they_save_work(monkeypatch):
    tiled = []
    in_order = module.in_order
    monkeypatch.setattr(module, "in_order", lambda tiles: tiled.append(0) or in_order(tiles))
    points, picks = structured()
    which, distance = nearest_picks(points, picks)
    assert not tiled
    nearest_picks(feature_points(points.features), picks)
    nearest_picks(points, picks[:200])
    nearest_picks(points, picks, candidates=np.arange(3000))
    monkeypatch.setattr(module, "WORTH", 0.0)
    same, equal = nearest_picks(points, picks)
    assert len(tiled) == 4
    np.testing.assert_array_equal(which, same)
    np.testing.assert_array_equal(distance, equal)


def test_distances_of_features_are_float64_sums():
    rng = np.random.default_rng(4)
    x = (rng.standard_normal((3000, 30)) + 100).astype("f4")
    picks = np.append(rng.choice(3000, 600, replace=False), [7, 7])
    which, distance = nearest_picks(feature_points({"a": x}), picks)
    apart = cdist(x.astype(np.float64), x[picks].astype(np.float64))
    np.testing.assert_array_equal(which, apart.argmin(axis=1))
    np.testing.assert_allclose(distance, apart.min(axis=1), rtol=2e-7, atol=1e-12)


def test_classes_that_say_nothing_leave_too_many_pairs():
    rng = np.random.default_rng(0)
    noise = rng.standard_normal((4200, 30))
    points = GradientPoints(0.01 * rng.standard_normal((4200, 3)), {"a": noise.astype("f4")})
    picks = rng.permutation(4200)[:300]
    assert by_groups(points, picks)[2].mean() > module.WORTH * 300


def test_nobody_who_works_changes_a_bit():
    points, picks = structured()
    rows = np.flatnonzero(np.arange(5000) % 11)
    one = nearest_picks(points, picks, candidates=rows)
    for engine in (Engine(3), Engine(1, memory=1), Engine(2, memory=10**9), Engine(1, mapper=map)):
        other = nearest_picks(points, picks, candidates=rows, engine=engine)
        assert all((a == b).all() for a, b in zip(one, other, strict=True))
