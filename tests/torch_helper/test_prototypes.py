"""Prototypes of a modality against plain forms in NumPy, float64."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmselect.errors import DataError, ParameterError, SelectionError

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.torch

from mmselect.torch import UnimodalPrototypes  # noqa: E402
from mmselect.torch.training import prototypes  # noqa: E402
from mmselect.torch.training.prototypes import concentrations  # noqa: E402


def unit(z: np.ndarray) -> np.ndarray:
    norms = np.linalg.norm(z, axis=1, keepdims=True)
    return np.divide(z, norms, out=np.zeros_like(z), where=norms > 0)


def groups(each: int = 12, d: int = 8, seed: int = 0) -> np.ndarray:
    """Features around three directions, not of unit length."""
    rng = np.random.default_rng(seed)
    centres = np.eye(d)[:3]
    z = np.repeat(centres, each, axis=0) + 0.1 * rng.standard_normal((3 * each, d))
    return (z * rng.uniform(0.5, 3, (3 * each, 1))).astype(np.float32)


def plain_concentrations(
    distance: np.ndarray, assigned: np.ndarray, k: int, tau: float, alpha: float
) -> np.ndarray:
    phi: list[float | None] = []
    for s in range(k):
        own = distance[assigned == s]
        lonely = len(own) < 2 or own.max() == 0
        phi.append(None if lonely else own.sum() / (len(own) * np.log(len(own) + alpha)))
    known = [x for x in phi if x is not None]
    if not known:
        return np.full(k, tau)
    values = np.array([max(known) if x is None else x for x in phi])
    low, high = np.percentile(values, 10), np.percentile(values, 90)
    values = np.minimum(np.maximum(values, low), high)
    return values / values.mean() * tau


@settings(max_examples=60)
@given(
    n=st.integers(1, 60),
    k=st.integers(1, 12),
    seed=st.integers(0, 999),
    tau=st.sampled_from([0.07, 1.0]),
    copies=st.booleans(),
)
def test_concentrations_are_the_plain_form(n, k, seed, tau, copies) -> None:
    rng = np.random.default_rng(seed)
    assigned = rng.integers(-1, k, n)
    distance = rng.uniform(0.1, 1.4, n)
    if copies:
        distance[assigned % 2 == 0] = 0
    expected = plain_concentrations(distance, assigned, k, tau, 10)
    found = concentrations(distance, assigned, k, tau, 10)
    assert np.allclose(found, expected, rtol=1e-12)
    assert found.mean() == pytest.approx(tau) and (found > 0).all()


def test_the_refresh_is_k_means_on_unit_features() -> None:
    z = groups()
    found = UnimodalPrototypes(3)
    found.refresh(torch.tensor(z))
    labels = found.assigned.numpy()
    assert [len(set(labels[i : i + 12])) for i in (0, 12, 24)] == [1, 1, 1]
    assert len(set(labels)) == 3
    u = unit(z.astype(np.float64))
    means = np.stack([u[labels == s].mean(axis=0) for s in range(3)])
    assert np.allclose(found.centroids.numpy(), unit(means), atol=1e-5)
    distance = np.linalg.norm(u - means[labels], axis=1)
    expected = plain_concentrations(distance, labels, 3, 0.07, 10)
    assert np.allclose(found.concentration.numpy(), expected, rtol=1e-3)
    assert not any(
        tensor.requires_grad for tensor in (found.centroids, found.concentration, found.assigned)
    )


class Rows:
    """Features that are made when asked for: a length, and rows by a slice or by row numbers."""

    def __init__(self, z: torch.Tensor) -> None:
        self.z = z

    def __len__(self) -> int:
        return len(self.z)

    def __getitem__(self, rows: slice | np.ndarray) -> torch.Tensor:
        assert isinstance(rows, slice | np.ndarray)
        return self.z[rows].clone()


def test_blocks_give_what_the_whole_gives(monkeypatch) -> None:
    z = torch.tensor(groups())
    whole, blocks, short = (UnimodalPrototypes(5, seed=3) for _ in range(3))
    whole.refresh(z)
    blocks.refresh(Rows(z))
    monkeypatch.setattr(prototypes, "ROWS", 5)
    short.refresh(Rows(z))
    for other in (blocks, short):
        assert torch.equal(whole.assigned, other.assigned)
        assert torch.allclose(whole.centroids, other.centroids)
        assert torch.allclose(whole.concentration, other.concentration)


def test_equal_seeds_give_equal_prototypes_refresh_after_refresh() -> None:
    z = torch.tensor(groups())
    first, second, other = (UnimodalPrototypes(6, seed=seed) for seed in (1, 1, 2))
    seen = []
    for _ in range(2):
        for each in (first, second, other):
            each.refresh(z)
        assert torch.equal(first.centroids, second.centroids)
        assert torch.equal(first.concentration, second.concentration)
        seen.append(first.centroids)
    assert not torch.equal(first.centroids, other.centroids)
    assert not torch.equal(*seen)  # each refresh starts somewhere else


def test_zero_rows_belong_to_no_prototype() -> None:
    z = groups()
    z[::5] = 0
    found = UnimodalPrototypes(3)
    found.refresh(torch.tensor(z))
    zero = np.zeros(len(z), bool)
    zero[::5] = True
    assert np.array_equal(found.assigned.numpy() == -1, zero)
    kept = UnimodalPrototypes(3)
    kept.refresh(torch.tensor(z[~zero]))
    assert torch.equal(found.centroids, kept.centroids)
    assert torch.allclose(found.concentration, kept.concentration)


@pytest.mark.parametrize("k", [1, 2, 5, 6])
def test_copies_and_empty_clusters_leave_usable_numbers(k: int) -> None:
    z = torch.eye(3).repeat(4, 1)  # three points, so that from k = 4 on clusters are empty
    found = UnimodalPrototypes(k)
    found.refresh(z)
    assert torch.isfinite(found.centroids).all()
    assert torch.allclose(found.centroids.norm(dim=1), torch.ones(k), atol=1e-6)
    assert torch.isfinite(found.concentration).all() and (found.concentration > 0).all()
    assert found.concentration.mean().item() == pytest.approx(0.07)
    assert (found.assigned >= 0).all()


def test_a_large_set_is_clustered_from_a_part(monkeypatch) -> None:
    monkeypatch.setattr(prototypes, "SAMPLED", 4)
    found = UnimodalPrototypes(3)
    rows = found.sampled_rows(36)
    assert len(rows) == 12 and (np.diff(rows) > 0).all() and rows[-1] < 36
    found.refresh(torch.tensor(groups()))
    assert len(found.assigned) == 36 and len(set(found.assigned.tolist())) == 3


def test_fewer_rows_than_prototypes() -> None:
    z = torch.eye(4)
    z[1] = 0
    with pytest.raises(SelectionError, match="at least 4 rows with a direction, found 3"):
        UnimodalPrototypes(4).refresh(z)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_numbers_that_are_none(bad: float, monkeypatch) -> None:
    z = torch.eye(4)
    z[2, 1] = bad
    with pytest.raises(DataError, match="expected finite features, found nan or inf"):
        UnimodalPrototypes(2).refresh(z)
    monkeypatch.setattr(UnimodalPrototypes, "sampled_rows", lambda *_: np.array([0, 1, 3]))
    with pytest.raises(DataError, match="expected finite features, found nan or inf"):
        UnimodalPrototypes(2).refresh(z)  # not among those clustered
    monkeypatch.undo()
    with pytest.raises(ParameterError, match=r"expected features \(n, d\), found shape \(4,\)"):
        UnimodalPrototypes(2).refresh(z[0])


@pytest.mark.parametrize("wrong", [{"k": 0}, {"iterations": 0}, {"smoothing": 1.0}, {"tau": 0.0}])
def test_what_does_not_fit_is_said(wrong: dict) -> None:
    with pytest.raises(ParameterError, match="expected"):
        UnimodalPrototypes(**{"k": 3, **wrong})
