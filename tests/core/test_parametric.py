"""The parametric selection against its formulas, and its fast parts against their plain forms."""

import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmselect.core.parametric.assignment import Assignment
from mmselect.core.parametric.objective import (
    Weights,
    owned_sums,
    retract,
    tangent,
    value_and_gradient,
)
from mmselect.core.parametric.parametric import parametric
from mmselect.engine import Engine
from mmselect.errors import BudgetError, DataError, ParameterError, SchemaError, SelectionError


def clustered(n, widths=(16, 16), seed=0, groups=10, spread=0.6):
    rng = np.random.default_rng(seed)
    label = rng.integers(0, groups, n)
    return [
        (rng.standard_normal((groups, w))[label] + spread * rng.standard_normal((n, w))).astype(
            "f4"
        )
        for w in widths
    ]


def unit(features, dtype=np.float64):
    parts = [f.astype(np.float64) for f in features]
    return np.concatenate([p / np.linalg.norm(p, axis=1, keepdims=True) for p in parts], 1).astype(
        dtype
    )


def naive_loss(x, theta, owner, weights, frozen=None):
    """The formulas, term by term; `frozen` is the θ_l that the code's loss holds constant."""
    k, m, tau = len(theta), weights.modalities, weights.tau
    frozen = theta if frozen is None else frozen
    own = (x * theta[owner]).sum(1) / m / tau
    d = -own.mean()
    similar = np.exp(theta @ theta.T / m / tau)
    off = ~np.eye(k, dtype=bool)
    r = -np.mean([np.log(similar[j, off[j]].sum()) for j in range(k)]) if k > 1 else 0.0
    parts = np.split(theta, weights.offsets[1:-1], axis=1)
    pairs = [parts[a] @ parts[b].T for a in range(m) for b in range(m) if a != b]
    a = np.mean([p[off].mean() for p in pairs]) if pairs and k > 1 and weights.alignment else 0.0
    a = a / tau if weights.align_over_tau else a
    if weights.loss == "paper":
        return d - weights.diversity * r - weights.alignment * a, d, r, a
    s = np.exp(frozen @ theta.T / m / tau).sum(0)
    j = np.mean(np.log1p(weights.diversity * s[owner] * np.exp(-own)))
    return j - weights.alignment * a, d, r, a


def naive_owners(x, theta):
    """Return what :class:`Assignment` must equal."""
    return (x @ theta.T).argmax(axis=1)


CASES = [
    (loss, m, k, align)
    for loss in ("paper", "code")
    for m, k, align in [(1, 7, 0.0), (2, 7, 1.3), (3, 5, 0.4), (2, 1, 1.0), (2, 7, 0.0)]
]


@pytest.mark.parametrize(("loss", "m", "k", "align"), CASES)
@pytest.mark.parametrize("over_tau", [True, False])
def test_value_and_gradient_by_finite_differences(loss, m, k, align, over_tau):
    x = unit(clustered(40, (6,) * m))
    theta = x[:k] + 0.1 * np.random.default_rng(1).standard_normal((k, 6 * m))
    offsets = tuple(range(0, 6 * m + 1, 6))
    retract(theta, offsets)
    weights = Weights(0.2, 0.7, align, loss, over_tau, offsets)
    owner = naive_owners(x, theta)
    terms, gradient = value_and_gradient(x, theta, owner, owned_sums(x, owner, k), weights)
    expected = naive_loss(x, theta, owner, weights)
    found = (terms.total, terms.distribution, terms.diversity, terms.alignment)
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-14)
    numeric = np.empty_like(theta)
    for place in np.ndindex(*theta.shape):
        step = np.zeros_like(theta)
        step[place] = 1e-6
        up = naive_loss(x, theta + step, owner, weights, theta)[0]
        down = naive_loss(x, theta - step, owner, weights, theta)[0]
        numeric[place] = (up - down) / 2e-6
    # Compare in the tangent space: the term l = c of the code's loss differs along θ_j only.
    tangent(theta, gradient, offsets)
    tangent(theta, numeric, offsets)
    np.testing.assert_allclose(gradient, numeric, atol=2e-8)


def test_small_temperatures_do_not_overflow():
    x = unit(clustered(60), np.float32)
    theta = x[:8].copy()
    owner = naive_owners(x, theta)
    for loss in ("paper", "code"):
        weights = Weights(1e-3, 1.0, 1.0, loss, True, (0, 16, 32))
        terms, gradient = value_and_gradient(x, theta, owner, owned_sums(x, owner, 8), weights)
        assert np.isfinite(terms.total)
        assert np.isfinite(gradient).all()


