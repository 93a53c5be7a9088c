"""The systems that the papers compare with, against their definitions taken literally."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import softmax

from mmselect.core.coverage import gcnal as gcn
from mmselect.core.coverage.alfamix import alfamix, mix_thresholds
from mmselect.core.coverage.gcnal import gcnal
from mmselect.core.coverage.kcenter import kcenter
from mmselect.core.coverage.kmeans import cluster_centres, kmeans
from mmselect.core.coverage.typiclust import typiclust
from mmselect.core.sampling.start import kmeans_plusplus
from mmselect.core.scores.deepfool import class_distances, deepfool
from mmselect.core.scores.sraal import sraal_indicator
from mmselect.core.side_by_side import side_by_side
from mmselect.engine import Engine
from mmselect.errors import BudgetError, DataError, MmselectError, ParameterError, SelectionError

DIMS = {"audio": 3, "image": 5}
SEEDS = st.integers(0, 2**32 - 1)
FEW = settings(max_examples=25)


class OnDisk:
    """Rows that nobody may read in one piece."""

    def __init__(self, array: np.ndarray, most: int) -> None:
        self.array, self.most = array, most
        self.shape, self.dtype = array.shape, array.dtype

    def __getitem__(self, index: Any) -> np.ndarray:
        block = self.array[index]
        assert len(block) <= self.most
        return block


def features_of(n: int, rng: np.random.Generator, scale: float = 1.0) -> dict[str, np.ndarray]:
    return {m: scale * rng.standard_normal((n, d)).astype(np.float32) for m, d in DIMS.items()}


def beside(features: dict[str, np.ndarray]) -> np.ndarray:
    return np.concatenate(list(features.values()), axis=1, dtype=np.float64)


# --- DeepFool ---------------------------------------------------------------------------------


def test_the_worked_example_of_deepfool() -> None:
    weight = np.array([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
    z = np.array([2.0, 1.0])
    distance = deepfool((z @ weight.T)[None], class_distances(weight))[0]
    assert distance == pytest.approx(0.5**0.5, rel=1e-14)
    towards = (weight[1] - weight[0]) / np.linalg.norm(weight[1] - weight[0])
    for step, expected in ((0.999, 0), (1.001, 1)):
        assert np.argmax((z + step * distance * towards) @ weight.T) == expected


@FEW
@given(SEEDS, st.integers(2, 9), st.integers(1, 6))
def test_a_step_a_little_longer_than_deepfool_flips_and_a_shorter_one_never(
    seed: int, c: int, d: int
) -> None:
    rng = np.random.default_rng(seed)
    weight, bias, z = rng.normal(size=(c, d)), rng.normal(size=c), rng.normal(size=(20, d))
    logits = z @ weight.T + bias
    found = deepfool(logits, class_distances(weight))
    for row, f, distance in zip(z, logits, found, strict=True):
        y = f.argmax()
        apart = np.linalg.norm(weight[y] - np.delete(weight, y, axis=0), axis=1)
        assert distance == pytest.approx(((f[y] - np.delete(f, y)) / apart).min(), rel=1e-9)
        flips = 0
        for k in set(range(c)) - {y}:
            towards = (weight[k] - weight[y]) / np.linalg.norm(weight[k] - weight[y])
            assert np.argmax((row + 0.999 * distance * towards) @ weight.T + bias) == y
            flips += np.argmax((row + 1.001 * distance * towards) @ weight.T + bias) != y
        assert flips >= 1


def test_deepfool_leaves_out_classes_with_the_same_weights_and_masked_ones() -> None:
    weight = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]], np.float32)
    apart = class_distances(weight)
    assert apart[0, 1] == 0 and apart[0, 2] == pytest.approx(2**0.5)
    assert deepfool(np.array([[3.0, 3.0, 1.0]]), apart)[0] == pytest.approx(2**0.5)
    masked = np.array([[3.0, 0.0, -np.inf], [3.0, -np.inf, 1.0]])
    assert deepfool(masked, apart).tolist() == [np.inf, pytest.approx(2**0.5)]
    assert deepfool(np.ones((2, 2)), np.zeros((2, 2))).tolist() == [np.inf, np.inf]


def test_distances_of_classes_keep_their_digits() -> None:
    rng = np.random.default_rng(0)
    weight = 1e4 + rng.normal(size=(6, 8))  # a common part that would cancel
    weight[3] = weight[2] + 1e-7 * rng.normal(size=8)
    exact = np.linalg.norm(weight[:, None] - weight, axis=2)
    np.testing.assert_allclose(class_distances(weight), exact, rtol=1e-7)
    huge = class_distances(np.array([[3e200, 0.0], [0.0, 4e200]]))
    assert huge[0, 1] == pytest.approx(5e200)


@pytest.mark.parametrize(
    ("logits", "weight", "message"),
    [
        (np.ones((1, 1)), np.ones((1, 2)), "at least two classes, found 1"),
        (np.ones((1, 3)), np.eye(2), "found 3 and 2"),
        (np.array([[1.0, np.nan]]), np.eye(2), "row 0: expected finite logits, found nan"),
        (np.ones((1, 2)), np.array([[1.0], [np.inf]]), "finite weights"),
    ],
)
def test_deepfool_refuses(logits: np.ndarray, weight: np.ndarray, message: str) -> None:
    with pytest.raises(MmselectError, match=message):
        deepfool(logits, class_distances(weight))


# --- SRAAL ------------------------------------------------------------------------------------


def literal_indicator(p: np.ndarray) -> float:
    c, m = len(p), p.max()
    least = ((1 / c - m) ** 2 + (c - 1) * (1 / c - (1 - m) / (c - 1)) ** 2) / c
    return float(1 - least / p.var() * m)


@FEW
@given(SEEDS, st.integers(2, 40), st.floats(0.01, 8))
def test_the_indicator_is_the_formula(seed: int, c: int, scale: float) -> None:
    logits = np.random.default_rng(seed).normal(scale=scale, size=(20, c))
    expected = [literal_indicator(p) for p in softmax(logits, axis=1)]
    np.testing.assert_allclose(sraal_indicator(logits), expected, atol=1e-9)


@pytest.mark.parametrize("c", [2, 3, 76])
def test_the_indicator_at_one_hot_and_uniform(c: int) -> None:
    logits = np.zeros((3, c))
    logits[1, c - 1], logits[2, 0] = 800, np.nextafter(0, 1)
    found = sraal_indicator(logits)
    assert found[0] == pytest.approx(1 - 1 / c, abs=1e-15)
    assert found[1] == 0
    assert found[2] == pytest.approx(1 - 1 / c, abs=1e-12)


def test_the_indicator_keeps_its_digits_where_the_head_is_certain() -> None:
    # Two classes: the variance is the least possible, so U = 1 − m = 1 / (1 + exp(gap)).
    gap = np.array([5.0, 40.0, 100.0, 700.0])
    found = sraal_indicator(np.stack([gap, np.zeros(4)], axis=1))
    np.testing.assert_allclose(found, 1 / (1 + np.exp(gap)), rtol=1e-12)
    near = sraal_indicator(np.array([[1e-9, 0.0, 0.0], [1e-9, 1e-9, 0.0]]))
    np.testing.assert_allclose(near, [2 / 3, 11 / 12], rtol=1e-6)


def test_the_indicator_of_one_class_masks_and_what_it_refuses() -> None:
    assert sraal_indicator(np.ones((2, 1))).tolist() == [0, 0]
    masked = sraal_indicator(np.array([[1.0, 1.0, -np.inf]]))
    assert masked[0] == pytest.approx(literal_indicator(np.array([0.5, 0.5, 0])))
    with pytest.raises(DataError, match=r"row 1: expected finite logits, found \+inf"):
        sraal_indicator(np.array([[0.0, 1.0], [0.0, np.inf]]))


# --- ALFA-Mix ---------------------------------------------------------------------------------


class Head:
    """A pool with a linear head, some rows labeled; class 4 has no labeled row."""

    def __init__(self, seed: int, n: int = 120, scale: float = 1.0) -> None:
        rng = np.random.default_rng(seed)
        self.features = features_of(n, rng, scale)
        self.weight = {m: rng.standard_normal((5, d)) / scale for m, d in DIMS.items()}
        self.bias = rng.standard_normal(5)
        self.labeled = np.sort(rng.choice(n, 25, replace=False))
        self.labels = rng.integers(0, 4, 25)
        self.candidates = np.setdiff1d(np.arange(n), self.labeled)

    @property
    def given(self) -> tuple[Any, ...]:
        return self.features, self.weight, self.bias, self.labels

    def literally_changed(self, epsilon: float) -> np.ndarray:
        """Whose argmax changes when (1 − α) z + α a is computed as Eqs. 5-7 write it."""
        z, w = beside(self.features), beside(self.weight)
        known = z[self.labeled]
        mean = known.mean(axis=0)
        own = [known[self.labels == c] for c in range(5)]
        anchors = [rows.mean(axis=0) if len(rows) else mean for rows in own]
        changed = np.zeros(len(z), bool)
        for i, x in enumerate(z):
            f = w @ x + self.bias
            gradient = w.T @ (softmax(f) - np.eye(5)[f.argmax()])
            for a in anchors:
                length = np.linalg.norm(a - x) / np.linalg.norm(gradient)
                alpha = epsilon / np.sqrt(len(x)) * length * gradient / (a - x)
                mixed = (1 - alpha) * x + alpha * a
                changed[i] |= (w @ mixed + self.bias).argmax() != f.argmax()
        return changed[self.candidates]


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("scale", [1.0, 30.0])
def test_candidates_are_those_of_mixing_the_long_way(seed: int, scale: float) -> None:
    head = Head(seed, scale=scale)
    found = mix_thresholds(*head.given, labeled=head.labeled)
    counts = []
    for epsilon in (1 / 32, 1 / 16, 0.1, 0.2, 0.3, 0.4, 0.6):
        np.testing.assert_array_equal(found < epsilon, head.literally_changed(epsilon))
        counts.append(int((found < epsilon).sum()))
    assert 0 < counts[3] < counts[6] < len(found)  # the comparison is of something


def test_the_step_grows_until_more_than_k_have_changed() -> None:
    head = Head(1)
    thresholds = mix_thresholds(*head.given, labeled=head.labeled)
    inside = int((thresholds < 0.4).sum())
    before = int((thresholds < 0.2).sum())
    assert before < inside - 1
    rng = np.random.default_rng(5)
    found = alfamix(*head.given, inside - 1, rng, labeled=head.labeled)
    assert (found.epsilon, found.near) == (0.4, inside)
    rows = head.candidates[thresholds < 0.4]
    unit = beside(head.features)[rows]
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    expected = kmeans([unit.astype(np.float32)], inside - 1, np.random.default_rng(5))
    assert found.picks.tolist() == rows[expected.picks].tolist()
    position = np.searchsorted(head.candidates, found.picks)
    assert found.thresholds.tolist() == thresholds[position].tolist()
    more = alfamix(*head.given, inside, rng, labeled=head.labeled)
    assert more.epsilon > 0.5


def test_too_few_changed_are_joined_by_the_next_to_change() -> None:
    head = Head(2)
    head.bias[0] = 40.0  # the head is certain of everything
    thresholds = mix_thresholds(*head.given, labeled=head.labeled)
    assert (thresholds < 1).sum() < 30
    found = alfamix(*head.given, 30, np.random.default_rng(0), labeled=head.labeled)
    best = np.argsort(thresholds, kind="stable")[:30]
    assert found.picks.tolist() == head.candidates[best].tolist()
    assert found.epsilon == 1 and found.near == (thresholds < 1).sum()


def test_a_head_that_is_certain_keeps_the_direction_of_its_gradient() -> None:
    # softmax f − e_y is 0 in float64; the direction is still towards the only other class.
    features = {"x": np.array([[900.0], [-900.0], [500.0]])}
    weight = {"x": np.array([[1.0], [-1.0]])}
    labels, labeled = np.array([0, 1]), np.array([0, 1])
    found = mix_thresholds(features, weight, None, labels, labeled=labeled)
    assert found.tolist() == [pytest.approx(500 / 1400)]


def test_what_no_mix_changes_is_infinite_and_ties_go_to_the_lower_row() -> None:
    features = {"x": np.array([[1.0], [1.0], [2.0], [2.0], [2.0]])}
    same = {"x": np.array([[1.0], [1.0], [1.0]])}  # equal classes: no direction changes anything
    labels, labeled = np.array([0, 0]), np.array([0, 1])
    thresholds = mix_thresholds(features, same, None, labels, labeled=labeled)
    assert thresholds.tolist() == [np.inf] * 3
    found = alfamix(features, same, None, labels, 2, np.random.default_rng(0), labeled=labeled)
    assert found.picks.tolist() == [2, 3] and found.near == 0
    head = {"x": np.array([[1.0], [-1.0]])}  # a sample that is its only anchor does not move
    alone = mix_thresholds(
        features, head, None, labels, labeled=labeled, candidates=np.array([0, 2])
    )
    assert alone[0] == np.inf and np.isfinite(alone[1])


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_thresholds_are_the_same_on_disk_in_any_blocks_and_on_any_threads(dtype: type) -> None:
    head = Head(3, n=3000)
    z = {m: x.astype(dtype) for m, x in head.features.items()}
    how = {"labeled": head.labeled, "candidates": head.candidates}
    rest = (head.weight, head.bias, head.labels)
    whole = mix_thresholds(z, *rest, **how)
    disk = {m: OnDisk(x, 2 * 8192) for m, x in z.items()}
    for threads, memory in ((1, 1), (3, 1), (2, 10**9)):
        found = mix_thresholds(disk, *rest, **how, engine=Engine(threads, memory))
        assert found.tobytes() == whole.tobytes()


def test_alfamix_makes_nothing_of_the_size_of_the_pool() -> None:
    head = Head(4, n=40_000)
    most = 0

    class Watched(OnDisk):
        def __getitem__(self, index: Any) -> np.ndarray:
            nonlocal most
            block = self.array[index]
            most = max(most, len(block))
            return block

    disk = {m: Watched(x, 0) for m, x in head.features.items()}
    mix_thresholds(disk, *head.given[1:], labeled=head.labeled, engine=Engine(1, 1))
    assert 0 < most <= 2 * 8192


def test_what_alfamix_refuses() -> None:
    head, rng = Head(0), np.random.default_rng(0)

    def call(k: int = 3, **other: Any) -> None:
        given = dict(zip(("features", "weight", "bias", "labels"), head.given, strict=True))
        rest = {"labeled": head.labeled, "k": k, "rng": rng}
        alfamix(**{**given, **rest, **other})

    none = np.empty(0, np.intp)
    with pytest.raises(SelectionError, match="expected labeled samples"):
        call(labeled=none, labels=none)
    with pytest.raises(
        DataError, match=r"row \d+: expected a class from 0 to 4, found -1 of a labeled"
    ):
        call(labels=np.where(np.arange(25) == 7, -1, head.labels))
    with pytest.raises(ParameterError, match="cap: expected"):
        call(cap=0.0)
    with pytest.raises(ParameterError, match="at least two classes"):
        call(weight={m: w[:1] for m, w in head.weight.items()}, bias=None)
    with pytest.raises(ParameterError, match="audio: expected weights"):
        call(weight={"image": head.weight["image"]})
    with pytest.raises(SelectionError, match="96"):
        call(96)
    with pytest.raises(BudgetError):
        call(0)
    for value, message in ((np.nan, "finite"), (1e200, "too large")):
        broken = {m: x.astype(np.float64) for m, x in head.features.items()}
        broken["image"][head.candidates[4], 1] = value
        with pytest.raises(DataError, match=f"image: row {head.candidates[4]}: .*{message}"):
            call(features=broken)
    for value in (np.nan, np.inf, -1e200):
        with pytest.raises(DataError, match="weight and bias of the head: expected finite"):
            call(weight={**head.weight, "image": np.full((5, 5), value)})
        with pytest.raises(DataError, match="weight and bias of the head: expected finite"):
            call(bias=np.array([0, 0, 0, 0, value]))
    largest = {m: np.full(x.shape, 1e17) for m, x in head.features.items()}
    call(features=largest, weight={m: 9e149 * np.sign(w) for m, w in head.weight.items()})


# --- GCNAL ------------------------------------------------------------------------------------


def dense_adjacency(features: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """X and A, in full."""
    z = beside(features)
    norms = np.linalg.norm(z, axis=1, keepdims=True)
    x = np.divide(z, norms, out=np.zeros_like(z), where=norms > 0)
    similar = (1 + x @ x.T) / 2
    np.fill_diagonal(similar, 0)
    return x, similar / similar.sum(axis=0) + np.eye(len(x))


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gcn, "BLOCK", 16)


@FEW
@given(SEEDS, st.integers(2, 60), st.integers(1, 3))
def test_the_gram_product_is_the_dense_one(seed: int, n: int, threads: int) -> None:
    rng = np.random.default_rng(seed)
    features = features_of(n, rng)
    x, dense = dense_adjacency(features)
    unit, _ = side_by_side(features, unit="row")
    graph = gcn._Adjacency.of(unit, Engine(threads))
    v = rng.normal(size=n)
    np.testing.assert_allclose(graph.times(v), dense @ v, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(graph.transposed(v), dense.T @ v, rtol=1e-5, atol=1e-5)
    w = rng.normal(size=(x.shape[1], 3))
    first = x @ (graph.kernel @ w) + graph.own[:, None] * (x @ w) + graph.total @ w
    np.testing.assert_allclose(first, dense @ x @ w, rtol=1e-5, atol=1e-5)


def dense_training(
    x: np.ndarray, a: np.ndarray, labeled: np.ndarray, network: Any, steps: int
) -> tuple[list[float], np.ndarray, np.ndarray]:
    """Losses, s and H of the network trained with the whole matrix A, as the paper writes it."""
    w1, b1, w2, b2 = (w.copy() for w in network.weights)
    w2, parameters = w2[:, None], []
    moments = [[np.zeros_like(w), np.zeros_like(w)] for w in (w1, b1, w2, b2)]
    losses = []

    def forward(mask: Any) -> tuple[np.ndarray, ...]:
        before = a @ x @ w1 + b1
        h = np.maximum(before, 0) * mask
        return before, h, 1 / (1 + np.exp(-(a @ h @ w2 + b2)[:, 0]))

    for step in range(1, steps + 1):
        mask = 1.0
        if network.dropout:
            blocks = range(0, len(x), gcn.BLOCK)
            kept = [network.kept(step, slice(i, min(i + gcn.BLOCK, len(x)))) for i in blocks]
            mask = np.concatenate(kept) / (1 - network.dropout)
        before, h, s = forward(mask)
        losses.append(-np.log(s[labeled]).mean() - 1.2 * np.log(1 - s[~labeled]).mean())
        by_logit = np.where(labeled, (s - 1) / labeled.sum(), 1.2 * s / (~labeled).sum())[:, None]
        by_h = a.T @ by_logit @ w2.T * mask * (before > 0)
        gradients = [(a @ x).T @ by_h, by_h.sum(axis=0), (a @ h).T @ by_logit, by_logit.sum(axis=0)]
        parameters = [w1, b1, w2, b2]
        for w, g, (m, v) in zip(parameters, gradients, moments, strict=True):
            g = g + 5e-4 * w
            m[:] = 0.9 * m + 0.1 * g
            v[:] = 0.999 * v + 0.001 * g**2
            w -= 1e-3 * m / (1 - 0.9**step) / (np.sqrt(v / (1 - 0.999**step)) + 1e-8)
    _, h, s = forward(1.0)
    return losses, s, h


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_training_is_that_of_the_dense_literal_form(dropout: float) -> None:
    rng = np.random.default_rng(0)
    features, labeled = features_of(70, rng), np.arange(70) % 4 == 0
    unit, _ = side_by_side(features, unit="row")
    x, a = dense_adjacency({"unit rows": unit})  # rounded as they are held: all else is float64
    graph = gcn._Adjacency.of(unit, Engine(2))
    network = gcn._Network.draw(graph, labeled, np.random.default_rng(1), dropout)
    losses, s, h = dense_training(x, a, labeled, network, 8)
    np.testing.assert_allclose(list(network.train(8, None)), losses, rtol=1e-7)
    logit = network.forward()
    np.testing.assert_allclose(network.hidden, h, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(1 / (1 + np.exp(-logit)), s, rtol=1e-6)
    assert dropout == 0 or 0.65 < network.kept(1, slice(0, 16)).mean() < 0.75


def test_both_variants_pick_by_what_the_network_says() -> None:
    rng = np.random.default_rng(0)
    features = features_of(90, rng)
    labeled, candidates = np.arange(0, 90, 5), np.arange(1, 90, 2)
    candidates = np.setdiff1d(candidates, labeled)
    rows = np.union1d(labeled, candidates)
    part = {m: z[rows] for m, z in features.items()}
    x, a = dense_adjacency(part)
    unit, _ = side_by_side(part, unit="row")
    draw = gcn._Network.draw
    network = draw(
        gcn._Adjacency.of(unit, Engine(1)), np.isin(rows, labeled), np.random.default_rng(2), 0.3
    )
    _, s, h = dense_training(x, a, network.labeled, network, 30)
    how = {"labeled": labeled, "candidates": candidates, "epochs": 30}
    found = gcnal(features, 12, np.random.default_rng(2), **how)
    own = np.searchsorted(rows, candidates)
    np.testing.assert_allclose(found.scores, s[own], rtol=1e-3)
    order = np.argsort(np.abs(s[own] - 0.1), kind="stable")[:12]
    assert set(found.picks) == set(candidates[order])
    core = gcnal(features, 12, np.random.default_rng(2), variant="core", **how)
    expected = kcenter([h.astype(np.float32)], 12, labeled=np.searchsorted(rows, labeled))
    assert core.picks.tolist() == rows[expected.picks].tolist()
    np.testing.assert_allclose(core.gains, expected.gains, rtol=1e-3)


def test_rows_of_zeros_and_opposite_rows_do_no_harm() -> None:
    z = np.array([[1.0, 0.0], [-1.0, 0.0]])
    found = gcnal({"x": z}, 1, np.random.default_rng(0), labeled=np.array([0]), epochs=3)
    assert found.picks.tolist() == [1] and np.isfinite(found.losses).all()
    zero = np.vstack([np.zeros((4, 2)), np.eye(2), np.zeros((1, 2))])
    found = gcnal({"x": zero}, 3, np.random.default_rng(0), labeled=np.array([0, 4]), epochs=3)
    assert found.zero_rows == 5 and found.picks.tolist()[:2] != [5, 6]
    # Equal rows have equal scores: the lower ones come first.
    assert [row for row in found.picks.tolist() if row != 5] == [1, 2, 3][: 3 - (5 in found.picks)]


def test_gcnal_reads_rows_that_take_part_and_no_others() -> None:
    rng = np.random.default_rng(3)
    features = features_of(60, rng)
    labeled, candidates = np.arange(0, 20), np.arange(20, 50)
    how = {"labeled": labeled, "candidates": candidates, "epochs": 5}
    before = gcnal(features, 5, np.random.default_rng(0), **how)
    for z in features.values():
        z[50:] = np.nan
    after = gcnal(features, 5, np.random.default_rng(0), **how)
    assert before.picks.tolist() == after.picks.tolist()


def test_what_gcnal_refuses() -> None:
    features, rng = features_of(20, np.random.default_rng(0)), np.random.default_rng(0)
    with pytest.raises(SelectionError, match="expected labeled samples"):
        gcnal(features, 3, rng, labeled=np.empty(0, np.intp))
    with pytest.raises(ParameterError, match="variant: expected uncertain or core, found 'x'"):
        gcnal(features, 3, rng, labeled=np.arange(3), variant="x")  # type: ignore[arg-type]
    with pytest.raises(ParameterError, match="epochs: expected a whole number of at least 1"):
        gcnal(features, 3, rng, labeled=np.arange(3), epochs=0)
    with pytest.raises(SelectionError, match="17"):
        gcnal(features, 18, rng, labeled=np.arange(3))
    features["audio"] = features["audio"].astype(np.float64)
    features["audio"][7] = -1e300
    with pytest.raises(DataError, match="audio: row 7: too large"):
        gcnal(features, 3, rng, labeled=np.arange(3))


# --- TypiClust --------------------------------------------------------------------------------


def literal_typiclust(
    x: np.ndarray, owner: np.ndarray, known: np.ndarray, k: int
) -> tuple[list[int], list[float]]:
    """Pick in a loop: cluster by cluster, row by row, distance by distance."""
    clusters = []
    for c in np.unique(owner):
        rows = np.flatnonzero(owner == c)
        clusters.append((len(rows) <= 5, int(known[rows].sum()), -len(rows), rows[0], rows))
    clusters.sort(key=lambda cluster: cluster[:4])
    picks: list[int] = []
    scores: list[float] = []
    for small in (False, True):
        group = [rows for is_small, *_, rows in clusters if is_small == small]
        while len(picks) < k and any(
            set(r) - set(picks) - set(np.flatnonzero(known)) for r in group
        ):
            for rows in group:
                best, score = -1, -np.inf
                for i in rows:
                    if known[i] or i in picks:
                        continue
                    others = [np.linalg.norm(x[i] - x[j]) for j in rows if j != i]
                    near = sorted(others)[: min(20, len(rows) // 2)]
                    value = 1 / ((sum(near) / len(near) if near else 0) + 1e-5)
                    if value > score:
                        best, score = i, value
                if best >= 0 and len(picks) < k:
                    picks.append(best)
                    scores.append(score)
    return picks, scores


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("known_rows", "k"), [(0, 7), (12, 9), (3, 97), (40, 60)])
def test_typiclust_is_the_literal_loop(seed: int, known_rows: int, k: int) -> None:
    rng = np.random.default_rng(seed)
    features = {m: z + 4 * rng.integers(0, 3, (100, 1)) for m, z in features_of(100, rng).items()}
    labeled = np.sort(rng.choice(100, known_rows, replace=False))
    x, _ = side_by_side(features)
    x -= x.mean(axis=0, dtype=np.float64).astype(np.float32)
    found = typiclust(features, k, np.random.default_rng(9), labeled=labeled, clusters=11)
    count, same = min(11, known_rows + k), np.random.default_rng(9)
    centres = cluster_centres(x, count, same, start=x[kmeans_plusplus(x, count, same)])
    wide = x.astype(np.float64)
    owner = np.linalg.norm(wide[:, None] - centres, axis=2).argmin(axis=1)
    expected, typicality = literal_typiclust(wide, owner, np.isin(np.arange(100), labeled), k)
    assert found.picks.tolist() == expected
    np.testing.assert_allclose(found.typicality, typicality, rtol=1e-9)


def test_a_large_cluster_is_compared_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    from mmselect.core.coverage import typiclust as module

    rng = np.random.default_rng(0)
    features = features_of(500, rng)
    whole = typiclust(features, 20, np.random.default_rng(0), clusters=2)
    monkeypatch.setattr(module, "BLOCK", 7)
    monkeypatch.setattr(module, "CHUNK", 33)
    pieces = typiclust(features, 20, np.random.default_rng(0), clusters=2, engine=Engine(3))
    assert whole.picks.tolist() == pieces.picks.tolist()
    np.testing.assert_allclose(whole.typicality, pieces.typicality, rtol=1e-12)


def test_typical_copies_are_taken_lower_row_first() -> None:
    x = np.zeros((40, 3))
    x[30:] = np.random.default_rng(0).normal(size=(10, 3))
    found = typiclust({"x": x}, 6, np.random.default_rng(0), clusters=1)
    assert found.picks.tolist() == [0, 1, 2, 3, 4, 5]
    assert found.typicality.tolist() == [pytest.approx(1e5)] * 6


def test_typiclust_of_unit_rows_and_what_it_refuses() -> None:
    rng = np.random.default_rng(0)
    features = features_of(50, rng)
    scaled = {m: z * rng.uniform(0.1, 9, (50, 1)).astype("f4") for m, z in features.items()}
    picks = [
        typiclust(z, 8, np.random.default_rng(1), clusters=3, unit=True).picks.tolist()
        for z in (features, scaled)
    ]
    assert picks[0] == picks[1]
    assert picks[1] != typiclust(scaled, 8, np.random.default_rng(1), clusters=3).picks.tolist()
    with pytest.raises(SelectionError, match="50"):
        typiclust(features, 51, rng)
    with pytest.raises(ParameterError, match="clusters"):
        typiclust(features, 1, rng, clusters=0)
    for value, message in ((np.inf, "finite"), (9.97e36, "too large")):
        broken = {m: z.copy() for m, z in features.items()}
        broken["audio"][9, 0] = value
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with pytest.raises(DataError, match=f"audio: row 9: .*{message}"):
                typiclust(broken, 3, rng)


def test_every_row_can_be_picked() -> None:
    features = features_of(23, np.random.default_rng(0))
    found = typiclust(features, 23, np.random.default_rng(0))
    assert sorted(found.picks.tolist()) == list(range(23))
