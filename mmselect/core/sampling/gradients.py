"""The gradient embedding of BADGE and BMMAL, kept as two factors.

The gradient of the loss at the pseudo-label, with respect to a linear head, is an outer product,
g = a ⊗ h with a = p − pseudo (n, c) and h = [w_1 z_1; …; w_M z_M] (n, Σd) (Kumar et al.'s BMMAL,
Eq. 15, ``methods.md`` 3.6; BADGE is w = 1). Everything that depends on angles and lengths follows
from the factors: ⟨g_i, g_j⟩ = ⟨a_i, a_j⟩⟨h_i, h_j⟩ and ‖g‖² = ‖a‖²‖h‖², so the product, c·Σd
numbers for each sample, is never formed. Nor are the factors of a whole pool: they are computed
from the rows that are asked for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from mmselect.arrays import (
    LARGEST,
    Array,
    Floats,
    Index,
    Rows,
    Singles,
    check_finite,
    check_rows,
    native,
    same_length,
)
from mmselect.core.sampling.points import Points, emptied, norms_of
from mmselect.core.scores.softmax import check_logits, odds
from mmselect.engine import SERIAL, Engine
from mmselect.errors import ParameterError


@dataclass(frozen=True)
class GradientPoints(Points):
    """Gradient embeddings g = a ⊗ h, computed from logits and features when rows are asked for.

    Parameters
    ----------
    logits : (n, c) Rows
        Logits of the fused head.
    features : mapping of str to (n, d) Rows
        Features of each modality; h concatenates them in this order.
    weights : (n, m) ndarray, optional
        Balance weights (Eq. 14), from 0 to 1, columns in the order of `features`. None is w = 1:
        BADGE.
    multilabel : bool
        p = sigmoid f and pseudo-labels 1[p ≥ ½], in place of softmax and argmax.

    Raises
    ------
    ParameterError
        If the shapes do not fit together, or a weight is not from 0 to 1.

    Examples
    --------
    >>> from mmselect.core.sampling.points import factors, squared_norms
    >>> points = GradientPoints(np.zeros((2, 2)), {"image": np.array([[2.0], [0.0]])})
    >>> a, h = factors(points)
    >>> a[0].tolist(), h[0].tolist(), squared_norms(points).tolist()
    ([-0.5, 0.5], [2.0], [2.0, 0.0])
    """

    logits: Rows
    features: Mapping[str, Rows]
    weights: Array | None = None
    multilabel: bool = False

    def __post_init__(self) -> None:
        if not self.features:
            raise ParameterError("features: expected at least one modality, found none")
        n = same_length([self.logits, *self.features.values()])
        if self.weights is not None and self.weights.shape != (n, len(self.features)):
            expected = (n, len(self.features))
            raise ParameterError(f"weights: expected {expected}, found {self.weights.shape}")
        if self.weights is not None and not ((self.weights >= 0) & (self.weights <= 1)).all():
            found = f"{self.weights.min()} to {self.weights.max()}"
            raise ParameterError(f"weights: expected numbers from 0 to 1, found {found}")

    def __len__(self) -> int:
        return self.logits.shape[0]

    @property
    def outer(self) -> GradientPoints:
        """BADGE's gradients: ‖g‖² = ‖a‖² Σ_m w_m² ‖z_m‖², and no w is above 1."""
        return self if self.weights is None else replace(self, weights=None)

    def detached(self) -> GradientPoints:
        """Return the same arithmetic without the samples."""
        features = {name: emptied(z) for name, z in self.features.items()}
        weights = None if self.weights is None else self.weights[:0]
        return replace(self, logits=emptied(self.logits), features=features, weights=weights)

    @property
    def sources(self) -> tuple[Rows, ...]:
        """Logits, the features of each modality, and the weights if there are any."""
        weights = () if self.weights is None else (self.weights,)
        return (self.logits, *self.features.values(), *weights)

    @property
    def widths(self) -> tuple[int, ...]:
        """C and Σd."""
        return self.logits.shape[1], sum(z.shape[1] for z in self.features.values())

    def factors(self, rows: Index, arrays: Sequence[Array]) -> tuple[Singles, ...]:
        """Compute a (b, c) and h (b, Σd) in float32."""
        logits, features, weights = self._split(arrays)
        h = np.empty((len(rows), self.widths[1]), np.float32)
        start = 0
        for m, (name, z) in enumerate(zip(self.features, features, strict=True)):
            part = h[:, start : start + z.shape[1]]
            with np.errstate(over="ignore", invalid="ignore"):  # what overflows is refused below
                wide = native(z)
                part[:] = wide if weights is None else wide * weights[:, m : m + 1].astype("f4")
                spread = part.max(axis=1, initial=0) - part.min(axis=1, initial=0)
                check_finite(spread, rows, name, z, 2 * LARGEST)
            start += z.shape[1]
        return residual(logits, rows, multilabel=self.multilabel), h

    def squared_norms(self, rows: Index, arrays: Sequence[Array]) -> tuple[Floats, Floats]:
        """‖a‖²‖h‖², twice: the origin of gradients is zero."""
        a, z = self.norm_parts(rows, arrays)
        weights = self._split(arrays)[2]
        norms = a * (z.sum(axis=1) if weights is None else np.vecdot(z, np.square(weights)))
        return norms, norms

    def norm_parts(self, rows: Index, arrays: Sequence[Array]) -> tuple[Floats, Floats]:
        """‖a‖² (b,) and ‖z_m‖² (b, m), free of the weights."""
        logits, features, _ = self._split(arrays)
        z = np.empty((len(rows), len(features)))
        for m, (name, block) in enumerate(zip(self.features, features, strict=True)):
            wide = native(block).astype(np.float64, copy=False)
            with np.errstate(over="ignore"):  # told apart by the next line
                np.vecdot(wide, wide, out=z[:, m])
            check_finite(np.sqrt(z[:, m]), rows, name, wide)
        return residual_norms(logits, rows, multilabel=self.multilabel), z

    def _split(self, arrays: Sequence[Array]) -> tuple[Array, Sequence[Array], Floats | None]:
        m = len(self.features)
        weights = None if self.weights is None else arrays[1 + m].astype(np.float64, copy=False)
        return arrays[0], arrays[1 : 1 + m], weights


