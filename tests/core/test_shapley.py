"""Shapley values against the average over all orders, and what follows from their definition."""

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmselect.core.scores.coalitions import (
    coalition_name,
    coalition_names,
    exported_shapley,
    exported_values,
    linear_shapley,
    linear_values,
)
from mmselect.core.scores.guidelines import guideline_report
from mmselect.core.scores.shapley import (
    balance_weights,
    contributions,
    dominance_degree,
    shapley_values,
)
from mmselect.engine import Engine
from mmselect.errors import DataError, NeedsError, ParameterError

NAMES = ["audio", "image", "text", "video"]


def by_orders(values):
    """Shapley values as they are defined: the mean gain of joining, over all orders."""
    m = values.shape[1].bit_length() - 1
    phi = np.zeros((len(values), m))
    orders = list(permutations(range(m)))
    for order in orders:
        before = 0
        for player in order:
            phi[:, player] += values[:, before | 1 << player] - values[:, before]
            before |= 1 << player
    return phi / len(orders)


def softmax_at(f, pseudo):
    e = np.exp(f - f.max(axis=1, keepdims=True))
    return (e / e.sum(axis=1, keepdims=True))[np.arange(len(f)), pseudo]


def head(n, c, widths, seed, dtype="f8"):
    rng = np.random.default_rng(seed)
    z = {name: rng.standard_normal((n, d)).astype(dtype) for name, d in zip(NAMES, widths)}  # noqa: B905
    w = {name: rng.standard_normal((c, x.shape[1])).astype(dtype) for name, x in z.items()}
    return z, w, rng.standard_normal(c).astype(dtype)


def plain_values(z, w, b):
    """Every coalition with its absent modalities set to zero, in float64."""
    names = list(z)
    full = b + sum(z[m].astype(float) @ w[m].T for m in names)
    pseudo = full.argmax(axis=1)
    columns = []
    for s in range(1 << len(names)):
        f = b + sum(z[m].astype(float) @ w[m].T * (s >> i & 1) for i, m in enumerate(names))
        columns.append(softmax_at(f, pseudo))
    return np.stack(columns, axis=1), pseudo


@pytest.mark.parametrize("m", [1, 2, 3, 4])
def test_values_and_shapley_against_the_definition(m):
    z, w, b = head(200, 5, range(3, 3 + m), seed=m)
    true, pseudo = plain_values(z, w, b)
    values, found = linear_values(list(z.values()), list(w.values()), b)
    np.testing.assert_allclose(values, true, rtol=2e-5)
    assert (found == pseudo).all()
    phi, found = linear_shapley(z, w, b)
    np.testing.assert_allclose(phi, by_orders(true), atol=2e-6)
    assert (found == pseudo).all()
    np.testing.assert_allclose(phi.sum(axis=1), values[:, -1] - values[:, 0], atol=1e-12)


@settings(max_examples=30)
@given(m=st.integers(1, 6), n=st.integers(1, 5), seed=st.integers(0, 99))
def test_shapley_is_the_mean_over_orders_and_efficient(m, n, seed):
    values = np.random.default_rng(seed).uniform(size=(n, 1 << m))
    phi = shapley_values(values)
    if m <= 5:
        np.testing.assert_allclose(phi, by_orders(values), atol=1e-12)
    np.testing.assert_allclose(phi.sum(axis=1), values[:, -1] - values[:, 0], atol=1e-12)
    share = contributions(phi)
    np.testing.assert_allclose(share.sum(axis=1), 1, atol=1e-12)
    rho = dominance_degree(share)
    np.testing.assert_allclose(rho, m * share.max(axis=1) - 1, atol=1e-12)
    weights = balance_weights(share)
    assert ((weights >= 0) & (weights <= 1)).all()
    assert (weights.max(axis=1) == 1).all()
    if m == 2:  # Eq. 14
        np.testing.assert_allclose(weights.min(axis=1), 1 - np.abs(share[:, 0] - share[:, 1]))


