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
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from mmselect.blocks import DEFAULT_MEMORY, blas_threads, compute_rows
from mmselect.core.rows import (
    Array,
    Floats,
    Index,
    Rows,
    check_rows,
    gather,
    native,
    same_length,
    stream,
)
from mmselect.errors import DataError, ParameterError

Singles = NDArray[np.float32]

CENTRE_ROWS = 1024
"""Rows whose mean is the origin of plain features; any origin is right, a central one is quick."""


class Points(Protocol):
    """Rows of which the D² sampler can take distances: outer products of one or more factors."""

    @property
    def sources(self) -> tuple[Rows, ...]:
        """What must be read to know a row."""

    @property
    def widths(self) -> tuple[int, ...]:
        """Columns of each factor."""

    def __len__(self) -> int:
        """Samples in the pool."""

    def factors(self, rows: Index, arrays: Sequence[Array]) -> tuple[Singles, ...]:
        """Factors of `rows`, (b, width) each, from the rows of the sources."""

    def squared_norms(self, rows: Index, arrays: Sequence[Array]) -> tuple[Floats, Floats]:
        """‖g‖² of `rows`, (b,) each: about the points' own origin, and about zero."""


@dataclass(frozen=True)
class GradientPoints:
    """Gradient embeddings g = a ⊗ h, computed from logits and features when rows are asked for.

    Parameters
    ----------
    logits : (n, c) Rows
        Logits of the fused head.
    features : mapping of str to (n, d) Rows
        Features of each modality; h concatenates them in this order.
    weights : (n, m) ndarray, optional
        Balance weights (Eq. 14), columns in the order of `features`. None is w = 1: BADGE.
    multilabel : bool
        p = sigmoid f and pseudo-labels 1[p ≥ ½], in place of softmax and argmax.

    Raises
    ------
    ParameterError
        If the shapes do not fit together.

    Examples
    --------
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

    def __len__(self) -> int:
        return self.logits.shape[0]

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
        """A (b, c) and h (b, Σd) in float32."""
        logits, features, weights = self._split(arrays)
        h = np.empty((len(rows), self.widths[1]), np.float32)
        start = 0
        for m, (name, z) in enumerate(zip(self.features, features, strict=True)):
            part = h[:, start : start + z.shape[1]]
            part[:] = z if weights is None else z * weights[:, m : m + 1].astype(np.float32)
            start += z.shape[1]
            _finite(part.max(axis=1, initial=0) - part.min(axis=1, initial=0), rows, name)
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
            np.vecdot(wide, wide, out=z[:, m])
            _finite(z[:, m], rows, name)
        return residual_norms(logits, rows, multilabel=self.multilabel), z

    def _split(self, arrays: Sequence[Array]) -> tuple[Array, Sequence[Array], Floats | None]:
        m = len(self.features)
        weights = None if self.weights is None else arrays[1 + m].astype(np.float64, copy=False)
        return arrays[0], arrays[1 : 1 + m], weights


@dataclass(frozen=True)
class FeaturePoints:
    """Concatenated features as points with one factor, about an origin near their centre.

    Distances do not depend on the origin; their numerical error, and how tight norms bound them,
    do. Build it with :func:`feature_points`.
    """

    features: Mapping[str, Rows]
    origin: Singles = field(repr=False)

    def __len__(self) -> int:
        return same_length(list(self.features.values()))

    @property
    def sources(self) -> tuple[Rows, ...]:
        """The features of each modality."""
        return tuple(self.features.values())

    @property
    def widths(self) -> tuple[int, ...]:
        """Σd."""
        return (len(self.origin),)

    def factors(self, rows: Index, arrays: Sequence[Array]) -> tuple[Singles, ...]:
        """Features less the origin, (b, Σd) in float32."""
        joined = self._joined(rows, arrays)
        return ((joined - self.origin).astype(np.float32, copy=False),)

    def squared_norms(self, rows: Index, arrays: Sequence[Array]) -> tuple[Floats, Floats]:
        """‖x − origin‖² and ‖x‖²."""
        wide = self._joined(rows, arrays).astype(np.float64, copy=False)
        centred = wide - self.origin
        return np.vecdot(centred, centred), np.vecdot(wide, wide)

    def _joined(self, rows: Index, arrays: Sequence[Array]) -> Array:
        for name, z in zip(self.features, arrays, strict=True):
            _finite(np.abs(z).max(axis=1, initial=0), rows, name)
        return np.concatenate([native(z) for z in arrays], axis=1)


def feature_points(features: Mapping[str, Rows], rows: Index | None = None) -> FeaturePoints:
    """Make points of plain features, with the mean of some of `rows` as their origin.

    Parameters
    ----------
    features : mapping of str to (n, d) Rows
        Features of each modality, concatenated in this order.
    rows : (r,) ndarray of int, optional
        Candidate rows, increasing; only they are read. None is all.

    Returns
    -------
    FeaturePoints

    Raises
    ------
    ParameterError
        If there are no features, or they have different lengths.
    DataError
        If a value is nan or infinite.

    Examples
    --------
    >>> feature_points({"x": np.array([[1.0], [3.0]])}).origin
    array([2.], dtype=float32)
    """
    if not features:
        raise ParameterError("features: expected at least one modality, found none")
    n = same_length(list(features.values()))
    rows = check_rows(rows, n)
    width = sum(z.shape[1] for z in features.values())
    points = FeaturePoints(features, np.zeros(width, np.float32))
    if not len(rows):
        return points
    some = rows[np.unique(np.linspace(0, len(rows) - 1, CENTRE_ROWS).astype(np.intp))]
    (joined,) = points.factors(some, gather(points.sources, some))
    return FeaturePoints(features, joined.mean(axis=0, dtype=np.float64).astype(np.float32))


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
    >>> residual_norms(np.log([[3.0, 1.0]])).tolist()
    [0.125]
    """
    if multilabel:
        half = _far_probability(logits, rows).astype(np.float64)
        return np.asarray(np.vecdot(half, half))
    e, _, others = _odds(logits, rows)
    wide = e.astype(np.float64)
    return np.asarray((np.vecdot(wide, wide) + others**2) / (1 + others) ** 2)


