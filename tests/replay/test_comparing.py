"""Heads, measures, and what is called better: against plain forms."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from scipy import stats
from scipy.special import softmax
from sklearn.linear_model import LogisticRegression

import mmselect
from mmselect import engine
from mmselect.ask import Replaying
from mmselect.core.scores.coalitions import linear_shapley
from mmselect.core.scores.shapley import contributions, shapley_values
from mmselect.demo import EMOJI
from mmselect.replay.comparison import area, interval, joint_confidence, labels_to_reach, wins
from mmselect.replay.data import load
from mmselect.replay.heads import (
    C_GRID,
    Head,
    by_modality,
    choose_penalties,
    fit_heads,
    logits,
    scales,
    views,
)
from mmselect.replay.linear import LinearTrainer, coalition_values, outputs
from mmselect.replay.measures import accuracies, measure
from mmselect.replay.rounds import Run, begin
from mmselect.replay.runs import Replay
from mmselect.replay.summary import noteworthy, summarize


@pytest.fixture(autouse=True)
def one_blas_thread() -> Iterator[None]:
    """Fit as a replay does: on a busy machine small products on many threads take minutes."""
    with engine.blas_threads(1):
        yield


def problem(n: int = 200, c: int = 4) -> tuple[dict[str, np.ndarray], np.ndarray]:
    rng = np.random.default_rng(3)
    labels = rng.integers(0, c, n)
    features = {
        m: (k * (rng.standard_normal((c, 5))[labels] + rng.standard_normal((n, 5)))).astype("f4")
        for m, k in (("a", 0.01), ("b", 7.0))
    }
    return features, labels


def test_heads_are_those_of_scikit_learn() -> None:
    features, labels = problem()
    rows, scale = np.arange(120), scales(features)
    penalties = dict.fromkeys(views(["a", "b"]), 0.1)
    heads = fit_heads(features, rows, labels[rows], 4, penalties, scale)
    for view, head in heads.items():
        x = np.hstack([scale[m] * features[m] for m in view])
        plain = LogisticRegression(C=0.1, tol=1e-8, max_iter=9999).fit(x[rows], labels[rows])
        ours = softmax(logits(features, view, head).astype(float), axis=1)
        assert np.allclose(ours, plain.predict_proba(x), atol=1e-3)
        assert head.converged


def test_a_warm_start_ends_where_a_cold_one_does() -> None:
    features, labels = problem()
    scale, penalties = scales(features), dict.fromkeys(views(["a", "b"]), 0.1)
    few, more = np.arange(40), np.arange(160)
    before = fit_heads(features, few, labels[few], 4, penalties, scale)
    warm = fit_heads(features, more, labels[more], 4, penalties, scale, before)
    cold = fit_heads(features, more, labels[more], 4, penalties, scale)
    for view in warm:
        a, b = (softmax(logits(features, view, h[view]), axis=1) for h in (warm, cold))
        assert np.allclose(a, b, atol=1e-3)


@pytest.mark.parametrize("seen", [(1, 3), (0, 2, 3)])
def test_classes_without_a_label_have_probability_zero(seen: tuple[int, ...]) -> None:
    """Two classes are a case of their own for scikit-learn; more join them in the next round."""
    features, labels = problem()
    rows = np.flatnonzero(np.isin(labels, seen))
    scale, penalties = scales(features), dict.fromkeys(views(["a", "b"]), 1.0)
    heads = fit_heads(features, rows, labels[rows], 4, penalties, scale)
    for view, head in heads.items():
        p = softmax(logits(features, view, head).astype(float), axis=1)
        unseen = [k for k in range(4) if k not in seen]
        assert (p[:, unseen] == 0).all()
        x = np.hstack([scale[m] * features[m] for m in view])
        plain = LogisticRegression(C=1.0, tol=1e-8, max_iter=9999).fit(x[rows], labels[rows])
        assert np.allclose(p[:, seen], plain.predict_proba(x), atol=1e-3)
    everything = np.arange(len(labels))
    after = fit_heads(features, everything, labels, 4, penalties, scale, heads)
    cold = fit_heads(features, everything, labels, 4, penalties, scale)
    for view in after:
        a, b = (softmax(logits(features, view, h[view]), axis=1) for h in (after, cold))
        assert np.allclose(a, b, atol=1e-3)


def test_the_penalty_suits_the_noise() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 60)
    noise = {"a": rng.standard_normal((60, 40)).astype(np.float32)}
    clear = {"a": np.where(labels[:, None] == 1, 2.0, -2.0) + 0.1 * rng.standard_normal((60, 2))}
    clear = {"a": clear["a"].astype(np.float32)}
    rows = np.arange(60)
    weak = choose_penalties(clear, rows, labels, 2, scales(clear), 0)[("a",)]
    strong = choose_penalties(noise, rows, labels, 2, scales(noise), 0)[("a",)]
    assert strong < 0.1 < weak


def truth_contributions(
    head: Head, features: dict[str, np.ndarray], labels: np.ndarray
) -> np.ndarray:
    blocks = by_modality(features, tuple(features), head)
    partial = [features[m] @ block.T for m, block in blocks.items()]
    return contributions(shapley_values(coalition_values(partial, head.bias, labels)))


def test_measures_by_hand() -> None:
    """Head a is right on three of four, head b on two, both together on all."""
    z = {"a": np.array([[2.0], [2.0], [-2.0], [1.0]]), "b": np.array([[0.5], [-1], [-1], [-3]])}
    features = {m: x.astype(np.float32) for m, x in z.items()}
    pair = np.array([[1.0], [-1.0]])
    heads = {
        ("a", "b"): Head(np.hstack([pair, pair]), np.zeros(2)),
        ("a",): Head(pair, np.zeros(2)),
        ("b",): Head(-pair, np.zeros(2)),
    }
    labels = np.array([0, 0, 1, 1])
    found = measure(outputs(features, heads), labels)
    assert found["accuracy"] == 1.0 and found["macro_f1"] == 1.0
    assert found["accuracy.a"] == 0.75 and found["accuracy.b"] == 0.25
    share = truth_contributions(heads["a", "b"], features, labels).mean(axis=0)
    assert found["contribution.a"] == pytest.approx(share[0])
    assert found["contribution_difference"] == pytest.approx(abs(share[0] - share[1]))


def test_contributions_to_the_truth_are_bmmals_where_the_guess_is_right() -> None:
    features, _ = problem(80)
    rng = np.random.default_rng(1)
    features["b"] /= 7
    weight, bias = rng.standard_normal((4, 10)), rng.standard_normal(4)
    by_name = {"a": weight[:, :5], "b": weight[:, 5:]}
    phi, pseudo = linear_shapley(features, by_name, bias)
    ours = truth_contributions(Head(weight, bias), features, pseudo)
    assert np.allclose(ours, contributions(phi), atol=1e-5)
    other = (pseudo + 1) % 4
    assert not np.allclose(
        truth_contributions(Head(weight, bias), features, other), ours, atol=0.05
    )


def test_intervals_and_wins_are_those_of_the_paired_t_test() -> None:
    rng = np.random.default_rng(2)
    ours, theirs = rng.random((5, 40)), rng.random((5, 40)) - 0.2
    test = stats.ttest_rel(ours, theirs)
    significant = (test.pvalue < 0.1) & (test.statistic > 0)
    assert 0.1 < significant.mean() < 0.9
    assert wins(ours, theirs) == pytest.approx(significant.mean())
    column = (ours - theirs)[:, 0]
    low, high = stats.t.interval(0.95, 4, loc=column.mean(), scale=stats.sem(column))
    assert interval(column) == pytest.approx((column.mean(), low, high))


def test_wins_happen_by_chance_as_often_as_the_page_says() -> None:
    rng = np.random.default_rng(4)
    a, b = rng.standard_normal((2, 5, 4000))
    assert wins(a, b) == pytest.approx(0.05, abs=0.012)


def test_no_difference_and_one_seed() -> None:
    same = np.ones((4, 3))
    assert wins(same, same) == 0 and wins(same + 1, same) == 0  # copies prove nothing
    assert np.isnan(wins(same[:1], same[:1]))
    assert np.isnan(interval(np.array([1.0]))[1])


def test_area_and_labels_by_hand() -> None:
    labeled = np.array([[10.0, 20.0, 40.0]])
    assert area(labeled, np.array([[0.0, 1.0, 1.0]])) == pytest.approx((5 + 20) / 30)
    assert labels_to_reach(labeled[0], np.array([0.5, 0.4, 0.8]), 0.6) == pytest.approx(30)
    assert labels_to_reach(labeled[0], np.array([0.5, 0.4, 0.8]), 0.5) == 10


def test_features_of_any_size() -> None:
    features, labels = problem(60)
    rows = np.arange(40)
    small, large = ({m: (f * z).astype("f4") for m, z in features.items()} for f in (1, 1e25))
    heads = []
    for z in (small, large):
        scale = scales(z)
        penalties = choose_penalties(z, rows, labels[rows], 4, scale, 0)
        found = fit_heads(z, rows, labels[rows], 4, penalties, scale)
        heads.append({view: softmax(logits(z, view, h), axis=1) for view, h in found.items()})
    for view in heads[0]:
        assert np.allclose(heads[0][view], heads[1][view], atol=1e-2)


def test_the_baseline_reaches_its_own_last_accuracy() -> None:
    """Though a mean over seeds may round otherwise than the mean of one column of them."""
    rng, rounded_up = np.random.default_rng(0), 0
    for _ in range(60):
        accuracy = np.sort(rng.random((10, 4)), axis=1)
        rounded_up += accuracy[:, -1].mean() > accuracy.mean(axis=0)[-1]
        runs = [
            Run("random", seed, [_row(r, a) for r, a in enumerate(row)], [], [])
            for seed, row in enumerate(accuracy.tolist())
        ]
        found = summarize(Replay({"strategies": ["random"], "modalities": []}, runs, []))
        assert found["strategies"]["random"]["relative_labels"] == (1, 1, 1)
    assert rounded_up


def _row(number: int, accuracy: float) -> dict[str, float | None]:
    rates = ("accuracy", "accuracy.balanced", "macro_f1")
    return {"labeled": 10 + number, "seconds": 0.1, **dict.fromkeys(rates, accuracy)}


def test_balanced_accuracy_counts_every_class_the_same() -> None:
    """Class 0 has six samples, all right; class 1 two, one right; class 2 none."""
    z = np.array([1.0] * 6 + [1.0, -1.0])
    features = {"a": z[:, None].astype(np.float32)}
    head = Head(np.array([[1.0], [-1.0], [0.0]]), np.array([0.0, 0.0, -9.0]))
    found = measure(outputs(features, {("a",): head}), np.array([0] * 6 + [1, 1]))
    assert found["accuracy"] == found["accuracy.a"] == 7 / 8
    assert found["accuracy.balanced"] == found["accuracy.balanced.a"] == (1 + 1 / 2) / 2
    assert set(accuracies(["a"])) <= found.keys()


def test_contributions_leave_out_classes_without_a_label() -> None:
    features, labels = problem()
    rows = np.flatnonzero(labels != 3)
    scale, penalties = scales(features), dict.fromkeys(views(["a", "b"]), 0.1)
    heads = fit_heads(features, rows, labels[rows], 4, penalties, scale)
    found = measure(outputs(features, heads), labels)
    known = {m: z[labels != 3] for m, z in features.items()}
    share = truth_contributions(heads["a", "b"], known, labels[labels != 3]).mean(axis=0)
    assert found["contribution.a"] == pytest.approx(share[0])
    assert found["contribution_difference"] == pytest.approx(abs(share[0] - share[1]))
    everyone = truth_contributions(heads["a", "b"], features, labels).mean(axis=0)
    assert abs(everyone[0] - share[0]) > 0.01  # the others would look balanced
    alone = measure(outputs(features, heads), np.full(len(labels), 3))
    assert alone["contribution.a"] is None and alone["contribution_difference"] is None


def test_the_grid_is_wide_enough_for_real_features() -> None:
    """The first heads of a replay of the emoji pool end inside the grid."""
    with mmselect.open_pool(EMOJI) as pool:
        data = load(pool)
    penalties = begin(data, Replaying(), 0, LinearTrainer).model.penalties
    assert len(penalties) == 3
    assert all(C_GRID[0] < c < C_GRID[-1] for c in penalties.values())


def test_clear_classes_take_no_weaker_penalty_than_they_need() -> None:
    """The loss falls towards 0 for ever then; where it is flat the stronger penalty is taken."""
    labels = np.arange(60) % 3
    noise = 0.1 * np.random.default_rng(0).standard_normal((60, 3))
    features = {"a": (np.eye(3)[labels] + noise).astype(np.float32)}
    c = choose_penalties(features, np.arange(60), labels, 3, scales(features), 0)[("a",)]
    assert 0.1 < c < C_GRID[-1]


@pytest.mark.parametrize("rivals", [1, 8])
def test_beyond_noise_holds_for_all_strategies_at_once(rivals: int) -> None:
    """Of many replays of equally good strategies, one in twenty calls any of them different."""
    rng, wrong, times = np.random.default_rng(7), 0, 300
    for _ in range(times):
        base, *others = rng.standard_normal((rivals + 1, 5))
        rows = [interval(other - base, joint_confidence(rivals)) for other in others]
        named = {f"s{i}": {"area_difference": {"accuracy": row}} for i, row in enumerate(rows)}
        lines = noteworthy({"baseline": "random", "strategies": named})
        assert len(lines) == (2 if rivals == 1 else 3)
        wrong += not all(line.endswith(": none") for line in lines[:2])
    assert 0 < wrong / times < 0.09  # 0.05 expected; 0.3 for eight intervals of 95 % each


def test_intervals_against_the_baseline_are_bonferronis() -> None:
    rng = np.random.default_rng(1)
    names = ["random", "a", "b", "c"]
    values = {name: rng.random(6) for name in names}
    runs = [
        Run(name, seed, [_row(0, x), _row(1, x)], [], [])
        for name in names
        for seed, x in enumerate(values[name].tolist())
    ]
    found = summarize(Replay({"strategies": names, "modalities": []}, runs, []))
    less = values["b"] - values["random"]
    expected = stats.t.interval(1 - 0.05 / 3, 5, loc=less.mean(), scale=stats.sem(less))
    for measured in ("accuracy", "accuracy.balanced"):
        _, low, high = found["strategies"]["b"]["area_difference"][measured]
        assert (low, high) == pytest.approx(expected)
    assert found["differences"]["accuracy"][2][0] == pytest.approx(interval(less))