def test_twelve_modalities():
    values = np.random.default_rng(0).uniform(size=(2, 1 << 12))
    np.testing.assert_allclose(shapley_values(values).sum(axis=1), values[:, -1] - values[:, 0])


def test_a_modality_that_adds_nothing_contributes_exactly_nothing():
    z, w, b = head(50, 4, [3, 3, 3], seed=0, dtype="f4")
    w["image"][:] = 0
    z["text"][:25] = 0
    phi, _ = linear_shapley(z, w, b)
    assert not phi[:, 1].any()
    assert not phi[:25, 2].any()
    assert phi[25:, 2].all()


def test_equal_partial_logits_give_equal_weights():
    z, w, b = head(50, 4, [3, 3], seed=0)
    phi, _ = linear_shapley(
        {"a": z["audio"], "b": z["audio"]}, {"a": w["audio"], "b": w["audio"]}, b
    )
    np.testing.assert_allclose(balance_weights(contributions(phi)), 1, atol=1e-12)


def test_one_modality_has_all_of_it():
    z, w, b = head(20, 4, [3], seed=0)
    phi, _ = linear_shapley(z, w, b)
    share = contributions(phi)
    assert (share == 1).all()
    assert not dominance_degree(share).any()
    assert (balance_weights(share) == 1).all()


def test_no_contribution_at_all_is_shared():
    share = contributions(np.array([[0.0, 0.0, 0.0], [1e-320, 0.0, 0.0]]))
    np.testing.assert_array_equal(share, [[1 / 3] * 3, [1, 0, 0]])


def test_saturated_probabilities_keep_their_digits():
    # V is 1 to within 1e-13 with and without the second modality; their difference is not noise.
    w = {"a": np.array([[30.0], [0.0]]), "b": np.array([[1.0], [0.0]])}
    z = {"a": np.array([[1.0]]), "b": np.array([[1.0]])}
    values, _ = linear_values(list(z.values()), list(w.values()), np.zeros(2))
    gain = values[0, 3] - values[0, 1]
    assert gain == pytest.approx(np.exp(-30) - np.exp(-31), rel=2e-3)


def test_copies_of_a_sample_get_the_same_values():
    z, w, b = head(3, 37, [65, 33], seed=0, dtype="f4")
    many = {m: np.tile(x, (200, 1)) for m, x in z.items()}
    phi, _ = linear_shapley(many, w, b)
    assert (phi.reshape(200, 3, 2) == phi[:3]).all()


def test_threads_memory_and_rows():
    z, w, b = head(9000, 6, [4, 5], seed=1, dtype="f2")
    phi, pseudo = linear_shapley(z, w, b)
    for engine in (Engine(threads=3), Engine(1, memory=1)):
        again, same = linear_shapley(z, w, b, engine=engine)
        assert (again == phi).all()
        assert (same == pseudo).all()
    rows = np.array([3, 8, 4097, 8999])
    some, _ = linear_shapley(z, w, b, rows=rows)
    np.testing.assert_allclose(some, phi[rows], atol=1e-12)


def test_exported_logits_agree_with_the_linear_head():
    z, w, b = head(40, 5, [3, 2, 4], seed=2)
    names = list(z)
    logits = {}
    for s, name in enumerate(coalition_names(names)):
        f = b + sum(z[m] @ w[m].T * (s >> i & 1) for i, m in enumerate(names))
        key = frozenset(name.split("+")) if s % 2 and s else name
        logits[key] = f.astype(">f4")
    phi, pseudo = exported_shapley(logits, names, engine=Engine(threads=2))
    expected, found = linear_shapley(z, w, b)
    np.testing.assert_allclose(phi, expected, atol=1e-5)
    assert (pseudo == found).all()


