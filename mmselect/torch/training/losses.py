"""Losses: of a multimodal model, of its single-modal heads, and of stage 1 of MMCSAL.

Tensors in, one number out, on whatever device and with whatever gradient the tensors have. Logits
go in, never probabilities.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional

from mmselect.core.limits import check_limits
from mmselect.errors import ParameterError

TAU = 0.07
"""Temperature of both losses of stage 1, as MMCSAL sets it."""


def multimodal_loss(
    unimodal: Mapping[str, Tensor], multimodal: Tensor, targets: Tensor, *, kind: str = "softmax"
) -> Tensor:
    """Mean of the losses of every unimodal classifier and of the multimodal one.

    For two modalities BMMAL's training loss (Shen et al., ACM MM 2023, Eq. 1),
    ``(CE(f_1, y) + CE(f_2, y) + CE(f, y)) / 3``; for m modalities the mean of m + 1 losses.

    Parameters
    ----------
    unimodal : mapping of modality to (b, c) tensor
        Logits of the classifiers that see one modality.
    multimodal : (b, c) tensor
        Logits of the classifier that sees all.
    targets : (b,) integer tensor, or (b, c) tensor
        Class indices; or a distribution over the classes (softmax), or several labels (bce).
    kind : {"softmax", "bce"}
        Cross-entropy over the classes, or binary cross-entropy, mean over samples and classes.

    Returns
    -------
    scalar tensor

    Raises
    ------
    ParameterError
        If a shape, a class index or `kind` does not fit.

    Examples
    --------
    >>> zeros = torch.zeros(4, 10)
    >>> multimodal_loss({"image": zeros, "text": zeros}, zeros, torch.arange(4)).item()  # log 10
    2.302585...
    """
    y = _targets(targets, multimodal, kind)
    every = [*_fitting(unimodal, multimodal).values(), multimodal]
    return torch.stack([_cross_entropy(f, y, kind) for f in every]).mean()


def self_distillation_loss(
    unimodal: Mapping[str, Tensor],
    multimodal: Tensor,
    targets: Tensor,
    *,
    weight: float = 1.0,
    kind: str = "bce",
) -> Tensor:
    """Train single-modal heads on the labels and on what the whole model says.

    ``L_m = BCE(y, y_m) + λ BCE(ŷ, y_m)``, summed over the modalities, so that each head gets the
    gradient of its own term alone (SMEM, BMVC 2021, Eq. 8). ŷ, the probabilities of `multimodal`,
    is a constant here: no gradient goes into it. The loss is linear in its target, so it is
    (1 + λ) times the loss with the soft target ``(y + λ ŷ) / (1 + λ)``, and computed so.

    Parameters
    ----------
    unimodal : mapping of modality to (b, c) tensor
        Logits of the heads, such as :class:`~mmselect.torch.SingleModalHeads` gives.
    multimodal : (b, c) tensor
        Logits of the whole model.
    targets : (b,) integer tensor, or (b, c) tensor
        Class indices; or a distribution over the classes (softmax), or several labels (bce).
    weight : float
        λ, at least 0. The paper gives no value; 1 is ours.
    kind : {"bce", "softmax"}
        Binary cross-entropy as in the paper, mean over samples and classes, with ŷ the sigmoid; or
        cross-entropy over the classes, with ŷ the softmax.

    Returns
    -------
    scalar tensor

    Raises
    ------
    ParameterError
        If a shape, a class index, `weight` or `kind` does not fit.

    Examples
    --------
    >>> f = torch.zeros(4, 10)
    >>> loss = self_distillation_loss({"text": f}, f, torch.arange(4), weight=0.5)
    >>> round(loss.item() / 1.5, 4)  # log 2
    0.6931
    """
    check_limits(weight=weight)
    y = _targets(targets, multimodal, kind)
    fused = wide(multimodal.detach())
    teacher = fused.sigmoid() if kind == "bce" else fused.softmax(dim=1)
    soft = (y + weight * teacher) / (1 + weight)
    heads = _fitting(unimodal, multimodal).values()
    return (1 + weight) * torch.stack([_cross_entropy(f, soft, kind) for f in heads]).sum()


def info_nce(first: Tensor, second: Tensor, *, tau: float = TAU) -> Tensor:
    """Contrast of paired samples, in both directions.

    Each sample's own partner against all others of the batch: the mean of
    ``-log softmax_j(⟨a_i, b_j⟩ / τ)_i`` and of the same with a and b exchanged, on unit vectors
    (van den Oord et al., 2018; MMCSAL, Eq. 1).

    Parameters
    ----------
    first, second : (b, d) tensors
        Features of two modalities; row i of both is the same sample. They are normalised here.
    tau : float
        Temperature, at least 1e-6.

    Returns
    -------
    scalar tensor

    Raises
    ------
    ParameterError
        If the shapes differ, or `tau` is not at least 1e-6.

    Examples
    --------
    >>> round(info_nce(torch.eye(2), torch.eye(2), tau=1.0).item(), 4)  # log(1 + 1/e)
    0.3133
    """
    check_limits(tau=tau)
    if first.ndim != 2 or first.shape != second.shape:
        shapes = f"{tuple(first.shape)} and {tuple(second.shape)}"
        raise ParameterError(f"expected two matrices (b, d) of one shape, found {shapes}")
    with _full_precision(first):
        a, b = unit(first), unit(second)
        closeness = a @ b.T / tau
    own = torch.arange(len(a), device=a.device)
    forth, back = (functional.cross_entropy(x, own) for x in (closeness, closeness.T))
    return (forth + back) / 2


def prototypical_loss(
    features: Tensor, assigned: Tensor, centroids: Tensor, concentration: Tensor
) -> Tensor:
    """Pull samples to the prototype of their cluster, away from all others.

    ``-mean_i log [exp(⟨z_i, c_s(i)⟩ / φ_s(i)) / Σ_s exp(⟨z_i, c_s⟩ / φ_s)]`` within one modality,
    on unit vectors (Li et al., PCL, ICLR 2021; MMCSAL, Eq. 2).

    Parameters
    ----------
    features : (b, d) tensor
        Normalised here.
    assigned : (b,) integer tensor
        s(i); a sample with -1 belongs to no cluster and does not count.
    centroids : (k, d) tensor
        Unit vectors c_s.
    concentration : (k,) tensor
        φ_s, above 0. See :class:`~mmselect.torch.UnimodalPrototypes`.

    Returns
    -------
    scalar tensor
        0 if no sample counts.

    Raises
    ------
    ParameterError
        If the shapes do not fit together.

    Examples
    --------
    >>> loss = prototypical_loss(torch.eye(2), torch.arange(2), torch.eye(2), torch.ones(2))
    >>> round(loss.item(), 4)  # log(1 + 1/e)
    0.3133
    """
    b, k = len(features), len(centroids)
    found = [tuple(x.shape) for x in (features, assigned, centroids, concentration)]
    if features.ndim != 2 or found[1:] != [(b,), (k, features.shape[1]), (k,)]:
        raise ParameterError(f"expected shapes (b, d), (b,), (k, d) and (k,), found {found}")
    with _full_precision(features):
        closeness = unit(features) @ centroids.T / concentration
    total = functional.cross_entropy(closeness, assigned, ignore_index=-1, reduction="sum")
    return total / (assigned >= 0).sum().clamp(min=1)


def unit(features: Tensor) -> Tensor:
    """Normalise rows, in float32 at least; a row of zeros stays zero."""
    return functional.normalize(wide(features), dim=1)


def wide(numbers: Tensor) -> Tensor:
    """Numbers in float32 at least, whatever the precision of the model."""
    return numbers if numbers.dtype == torch.float64 else numbers.float()


def _full_precision(features: Tensor) -> torch.autocast:
    """Switch autocast off: it would round cosines to three digits, and τ then divides them."""
    return torch.autocast(features.device.type, enabled=False)


def _cross_entropy(logits: Tensor, targets: Tensor, kind: str) -> Tensor:
    x = wide(logits)
    y = targets.to(x.dtype)
    if kind == "bce":
        yes, no = functional.logsigmoid(x), functional.logsigmoid(-x)
        return -(_weighed(y, yes) + _weighed(1 - y, no)).mean()
    return -_weighed(y, x.log_softmax(dim=1)).sum(dim=1).mean()


def _weighed(share: Tensor, log: Tensor) -> Tensor:
    """Multiply, with ``0 log 0 = 0``: the logit of a class that is ruled out is -inf."""
    return torch.where(share != 0, share * log, 0.0)


def _targets(targets: Tensor, logits: Tensor, kind: str) -> Tensor:
    """Targets as one row per sample, one column per class."""
    check_limits(kind=kind)
    if logits.ndim != 2:
        raise ParameterError(f"expected logits (b, c), found shape {tuple(logits.shape)}")
    b, c = logits.shape
    if targets.shape == (b, c):
        return targets.to(logits.device)
    if targets.shape != (b,) or targets.is_floating_point() or targets.dtype == torch.bool:
        found = f"found shape {tuple(targets.shape)} of {targets.dtype}"
        raise ParameterError(f"targets: expected integers ({b},) or numbers ({b}, {c}), {found}")
    # Looking at numbers on a GPU would make it wait; there, one_hot stops the program itself.
    if targets.device.type == "cpu" and bool(((targets < 0) | (targets >= c)).any()):
        low, high = int(targets.min()), int(targets.max())
        raise ParameterError(f"targets: expected classes 0 to {c - 1}, found {low} to {high}")
    return functional.one_hot(targets.long(), c).to(logits)


def _fitting(unimodal: Mapping[str, Tensor], multimodal: Tensor) -> Mapping[str, Tensor]:
    """Accept logits of at least one modality, all of the shape of the multimodal ones."""
    if not unimodal:
        raise ParameterError("expected the logits of at least one modality, found none")
    for name, logits in unimodal.items():
        if logits.shape != multimodal.shape:
            expected, found = tuple(multimodal.shape), tuple(logits.shape)
            raise ParameterError(f"modality {name!r}: expected logits {expected}, found {found}")
    return unimodal
