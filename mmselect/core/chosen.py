"""Some rows of a matrix that may lie on disk, as a matrix of its own that is never in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any, TypeVar

import numpy as np

from mmselect.arrays import Array, Index, Rows
from mmselect.engine import Engine, compute_rows, map_rows, ranges
from mmselect.tasks import concurrent, take

Result = TypeVar("Result")

TOGETHER = 8
"""Compute blocks that are one task here: starting a task takes as long as summing a block up."""


@dataclass(frozen=True)
class Chosen:
    """Some rows of a source; a slice or an array of positions reads those.

    Attributes
    ----------
    source : (n, d) Rows
        Whose absent rows, if any, are read as zeros.
    rows : (r,) ndarray of int
        Increasing.

    Examples
    --------
    >>> some = Chosen(np.array([[1.0], [2.0], [3.0]]), np.array([0, 2]))
    >>> some.shape, some[1:].tolist()
    ((2, 1), [[3.0]])
    """

    source: Rows
    rows: Index

    @property
    def shape(self) -> tuple[int, ...]:
        """Axis 0 is the sample axis."""
        return len(self.rows), *self.source.shape[1:]

    @property
    def ndim(self) -> int:
        """2 for a matrix."""
        return len(self.source.shape)

    @property
    def dtype(self) -> np.dtype[Any]:
        """That of the source."""
        return self.source.dtype

    @property
    def plain(self) -> bool:
        """Whether any thread may read it."""
        return concurrent(self.source)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: Any) -> Array:
        return take(self.source, self.rows[index])


def held(array: Array | Chosen) -> Array:
    """Take all rows into memory, unless they are there."""
    return array[:] if isinstance(array, Chosen) else array


def held_bytes(columns: Sequence[Rows], n: int, memory: int) -> int:
    """Bytes of n rows of some features where they are held in memory, or 0 where they are not.

    What takes more than ``--memory`` is read from the file again and again, if any thread can read
    any row of it alone; a row of a compressed chunk costs the whole chunk.
    """
    size = n * sum(column.shape[1] * column.dtype.itemsize for column in columns)
    return 0 if size > memory and all(map(concurrent, columns)) else size


def over_blocks(
    function: Callable[[int, Array], Result], array: Array | Chosen, engine: Engine, what: str
) -> Iterator[Result]:
    """Results of ``function(first position, block)`` over compute blocks, in order.

    Threads of this process alone, so that the function may fill what it shares with the caller;
    of rows on disk no more than their blocks is in memory at once.

    Examples
    --------
    >>> from mmselect.engine import SERIAL
    >>> some = Chosen(np.array([[1.0], [2.0], [3.0]]), np.array([0, 2]))
    >>> list(over_blocks(lambda first, block: (first, float(block.sum())), some, SERIAL, "adding"))
    [(0, 4.0)]
    """
    step, here = compute_rows(array.shape[1]), replace(engine, mapper=None)

    def each(first: int, rows: Array) -> list[Result]:
        parts = ranges(0, len(rows), step)
        return [function(first + start, rows[start:stop]) for start, stop in parts]

    if isinstance(array, np.ndarray) and len(array) <= TOGETHER * step:  # one task: no loop
        with np.errstate(invalid="ignore"):
            return iter(each(0, array))
    some = array if isinstance(array, Chosen) else Chosen(array, np.arange(len(array)))

    def task(rows: Index, blocks: list[Array]) -> list[Result]:
        return each(int(np.searchsorted(some.rows, rows[0])), blocks[0])

    how: dict[str, Any] = {"step": TOGETHER * step, "engine": here, "what": what}
    return chain.from_iterable(map_rows(task, [some.source], some.rows, **how))
