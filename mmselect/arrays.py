"""The vocabulary of arrays, and one checker each for what is asked of them.

A matrix may lie in memory or on disk: the mathematics asks a :class:`Rows` for a slice or for an
array of row numbers, and never for more. What the source is, the caller knows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mmselect.errors import BudgetError, DataError, ParameterError, RowNumbers, SelectionError

Array: TypeAlias = NDArray[Any]
Floats: TypeAlias = NDArray[np.float64]
Singles: TypeAlias = NDArray[np.float32]
Index: TypeAlias = NDArray[np.intp]


class Rows(Protocol):
    """What a row source must have; every NumPy array has it."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Axis 0 is the sample axis."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Any floating type, in any byte order."""

    def __getitem__(self, index: Any, /) -> Array:
        """Rows by a slice or by an array of row numbers."""


FLOAT16_INFINITY, FLOAT16_SIGN = 0x7C00, 0x8000
"""Bits of a float16: from the first on, without the sign, none stands for a finite number."""

SIGN_AND_NUMBER = np.int32(-0x70002000)
"""Bits of a float32 that a float16, moved there, fills: 0x8FFFE000."""


def native(block: Array) -> Array:
    """Floats as contiguous native float32, or float64 where they came as such or as integers.

    Examples
    --------
    >>> native(np.ones((2, 3), ">f2")).dtype.str[1:]
    'f4'
    """
    wide = block.dtype.kind != "f" or block.dtype.itemsize > 4
    if block.dtype == np.float16:
        return widen(block, np.empty(block.shape, np.float32))
    return np.ascontiguousarray(block, dtype=np.float64 if wide else np.float32)


def widen(block: Array, out: Array) -> Array:
    """Convert a block to the wider floats of `out`, which is returned.

    A finite float16 becomes float32 by its bits, which takes a fifth of NumPy's time: sign,
    exponent and fraction go to their places, and 2^112 makes up for the other bias of the exponent.

    Examples
    --------
    >>> widen(np.array([-1.5, 0.0], np.float16), np.empty(2, np.float32))
    array([-1.5,  0. ], dtype=float32)
    """
    if block.dtype != np.float16 or out.dtype != np.float32 or not finite_halves(block):
        np.copyto(out, block)
        return out
    bits = out.view(np.int32)
    np.copyto(bits, block.view(np.int16))  # the sign in all upper bits
    np.left_shift(bits, 13, out=bits)
    np.bitwise_and(bits, SIGN_AND_NUMBER, out=bits)
    return np.multiply(out, np.float32(2.0**112), out=out)


def finite_halves(block: Array) -> bool:
    """Whether every number of a float16 block is finite.

    NumPy compares float16 number by number, so bits are compared: as integers they have the order
    of what they stand for, and all that is not finite comes last.

    Examples
    --------
    >>> finite_halves(np.array([1, -2], "f2")), finite_halves(np.array([1, -np.inf], "f2"))
    (True, False)
    """
    up, down = (block.view(kind).max(initial=0) for kind in (np.int16, np.uint16))
    return bool(up < FLOAT16_INFINITY and down < FLOAT16_INFINITY + FLOAT16_SIGN)


def evenly_spread(n: int, runs: int, length: int) -> Index:
    """Positions below `n` in `runs` runs of `length`, from the first one to the last one.

    Runs, because a disk, and a chunk of a compressed dataset, give neighbours at the price of one.

    Examples
    --------
    >>> evenly_spread(9, 3, 2).tolist(), evenly_spread(3, 3, 2).tolist()
    ([0, 1, 3, 4, 7, 8], [0, 1, 2])
    """
    starts = np.linspace(0, max(n - length, 0), runs).astype(np.intp)
    return np.unique(np.add.outer(starts, np.arange(length)).clip(0, n - 1))


def check_budget(k: int, available: int) -> None:
    """Accept a budget of at least 1 that the candidates can meet.

    Parameters
    ----------
    k : int
        How many to pick.
    available : int
        How many candidates there are.

    Raises
    ------
    BudgetError
        If `k` is not positive.
    SelectionError
        If there are fewer candidates.

    Examples
    --------
    >>> check_budget(3, 3)
    """
    if k < 1:
        raise BudgetError(f"budget: expected at least 1, found {k}")
    if k > available:
        raise SelectionError(f"budget: expected at most {available:,} candidates, found {k:,}")


def check_rows(
    rows: ArrayLike | None, n: int, what: str = "candidates", *, ordered: bool = True
) -> Index:
    """Row numbers of a pool of `n` rows, checked; None is all rows.

    Parameters
    ----------
    rows : (r,) sequence of int, optional
    n : int
        Rows of the pool.
    what : str
        What they are, for errors.
    ordered : bool
        Whether they have to be increasing already; otherwise they are sorted, each kept once.

    Returns
    -------
    (r,) ndarray of int
        Strictly increasing.

    Raises
    ------
    ParameterError
        If they are not whole numbers in one dimension, or not increasing where they have to be.
    SelectionError
        If a row lies outside ``[0, n)``.

    Examples
    --------
    >>> check_rows(None, 3), check_rows([2, 0, 2], 3, "labeled", ordered=False)
    (array([0, 1, 2]), array([0, 2]))
    """
    if rows is None:
        return np.arange(n, dtype=np.intp)
    given = np.asarray(rows)
    if given.ndim != 1 or (given.size and given.dtype.kind not in "iu"):
        found = f"{given.dtype} of shape {given.shape}"
        raise ParameterError(f"{what}: expected row numbers (n,), found {found}")
    checked = given.astype(np.intp, copy=False)
    if not ordered:
        checked = np.unique(checked)
    elif bool(np.any(np.diff(checked) <= 0)):
        raise ParameterError(f"{what}: expected increasing row numbers")
    outside = checked[(checked < 0) | (checked >= n)]
    if len(outside):
        raise SelectionError(f"{what}: expected row numbers below {n:,}", rows=outside.tolist())
    return checked


def check_labels(labels: Index, labeled: Index, classes: int | None = None) -> None:
    """Accept the classes of labeled rows: one for each, known, and one that the head has.

    Parameters
    ----------
    labels : (l,) ndarray of int
        -1 = unknown.
    labeled : (l,) ndarray of int
        Their rows, for errors.
    classes : int, optional
        How many there are; None: any number.

    Raises
    ------
    ParameterError
        If there is not one label for each row.
    DataError
        If a label is not a class, naming the rows.

    Examples
    --------
    >>> check_labels(np.array([0, 2]), np.array([5, 7]), 2)
    Traceback (most recent call last):
    mmselect.errors.DataError: row 7: expected a class from 0 to 1, found 2 of a labeled sample
    """
    if labels.shape != labeled.shape:
        raise ParameterError(f"labels: expected {len(labeled):,}, found shape {labels.shape}")
    wrong = labels < 0 if classes is None else (labels < 0) | (labels >= classes)
    if (bad := np.flatnonzero(wrong)).size:
        expected = "a class from 0 on" if classes is None else f"a class from 0 to {classes - 1}"
        message = f"expected {expected}, found {labels[bad[0]]} of a labeled sample"
        raise DataError(message, rows=labeled[bad].tolist())


def check_candidates(candidates: ArrayLike | None, labeled: Index, n: int) -> Index:
    """Rows to pick from, checked; None is all that are not labeled.

    Raises
    ------
    ParameterError, SelectionError
        See :func:`check_rows`.

    Examples
    --------
    >>> check_candidates(None, np.array([1]), 3)
    array([0, 2])
    """
    return check_rows(np.setdiff1d(np.arange(n), labeled) if candidates is None else candidates, n)


def same_length(sources: Sequence[Rows]) -> int:
    """Count the samples, the same in every source.

    Raises
    ------
    ParameterError
        If two sources differ.

    Examples
    --------
    >>> same_length([np.zeros((4, 2)), np.zeros((4, 3))])
    4
    """
    lengths = {source.shape[0] for source in sources}
    if len(lengths) != 1:
        raise ParameterError(f"expected matrices over the same samples, found {sorted(lengths)}")
    return lengths.pop()


LARGEST = np.float64(1e18)
"""Largest number or row norm that is worked with: float32 holds its square, and sums of squares.
What is larger is most likely a fill value, such as netCDF's 9.97e36 or float32's own limit."""


def check_finite(
    size: Array,
    rows: RowNumbers,
    name: str | None = None,
    block: Array | None = None,
    limit: float = LARGEST,
) -> None:
    """Accept rows by a number in which nan, infinities and numbers that are too large show.

    Parameters
    ----------
    size : (b,) ndarray
        Such as the norm of each row.
    rows : (b,) sequence of int
        Row numbers, for errors.
    name : str, optional
        The dataset, for errors.
    block : (b, d) ndarray, optional
        The rows, where `size` may be infinite though they are not.
    limit : float

    Raises
    ------
    DataError
        Naming the rows that are not finite or, if all are, those that are too large.

    Examples
    --------
    >>> check_finite(np.array([1.0, 9.96921e36]), [10, 11], "/features/a")
    Traceback (most recent call last):
    mmselect.errors.DataError: /features/a: row 11: too large: expected up to 1e+18, found 9.97e+36
    """
    bad = np.flatnonzero(~(size <= np.float64(limit)))  # nan is not
    if not len(bad):
        return
    finite = np.isfinite(size[bad]) if block is None else np.isfinite(block[bad]).all(axis=1)
    largest = size[bad[0]] if block is None else np.abs(block[bad[0]]).max()
    message = f"too large: expected up to {limit:.3g}, found {largest:.3g}"
    if not finite.all():
        bad, message = bad[~finite], "expected finite numbers, found nan or infinity"
    raise DataError(message, dataset=name, rows=[int(rows[row]) for row in bad.tolist()])
