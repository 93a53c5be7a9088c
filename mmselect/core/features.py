"""Features of several modalities, checked, normalised and joined, for the cold-start methods."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from mmselect.engine import compute_rows, map_ordered, ranges, thread_count
from mmselect.errors import BudgetError, DataError, SchemaError, SelectionError, located

Array: TypeAlias = NDArray[Any]
Features: TypeAlias = Mapping[str, Array] | Sequence[Array]
Progress: TypeAlias = Callable[[int, int], None]

EXACT_ROWS = 256
"""Rows taken in float64 at a time."""


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


def row_norms(block: Array, first_row: int = 0) -> NDArray[np.float64]:
    """Euclidean norm of every row, in float64.

    Raises
    ------
    DataError
        If a row holds nan or an infinity; rows are counted from `first_row`.

    Examples
    --------
    >>> row_norms(np.array([[3, 4], [0, 0]], dtype=np.float16))
    array([5., 0.])
    """
    norms: NDArray[np.float64] = np.sqrt(
        np.einsum("ij,ij->i", block, block, dtype=np.float64, casting="same_kind")
    )
    if not np.isfinite(norms).all():
        rows = np.flatnonzero(~np.isfinite(norms)) + first_row
        raise DataError("expected finite features, found nan or infinity", rows=rows.tolist())
    return norms


def column_means(array: Array) -> NDArray[np.float64]:
    """Mean of the rows, summed in float64, block after block."""
    total = np.zeros(array.shape[1])
    for start, stop in ranges(0, len(array), compute_rows(array.shape[1])):
        total += array[start:stop].sum(axis=0, dtype=np.float64)
    return total / len(array)


def join(
    features: Features,
    *,
    unit: bool = True,
    center: bool = False,
    threads: int | None = None,
) -> tuple[NDArray[np.float32], tuple[int, ...], dict[str, int]]:
    """Put the modalities side by side, each row of each modality on its unit sphere.

    Parameters
    ----------
    features : mapping or sequence of arrays, each (n, d_m)
    unit : bool
        Divide each row of each modality by its norm; a zero row stays zero, centred or not.
    center : bool
        Remove each modality's mean first.
    threads : int, optional

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
    SchemaError
        See :func:`as_modalities`.
    DataError
        If a row holds nan or an infinity, or a number that float32 cannot hold.

    Examples
    --------
    >>> joined, offsets, zero = join([np.array([[3.0, 4.0]]), np.array([[0.0]])])
    >>> joined.tolist(), offsets, zero
    ([[0.6000000238418579, 0.800000011920929, 0.0]], (0, 2, 3), {'0': 0, '1': 1})
    """
    named = as_modalities(features)
    n = len(next(iter(named.values())))
    offsets = (0, *(int(end) for end in np.cumsum([a.shape[1] for a in named.values()])))
    joined = np.empty((n, offsets[-1]), dtype=np.float32)
    zero_rows = {}
    for (name, array), (left, right) in zip(named.items(), pairwise(offsets), strict=True):
        with located(dataset=name):
            zero_rows[name] = _fill(joined[:, left:right], array, unit, center, threads)
    return joined, offsets, zero_rows


def _fill(
    out: NDArray[np.float32], array: Array, unit: bool, center: bool, threads: int | None
) -> int:
    mean = column_means(array) if center else None

    def fill(rows: tuple[int, int]) -> int:
        block = array[slice(*rows)]
        norms = row_norms(block, rows[0])
        if mean is not None:
            block = block - mean
            norms = _centred_norms(block, norms, array.dtype)
        scale = _inverse(norms)
        filled = out[slice(*rows)]
        with np.errstate(over="ignore"):
            filled[:] = block * scale[:, None] if unit else block
        if not unit:
            row_norms(filled, rows[0])  # beyond float32: an error, not an infinity
        return int((norms == 0).sum())

    blocks = ranges(0, len(array), compute_rows(array.shape[1]))
    return sum(map_ordered(fill, blocks, thread_count(threads)))


class Originals:
    """Rows of the features as given, in float64: what counts where float32 cannot decide.

    Parameters
    ----------
    features : mapping or sequence of arrays, each (n, d_m)
    unit, center : bool
        As in :func:`join`.

    Examples
    --------
    >>> Originals([np.array([[1.0], [3.0]]), np.array([[0.0], [8.0]])]).rows(np.array([1]))
    array([[3., 8.]])
    """

    def __init__(self, features: Features, *, unit: bool = False, center: bool = False) -> None:
        self.arrays = list(as_modalities(features).values())
        self.unit = unit
        self.means = [column_means(array) if center else None for array in self.arrays]

    def rows(self, index: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the rows in `index`, modalities side by side, ``(len(index), Σ d_m)``."""
        parts = [
            self._part(array[index], mean)
            for array, mean in zip(self.arrays, self.means, strict=True)
        ]
        return np.concatenate(parts, axis=1)

    def _part(self, block: Array, mean: NDArray[np.float64] | None) -> NDArray[np.float64]:
        part = block.astype(np.float64)
        if self.unit:
            norms = row_norms(part)
            if mean is not None:
                part -= mean
                norms = _centred_norms(part, norms, block.dtype)
            part *= _inverse(norms)[:, None]
        return part

    def squared(self, index: NDArray[np.int64], point: NDArray[np.float64]) -> NDArray[np.float64]:
        """Squared distance of each row in `index` to a point ``(Σ d_m,)``, summed as written."""
        out = np.empty(len(index))
        for start, stop in ranges(0, len(index), EXACT_ROWS):
            out[start:stop] = ((self.rows(index[start:stop]) - point) ** 2).sum(axis=1)
        return out


