"""The losses against plain forms in NumPy, float64."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmselect.errors import ParameterError

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.torch

from mmselect.torch import (  # noqa: E402
    info_nce,
    multimodal_loss,
    prototypical_loss,
    self_distillation_loss,
)

B, C, D = 7, 5, 6


def logits(seed: int, scale: float = 3.0) -> np.ndarray:
    return scale * np.random.default_rng(seed).standard_normal((B, C))


def classes(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, C, B)


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def cross_entropy(x: np.ndarray, y: np.ndarray) -> float:
    return float(-(y * np.log(softmax(x))).sum(axis=1).mean())


def bce(x: np.ndarray, y: np.ndarray) -> float:
    p = sigmoid(x)
    return float(-(y * np.log(p) + (1 - y) * np.log(1 - p)).mean())


PLAIN = {"softmax": (cross_entropy, softmax), "bce": (bce, sigmoid)}


def unit(z: np.ndarray) -> np.ndarray:
    return z / np.linalg.norm(z, axis=1, keepdims=True)


def tensors(*arrays: np.ndarray) -> list:
    return [torch.tensor(array) for array in arrays]


@pytest.mark.parametrize("kind", PLAIN)
@pytest.mark.parametrize("modalities", [1, 2, 3])
def test_the_multimodal_loss_is_the_mean_of_all_losses(kind: str, modalities: int) -> None:
    loss, _ = PLAIN[kind]
    fused, y = logits(9), classes()
    heads = {str(m): logits(m) for m in range(modalities)}
    expected = np.mean([loss(x, np.eye(C)[y]) for x in (*heads.values(), fused)])
    given_heads = {name: torch.tensor(x) for name, x in heads.items()}
    found = multimodal_loss(given_heads, *tensors(fused, y), kind=kind)
    assert found.item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("kind", PLAIN)
def test_classes_that_are_ruled_out(kind: str) -> None:
    """A logit of -inf where the target is 0 adds nothing, and all gradients are finite."""
    y = np.arange(B) % (C - 1)
    heads, fused = {"a": logits(1), "b": logits(2)}, logits(9)
    for x in (*heads.values(), fused):
        x[:, -1] = -np.inf
    given_heads = {name: torch.tensor(x, requires_grad=True) for name, x in heads.items()}
    found = multimodal_loss(given_heads, *tensors(fused, y), kind=kind)
    loss = PLAIN[kind][0]
    parts = [loss(x[:, :-1], np.eye(C - 1)[y]) for x in (*heads.values(), fused)]
    share = (C - 1) / C if kind == "bce" else 1  # the mean over classes counts it, with nothing
    assert found.item() == pytest.approx(np.mean(parts) * share, rel=1e-12)
    taught = self_distillation_loss(given_heads, *tensors(fused, y), kind=kind)
    assert taught.isfinite()
    (found + taught).backward()
    assert all(x.grad.isfinite().all() for x in given_heads.values())


def test_cosines_keep_their_precision_under_autocast() -> None:
    z, other = torch.randn(2, 30, 8, generator=torch.Generator().manual_seed(0))
    assigned, phi = torch.arange(30) % 4, torch.full((4,), 0.07)
    calls = (lambda: info_nce(z, other), lambda: prototypical_loss(z, assigned, other[:4], phi))
    for call in calls:
        with torch.autocast("cpu", torch.bfloat16):
            found = call()
        assert found.dtype == torch.float32 and found.item() == call().item()


@pytest.mark.parametrize("kind", PLAIN)
@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0, 4.0])
def test_self_distillation_is_equation_8(kind: str, weight: float) -> None:
    loss, probabilities = PLAIN[kind]
    fused, y = logits(9), np.eye(C)[classes()]
    heads = {"image": logits(1), "text": logits(2)}
    taught = probabilities(fused)
    expected = sum(loss(x, y) + weight * loss(x, taught) for x in heads.values())
    given_heads = {name: torch.tensor(x) for name, x in heads.items()}
    found = self_distillation_loss(
        given_heads, *tensors(fused, classes()), weight=weight, kind=kind
    )
    assert found.item() == pytest.approx(expected, rel=1e-12)
    soft = (y + weight * taught) / (1 + weight)
    identity = (1 + weight) * sum(loss(x, soft) for x in heads.values())
    assert found.item() == pytest.approx(identity, rel=1e-12)


@pytest.mark.parametrize("kind", PLAIN)
def test_self_distillation_teaches_the_heads_and_nobody_else(kind: str) -> None:
    fused, head = (torch.tensor(logits(seed), requires_grad=True) for seed in (1, 2))
    y = classes()
    self_distillation_loss({"a": head}, fused, torch.tensor(y), weight=0.7, kind=kind).backward()
    assert fused.grad is None
    _, probabilities = PLAIN[kind]
    x, taught = logits(2), probabilities(logits(1))
    share = B if kind == "softmax" else B * C
    expected = (1.7 * probabilities(x) - np.eye(C)[y] - 0.7 * taught) / share
    assert np.allclose(head.grad.numpy(), expected, rtol=1e-12, atol=1e-15)


def test_soft_targets_and_several_labels() -> None:
    fused, head = logits(1), logits(2)
    several = (np.random.default_rng(3).random((B, C)) < 0.4).astype(float)
    soft = softmax(logits(4))
    for kind, y in (("bce", several), ("softmax", soft)):
        loss, probabilities = PLAIN[kind]
        x, f = tensors(head, fused)
        found = multimodal_loss({"a": x}, f, torch.tensor(y), kind=kind)
        assert found.item() == pytest.approx((loss(head, y) + loss(fused, y)) / 2, rel=1e-12)
        found = self_distillation_loss({"a": x}, f, torch.tensor(y), weight=0.5, kind=kind)
        expected = loss(head, y) + 0.5 * loss(head, probabilities(fused))
        assert found.item() == pytest.approx(expected, rel=1e-12)
    several_as_booleans = multimodal_loss({"a": x}, f, torch.tensor(several > 0), kind="bce")
    assert several_as_booleans == multimodal_loss({"a": x}, f, torch.tensor(several), kind="bce")


def test_half_precision_is_summed_in_single() -> None:
    x = torch.tensor(logits(1)).half()
    y = torch.tensor(classes())
    exact = multimodal_loss({"a": x.double()}, x.double(), y)
    found = multimodal_loss({"a": x}, x, y)
    assert found.dtype == torch.float32
    assert found.item() == pytest.approx(exact.item(), rel=1e-6)


@settings(max_examples=20)
@given(seed=st.integers(0, 999), tau=st.sampled_from([0.07, 0.5, 2.0]))
def test_info_nce_is_the_plain_form_in_both_directions(seed: int, tau: float) -> None:
    rng = np.random.default_rng(seed)
    a, b = rng.standard_normal((2, B, D))
    s = unit(a) @ unit(b).T / tau
    pairs = [(s[i, i], s[i]) for i in range(B)] + [(s[i, i], s[:, i]) for i in range(B)]
    expected = np.mean([np.log(np.exp(row).sum()) - own for own, row in pairs])
    assert info_nce(*tensors(a, b), tau=tau).item() == pytest.approx(expected, rel=1e-10)
    assert info_nce(*tensors(3 * a, b / 7), tau=tau).item() == pytest.approx(expected, rel=1e-10)
    swapped = info_nce(*tensors(b, a), tau=tau).item()
    assert swapped == pytest.approx(expected, rel=1e-10)


def test_prototypical_loss_is_the_plain_form() -> None:
    rng = np.random.default_rng(0)
    z, centroids = rng.standard_normal((B, D)), unit(rng.standard_normal((4, D)))
    phi, assigned = rng.uniform(0.03, 0.2, 4), np.array([0, 1, 2, 3, -1, 0, -1])
    terms = []
    for i in range(B):
        if assigned[i] >= 0:
            x = [unit(z)[i] @ centroids[s] / phi[s] for s in range(4)]
            terms.append(np.log(np.sum(np.exp(x))) - x[assigned[i]])
    found = prototypical_loss(*tensors(z, assigned, centroids, phi))
    assert found.item() == pytest.approx(np.mean(terms), rel=1e-12)
    nobody = prototypical_loss(*tensors(z, np.full(B, -1), centroids, phi))
    assert nobody.item() == 0


def test_a_gradient_step_lowers_each_loss_of_stage_1() -> None:
    rng = np.random.default_rng(1)
    centroids, phi = tensors(unit(rng.standard_normal((3, D))), np.full(3, 0.07))
    assigned = torch.tensor([0, 1, 2, 0, 1, 2, 0])
    for loss in (
        lambda a, b: info_nce(a, b),
        lambda a, _: prototypical_loss(a, assigned, centroids, phi),
    ):
        a, b = (torch.tensor(x, requires_grad=True) for x in rng.standard_normal((2, B, D)))
        before = loss(a, b)
        before.backward()
        assert loss(a.detach() - 1e-3 * a.grad, b.detach()) < before


X = torch.zeros(B, C)
Y = torch.zeros(B, dtype=torch.long)
WRONG = {
    "no modality": (lambda: multimodal_loss({}, X, Y), "at least one modality"),
    "shape": (
        lambda: multimodal_loss({"a": X[:3]}, X, Y),
        "modality 'a': expected logits (7, 5), found (3, 5)",
    ),
    "vector": (lambda: multimodal_loss({"a": X[0]}, X[0], Y), "expected logits (b, c), found"),
    "targets": (lambda: multimodal_loss({"a": X}, X, Y[:3]), "expected integers (7,) or numbers"),
    "float classes": (
        lambda: multimodal_loss({"a": X}, X, Y.float()),
        "found shape (7,) of torch.float32",
    ),
    "too high": (
        lambda: self_distillation_loss({"a": X}, X, Y + 5),
        "expected classes 0 to 4, found 5 to 5",
    ),
    "unknown": (lambda: multimodal_loss({"a": X}, X, Y - 1), "expected classes 0 to 4, found -1"),
    "kind": (
        lambda: multimodal_loss({"a": X}, X, Y, kind="mse"),
        "kind: expected bce or softmax, found",
    ),
    "weight": (
        lambda: self_distillation_loss({"a": X}, X, Y, weight=-1),
        "weight: expected a number of at least 0, found -1",
    ),
    "tau": (lambda: info_nce(X, X, tau=0), "tau: expected a number of at least 1e-06, found 0"),
    "pairs": (lambda: info_nce(X, X[:3]), "one shape, found (7, 5) and (3, 5)"),
    "prototypes": (
        lambda: prototypical_loss(X, Y, torch.zeros(4, D), torch.ones(4)),
        "expected shapes (b, d), (b,), (k, d) and (k,), found",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_does_not_fit_is_said(case: str) -> None:
    call, said = WRONG[case]
    with pytest.raises(ParameterError) as caught:
        call()
    assert said in str(caught.value) and "\n" not in str(caught.value)