def test_masked_classes_are_legal_in_a_coalition():
    values, _ = exported_values([np.array([[-np.inf, 0.0]]), np.array([[1.0, -np.inf]])])
    assert values.tolist() == [[0.0, 1.0]]


def test_coalition_names_are_sorted_though_bits_follow_the_given_order():
    assert coalition_names(["text", "image"]) == ["none", "text", "image", "image+text"]
    assert coalition_name(frozenset({"b", "a"})) == "a+b"


def test_errors_name_rows_and_what_is_missing():
    z, w, b = head(30, 3, [2, 2], seed=0)
    z["image"][4, 0] = np.inf
    with pytest.raises(DataError, match=r"^image: row.* expected finite numbers") as error:
        linear_shapley(z, w, b, rows=np.arange(2, 30))
    assert error.value.rows == [4]
    even = np.zeros((30, 2))
    bad = even.copy()
    bad[7] = -np.inf
    with pytest.raises(DataError, match="-inf in every class") as error:
        exported_shapley({"none": even, "a": bad}, ["a"])
    assert error.value.rows == [7]
    with pytest.raises(NeedsError, match="none"):
        exported_shapley({"a": even}, ["a"])
    with pytest.raises(ParameterError, match="same classes in every coalition"):
        exported_shapley({"none": even, "a": np.zeros((30, 3))}, ["a"])
    with pytest.raises(ParameterError, match=r"same samples, found \[29, 30\]"):
        exported_shapley({"none": even, "a": even[1:]}, ["a"])
    for wrong in ({"audio": w["audio"]}, {"audio": w["audio"], "image": np.zeros((3, 5))}):
        with pytest.raises(ParameterError):
            linear_shapley(z, wrong, b)
    with pytest.raises(ParameterError):
        linear_shapley(z, w, np.zeros(7))
    with pytest.raises(ParameterError):
        shapley_values(np.zeros((3, 3)))
    with pytest.raises(ParameterError):
        exported_shapley({}, [str(m) for m in range(13)])


def test_guideline_report_by_hand():
    phi = np.array([[0.75, 0.25], [0.625, 0.375], [0.25, 0.75], [0.125, 0.875]])
    before, after = np.array([1.0, 3.0, 4.0, 8.0]), np.array([1.0, 2.0, 3.0, 1.0])
    report = guideline_report(phi, before, after)
    assert (report.weaker, report.stronger, report.samples) == (0, 1, 4)
    np.testing.assert_allclose(report.contribution, [0.4375, 0.5625])
    np.testing.assert_allclose(report.share, [0.5, 0.5])
    np.testing.assert_allclose(report.dominance, (0.5 + 0.25 + 0.5 + 0.75) / 4)
    np.testing.assert_allclose(report.dominance_within, [0.375, 0.625])
    np.testing.assert_allclose(report.weight, [[1, 0.625], [0.375, 1]])
    assert report.ratio_before == pytest.approx(2 / 6)
    assert report.ratio_after == pytest.approx(1.5 / 2)


@given(m=st.integers(1, 4), seed=st.integers(0, 99))
def test_guideline_means_are_weighed_by_the_shares(m, seed):
    rng = np.random.default_rng(seed)
    phi = contributions(rng.standard_normal((20, m)))
    found = guideline_report(phi, *rng.uniform(1, 2, (2, 20)))
    assert found.share.sum() == pytest.approx(1)
    assert np.nansum(found.share * found.dominance_within) == pytest.approx(found.dominance)


def test_an_empty_subset_has_no_mean():
    report = guideline_report(np.array([[0.75, 0.25]]), np.ones(1), np.ones(1))
    assert np.isnan(report.norm_before[1])
    assert np.isnan(report.ratio_before)
    with pytest.raises(ParameterError):
        guideline_report(np.empty((0, 2)), np.empty(0), np.empty(0))
    with pytest.raises(ParameterError):
        guideline_report(np.ones((3, 1)), np.ones(2), np.ones(3))