class Joined:
    """Rows as :func:`join` gives them, made when asked for: only norms are held.

    Parameters
    ----------
    features : mapping or sequence of arrays, each (n, d_m)
    unit : bool
        As in :func:`join`, and so are the errors.
    threads : int, optional

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
    >>> points = Joined([np.array([[1.0], [3.0]]), np.array([[0.0], [8.0]])])
    >>> points.rows(np.array([1])).tolist(), points.less(np.array([1]), points.mean).tolist()
    ([[3.0, 8.0]], [[1.0, 4.0]])
    """

    def __init__(
        self, features: Features, *, unit: bool = False, threads: int | None = None
    ) -> None:
        named = as_modalities(features)
        self.arrays = list(named.values())
        self.dtype = np.result_type(np.float32, *self.arrays)
        self.scales: list[NDArray[np.float64] | None] = []
        self.zero_rows = {}
        means = []
        for name, array in named.items():
            with located(dataset=name):
                norms, mean = _norms_and_mean(array, unit, threads)
            self.zero_rows[name] = int((norms == 0).sum())
            self.scales.append(_inverse(norms) if unit else None)
            means.append(mean)
        self.mean = np.concatenate(means)

    def __len__(self) -> int:
        return len(self.arrays[0])

    def rows(self, index: NDArray[np.int64]) -> Array:
        """Return the rows in `index`, modalities side by side, ``(len(index), Σ d_m)``."""
        return np.concatenate(list(self._parts(index)), axis=1, dtype=self.dtype)

    def less(self, index: NDArray[np.int64], origin: Array) -> NDArray[np.float32]:
        """Return the rows in `index` less an origin, which all share or each has its own."""
        out = np.empty((len(index), len(self.mean)), dtype=np.float32)
        right = 0
        for part in self._parts(index):
            left, right = right, right + part.shape[1]
            np.subtract(part, origin[..., left:right], out=out[:, left:right], casting="same_kind")
        return out

    def _parts(self, index: NDArray[np.int64]) -> Iterator[Array]:
        for array, scale in zip(self.arrays, self.scales, strict=True):
            part = array[index].astype(np.result_type(array, np.float32), copy=False)
            if scale is not None:
                part *= scale[index, None].astype(part.dtype)
            yield part


def _norms_and_mean(
    array: Array, unit: bool, threads: int | None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Norms of the rows as given, and the mean of the rows as they are used."""

    def measure(rows: tuple[int, int]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        wide = array[slice(*rows)].astype(np.float64)
        norms = row_norms(wide, rows[0])
        if not unit and array.dtype == np.float64:
            with np.errstate(over="ignore"):  # beyond float32: an error, not an infinity
                row_norms(wide.astype(np.float32), rows[0])
        weights = _inverse(norms) if unit else np.ones(len(wide))
        return norms, weights @ wide

    blocks = ranges(0, len(array), compute_rows(array.shape[1]))
    parts = list(map_ordered(measure, blocks, thread_count(threads)))
    norms = np.concatenate([norms for norms, _ in parts])
    return norms, np.sum([total for _, total in parts], axis=0) / len(array)


def _inverse(norms: NDArray[np.float64]) -> NDArray[np.float64]:
    """1/norm, and 0 for a row without a direction."""
    return np.divide(1.0, norms, out=np.zeros_like(norms), where=norms > 0)


def _centred_norms(
    centred: NDArray[np.float64], norms: NDArray[np.float64], dtype: np.dtype[Any]
) -> NDArray[np.float64]:
    """Norms of centred rows; a row of zeros has no direction, nor has one that is the mean."""
    after = row_norms(centred)
    after[(norms == 0) | (after <= 8 * np.finfo(dtype).eps * norms)] = 0.0
    return after


def check_budget(k: int, n: int) -> None:
    """Raise unless ``1 ≤ k ≤ n``.

    Raises
    ------
    BudgetError
        If `k` is not positive.
    SelectionError
        If `k` is more than there are candidates.
    """
    if k < 1:
        raise BudgetError(f"budget: expected at least 1, found {k}")
    if k > n:
        raise SelectionError(f"budget: expected at most {n:,} (the candidates), found {k:,}")


def labeled_rows(labeled: Sequence[int] | Array | None, n: int) -> NDArray[np.int64]:
    """Distinct labeled rows in ascending order.

    Raises
    ------
    SelectionError
        If a row lies outside ``[0, n)``.
    """
    given = np.asarray([] if labeled is None else labeled)
    rows: NDArray[np.int64] = np.unique(given.astype(np.int64))
    if rows.size and (rows[0] < 0 or rows[-1] >= n):
        outside = rows[(rows < 0) | (rows >= n)].tolist()
        raise SelectionError(f"expected labeled rows below {n:,}", rows=outside)
    return rows