@pytest.mark.parametrize("step", [0.0, 1e-4, 3e-3, 3e-2, 0.5])
@pytest.mark.parametrize("k", [1, 12, 60, 200])
def test_fast_assignment_is_the_argmax(step, k):
    x = unit(clustered(1500, spread=1.0), np.float32)
    rng = np.random.default_rng(3)
    theta = x[rng.choice(1500, k, replace=False)].copy()
    assignment = Assignment(x)
    common = rng.standard_normal(32).astype(np.float32)
    for turn in range(25):
        owner = assignment.update(theta)
        products = x @ theta.T
        best = products.max(axis=1)
        own = products[np.arange(1500), owner]
        assert (own >= best - 1e-6).all(), turn
        agree = owner == products.argmax(axis=1)
        assert (
            agree[best - np.partition(products, -min(2, k))[:, -min(2, k)] > 1e-6].all() or k == 1
        )
        np.testing.assert_allclose(assignment.sums, owned_sums(x, owner, k), rtol=1e-5, atol=1e-4)
        theta = theta + np.float32(step) * (rng.standard_normal(theta.shape) + common)
        theta = theta.astype(np.float32)
        retract(theta, (0, 16, 32))
    if k > 64 and 0 < step < 3e-3:
        assert assignment.compared < 5 * 1500


@pytest.mark.parametrize(("solver", "times"), [("adam", 8), ("lbfgs", 3)])
def test_samples_are_seldom_compared_with_all_parameters(solver, times):
    found = parametric(clustered(2000), 120, np.random.default_rng(5), solver=solver)
    # The plain form compares all 2,000 samples in each step: 301 times with Adam.
    assert 2000 <= found.compared < times * 2000


def naive_adam(x, theta, weights, steps, rate):
    """Full products at every step, in float64."""
    first = second = np.zeros_like(theta)
    losses = []
    for step in range(steps + 1):
        owner = (x @ theta.T).argmax(1)
        terms, gradient = value_and_gradient(
            x, theta, owner, owned_sums(x, owner, len(theta)), weights
        )
        losses.append(terms.total)
        tangent(theta, gradient, weights.offsets)
        first = 0.9 * first + 0.1 * gradient
        second = 0.999 * second + 0.001 * gradient**2
        now = 1e-6 + (rate - 1e-6) * (1 + np.cos(np.pi * step / steps)) / 2
        hat = np.sqrt(second / (1 - 0.999 ** (step + 1)))
        theta = theta - now * first / (1 - 0.9 ** (step + 1)) / (hat + 1e-8)
        retract(theta, weights.offsets)
    return losses


@pytest.mark.parametrize("loss", ["paper", "code"])
@pytest.mark.parametrize("rate", [1e-3, 1e-2])
def test_loss_per_step_is_that_of_the_naive_form(loss, rate):
    features = clustered(800, spread=1.0)
    found = parametric(features, 100, np.random.default_rng(5), loss=loss, steps=40, rate=rate)
    x = unit(features, np.float32).astype(np.float64)
    weights = Weights(0.07, 1.0, 1.0, loss, True, (0, 16, 32))
    losses = naive_adam(x, x[found.initial], weights, 40, rate)
    np.testing.assert_allclose([t.total for t in found.history], losses, atol=2e-3)
    assert found.history[-1].total < found.history[0].total


def test_lbfgs_reaches_the_loss_of_adam_in_fewer_steps():
    features = clustered(1500, spread=1.0)
    slow = parametric(features, 100, np.random.default_rng(5))
    fast = parametric(features, 100, np.random.default_rng(5), solver="lbfgs")
    assert len(fast.history) <= 41
    assert fast.history[-1].total < slow.history[-1].total
    totals = [terms.total for terms in fast.history]
    assert totals == sorted(totals, reverse=True)


@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
@pytest.mark.parametrize("loss", ["paper", "code"])
def test_threads_do_not_change_a_bit(solver, loss):
    features = clustered(1300, spread=1.0)
    runs = [
        parametric(
            features,
            90,
            np.random.default_rng(0),
            solver=solver,
            loss=loss,
            steps=8,
            engine=Engine(t),
        )
        for t in (1, 3)
    ]
    assert runs[0].history == runs[1].history
    np.testing.assert_array_equal(runs[0].picks, runs[1].picks)
    np.testing.assert_array_equal(runs[0].similarity, runs[1].similarity)


@pytest.mark.parametrize("m", [1, 2, 3])
@pytest.mark.parametrize("init", ["uniform", "kmeans++"])
def test_modalities_and_starts(m, init):
    features = clustered(300, (8,) * m)
    align = 0.5 if m > 1 else 0.0
    found = parametric(features, 30, np.random.default_rng(2), alignment=align, init=init, steps=30)
    assert len(set(found.picks.tolist())) == 30
    assert len(set(found.initial.tolist())) == 30
    assert found.changed == len(set(found.picks.tolist()) - set(found.initial.tolist()))
    assert found.history[-1].total < found.history[0].total