def residual(logits: Array, rows: Index | None = None, *, multilabel: bool = False) -> Singles:
    """First factor of the gradient: a = p − pseudo (Eq. 3; ``methods.md`` 3.6).

    The entry of the pseudo-class is −Σ of the other probabilities, not p − 1: for a sure sample
    the difference would have lost all its digits.

    Parameters
    ----------
    logits : (b, c) ndarray
        Any floating type; −inf is a legal mask.
    rows : (b,) ndarray of int, optional
        Row numbers to name in errors.
    multilabel : bool
        p = sigmoid f, pseudo-labels 1[p ≥ ½].

    Returns
    -------
    (b, c) ndarray of float32

    Raises
    ------
    DataError
        If a row holds nan or +inf, or is all −inf.

    Examples
    --------
    >>> residual(np.log([[3.0, 1.0]])).tolist()
    [[-0.25, 0.25]]
    >>> residual(np.array([[0.0, -np.inf]]), multilabel=True).tolist()
    [[-0.5, 0.0]]
    """
    if multilabel:
        half = _far_probability(logits, rows)
        return np.where(logits >= 0, -half, half)
    e, label, others = _odds(logits, rows)
    a = np.multiply(e, (1 / (1 + others)).astype(np.float32)[:, None], out=e)
    a[np.arange(len(a)), label] = -others / (1 + others)
    return a


def residual_norms(logits: Array, rows: Index | None = None, *, multilabel: bool = False) -> Floats:
    """‖a‖² without forming a; parameters and errors as for :func:`residual`.

    Examples
    --------
    >>> residual_norms(np.log([[3.0, 1.0]])).round(6).tolist()
    [0.125]
    """
    if multilabel:
        half = _far_probability(logits, rows).astype(np.float64)
        return np.asarray(np.vecdot(half, half))
    e, _, others = _odds(logits, rows)
    wide = e.astype(np.float64)
    return np.asarray((np.vecdot(wide, wide) + others**2) / (1 + others) ** 2)


def norm_parts(
    points: GradientPoints, rows: Index | None = None, *, engine: Engine = SERIAL
) -> tuple[Floats, Floats]:
    """‖a‖² and each ‖z_m‖², from which norms for any weights follow without reading again.

    ‖g‖² = ‖a‖² Σ_m w_m² ‖z_m‖²: with w = 1 the norm that BADGE sees, with the balance weights that
    of BMMAL.

    Parameters
    ----------
    points : GradientPoints
        Its weights are not used.
    rows : (r,) ndarray of int, optional
        Candidate rows, increasing; None is all.
    engine : Engine, optional
        Who does the work.

    Returns
    -------
    a : (r,) ndarray of float64
    z : (r, m) ndarray of float64

    Raises
    ------
    DataError
        If a value of these rows cannot be used.

    Examples
    --------
    >>> a, z = norm_parts(GradientPoints(np.zeros((1, 2)), {"t": np.array([[3.0, 4.0]])}))
    >>> a.tolist(), z.tolist()
    ([0.5], [[25.0]])
    """
    rows = check_rows(rows, len(points))
    return norms_of(points, points.detached().norm_parts, rows, engine)


def full(parts: Sequence[Array]) -> Singles:
    """Materialise the outer product: row i is a_i ⊗ h_i, laid out class by class.

    Parameters
    ----------
    parts : sequence of two ndarray, (b, c) and (b, Σd)
        The factors of some rows.

    Returns
    -------
    (b, c·Σd) ndarray of float32

    Examples
    --------
    >>> full((np.array([[1.0, -1.0]]), np.array([[2.0, 3.0]]))).tolist()
    [[2.0, 3.0, -2.0, -3.0]]
    """
    a, h = (part.astype(np.float32, copy=False) for part in parts)
    return np.asarray(np.einsum("bc,bd->bcd", a, h).reshape(len(a), -1))


def _odds(logits: Array, rows: Index | None) -> tuple[Singles, Index, Floats]:
    """e^(f − f_ŷ) with 0 at ŷ (b, c), ŷ (b,) and Σ of the former (b,)."""
    x = native(logits)
    label = x.argmax(axis=1)
    top = x[np.arange(len(x)), label]
    check_logits(top, rows)
    e, others = odds(x, top, label)
    return e, label, others


def _far_probability(logits: Array, rows: Index | None) -> Singles:
    """|p − 1[p ≥ ½]| = sigmoid(−|f|)."""
    x = native(logits)
    check_logits(x.max(axis=1, initial=-np.inf), rows)
    e = np.exp(-np.abs(x))
    return np.asarray((e / (1 + e)).astype(np.float32, copy=False))
