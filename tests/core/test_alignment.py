"""The modality gap report and the matched-pair cosine."""

from itertools import combinations

import numpy as np
import pytest

from mmselect.core.scores.alignment import matched_cosine, modality_gap
from mmselect.engine import Engine
from mmselect.errors import DataError, ParameterError, SchemaError

# Shen et al., MMCSAL (2024), Table 3: gap, mean cosine within each modality, and across.
TABLE_3 = {
    "Food101, without": (0.2701, 0.0204, 0.0256, -0.0134),
    "Food101, with": (0.1203, 0.0144, 0.0159, 0.0079),
    "KineticsSound, without": (0.1643, 0.0188, 0.0107, 0.0012),
    "KineticsSound, with": (0.0979, 0.0283, 0.0201, 0.0199),
    "VGGSound, without": (0.1327, 0.0058, 0.0044, -0.0037),
    "VGGSound, with": (0.0483, 0.0073, 0.0052, 0.0051),
}


def features(n=500, widths=(12, 12, 12), seed=0, dtype=np.float32):
    rng = np.random.default_rng(seed)
    return {
        name: (rng.standard_normal((n, w)) + rng.standard_normal(w)).astype(dtype)
        for name, w in zip("abc", widths, strict=False)
    }


def unit(x):
    x = x.astype(np.float64)
    norms = np.linalg.norm(x, axis=1, keepdims=True)
    return np.divide(x, norms, out=np.zeros_like(x), where=norms > 0)


def test_table_3_satisfies_the_identity():
    holds = []
    for gap, first, second, across in TABLE_3.values():
        # Every number is rounded to 4 decimals: ±5e-5, the across term counting twice.
        off = abs(gap**2 - (first + second - 2 * across))
        holds.append(off <= 2 * gap * 5e-5 + 4 * 5e-5)
    assert sum(holds) == 5


def test_report_is_the_mean_over_all_pairs():
    pool = features(80)
    pool["b"][::7] = 0
    report = modality_gap(pool)
    z = {name: unit(x) for name, x in pool.items()}
    assert report.n == 80
    assert report.zero_rows == {"a": 0, "b": 12, "c": 0}
    for name in pool:
        assert report.within[name] == pytest.approx((z[name] @ z[name].T).mean(), abs=1e-12)
    for a, b in combinations(pool, 2):
        assert report.across[a, b] == pytest.approx((z[a] @ z[b].T).mean(), abs=1e-12)
        assert report.matched[a, b] == pytest.approx((z[a] * z[b]).sum(1).mean(), abs=1e-12)
        squared = report.within[a] + report.within[b] - 2 * report.across[a, b]
        assert report.gap[a, b] ** 2 == pytest.approx(squared, abs=1e-12)


def test_threads_and_memory_do_not_change_a_bit_of_the_report():
    pool = features(40_000, (8, 8))
    whole = modality_gap(pool)
    for engine in (Engine(3), Engine(1, memory=1), Engine(1, 10**6, mapper=map)):
        assert modality_gap(pool, engine=engine) == whole


def test_pairs_of_unequal_widths_are_left_out():
    report = modality_gap(features(30, (4, 5, 4)))
    assert list(report.gap) == [("a", "c")]
    assert list(report.within) == ["a", "b", "c"]
    alone = modality_gap(features(30, (4,)))
    assert alone.gap == {}


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_matched_cosine(dtype):
    pool = features(300, dtype=dtype)
    pool["a"][5] = 0
    z = [unit(x) for x in pool.values()]
    expected = sum((p * q).sum(1) for p, q in combinations(z, 2)) / 3
    found = matched_cosine(pool, engine=Engine(threads=1))
    np.testing.assert_allclose(found, expected, atol=1e-12)
    np.testing.assert_array_equal(found, matched_cosine(pool, engine=Engine(threads=3)))
    assert matched_cosine(dict.fromkeys("ab", pool["b"])) == pytest.approx(np.ones(300))


def test_what_cannot_be_used():
    with pytest.raises(SchemaError, match="one width"):
        matched_cosine(features(10, (4, 5)))
    with pytest.raises(SchemaError, match="two or more"):
        matched_cosine(features(10, (4,)))
    with pytest.raises(SchemaError, match="at least one sample"):
        modality_gap(features(0))
    with pytest.raises(ParameterError, match="same samples"):
        modality_gap({"a": np.ones((3, 2)), "b": np.ones((4, 2))})
    bad = features(20_000, (4, 4))
    bad["b"][18_003, 1] = np.nan
    with pytest.raises(DataError, match=r"b: row 18003: "):
        modality_gap(bad)