def test_one_pick_and_all_picks():
    features = clustered(40)
    one = parametric(features, 1, np.random.default_rng(0), steps=50)
    assert one.history[0].diversity == one.history[0].alignment == 0.0
    x = unit(features)
    assert one.picks[0] == np.argmax(x @ x.mean(0)) or one.similarity[0] > 0
    every = parametric(features, 40, np.random.default_rng(0))
    assert sorted(every.picks) == list(range(40))
    assert every.changed == 0
    np.testing.assert_allclose(every.similarity, 1, atol=1e-6)


def test_a_modality_of_zero_rows_stays_zero_and_is_counted():
    features = clustered(200)
    features[1][::3] = 0
    found = parametric(features, 50, np.random.default_rng(0), steps=30)
    assert found.zero_rows == {"0": 0, "1": 67}
    features[1][:] = 0
    found = parametric(features, 50, np.random.default_rng(0), steps=30)
    assert found.zero_rows == {"0": 0, "1": 200}
    assert all(terms.alignment == 0 for terms in found.history)
    assert len(set(found.picks.tolist())) == 50


def test_collapse_is_reported():
    features = clustered(400)
    healthy = parametric(features, 20, np.random.default_rng(0), alignment=0, steps=20)
    assert healthy.warnings == ()
    collapsed = parametric(
        features, 100, np.random.default_rng(0), alignment=8, rate=0.05, steps=100
    )
    assert len(collapsed.warnings) == 2
    assert "above diversity" in collapsed.warnings[0]
    assert collapsed.ownerless > 10


@given(n=st.integers(2, 30), seed=st.integers(0, 10**6), copies=st.booleans())
@settings(max_examples=25)
def test_small_pools_and_duplicates(n, seed, copies):
    rng = np.random.default_rng(seed)
    features = [rng.standard_normal((n, 3)), rng.standard_normal((n, 3))]
    if copies:
        features = [np.repeat(f[:1], n, axis=0) for f in features]
    k = int(rng.integers(1, n + 1))
    init = "kmeans++" if seed % 2 else "uniform"
    found = parametric(features, k, rng, steps=3, init=init)
    assert len(set(found.picks.tolist())) == k


def test_progress():
    done = []
    found = parametric(
        clustered(100),
        5,
        np.random.default_rng(0),
        steps=10,
        progress=lambda now, total: done.append((now, total)),
    )
    assert done == [(step, 10) for step in range(len(found.history))]


@pytest.mark.parametrize(
    "wrong",
    [
        {"tau": 0.0},
        {"diversity": -1.0},
        {"diversity": 0.0, "loss": "code"},
        {"alignment": float("nan")},
        {"loss": "both"},
        {"solver": "sgd"},
        {"steps": -1},
        {"rate": 0.0},
        {"init": "zeros"},
    ],
)
def test_parameters_out_of_range(wrong):
    with pytest.raises(ParameterError, match=next(iter(wrong))):
        parametric(clustered(20), 3, np.random.default_rng(0), **wrong)


def test_pools_that_do_not_fit():
    rng = np.random.default_rng(0)
    with pytest.raises(SelectionError):
        parametric(clustered(20), 21, rng)
    with pytest.raises(BudgetError):
        parametric(clustered(20), 0, rng)
    with pytest.raises(SchemaError, match="one width"):
        parametric(clustered(20, (4, 5)), 3, rng)
    with pytest.raises(SchemaError, match="two or more"):
        parametric(clustered(20, (4,)), 3, rng)
    assert len(parametric(clustered(20, (4, 5)), 3, rng, alignment=0, steps=2).picks) == 3
    bad = clustered(20)
    bad[1][7, 2] = np.inf
    with pytest.raises(DataError, match="1: row 7"):
        parametric(bad, 3, rng)


def test_every_processor_picks_the_same() -> None:
    """A last bit of a product that differs would grow with each step; OpenBLAS can be told to be
    that of another processor, where it has such."""
    code = (
        "import numpy as np\n"
        "from mmselect.core.parametric.parametric import parametric\n"
        "x = np.random.default_rng(0).standard_normal((1500, 24))\n"
        "found = parametric([x[:, :8], x[:, 8:]], 200, np.random.default_rng(1), alignment=0.0)\n"
        "print(found.picks.tolist(), found.similarity.tolist())\n"
    )
    kernels = ({}, {"OPENBLAS_CORETYPE": "Prescott"}, {"OPENBLAS_CORETYPE": "Haswell"})
    told = {
        subprocess.check_output([sys.executable, "-c", code], env={**os.environ, **kernel})
        for kernel in kernels
    }
    assert len(told) == 1
