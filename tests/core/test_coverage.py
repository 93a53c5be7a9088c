"""The fast coverage methods against their plain forms."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmselect import tasks
from mmselect.core import unit_rows as unit_rows_module
from mmselect.core.chosen import Chosen
from mmselect.core.coverage import (
    ahead,
    columns,
    drafting,
    exact,
    gains,
    inverted,
    neighbours,
    products,
    survey,
    traversal,
)
from mmselect.core.coverage.facility import facility
from mmselect.core.coverage.kcenter import kcenter
from mmselect.core.coverage.kmeans import kmeans
from mmselect.core.coverage.lloyd import lloyd
from mmselect.core.coverage.matching import match_distinct
from mmselect.core.features import as_modalities
from mmselect.core.joined import joined
from mmselect.core.sampling.start import kmeans_plusplus
from mmselect.core.unit_rows import unit_rows
from mmselect.engine import Engine
from mmselect.errors import BudgetError, DataError, ParameterError, SchemaError, SelectionError


def pool(n, widths=(24, 16), seed=0, groups=12, dtype=np.float32):
    rng = np.random.default_rng(seed)
    label = rng.integers(0, groups, n)
    features = []
    for width in widths:
        centre = rng.standard_normal((groups, width))
        features.append((centre[label] + 0.5 * rng.standard_normal((n, width)) + 3).astype(dtype))
    return features


def naive_kcenter(features, k, labeled=(), unit=False):
    x = [f.astype(np.float64) for f in features]
    if unit:
        norms = [np.sqrt((f**2).sum(1)) for f in x]
        x = [
            f * np.divide(1, v, out=v * 0, where=v > 0)[:, None]
            for f, v in zip(x, norms, strict=True)
        ]
    x = np.concatenate(x, axis=1)
    nearest, picks, gains = np.full(len(x), np.inf), [], []
    for row in labeled:
        nearest = np.minimum(nearest, ((x - x[row]) ** 2).sum(1))
    free = np.ones(len(x), dtype=bool)
    free[list(labeled)] = False
    for step in range(k):
        far = ((x - x.mean(0)) ** 2).sum(1) if not step and not len(labeled) else nearest
        top = np.where(free, far, -1)
        top = top >= top.max() * (1 - 1e-12) if far is not nearest else top
        pick = int(np.argmax(top))
        picks.append(pick)
        gains.append(far[pick] ** 0.5)
        free[pick] = False
        nearest = np.minimum(nearest, ((x - x[pick]) ** 2).sum(1))
    return picks, gains


@pytest.fixture(params=["whole", "sketches", "products"])
def ways(request, monkeypatch):
    """All ways to compare rows with centers: all rows, or some by sketches or by whole products."""
    if request.param != "whole":
        monkeypatch.setattr(traversal, "WHOLE", 0)
    if request.param == "sketches":
        monkeypatch.setattr(traversal, "SKETCHED", 0)
    return request.param


@pytest.mark.usefixtures("ways")
@pytest.mark.parametrize("unit", [False, True])
@pytest.mark.parametrize("labeled", [(), (7,), tuple(range(0, 2000, 9))])
@pytest.mark.parametrize("widths", [(24, 16), (150, 90)])
def test_kcenter_is_the_naive_traversal(unit, labeled, widths):
    features = pool(2000, widths)
    picks, gains = naive_kcenter(features, 300, labeled, unit)
    found = kcenter(features, 300, labeled=labeled, unit=unit)
    assert found.picks.tolist() == picks
    np.testing.assert_allclose(found.gains, gains, rtol=1e-4)


@pytest.mark.usefixtures("ways")
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_kcenter_spends_a_whole_pool_with_duplicates_zero_rows_and_ties(dtype):
    rng = np.random.default_rng(1)
    grid = rng.integers(0, 3, (180, 4)).astype(dtype)  # many equal rows and equal distances
    grid[::10] = 0
    features = [grid[:, :3], grid[:, 3:]]
    for labeled in ((), (3, 40)):
        found = kcenter(features, 180 - len(labeled), labeled=labeled)
        assert found.picks.tolist() == naive_kcenter(features, 180 - len(labeled), labeled)[0]
    assert found.zero_rows["0"] >= 18


@pytest.mark.usefixtures("ways")
def test_kcenter_with_a_block_of_near_ties_larger_than_a_block():
    features = [np.eye(1400, dtype=np.float32)]
    assert kcenter(features, 20).picks.tolist() == list(range(20))


@given(seed=st.integers(0, 10**6), n=st.integers(1, 40), labeled=st.integers(0, 5))
@settings(max_examples=40)
def test_kcenter_small(seed, n, labeled):
    rng = np.random.default_rng(seed)
    features = [rng.integers(-2, 3, (n, 2)).astype(np.float32)]
    rows = rng.choice(n, min(labeled, n - 1), replace=False)
    k = int(rng.integers(1, n - len(rows) + 1))
    found = kcenter(features, k, labeled=rows)
    assert found.picks.tolist() == naive_kcenter(features, k, sorted(rows))[0]


@pytest.mark.usefixtures("ways")
def test_kcenter_prefix_and_threads():
    features = pool(3000, seed=5)
    whole = kcenter(features, 200, engine=Engine(1))
    assert whole.picks[:60].tolist() == kcenter(features, 60, engine=Engine(3)).picks.tolist()
    again = kcenter(features, 200, engine=Engine(4))
    np.testing.assert_array_equal(whole.picks, again.picks)
    np.testing.assert_array_equal(whole.gains, again.gains)


@pytest.mark.usefixtures("ways")
@pytest.mark.parametrize("rank", [3, 60, 200])
def test_kcenter_where_the_sketch_says_little_or_all(rank):
    rng = np.random.default_rng(6)
    x = (rng.standard_normal((900, rank)) @ rng.standard_normal((rank, 200))).astype(np.float32)
    x *= rng.lognormal(0, 1, (900, 1)).astype(np.float32)
    assert kcenter([x], 300).picks.tolist() == naive_kcenter([x], 300)[0]


@pytest.mark.usefixtures("ways")
@pytest.mark.parametrize("unit", [False, True])
def test_kcenter_of_few_wide_rows_up_to_the_last(unit):
    features = pool(60, (300, 200), groups=5)
    features[0][7] = 0
    features[1][9] = 0
    found = kcenter(features, 60, unit=unit)
    assert found.picks.tolist() == naive_kcenter(features, 60, unit=unit)[0]
    assert found.zero_rows == {"0": 1, "1": 1}


@pytest.mark.parametrize("different", [0, 1, 2])
def test_kcenter_of_rows_that_are_nearly_all_equal(monkeypatch, different):
    for name in ("WHOLE", "SKETCHED"):
        monkeypatch.setattr(f"mmselect.core.coverage.traversal.{name}", 0)
    x = np.ones((400, 30), np.float32)
    x[7 : 7 + different] += np.arange(1, 1 + different, dtype=np.float32)[:, None]
    assert kcenter([x], 50).picks.tolist() == naive_kcenter([x], 50)[0]


@pytest.mark.usefixtures("ways")
def test_kcenter_far_from_the_origin():
    features = [f.astype(np.float64) + 1e6 for f in pool(800, (150, 90))]
    assert kcenter(features, 300).picks.tolist() == naive_kcenter(features, 300)[0]


def test_kcenter_whatever_is_looked_at_together(monkeypatch):
    features = pool(2000, (150, 90))
    picks, _ = naive_kcenter(features, 300)
    few = (("BLOCK", 3), ("NUMBERS", 1), ("ROWS", 7), ("FILLED", 7), ("FEW", 0), ("SHARED", 0))
    sizes = (("GUIDES", 1), ("SKETCH", 1), ("ROWS", 5), ("LEFT", 1), ("FEW", 3))
    for name, value in (("DRAFTED", 3), ("WHOLE", 0), ("SKETCHED", 0), *few, *sizes):
        monkeypatch.setattr(f"mmselect.core.coverage.traversal.{name}", value)
        assert kcenter(features, 300, engine=Engine(threads=3)).picks.tolist() == picks, name
    monkeypatch.setattr("mmselect.core.joined.HELD", 0)
    assert kcenter(features, 300).picks.tolist() == picks


def test_kcenter_multiplies_whole_blocks_where_the_sketch_says_little(monkeypatch):
    rng = np.random.default_rng(6)
    isotropic = rng.standard_normal((1500, 400)).astype(np.float32)
    flat = isotropic[:, :60] @ rng.standard_normal((60, 400)).astype(np.float32)
    monkeypatch.setattr(traversal, "WHOLE", 0)
    whole = kcenter([isotropic], 300).work["compared"]  # products alone
    monkeypatch.setattr(traversal, "SKETCHED", 0)
    by_sketch = kcenter([isotropic], 300).work
    # Sketches leave nearly all pairs of isotropic rows; measured one by one that would be 450,000.
    assert by_sketch["compared"] > 1.3 * whole
    assert by_sketch["measured"] < 45_000
    decided = kcenter([flat], 300).work
    assert decided["measured"] < 45_000
    monkeypatch.setattr(traversal, "LEFT", 1)
    assert kcenter([flat], 300).work == decided  # no product was needed
    assert kcenter([isotropic], 300).work["measured"] > 4 * by_sketch["measured"]


@pytest.mark.usefixtures("ways")
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("length", [1e-34, 1e-9, 1e14])
def test_kcenter_in_any_unit_of_length(length, dtype):
    features = [f * dtype(length) for f in pool(700, dtype=dtype)]
    picks, gains = naive_kcenter([f.astype(np.float64) / length for f in features], 300)
    found = kcenter(features, 300)
    assert found.picks.tolist() == picks
    np.testing.assert_allclose(found.gains / length, gains, rtol=1e-4)


@pytest.mark.usefixtures("ways")
@pytest.mark.parametrize("seed", range(3))
def test_kcenter_where_norms_exceed_the_radii_a_thousandfold(seed, monkeypatch):
    monkeypatch.setattr(traversal, "BLOCK", 16)
    rng = np.random.default_rng(seed)
    group = rng.integers(0, 6, 700)
    far, wide = 10 ** rng.uniform(0, 5.5, (6, 1)), 10 ** rng.uniform(-1, 1, (6, 1))
    x = rng.standard_normal((6, 30)) * far
    x = (x[group] + wide[group] * rng.standard_normal((700, 30))).astype(np.float32)
    assert kcenter([x], 200).picks.tolist() == naive_kcenter([x], 200)[0]


# In few products: of all rows with some centers, and of the rows at the top with each other.
@pytest.mark.parametrize(("n", "k", "share"), [(1000, 100, 1.2), (4000, 400, 0.85)])
def test_kcenter_of_small_pools_does_no_more_than_the_plain_loop(n, k, share):
    work = kcenter(pool(n, (150, 90), groups=200), k).work
    assert work["measured"] == 0
    assert work["compared"] < share * n * k
    assert work["decided"] < k


@pytest.mark.parametrize("unit", [False, True])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_rows_made_when_asked_for(unit, dtype):
    features = pool(700, dtype=dtype)
    features[1][3] = 0
    named = as_modalities(features)
    wide = [feature.astype(np.float64) for feature in features]
    if unit:
        lengths = [np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-9) for x in wide]
        wide = [x / length for x, length in zip(wide, lengths, strict=True)]
    whole = np.concatenate(wide, axis=1)
    how = {"unit": unit, "center": True, "engine": Engine(3)}
    points, index = joined(named, **how), np.array([3, 699, 0])
    assert points.zero_rows == {"0": 0, "1": 1}
    np.testing.assert_allclose(points.exact(index), whole[index], rtol=1e-6)
    np.testing.assert_allclose(points.mean, whole.mean(axis=0), atol=1e-6)
    less = points[index]
    np.testing.assert_allclose(less, whole[index] - points.mean, atol=1e-6)
    assert less.dtype == np.float32
    features[1][8, 2] = np.nan
    for make in (unit_rows, joined):
        with pytest.raises(DataError, match="1: row 8: expected finite numbers"):
            make(named)


@pytest.mark.parametrize("center", [False, True])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_unit_rows_made_when_asked_for(center, dtype, monkeypatch):
    monkeypatch.setattr(unit_rows_module, "READ", 100)
    monkeypatch.setattr(unit_rows_module, "STRIP", 500)
    features = pool(700, dtype=dtype)
    features[1][3] = 0
    has = {"0": np.arange(700) % 5 > 0}
    features[0][~has["0"]] = 0
    wide = []
    for x, there in zip(features, (has["0"], slice(None)), strict=True):
        z = x.astype(np.float64)
        z -= z[there].mean(axis=0) if center else 0
        z *= x.any(axis=1, keepdims=True)
        wide.append(z / np.maximum(np.linalg.norm(z, axis=1, keepdims=True), 1e-9))
    plain = np.concatenate(wide, axis=1) / 2**0.5
    rows = unit_rows(as_modalities(features), center=center, present=has, engine=Engine(3))
    assert rows.zero_rows == {"0": 0, "1": 1}
    np.testing.assert_allclose(rows.whole(), plain, atol=1e-7)
    order, index = np.random.default_rng(0).permutation(700)[:650], np.array([640, 3, 7, 3])
    some = rows.chosen(order)
    assert some.whole(Engine(2)).tobytes() == rows[order].tobytes()
    assert some[index].tobytes() == rows[order[index]].tobytes()
    assert some.chosen(index)[1:3].tobytes() == rows[order[index][1:3]].tobytes()
    products = rows.products(index, index[::-1])
    np.testing.assert_allclose(products, (plain[index] * plain[index[::-1]]).sum(1), atol=1e-12)
    one = rows.products(index, index[:1])
    np.testing.assert_allclose(one, plain[index] @ plain[index[0]], atol=1e-12)


def test_kcenter_reports_progress():
    seen = []
    kcenter(pool(500), 40, progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (40, 40)


def test_requests_that_do_not_fit():
    features = pool(10)
    with pytest.raises(BudgetError):
        kcenter(features, 0)
    with pytest.raises(SelectionError, match="at most 8"):
        kcenter(features, 9, labeled=[1, 2])
    with pytest.raises(SelectionError, match="below 10"):
        kcenter(features, 1, labeled=[10])
    with pytest.raises(SchemaError, match="expected 10 rows"):
        kcenter([features[0], features[1][:4]], 1)
    features[1][6, 0] = np.nan
    with pytest.raises(DataError, match="row 6"):
        kcenter(features, 1)


def naive_match(x, points):
    products = points.astype(np.float64) @ x.T.astype(np.float64)
    taken = []
    for row in products:
        row[taken] = -np.inf
        taken.append(int(np.argmax(row)))
    return taken


@pytest.mark.parametrize("k", [1, 30, 400])
def test_matching_is_the_naive_matching(k):
    rng = np.random.default_rng(2)
    x = rng.standard_normal((400, 12)).astype(np.float32)
    points = x[rng.integers(0, 60, k)] + np.float32(0.3)
    assert match_distinct(x, points).tolist() == naive_match(x, points)


def test_matching_of_many_equal_rows_takes_them_in_order():
    x = np.ones((50, 3), dtype=np.float32)
    assert match_distinct(x, x).tolist() == list(range(50))


def similarities(features, center):
    total = 0
    for f in features:
        f = f.astype(np.float64)
        if center:
            f = np.where(f.any(axis=1, keepdims=True), f - f.mean(0), 0)  # zero rows stay zero
        norms = np.sqrt((f**2).sum(1))
        f = f * np.divide(1, norms, out=norms * 0, where=norms > 1e-12)[:, None]
        total = total + f @ f.T / len(features)
    return np.maximum(total, 0)


def naive_facility(s, k, labeled=(), tie=1e-10, offset=1, weights=None, floor=0.0):
    free = np.setdiff1d(np.arange(len(s)), labeled)
    w = np.ones(len(free)) if weights is None else weights / weights.mean()
    best = np.maximum(s[:, list(labeled)].max(1) if len(labeled) else np.zeros(len(s)), floor)
    picks, gains = [], []
    for _ in range(k):
        gain = w @ np.maximum(s[np.ix_(free, free)] - best[free, None], 0)
        gain[np.isin(free, picks)] = -1
        gain[(gain < 1e-6) & (gain >= 0)] = 0
        first = np.argmax(gain >= gain.max() - tie * (offset + gain.max()))
        picks.append(int(free[first]))
        gains.append(gain[first])
        best = np.maximum(best, s[:, free[first]])
    return picks, gains


@pytest.mark.parametrize("center", [False, True])
@pytest.mark.parametrize("labeled", [(), tuple(range(0, 900, 11))])
def test_facility_is_the_naive_greedy(center, labeled):
    features = pool(900)
    picks, gains = naive_facility(similarities(features, center), 120, labeled)
    found = facility(features, 120, labeled=labeled, center=center)
    assert found.form == "exact"
    assert found.picks.tolist() == picks
    np.testing.assert_allclose(found.gains, gains, rtol=1e-4, atol=1e-5)


WAYS = {
    "matrix": {},
    "draft": {"PAIRS": 1, "MATRIX_BYTES": 0},
    "pairs soon": {"PAIRS": 20_000, "MATRIX_BYTES": 0},
    "pairs": {"PAIRS": 10**7, "MATRIX_BYTES": 0},
}


@pytest.fixture(params=WAYS)
def similarities_from(request, monkeypatch):
    """Where the exact form takes similarities from: all held, columns, or pairs sooner or later."""
    monkeypatch.setattr(exact, "PAIRS_EACH", 0)
    for module in (gains, survey, columns, drafting, ahead):
        monkeypatch.setattr(module, "TILE", 128)
    for name, value in WAYS[request.param].items():
        monkeypatch.setattr(exact, name, value)
    return request.param


@pytest.mark.parametrize("weighed", [False, True])
def test_facility_from_wherever_similarities_come(similarities_from, weighed):
    features = pool(300)
    weights = np.random.default_rng(3).gamma(0.5, size=300) if weighed else None
    s = similarities(features, True)
    picks, gain = naive_facility(s, 150, weights=weights)
    found = facility(features, 150, weights=weights)
    assert found.picks.tolist() == picks
    np.testing.assert_allclose(found.gains, gain, rtol=1e-6, atol=1e-6)
    assert found.work["rows"] < 6 * 300
    if similarities_from in ("pairs soon", "pairs"):
        assert found.work["passes"] <= 2
        assert found.work["columns"] < 300


class OnDisk:
    """Rows that any thread may read, and how many were read each time."""

    plain = True

    def __init__(self, array):
        self.array, self.shape, self.dtype, self.counts = array, array.shape, array.dtype, []

    def __getitem__(self, index):
        block = self.array[index]
        self.counts.append(len(block))
        return block


@pytest.mark.usefixtures("similarities_from")
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize("threads", [1, 3])
def test_facility_from_a_file_is_facility_in_memory(dtype, threads, monkeypatch):
    monkeypatch.setattr(unit_rows_module, "READ", 50)
    monkeypatch.setattr(tasks, "COMPUTE_BLOCK_ELEMENTS", 2000)
    monkeypatch.setattr("mmselect.core.chosen.TOGETHER", 1)
    monkeypatch.setattr(columns, "BATCH", 40)
    features, labeled = pool(200, dtype=dtype), np.arange(0, 200, 40)
    held = facility(features, 60, labeled=labeled)
    for memory in (1, 10**9):
        sources = [OnDisk(x) for x in features]
        some = [Chosen(source, np.arange(200)) for source in sources]
        found = facility(some, 60, labeled=labeled, engine=Engine(threads, memory=memory))
        assert found.picks.tolist() == held.picks.tolist()
        assert found.gains.tobytes() == held.gains.tobytes()
        for source in sources:  # a sample of a thousand rows says whether the mean is typical
            whole = [count for count in source.counts if count > 150]
            assert len(whole) <= (1 if memory == 1 else 2)
            assert (sum(source.counts) > 3 * 200) == (memory == 1)


@pytest.mark.usefixtures("similarities_from")
@pytest.mark.parametrize("center", [False, True])
def test_facility_spends_a_whole_pool_with_duplicates_zero_rows_and_ties(center):
    rng = np.random.default_rng(4)
    grid = rng.integers(0, 3, (120, 4)).astype(np.float32)
    grid[::10] = 0
    features = [grid[:, :3], grid[:, 3:]]
    for labeled in ((), (3, 40)):
        picks, _ = naive_facility(similarities(features, center), 120 - len(labeled), labeled)
        found = facility(features, 120 - len(labeled), labeled=labeled, center=center)
        assert sorted(found.picks) == sorted(picks)
        assert found.picks.tolist() == picks


@pytest.mark.parametrize("form", ["exact", "sparse"])
@pytest.mark.parametrize("labeled", [(), tuple(range(0, 500, 9))])
def test_facility_with_weights_is_the_naive_greedy(form, labeled):
    features = pool(500)
    features[0][::50] = 0
    weights = np.random.default_rng(1).gamma(0.5, size=500 - len(labeled)) ** 2  # long tail
    picks, gains = naive_facility(similarities(features, True), 120, labeled, weights=weights)
    found = facility(features, 120, labeled=labeled, weights=weights, form=form, neighbours=500)
    assert found.picks.tolist() == picks
    np.testing.assert_allclose(found.gains, gains, rtol=1e-4, atol=1e-4)
    again = facility(features, 120, labeled=labeled, weights=9 * weights, form=form, neighbours=500)
    assert again.picks.tolist() == picks


@pytest.mark.parametrize("center", [False, True])
@pytest.mark.parametrize("form", ["exact", "sparse"])
def test_facility_with_weights_ties_and_zero_rows_spends_a_whole_pool(center, form):
    rng = np.random.default_rng(4)
    grid = rng.integers(0, 3, (120, 4)).astype(np.float32)
    grid[::10] = 0
    features = [grid[:, :3], grid[:, 3:]]
    for labeled in ((), (3, 40)):
        k = 120 - len(labeled)
        weights = rng.integers(0, 4, k).astype(np.float64)
        how = {"weights": weights, "tie": 1e-7, "offset": 10} if form == "sparse" else {}
        picks, _ = naive_facility(
            similarities(features, center), k, labeled, **{"weights": weights, **how}
        )
        found = facility(
            features,
            k,
            labeled=labeled,
            weights=weights,
            center=center,
            form=form,
            neighbours=120,
        )
        assert found.picks.tolist() == picks


def random_pool(rng, n, kind):
    """Draw features that have ties, zero rows among copies, copies in parts, or clusters."""
    if kind == 0:
        return [rng.integers(-2, 3, (n, 3)).astype(np.float32), rng.standard_normal((n, 2))]
    if kind == 1:
        grid = rng.integers(0, 3, (n, 4)).astype(np.float32)
        grid[::10] = 0
        return [grid]
    if kind == 2:
        copied = rng.integers(0, max(n // 3, 1), n)
        return [rng.standard_normal((n, 6))[copied], rng.standard_normal((n, 3))[copied]]
    return pool(n, seed=int(rng.integers(0, 99)))


SMALL = {
    (exact, "PAIRS"): (1, 200, 10**6),
    (exact, "PAIRS_EACH"): (0, 3),
    (ahead, "STEPS"): (1, 3, 128),
    (ahead, "COVERS"): (2, 4, 10),
    (ahead, "NEARLY"): (0, 1 / 4),
    (ahead, "REPAIR"): (0, 1 / 3, 1),
    (ahead, "PIECE"): (5, 1024),
    (drafting, "CELLS"): (2, 1024),
    (drafting, "LIKELIEST"): (1, 128),
    (survey, "TILE"): (16, 1024),
    (survey, "STRIP"): (3, 64),
    (survey, "PIECE"): (7, 1 << 20),
    (ahead, "ROOM"): (0, 1.5),
    (columns, "BATCH"): (2, 256),
}


@given(seed=st.integers(0, 10**6), n=st.integers(1, 60), kind=st.integers(0, 3))
@settings(max_examples=60)
def test_facility_small(seed, n, kind):
    rng = np.random.default_rng(seed)
    features = random_pool(rng, n, kind)
    rows = np.sort(rng.choice(n, min(int(rng.integers(0, 4)), n - 1), replace=False))
    k = int(rng.integers(1, n - len(rows) + 1))
    weights = rng.choice([0.0, 0.5, 1.0, 7.0], n - len(rows))
    weights[0] = 1.0
    given = {"labeled": rows, "weights": weights if rng.random() < 0.6 else None}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exact, "MATRIX_BYTES", 0)
        for (module, name), values in SMALL.items():
            patch.setattr(module, name, rng.choice(values).item())
        engine = Engine(int(rng.integers(1, 3)), memory=int(rng.choice([1, 10**8])))
        found = facility(features, k, **given, engine=engine)
    held = facility(features, k, **given)
    assert found.picks.tolist() == held.picks.tolist()
    np.testing.assert_allclose(held.gains, found.gains, rtol=1e-9, atol=1e-12)
    picks, _ = naive_facility(similarities(features, True), k, rows, weights=given["weights"])
    assert found.picks.tolist() == picks


@pytest.mark.parametrize("matrix", [0, 1 << 30])
@given(seed=st.integers(0, 10**6), n=st.integers(60, 260))
@settings(max_examples=30)
def test_facility_of_grids_with_labels_and_many_copies(matrix, seed, n):
    rng = np.random.default_rng(seed)
    levels, width = rng.integers(2, 4), rng.integers(2, 6)
    features = [rng.integers(0, levels, (n, width)).astype(np.float32) for _ in range(2)]
    features[0][:: rng.integers(5, 50)] = 0
    rows = np.sort(rng.choice(n, n // 3, replace=False))
    weights = np.r_[1.0, rng.choice([0.0, 0.5, 1.0, 7.0], n - len(rows) - 1)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exact, "MATRIX_BYTES", matrix)
        found = facility(features, n // 2, labeled=rows, weights=weights)
    picks, _ = naive_facility(similarities(features, True), n // 2, rows, weights=weights)
    assert found.picks.tolist() == picks


@pytest.mark.parametrize("seed", range(8))
def test_rounding_that_adds_up_over_copies_is_no_gain(seed):
    rng = np.random.default_rng(seed)
    features = [rng.integers(0, 2, (1500, 3)).astype(np.float32)]
    _, labeled = np.unique(features[0], axis=0, return_index=True)
    found = facility(features, 5, labeled=labeled)
    assert found.picks.tolist() == np.setdiff1d(np.arange(1500), labeled)[:5].tolist()
    assert not found.gains.any()


def test_a_wrong_draft_costs_time_only(monkeypatch):
    """Picks drafted from the end of the pool are refuted one by one, and none is made."""
    features = pool(400)
    expected, _ = naive_facility(similarities(features, True), 30)

    class Wrong(drafting.Drafter):
        def next(self, best):
            pick = int(np.flatnonzero(~self.taken)[-1])
            self.taken[pick] = True
            return pick

    monkeypatch.setattr(exact, "MATRIX_BYTES", 0)
    monkeypatch.setattr(exact, "PAIRS", 9_000)
    monkeypatch.setattr(exact, "PAIRS_EACH", 0)
    right = facility(features, 30)
    monkeypatch.setattr(ahead, "Drafter", Wrong)
    wrong = facility(features, 30)
    assert right.picks.tolist() == wrong.picks.tolist() == expected
    assert right.gains.tobytes() == wrong.gains.tobytes()
    assert right.work["passes"] == 1 < wrong.work["passes"]


@pytest.mark.parametrize("differ", [0.0, 0.2])
def test_bounds_hold_for_any_two_covers(differ):
    """At least the true gains, whatever was drafted; exact once they are tightened."""
    rng = np.random.default_rng(5)
    x = unit_rows(as_modalities(pool(300)), center=True).whole()
    weights = rng.gamma(0.5, size=300)
    s = x.astype(np.float64) @ x.T.astype(np.float64)
    known = columns.Columns(x, weights, Engine(2))
    best = np.zeros(300, np.float32)
    look = ahead.Ahead(known, best, np.zeros(300, bool), 20, None, np.float32(1e-5), 2_000.0)
    assert len(look.picks) > 5
    for step in (0, 3, len(look.picks)):
        have = np.maximum(x @ x[look.picks[:step]].T, 0).max(axis=1, initial=0)
        have += np.float32(differ) * rng.standard_normal(300).astype(np.float32)
        have = np.maximum(have, 0)
        true = weights @ np.maximum(s - have[:, None], 0)
        bounds = look.bounds(have)
        assert (bounds >= true - 1e-4).all()
        tight = bounds.copy()
        look.tighten(have, lambda: np.arange(300), tight.put)
        assert (tight >= true - 1e-4).all()
        np.testing.assert_allclose(tight, true, rtol=1e-4, atol=0.01)


def test_facility_with_equal_weights_is_facility_without():
    features = pool(400)
    plain = facility(features, 60)
    for weights in (np.ones(400), np.full(400, 0.3), np.zeros(400)):
        assert facility(features, 60, weights=weights).picks.tolist() == plain.picks.tolist()


def test_weights_that_do_not_fit():
    features = pool(10)
    with pytest.raises(ParameterError, match=r"weights: expected shape \(9,\)"):
        facility(features, 1, labeled=[4], weights=np.ones(10))
    for bad in (-1.0, np.nan, np.inf):
        with pytest.raises(ParameterError, match=f"found {bad} at position 3"):
            facility(features, 1, weights=np.where(np.arange(10) == 3, bad, 1.0))


@pytest.mark.usefixtures("similarities_from")
def test_facility_where_every_sample_covers_itself_only():
    features = [np.eye(300, dtype=np.float32)]
    assert facility(features, 250, center=False).picks.tolist() == list(range(250))


def test_facility_sparse_is_greedy_on_the_known_similarities():
    features = pool(700)
    s = similarities(features, True)
    known = np.zeros_like(s)
    nearest = np.argsort(-s, axis=1)[:, :20]
    np.put_along_axis(known, nearest, np.take_along_axis(s, nearest, 1), 1)
    floor = np.sort(s, axis=1)[:, -20] / 2  # of what is not known
    for labeled in ((), tuple(range(0, 700, 9))):
        found = facility(features, 150, labeled=labeled, form="sparse", neighbours=20)
        assert found.form == "sparse: 20 nearest neighbours, exhaustive search"
        assert found.picks.tolist() == naive_facility(known, 150, labeled, 1e-7, 10, floor=floor)[0]


def test_facility_sparse_covers_about_as_much_as_exact():
    """With one pick for each cluster, and lists of nearly three times its size."""
    features = pool(2000, (60, 60), groups=40)
    s = similarities(features, True)
    whole = facility(features, 40)
    sparse = facility(features, 40, form="sparse", neighbours=130)
    covered = [s[:, found.picks].max(axis=1).mean() for found in (sparse, whole)]
    assert covered[0] > 0.998 * covered[1]


def test_facility_sparse_with_all_neighbours_is_exact():
    features = pool(400)
    labeled = [0, 10, 20]
    whole = facility(features, 80, labeled=labeled)
    sparse = facility(features, 80, labeled=labeled, form="sparse", neighbours=400)
    assert whole.picks.tolist() == sparse.picks.tolist()


def test_facility_with_inverted_lists(monkeypatch):
    monkeypatch.setattr("mmselect.core.coverage.neighbours.FLAT_UP_TO", 1000)
    features = pool(3000)
    one = facility(features, 50, form="sparse", neighbours=20, engine=Engine(1))
    two = facility(features, 50, form="sparse", neighbours=20, engine=Engine(3))
    assert "inverted lists" in one.form
    assert one.picks.tolist() == two.picks.tolist()


@pytest.mark.parametrize("count", [1, 2, 30, 500])
def test_neighbours_are_the_most_similar_rows(monkeypatch, count):
    monkeypatch.setattr(products, "TILE", 200)
    monkeypatch.setattr(products, "QUERIES", 64)
    x = unit_rows(as_modalities(pool(500)), center=True).whole()
    x[::7] = x[3]  # rows that are equally similar
    similar, found = products.among_all(x, count, Engine(2))
    s = x.astype(np.float64) @ x.astype(np.float64).T
    np.testing.assert_allclose(similar, np.take_along_axis(s, found, 1), atol=1e-6)
    least = np.sort(s, axis=1)[:, -count]
    assert (similar >= least[:, None] - 1e-6).all()
    assert (np.diff(found, axis=1) > 0).all()
    assert (found == np.arange(500)[:, None]).any(axis=1).all()


def test_largest_takes_the_lower_of_equals():
    rng = np.random.default_rng(0)
    x = rng.integers(0, 9, (50, 1300)).astype(np.float32)
    x[3] = 1
    x[4, 20:] = np.finfo(np.float32).min
    for count in (1, 20, 400, 1300):
        by_definition = np.argsort(-x, axis=1, kind="stable")[:, :count]
        np.testing.assert_array_equal(products.largest(x, count), by_definition)


@pytest.mark.parametrize("memory", [1 << 25, 4000])
def test_lists_are_searched_as_faiss_does(monkeypatch, memory):
    import faiss

    monkeypatch.setattr(inverted, "PRODUCTS", memory)
    monkeypatch.setattr(inverted, "LISTED", 700)
    x = unit_rows(as_modalities(pool(3000, groups=40)), center=True).whole()
    index = faiss.IndexIVFFlat(faiss.IndexFlatIP(40), 40, 60, faiss.METRIC_INNER_PRODUCT)
    index.train(x)
    index.add(x)
    index.nprobe = 4
    expected = index.search(x, 30)[1]
    centres = index.quantizer.reconstruct_n(0, 60)
    lists = inverted.inverted_lists(x, centres, 4, Engine(2))
    one, many = (inverted.among_lists(x.copy(), lists, 30, Engine(threads)) for threads in (1, 3))
    for first, second in zip(one, many, strict=True):
        assert first.tobytes() == second.tobytes()
    similar, found = one
    known = np.isfinite(similar)
    assert (known.sum(axis=1) == (expected >= 0).sum(axis=1)).all()
    recall = [
        np.isin(e[e >= 0], f[ok]).mean() for e, f, ok in zip(expected, found, known, strict=True)
    ]
    assert np.mean(recall) >= 0.9999


def test_sparse_greedy_looks_at_few_blocks_of_gains(monkeypatch):
    monkeypatch.setattr(neighbours, "BLOCK", 16)
    looked_at = []

    class Counted(neighbours._Highest):
        def first(self):
            pick = super().first()
            looked_at.append(self.refreshed)
            return pick

    monkeypatch.setattr(neighbours, "_Highest", Counted)
    facility(pool(4000, groups=300), 400, form="sparse", neighbours=20)
    assert looked_at[-1] < 0.1 * 400 * 250


@pytest.mark.parametrize("form", ["exact", "sparse"])
def test_facility_prefix_and_threads(form):
    features = pool(1500, seed=8)
    whole = facility(features, 90, form=form, engine=Engine(1))
    assert (
        whole.picks[:25].tolist()
        == facility(features, 25, form=form, engine=Engine(3)).picks.tolist()
    )
    again = facility(features, 90, form=form, engine=Engine(4))
    np.testing.assert_array_equal(whole.picks, again.picks)
    np.testing.assert_array_equal(whole.gains, again.gains)


@pytest.mark.parametrize("labeled", [[], [3, 70, 71]], ids=len)
def test_distances_of_kcenter_are_float64_sums(labeled):
    rng = np.random.default_rng(2)
    x = (rng.standard_normal((700, 40)) + 50).astype(np.float32)
    x[300:350] = x[:50]
    found = kcenter([x], 690, labeled=labeled)
    wide = x.astype(np.float64)
    centers = np.append(np.array(labeled, int), found.picks)
    for at in range(max(len(labeled), 1), len(centers), 23):
        before = np.sqrt(((wide[centers[:at]] - wide[centers[at]]) ** 2).sum(axis=1))
        expected = before.min()
        assert found.gains[at - len(labeled)] == pytest.approx(expected, rel=1e-12, abs=1e-300)


def test_picks_that_copy_others_are_at_no_distance():
    x = np.random.default_rng(2).standard_normal((20, 9)).astype(np.float32)
    found = kcenter([np.tile(x, (40, 1))], 700, labeled=[5])
    assert (found.gains[:19] > 0.1).all() and not found.gains[19:].any()


def test_matching_takes_the_nearest():
    rng = np.random.default_rng(3)
    x = rng.standard_normal((300, 5)).astype(np.float32) * 3
    points = rng.standard_normal((60, 5)).astype(np.float32)
    distances = ((points[:, None].astype(np.float64) - x) ** 2).sum(2)
    taken = []
    for row in distances:
        row[taken] = np.inf
        taken.append(int(np.argmin(row)))
    assert match_distinct(x, points, nearest=True).tolist() == taken


def test_of_two_rows_at_one_distance_the_lower_is_matched():
    """The centre of two rows is as far from the one as from the other."""
    rng = np.random.default_rng(5)
    x = np.round(rng.standard_normal((300, 7)) * 64).astype(np.float32) / 64 + 1000
    middles = (x[::2] + x[1::2]) / 2
    found = match_distinct(x, middles, nearest=True)
    distances = ((middles[:, None].astype(np.float64) - x) ** 2).sum(2)
    taken: list[int] = []
    for row in distances:
        row[taken] = np.inf
        taken.append(int(np.argmin(row)))
    assert found.tolist() == taken


def test_kmeans_finds_the_groups():
    rng = np.random.default_rng(0)
    label = np.sort(rng.integers(0, 6, 300))
    features = [(20 * np.eye(6))[label] + rng.standard_normal((300, 6)) for _ in "ab"]
    found = kmeans(features, 6, np.random.default_rng(1))
    again = kmeans(features, 6, np.random.default_rng(1), engine=Engine(3))
    assert found.picks.tolist() == again.picks.tolist()
    assert found.gains.sum() == 300
    assert (np.diff(found.gains) <= 0).all()


@pytest.mark.parametrize("unit", [False, True])
def test_kmeans_picks_are_distinct_unlabeled_samples(unit):
    features = pool(200)
    features[0][50:] = features[0][0]
    features[1][50:] = features[1][0]  # fewer distinct samples than clusters
    labeled = [1, 5]
    for k in (1, 120, 198):
        found = kmeans(features, k, np.random.default_rng(0), labeled=labeled, unit=unit)
        assert len(set(found.picks.tolist()) - set(labeled)) == k


def test_kmeans_finds_clear_clusters_that_a_uniform_start_misses():
    rng = np.random.default_rng(0)
    centres = 100 * rng.standard_normal((40, 8))
    label = rng.integers(0, 40, 2000)
    features = [centres[label] + rng.standard_normal((2000, 8))]
    for seed in range(3):
        found = {
            init: kmeans(features, 40, np.random.default_rng(seed), init=init)
            for init in ("kmeans++", "uniform")
        }
        distance = {
            init: np.linalg.norm(features[0][:, None] - features[0][f.picks], axis=2).min(1).sum()
            for init, f in found.items()
        }
        assert len(set(label[found["kmeans++"].picks])) == 40
        assert len(set(label[found["uniform"].picks])) < 40
        assert distance["kmeans++"] < 0.5 * distance["uniform"]


def test_a_start_is_drawn_by_squared_distance_from_a_uniform_first_row():
    x = np.array([[0.0], [1.0], [3.0]], dtype=np.float32)
    rng = np.random.default_rng(0)
    pairs = Counter(tuple(kmeans_plusplus(x, 2, rng).tolist()) for _ in range(6000))
    # First each with 1/3; then by D²: from 0 to 1 and 3 as 1 : 9, from 1 as 1 : 4, from 3 as 9 : 4.
    expected = {(0, 1): 1 / 10, (0, 2): 9 / 10, (1, 0): 1 / 5, (1, 2): 4 / 5}
    expected |= {(2, 0): 9 / 13, (2, 1): 4 / 13}
    for pair, share in expected.items():
        assert pairs[pair] / 2000 == pytest.approx(share, abs=0.045), pair


def test_kmeans_moves_empty_clusters():
    x = np.repeat(np.array([[0.0], [50.0]]), [30, 2], axis=0).astype(np.float32)
    found = kmeans([x], 5, np.random.default_rng(0))
    assert {30, 31} & set(found.picks.tolist())


@pytest.mark.parametrize(("k", "apart"), [(3, 0), (90, 0), (40, 1e3), (90, 1e3)])
def test_lloyd_is_the_plain_form(k, apart):
    x = pool(900, (12, 5))
    x[0][:450] += np.float32(apart)  # too far for products in float32 to tell centres apart
    rows = joined({"a": x[0], "b": x[1]}, center=True).with_ones(4.0)
    wide = rows[:].astype(np.float64)
    start = rows[np.random.default_rng(0).choice(900, k, replace=False)]
    plain = start.astype(np.float64)
    for _ in range(20):
        owner = ((wide[:, None] - plain) ** 2).sum(axis=2).argmin(axis=1)
        plain = np.array([wide[owner == j].mean(axis=0) for j in range(k)])
    owner = ((wide[:, None] - plain) ** 2).sum(axis=2).argmin(axis=1)
    centres, sizes = lloyd(rows, start, 20, Engine(2))
    assert sizes.tolist() == np.bincount(owner, minlength=k).tolist()
    np.testing.assert_allclose(centres[:, :-2], plain[:, :-2], rtol=1e-5, atol=1e-5)
    assert not centres[:, -2:].any()


def test_lloyd_moves_centres_without_rows_to_the_farthest_rows():
    x = np.array([[0, 1, 1], [0, 1, 1], [0, 1, 1], [4, 1, 1], [6, 1, 1]], np.float32)
    centres, sizes = lloyd(x, x[[0, 1, 2]], 20)
    assert sorted(centres[:, 0].tolist()) == [0, 4, 6]
    assert sorted(sizes.tolist()) == [1, 1, 3]