def factors(points: Points, rows: Index | None = None) -> tuple[Singles, ...]:
    """Factors of some rows, in memory.

    Parameters
    ----------
    points : Points
        Such as :class:`GradientPoints`.
    rows : (b,) ndarray of int, optional
        Rows in any order; None is all.

    Returns
    -------
    tuple of (b, width) ndarray of float32
        For gradients (a, h).

    Raises
    ------
    DataError
        If a value of these rows cannot be used.

    Examples
    --------
    >>> points = GradientPoints(np.zeros((3, 2)), {"image": np.eye(3)})
    >>> [f.shape for f in factors(points, np.array([2, 0]))]
    [(2, 2), (2, 3)]
    """
    rows = np.arange(len(points), dtype=np.intp) if rows is None else rows
    return points.factors(rows, gather(points.sources, rows))


def squared_norms(
    points: Points,
    rows: Index | None = None,
    *,
    threads: int = 1,
    memory: int = DEFAULT_MEMORY,
) -> Floats:
    """‖g‖² of candidate rows, streamed.

    Parameters
    ----------
    points : Points
        Such as :class:`GradientPoints`.
    rows : (r,) ndarray of int, optional
        Candidate rows, increasing; None is all.
    threads, memory : int
        As for :func:`mmselect.core.rows.stream`.

    Returns
    -------
    (r,) ndarray of float64

    Raises
    ------
    DataError
        If a value of these rows cannot be used.

    Examples
    --------
    >>> squared_norms(GradientPoints(np.zeros((1, 2)), {"image": np.array([[3.0, 4.0]])}))
    array([12.5])
    """
    return _streamed_norms(points, check_rows(rows, len(points)), threads, memory)[1]


