"""Features of several modalities, checked, normalised and joined, for the coverage methods."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike

from mmselect.arrays import (
    Array,
    Floats,
    Index,
    check_budget,
    check_finite,
    check_rows,
    native,
)
from mmselect.core.chosen import over_blocks
from mmselect.core.presence import (
    Mask,
    Pairs,
    Patterns,
    Present,
    blanked,
    check_present,
    patterns_of,
)
from mmselect.engine import SERIAL, Engine, compute_rows, ranges
from mmselect.errors import SchemaError

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
        Zeros in rows that lack the modality.
    k : int
        Budget, from 1 to the number of candidates.
    labeled, candidates : (l,) and (n - l,) ndarray of int
        Rows that are labeled, and the others; increasing.
    present : dict of str to (n,) ndarray of bool
        Which rows have a modality, for those that some lack.
    """

    features: dict[str, Array]
    k: int
    labeled: Index
    candidates: Index
    present: dict[str, Mask]

    @property
    def patterns(self) -> Patterns | None:
        """Which modalities each row has; None if all have all."""
        n = len(self.labeled) + len(self.candidates)
        return patterns_of(self.present, list(self.features), n) if self.present else None

    def pairs(self, rows: Index | None = None) -> Pairs | None:
        """Give what makes products of rows similarities where modalities lack; None: nothing."""
        patterns = self.patterns
        return None if patterns is None else patterns.pairs(rows)


def checked(
    features: Features,
    k: int,
    labeled: ArrayLike | None = None,
    present: Present | None = None,
) -> Given:
    """Check features, budget, labeled rows, and who has which modality.

    Parameters
    ----------
    features : mapping or sequence of arrays, each (n, d_m)
        Where a row lacks the modality, any numbers: they are not read.
    k : int
    labeled : sequence of int, optional
        In any order.
    present : mapping of str to (n,) ndarray of bool, optional
        Which rows have a modality; those without a mask are there for all.

    Raises
    ------
    SchemaError
        See :func:`as_modalities` and :func:`mmselect.core.presence.check_present`.
    DataError
        If a row has no modality.
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
    masks = check_present(present, list(named), n)
    candidates = np.setdiff1d(np.arange(n), rows, assume_unique=True)
    return Given(blanked(named, masks), k, rows, candidates, masks)


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
    squared = np.einsum("ij,ij->i", block, block, dtype=np.float64, casting="same_kind")
    return checked_norms(squared, block, first_row)


def checked_norms(squared: Floats, block: Array, first_row: int) -> Floats:
    """Norms of rows, given their squares; errors as of :func:`row_norms`."""
    norms: Floats = np.sqrt(squared)
    check_finite(norms, range(first_row, first_row + len(block)), block=block)
    return norms


FAR = 1e4
"""A mean this many times as long as a typical row is the work of a few rows that are far larger."""


def column_means(array: Array, there: Mask | None = None, engine: Engine = SERIAL) -> Floats:
    """Mean of the rows, summed in float64, block after block; see :func:`central`."""
    total = np.zeros(array.shape[1])
    for part in over_blocks(_column_sums, array, engine, "reading features"):
        total += part
    return central(array, total / counted(array, there), there)


def _column_sums(_first: int, block: Array) -> Floats:
    sums: Floats = native(block).sum(axis=0, dtype=np.float64)
    return sums


def counted(array: Array, there: Mask | None = None) -> int:
    """How many rows are there; at least 1, so that the mean of none is 0.

    Examples
    --------
    >>> counted(np.zeros((2, 1)), np.array([True, False])), counted(np.zeros((2, 1)))
    (1, 2)
    """
    return len(array) if there is None else max(int(there.sum()), 1)


def central(
    array: Array, mean: Floats, there: Mask | None = None, norms: Floats | None = None
) -> Floats:
    """Mean of the rows or, where a few outweigh all others, of the others alone.

    About a mean that is much longer than nearly all rows, float32 could not tell those apart.

    Parameters
    ----------
    array : (n, d) ndarray
    mean : (d,) ndarray
        Of all rows.
    there : (n,) ndarray of bool, optional
        Rows that count; the others are zeros. None: all.
    norms : (n,) ndarray, optional
        Of the rows, where they are known.

    Examples
    --------
    >>> x = np.array([[1.0], [3.0], [2.0], [1e15]])
    >>> central(x, x.mean(axis=0)).tolist(), central(x[:3], x[:3].mean(axis=0)).tolist()
    ([2.0], [2.0])
    """
    rows = np.arange(len(array)) if there is None else np.flatnonzero(there)
    if not len(rows):
        return mean
    some = rows[:: -(-len(rows) // 1024)]
    with np.errstate(over="ignore", invalid="ignore"):  # told apart by row_norms
        if norms is None:
            sizes = np.linalg.norm(array[some].astype(np.float64), axis=1)
        else:
            sizes = norms[some]
        length = np.linalg.norm(mean)
        if length <= FAR * sizes.min():
            return mean
        typical = float(np.median(sizes))
    if not 0 < FAR * typical < length:
        return mean
    total, count = np.zeros(len(mean)), 0
    for start, stop in ranges(0, len(array), compute_rows(len(mean))):
        block = array[start:stop].astype(np.float64)
        near = row_norms(block, start) <= FAR * typical
        near &= True if there is None else there[start:stop]
        total += block[near].sum(axis=0)
        count += int(near.sum())
    return total / count


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
