"""Replays on shares of several classes: multi-label heads, and how right a guess is (VQA)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

import mmselect
from mmselect.engine import blas_threads
from mmselect.errors import DataError, MmselectError
from mmselect.replay.heads import UNSEEN, Head, choose_penalties, fit_heads, scales
from mmselect.replay.linear import outputs
from mmselect.replay.measures import measure
from mmselect.replay.runs import Replay, replay

pytestmark = pytest.mark.usefixtures("one_thread")

SMALL: dict[str, Any] = {"rounds": 2, "budget": 10, "start_budget": 20, "seeds": 1}


@pytest.fixture
def one_thread() -> Iterator[None]:
    with blas_threads():  # as a replay does: on small matrices threads of BLAS wait for each other
        yield


def drawn(n: int = 200, c: int = 4) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Features of two modalities, and shares: each class is right or not by itself."""
    rng = np.random.default_rng(5)
    z = {m: rng.standard_normal((n, 6)).astype(np.float32) for m in "ab"}
    w = rng.standard_normal((12, c))
    f = np.hstack([*z.values()]) @ w + rng.standard_normal((n, c))
    return z, (np.clip(np.round(f), 0, 3) / 3).astype(np.float32)


def shared_pool(path: Path, **other: Any) -> Path:
    features, share = drawn()
    mmselect.write_pool(path, features=features, label_share=share, **other)
    return path


def untimed(found: Replay) -> list[dict[str, Any]]:
    return [{k: v for k, v in row.items() if k != "seconds"} for row in found.rows]


def test_multilabel_heads_are_one_regression_for_each_class() -> None:
    features, share = drawn()
    rows, scale = np.arange(60), scales(features)
    for targets in (np.round(share[rows]), share[rows]):  # 0 and 1; and in between
        heads = fit_heads(features, rows, targets, 4, {("a", "b"): 0.3}, scale)
        (head,) = heads.values()
        x = np.hstack([features[m][rows] * scale[m] for m in "ab"])
        for k in range(4):
            # A share is so many samples that say yes, and the rest that say no.
            twice, says = np.vstack([x, x]), np.repeat([1, 0], len(rows))
            weight = np.concatenate([targets[:, k], 1 - targets[:, k]])
            model = LogisticRegression(C=0.3, tol=1e-8, max_iter=5000)
            model.fit(twice, says, sample_weight=weight)
            factors = np.repeat([scale["a"], scale["b"]], 6)
            np.testing.assert_allclose(head.weight[k], model.coef_[0] * factors, atol=1e-3)
            assert head.bias[k] == pytest.approx(model.intercept_[0], abs=1e-3)
    again = fit_heads(features, rows, share[rows], 4, {("a", "b"): 0.3}, scale, heads)
    np.testing.assert_allclose(again[("a", "b")].weight, head.weight, atol=1e-3)


def test_a_class_without_a_share_gets_probability_0() -> None:
    features, share = drawn()
    share[:50, 2] = 0
    rows, scale = np.arange(50), scales(features)
    penalties = choose_penalties(features, rows, share[rows], 4, scale, 0)
    head = fit_heads(features, rows, share[rows], 4, penalties, scale)[("a", "b")]
    assert head.bias[2] == UNSEEN and head.seen.tolist() == [True, True, False, True]
    assert all(1e-5 < c < 1e6 for c in penalties.values())


def test_a_guess_is_as_right_as_its_class() -> None:
    head = Head(np.array([[1.0], [-1.0], [0.0]]), np.zeros(3))
    features = {"a": np.array([[2.0], [2.0], [-2.0], [-2.0]], np.float32)}
    share = np.array([[1, 0.3, 0], [0.3, 1, 0], [0, 0.6, 1], [1, 0, 0]], np.float32)
    labels = share.argmax(axis=1)
    found = measure(outputs(features, {("a",): head}), labels, share)
    assert found["accuracy"] == pytest.approx((1 + 0.3 + 0.6 + 0) / 4)
    assert found["accuracy.balanced"] == pytest.approx(((1 + 0) / 2 + 0.3 + 0.6) / 3)
    assert measure(outputs(features, {("a",): head}), labels)["accuracy"] == 0.25


def test_hidden_shares_change_nothing(tmp_path: Path) -> None:
    split = np.where(np.arange(200) % 4 == 0, "test", "train").tolist()
    path = shared_pool(tmp_path / "a.h5", metadata={"split": split})
    before = replay(path, ["entropy", "facility"], **SMALL)
    picked = np.unique([row for run in before.runs for rows in run.picks for row in rows])
    with h5py.File(path, "r+") as handle:
        share = handle["label_share"][:]
        known = np.flatnonzero(share.any(axis=1))
        hidden = np.setdiff1d(known, [*picked, *range(0, 200, 4)])
        assert len(hidden) > 50
        share[hidden] = share[hidden][:, ::-1]
        handle["label_share"][:] = share
    after = replay(path, ["entropy", "facility"], **SMALL)
    keys = [k for k in untimed(before)[0] if k != "coverage"]
    assert [[row[k] for k in keys] for row in untimed(after)] == [
        [row[k] for k in keys] for row in untimed(before)
    ]
    assert [run.picks for run in after.runs] == [run.picks for run in before.runs]


def test_strategies_for_multilabel_heads_play_on_shares(tmp_path: Path) -> None:
    names = [f"{name}:multilabel=true" for name in ("entropy", "smem", "facility", "badge")]
    found = replay(shared_pool(tmp_path / "a.h5"), ["entropy", *names], **SMALL | {"rounds": 1})
    picks = [run.picks[1] for run in found.runs]
    assert all(len(set(own)) == SMALL["budget"] for own in picks)
    assert picks[0] != picks[1]  # a softmax over classes that do not exclude each other


def test_more_labels_make_better_guesses(tmp_path: Path) -> None:
    path = shared_pool(tmp_path / "a.h5")
    found = replay(path, ["random"], **SMALL | {"rounds": 1, "budget": 100, "seeds": 3})
    curve = found.curves("accuracy")["random"]
    assert (curve[:, 1] > curve[:, 0]).all()
    assert found.settings["classes"] == 4


def test_shares_outside_0_to_1_and_pools_with_no_label_are_refused(tmp_path: Path) -> None:
    path = shared_pool(tmp_path / "a.h5")
    with h5py.File(path, "r+") as handle:
        handle["label_share"][7, 1] = 1.5
    with pytest.raises(DataError, match=r"a.h5: /label_share: row 7: expected shares from 0 to 1"):
        replay(path, ["random"], **SMALL)
    mmselect.write_pool(tmp_path / "b.h5", features=drawn()[0])
    with pytest.raises(MmselectError, match="replay needs /label or /label_share"):
        replay(tmp_path / "b.h5", ["random"], **SMALL)