def norm_parts(
    points: GradientPoints,
    rows: Index | None = None,
    *,
    threads: int = 1,
    memory: int = DEFAULT_MEMORY,
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
    threads, memory : int
        As for :func:`mmselect.core.rows.stream`.

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
    step = compute_rows(max(points.widths))
    with blas_threads():
        blocks = list(
            stream(
                points.norm_parts, points.sources, rows, step=step, threads=threads, memory=memory
            )
        )
    m = len(points.features)
    a = np.concatenate([a for a, _ in blocks]) if blocks else np.empty(0)
    return a, np.concatenate([z for _, z in blocks]) if blocks else np.empty((0, m))


def inner_products(left: Sequence[Array], right: Sequence[Array]) -> Floats:
    """⟨g_i, g_j⟩ = ⟨a_i, a_j⟩⟨h_i, h_j⟩ between all rows of two sets of factors.

    Parameters
    ----------
    left, right : sequence of (b, width) and (r, width) ndarray
        Factors, of the same widths.

    Returns
    -------
    (b, r) ndarray of float64

    Examples
    --------
    >>> a, h = np.array([[0.5, -0.5]]), np.array([[3.0, 4.0]])
    >>> inner_products((a, h), (a, h))
    array([[12.5]])
    """
    product: Floats = np.ones(())
    for x, y in zip(left, right, strict=True):
        product = product * (x.astype(np.float64) @ y.astype(np.float64).T)
    return product


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
    return np.einsum("bc,bd->bcd", a, h).reshape(len(a), -1)


def _streamed_norms(
    points: Points, rows: Index, threads: int, memory: int
) -> tuple[Floats, Floats]:
    step = compute_rows(max(points.widths))
    own, zero = np.empty(len(rows)), np.empty(len(rows))
    start = 0
    with blas_threads():
        for a, b in stream(
            points.squared_norms, points.sources, rows, step=step, threads=threads, memory=memory
        ):
            own[start : start + len(a)], zero[start : start + len(b)] = a, b
            start += len(a)
    return own, zero


def _odds(logits: Array, rows: Index | None) -> tuple[Singles, Index, Floats]:
    """e^(f − f_ŷ) with 0 at ŷ (b, c), ŷ (b,) and Σ of the former (b,)."""
    x = native(logits)
    label = x.argmax(axis=1)
    at = np.arange(len(x)), label
    top = x[at]
    _legal(top, rows)
    # The difference is taken in the logits' own type: it is what decides, not its rounding.
    e = np.subtract(x, top[:, None]).astype(np.float32, copy=False)
    np.exp(e, out=e)
    e[at] = 0
    return e, label, e.sum(axis=1, dtype=np.float64)


def _far_probability(logits: Array, rows: Index | None) -> Singles:
    """|p − 1[p ≥ ½]| = sigmoid(−|f|)."""
    x = native(logits)
    _legal(x.max(axis=1, initial=-np.inf), rows)
    e = np.exp(-np.abs(x))
    return (e / (1 + e)).astype(np.float32, copy=False)


def _legal(top: Array, rows: Index | None) -> None:
    """Accept rows by their largest logit: nan and +inf show in it, and so does all −inf."""
    if np.isfinite(top).all():
        return
    bad = np.flatnonzero(~np.isfinite(top))
    found = {0: "nan", 1: "+inf", -1: "a row of all -inf"}
    value = top[bad[0]]
    kind = found[0 if np.isnan(value) else int(np.sign(value))]
    named = bad if rows is None else rows[bad]
    raise DataError(f"logits: expected numbers, found {kind}", rows=named.tolist())


def _finite(size: Array, rows: Index, name: str) -> None:
    """Accept feature rows by a number in which nan and infinities show."""
    if not np.isfinite(size).all():
        bad = np.flatnonzero(~np.isfinite(size))
        message = f"features of {name}: expected finite numbers, found nan or infinity"
        raise DataError(message, rows=rows[bad].tolist())
