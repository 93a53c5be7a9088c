"""Features of several modalities, checked, normalised and joined, for the coverage methods."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike

from mmselect.arrays import (
    Array,
    Floats,
    Index,
    Singles,
    check_budget,
    check_finite,
    check_rows,
)
from mmselect.engine import SERIAL, Engine, compute_rows, ranges
from mmselect.errors import SchemaError, located

Features: TypeAlias = Mapping[str, Array] | Sequence[Array]


def as_modalities(features: Features) -> dict[str, Array]:
    """Name the modalities and check that they are matrices over the same samples.

    Parameters
    ----------
    features : mapping of str to array, or sequence of arrays, each of shape (n, d_m)
        float16, float32 or float64. In a sequence the modalities are called "0", "1", …

    Returns
    -------
    dict of str to array

    Raises
    ------
    SchemaError
        If there is no modality, or one is not a float matrix with as many rows as the first.

    Examples
    --------
    >>> list(as_modalities([np.zeros((4, 2)), np.zeros((4, 3))]))
    ['0', '1']
    """
    if isinstance(features, Mapping):
        named = dict(features)
    else:
        named = {str(number): array for number, array in enumerate(features)}
    if not named:
        raise SchemaError("expected the features of at least one modality, found none")
    n = len(next(iter(named.values())))
    for name, array in named.items():
        if array.ndim != 2 or array.dtype.kind != "f" or 0 in array.shape:
            raise SchemaError(
                f"modality {name!r}: expected a float matrix (n, d), "
                f"found shape {array.shape} of {array.dtype}"
            )
        if len(array) != n:
            raise SchemaError(f"modality {name!r}: expected {n:,} rows, found {len(array):,}")
    return named


@dataclass(frozen=True)
class Given:
    """What a method was given, checked once: everything that takes it may rely on it.

    Attributes
    ----------
    features : dict of str to array, each of shape (n, d_m)
    k : int
        Budget, from 1 to the number of candidates.
    labeled, candidates : (l,) and (n - l,) ndarray of int
        Rows that are labeled, and the others; increasing.
    """

    features: dict[str, Array]
    k: int
    labeled: Index
    candidates: Index


def checked(features: Features, k: int, labeled: ArrayLike | None = None) -> Given:
    """Check features, budget and labeled rows.

    Parameters
    ----------
    features : mapping or sequence of arrays, each (n, d_m)
    k : int
    labeled : sequence of int, optional
        In any order.

    Raises
    ------
    SchemaError
        See :func:`as_modalities`.
    BudgetError, SelectionError, ParameterError
        See :func:`mmselect.arrays.check_budget` and :func:`mmselect.arrays.check_rows`.

    Examples
    --------
    >>> checked([np.zeros((4, 2))], 2, labeled=[3, 0]).candidates
    array([1, 2])
    """
    named = as_modalities(features)
    n = len(next(iter(named.values())))
    rows = check_rows(() if labeled is None else labeled, n, "labeled", ordered=False)
    check_budget(k, n - len(rows))
    return Given(named, k, rows, np.setdiff1d(np.arange(n), rows, assume_unique=True))


def row_norms(block: Array, first_row: int = 0) -> Floats:
    """Euclidean norm of every row, in float64.

    Raises
    ------
    DataError
        If a row holds nan or an infinity, or is too large; rows are counted from `first_row`.

    Examples
    --------
    >>> row_norms(np.array([[3, 4], [0, 0]], dtype=np.float16))
    array([5., 0.])
    """
    norms: Floats = np.sqrt(
        np.einsum("ij,ij->i", block, block, dtype=np.float64, casting="same_kind")
    )
    check_finite(norms, range(first_row, first_row + len(block)), block=block)
    return norms


FAR = 1e4
"""A mean this many times as long as a typical row is the work of a few rows that are far larger."""


def column_means(array: Array) -> Floats:
    """Mean of the rows, summed in float64, block after block; see :func:`central`."""
    total = np.zeros(array.shape[1])
    for start, stop in ranges(0, len(array), compute_rows(array.shape[1])):
        total += array[start:stop].sum(axis=0, dtype=np.float64)
    return central(array, total / len(array))


def central(array: Array, mean: Floats) -> Floats:
    """Mean of the rows or, where a few outweigh all others, of the others alone.

    About a mean that is much longer than nearly all rows, float32 could not tell those apart.

    Parameters
    ----------
    array : (n, d) ndarray
    mean : (d,) ndarray
        Of all rows.

    Examples
    --------
    >>> x = np.array([[1.0], [3.0], [2.0], [1e15]])
    >>> central(x, x.mean(axis=0)).tolist(), central(x[:3], x[:3].mean(axis=0)).tolist()
    ([2.0], [2.0])
    """
    some = array[np.unique(np.linspace(0, len(array) - 1, 1024).astype(np.intp))]
    with np.errstate(over="ignore", invalid="ignore"):  # told apart by row_norms
        typical = float(np.median(np.linalg.norm(some.astype(np.float64), axis=1)))
        length = np.linalg.norm(mean)
    if not 0 < FAR * typical < length:
        return mean
    total, count = np.zeros(len(mean)), 0
    for start, stop in ranges(0, len(array), compute_rows(len(mean))):
        block = array[start:stop].astype(np.float64)
        near = row_norms(block, start) <= FAR * typical
        total += block[near].sum(axis=0)
        count += int(near.sum())
    return total / count


def join(
    features: Mapping[str, Array],
    *,
    unit: bool = True,
    center: bool = False,
    engine: Engine = SERIAL,
) -> tuple[Singles, tuple[int, ...], dict[str, int]]:
    """Put the modalities side by side, each row of each modality on its unit sphere.

    Parameters
    ----------
    features : mapping of str to array, each (n, d_m)
        As :func:`as_modalities` or :func:`checked` gives them.
    unit : bool
        Divide each row of each modality by its norm; a zero row stays zero, centred or not.
    center : bool
        Remove each modality's mean first.
    engine : Engine

    Returns
    -------
    joined : float32 array, shape (n, Σ d_m)
        With `unit`, the product of two rows is the sum of the cosines of their modalities.
    offsets : tuple of int, length m + 1
        Modality number m fills the columns ``offsets[m]:offsets[m + 1]``.
    zero_rows : dict of str to int
        Rows of each modality without a direction.

    Raises
    ------
    DataError
        If a row holds nan or an infinity, or is too large.

    Examples
    --------
    >>> joined, offsets, zero = join({"a": np.array([[3.0, 4.0]]), "b": np.array([[0.0]])})
    >>> joined.tolist(), offsets, zero
    ([[0.6000000238418579, 0.800000011920929, 0.0]], (0, 2, 3), {'a': 0, 'b': 1})
    """
    n = len(next(iter(features.values())))
    offsets = (0, *(int(end) for end in np.cumsum([a.shape[1] for a in features.values()])))
    joined = np.empty((n, offsets[-1]), dtype=np.float32)
    zero_rows = {}
    for (name, array), (left, right) in zip(features.items(), pairwise(offsets), strict=True):
        with located(dataset=name):
            zero_rows[name] = _fill(joined[:, left:right], array, unit, center, engine)
    return joined, offsets, zero_rows


def _fill(out: Singles, array: Array, unit: bool, center: bool, engine: Engine) -> int:
    mean = column_means(array) if center else None

    def fill(rows: tuple[int, int]) -> int:
        block = array[slice(*rows)]
        norms = row_norms(block, rows[0])
        if mean is not None:
            block = block - mean
            norms = centred_norms(block, norms, array.dtype)
        scale = inverse(norms)
        filled = out[slice(*rows)]
        filled[:] = block * scale[:, None] if unit else block
        return int((norms == 0).sum())

    blocks = ranges(0, len(array), compute_rows(array.shape[1]))
    return sum(engine.map(fill, blocks))


class Joined:
    """Rows as :func:`join` gives them, made when asked for: only norms are held.

    Parameters
    ----------
    features : mapping of str to array, each (n, d_m)
    unit : bool
        As in :func:`join`, and so are the errors.
    engine : Engine

    Attributes
    ----------
    dtype : dtype
        float32, or float64 if a modality is.
    mean : float64 array, shape (Σ d_m,)
        Mean of all rows.
    zero_rows : dict of str to int
        Rows of each modality without a direction.

    Examples
    --------
    >>> points = Joined({"a": np.array([[1.0], [3.0]]), "b": np.array([[0.0], [8.0]])})
    >>> points.exact(np.array([1])).tolist(), points.less(np.array([1]), points.mean).tolist()
    ([[3.0, 8.0]], [[1.0, 4.0]])
    """

    def __init__(
        self, features: Mapping[str, Array], *, unit: bool = False, engine: Engine = SERIAL
    ) -> None:
        self.arrays = list(features.values())
        self.dtype = np.result_type(np.float32, *self.arrays)
        self.scales: list[Floats | None] = []
        self.zero_rows = {}
        means = []
        for name, array in features.items():
            with located(dataset=name):
                norms, mean = _norms_and_mean(array, unit, engine)
            self.zero_rows[name] = int((norms == 0).sum())
            self.scales.append(inverse(norms) if unit else None)
            means.append(mean if unit else central(array, mean))
        self.mean = np.concatenate(means)

    def __len__(self) -> int:
        return len(self.arrays[0])

    def less(self, index: Index, origin: Array) -> Singles:
        """Return the rows in `index` less an origin ``(Σ d_m,)``, in float32."""
        out = np.empty((len(index), len(self.mean)), dtype=np.float32)
        right = 0
        for array, scale in zip(self.arrays, self.scales, strict=True):
            part = array[index].astype(np.result_type(array, np.float32), copy=False)
            if scale is not None:
                part *= scale[index, None].astype(part.dtype)
            left, right = right, right + part.shape[1]
            np.subtract(part, origin[left:right], out=out[:, left:right], casting="same_kind")
        return out

    def exact(self, index: Index) -> Floats:
        """Return the rows in `index` in float64: what counts where float32 cannot decide."""
        parts = [
            array[index].astype(np.float64) * (1.0 if scale is None else scale[index, None])
            for array, scale in zip(self.arrays, self.scales, strict=True)
        ]
        return np.concatenate(parts, axis=1)


def _norms_and_mean(array: Array, unit: bool, engine: Engine) -> tuple[Floats, Floats]:
    """Norms of the rows as given, and the mean of the rows as they are used."""

    def measure(rows: tuple[int, int]) -> tuple[Floats, Floats]:
        wide = array[slice(*rows)].astype(np.float64)
        norms = row_norms(wide, rows[0])
        weights = inverse(norms) if unit else np.ones(len(wide))
        return norms, weights @ wide

    blocks = ranges(0, len(array), compute_rows(array.shape[1]))
    parts = list(engine.map(measure, blocks))
    norms = np.concatenate([norms for norms, _ in parts])
    return norms, np.sum([total for _, total in parts], axis=0) / len(array)


def inverse(norms: Floats) -> Floats:
    """1/norm, and 0 for a row without a direction.

    Examples
    --------
    >>> inverse(np.array([4.0, 0.0]))
    array([0.25, 0.  ])
    """
    return np.divide(1.0, norms, out=np.zeros_like(norms), where=norms > 0)


def centred_norms(centred: Floats, norms: Floats, dtype: np.dtype[Any]) -> Floats:
    """Norms of centred rows; a row of zeros has no direction, nor has one that is the mean.

    Examples
    --------
    >>> centred_norms(np.array([[3.0, 4.0], [0.0, 0.0]]), np.array([9.0, 1.0]), np.dtype("f4"))
    array([5., 0.])
    """
    after = row_norms(centred)
    after[(norms == 0) | (after <= 8 * np.finfo(dtype).eps * norms)] = 0.0
    return after
