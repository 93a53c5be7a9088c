"""Row sources: matrices that may lie in memory or on disk, read by blocks of rows.

The mathematics asks a source for a slice or for an array of row numbers and never for more; what
the source is, the caller knows. Only the calling thread reads (a file library need not be safe on
many threads); the compute blocks cut from what was read go to the threads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from math import prod
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from mmselect.engine import DEFAULT_MEMORY, map_ordered, ranges
from mmselect.errors import DataError, ParameterError

Array = NDArray[Any]
Floats = NDArray[np.float64]
Index = NDArray[np.intp]
Singles = NDArray[np.float32]
Result = TypeVar("Result")


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


def native(block: Array) -> Array:
    """Floats as contiguous native float32, or float64 where they came as such or as integers.

    Examples
    --------
    >>> native(np.ones((2, 3), ">f2")).dtype.str[1:]
    'f4'
    """
    wide = block.dtype.kind != "f" or block.dtype.itemsize > 4
    return np.ascontiguousarray(block, dtype=np.float64 if wide else np.float32)


def take(source: Rows, rows: Index) -> Array:
    """Read `rows` of `source`: as one slice where most of it is wanted, else one by one.

    Examples
    --------
    >>> take(np.arange(5), np.array([1, 3])).tolist()
    [1, 3]
    """
    if not len(rows):
        return source[0:0]
    first, span = int(rows[0]), int(rows[-1] - rows[0]) + 1
    if span > 2 * len(rows) or bool(np.any(np.diff(rows) <= 0)):
        return source[rows]
    block = source[first : first + span]
    return block if span == len(rows) else block[rows - first]


def gather(sources: Sequence[Rows], rows: Index) -> list[Array]:
    """Read scattered `rows` of each source, in file order and each row once.

    Examples
    --------
    >>> gather([np.arange(5)], np.array([3, 1, 3]))
    [array([3, 1, 3])]
    """
    unique, inverse = np.unique(rows, return_inverse=True)
    return [take(source, unique)[inverse] for source in sources]


def stream(
    function: Callable[[Index, list[Array]], Result],
    sources: Sequence[Rows],
    rows: Index,
    *,
    step: int,
    threads: int = 1,
    memory: int = DEFAULT_MEMORY,
) -> Iterator[Result]:
    """Results of `function` over compute blocks of `step` rows, in order.

    Parameters
    ----------
    function : callable
        Takes the row numbers of a block and the block of each source.
    sources : sequence of Rows
        Matrices over the same samples.
    rows : (n,) ndarray of int
        Rows to visit, in this order.
    step : int
        Rows of a compute block; blocks are cut by position in `rows`.
    threads : int
        Threads that compute; the calling thread reads.
    memory : int
        Bytes to hold of what was read. It sets the read block and cannot change a result.

    Yields
    ------
    Result
        One for each compute block.

    Examples
    --------
    >>> list(stream(lambda rows, x: float(x[0].sum()), [np.arange(5.0)], np.arange(5), step=2))
    [1.0, 5.0, 4.0]
    """
    width = sum(prod(source.shape[1:]) * source.dtype.itemsize for source in sources)
    # One block is computed on while the next is read, hence the half.
    read = max(memory // 2 // max(width, 1) // step, 1) * step

    def blocks() -> Iterator[tuple[Index, list[Array]]]:
        for start, stop in ranges(0, len(rows), read):
            arrays = [take(source, rows[start:stop]) for source in sources]
            for first, last in ranges(start, stop, step):
                yield rows[first:last], [array[first - start : last - start] for array in arrays]

    return map_ordered(lambda block: function(*block), blocks(), threads)


def check_rows(rows: Index | None, n: int) -> Index:
    """Candidate rows, checked to be increasing and within the pool; None is all of them.

    Raises
    ------
    ParameterError
        If they are not one-dimensional, strictly increasing and within ``[0, n)``.

    Examples
    --------
    >>> check_rows(None, 3)
    array([0, 1, 2])
    """
    if rows is None:
        return np.arange(n, dtype=np.intp)
    rows = np.asarray(rows)
    if rows.ndim != 1 or (rows.size and rows.dtype.kind not in "iu"):
        raise ParameterError(f"candidates: expected row numbers (n,), found shape {rows.shape}")
    rows = rows.astype(np.intp, copy=False)
    if rows.size and (rows[0] < 0 or rows[-1] >= n or bool(np.any(np.diff(rows) <= 0))):
        raise ParameterError(f"candidates: expected increasing row numbers below {n}")
    return rows


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


def legal(top: Array, rows: Index | None) -> None:
    """Accept rows by their largest logit: nan and +inf show in it, and so does all −inf."""
    if np.isfinite(top).all():
        return
    bad = np.flatnonzero(~np.isfinite(top))
    found = {0: "nan", 1: "+inf", -1: "-inf in every class"}
    value = top[bad[0]]
    kind = found[0 if np.isnan(value) else int(np.sign(value))]
    named = bad if rows is None else rows[bad]
    raise DataError(f"expected finite logits, found {kind}", rows=named.tolist())


def finite(size: Array, rows: Index, name: str) -> None:
    """Accept feature rows by a number in which nan and infinities show."""
    if not np.isfinite(size).all():
        bad = np.flatnonzero(~np.isfinite(size))
        message = "expected finite numbers, found nan or infinity"
        raise DataError(message, dataset=name, rows=rows[bad].tolist())
