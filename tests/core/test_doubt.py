"""Weights of the clients of facility location from what a model doubts."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmselect.core.scores.doubt import doubt_weights, least_confidences
from mmselect.engine import Engine
from mmselect.errors import DataError


def softmax(logits):
    e = np.exp(logits - logits.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def test_doubt_is_that_of_the_formula_in_any_block_and_on_any_thread():
    rng = np.random.default_rng(0)
    heads = {
        "fused": rng.normal(size=(9000, 7)),
        "image": rng.normal(size=(9000, 7)).astype(np.float16),
    }
    heads["fused"][5, 2:] = -np.inf
    rows = np.flatnonzero(rng.random(9000) < 0.7)
    found = least_confidences(heads, rows)
    for name, logits in heads.items():
        u = 1 - softmax(logits[rows].astype(np.float64)).max(axis=1)
        np.testing.assert_allclose(found[name], u, atol=1e-6)
    again = least_confidences(heads, rows, engine=Engine(3, memory=1))
    for name in heads:
        np.testing.assert_array_equal(found[name], again[name])


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_broken_row_is_named(bad):
    logits = np.zeros((20_000, 3))
    logits[19_000, 1] = bad
    with pytest.raises(DataError, match="fused: row 19000"):
        least_confidences({"fused": logits}, np.arange(10, 20_000))


def test_rows_of_minus_infinity_alone_are_an_error():
    with pytest.raises(DataError, match="-inf in every class"):
        least_confidences({"fused": np.full((3, 2), -np.inf)}, np.arange(3))


@given(seed=st.integers(0, 10**6), m=st.integers(0, 3), fused=st.booleans())
@settings(max_examples=40)
def test_weights_are_the_mean_of_their_parts_and_have_mean_1(seed, m, fused):
    if not fused and not m:
        return
    rng = np.random.default_rng(seed)
    u = {name: rng.random(30) * scale for name, scale in zip("abc", (1, 0.01, 0), strict=True)}
    heads = {name: u[name] for name in "abc"[:m]}
    top = {"fused": rng.random(30)} if fused else {}
    found = doubt_weights(top, heads)
    parts = [np.ones(30)]
    if fused:
        parts.append(top["fused"] / top["fused"].mean())
    if m:  # the third head is sure everywhere, so it is left out
        parts.append(np.mean([heads[n] / heads[n].mean() for n in heads if n != "c"], axis=0))
    np.testing.assert_allclose(found.weights, np.mean(parts, axis=0))
    assert found.weights.mean() == pytest.approx(1)
    assert found.used == (*top, *(n for n in heads if n != "c"))


def test_where_nothing_is_in_doubt_all_weights_are_1():
    sure = np.zeros(5)
    found = doubt_weights({"fused": sure}, {"image": sure})
    assert found.used == () and found.weights.tolist() == [1.0] * 5
    # One class: softmax is 1 whatever the logit.
    one = least_confidences({"fused": np.array([[3.0], [-2.0]])}, np.arange(2))
    assert doubt_weights(one, {}).used == ()
    # Uniform rows are all in the same doubt.
    even = least_confidences({"fused": np.zeros((4, 3))}, np.arange(4))
    assert doubt_weights(even, {}).weights.tolist() == [1.0] * 4


def test_sharpened_doubt_begins_at_its_quantile():
    u = np.linspace(0.9, 0.99, 101)
    plain, sharp = (doubt_weights({"fused": u}, {}, sharpen=s).weights for s in (False, True))
    assert plain.max() - plain.min() < 0.06
    assert sharp[:11].tolist() == [0.5] * 11 and sharp[-1] > 1.4
    assert sharp.mean() == pytest.approx(1)
