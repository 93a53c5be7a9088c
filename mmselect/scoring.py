"""Run a score strategy over all candidates."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from mmselect.arrays import Array, Index
from mmselect.engine import compute_rows, join_rows, map_rows
from mmselect.errors import located
from mmselect.pool.presence import PRESENT
from mmselect.request import Request
from mmselect.strategies.record import Arrays, Columns

TASK_BLOCKS, TASK_ROWS = 8, 1 << 14
"""Compute blocks that a thread takes at once, so that handing over costs little; rows at most."""


@dataclass(frozen=True)
class ScoreBlock:
    """What scores a block of candidates; it can be sent to another process.

    Attributes
    ----------
    function : callable
        The strategy's: ``(arrays, parameters) -> columns``.
    parameters : dict
    constants : mapping of path to ndarray
    paths : tuple of str
        Datasets whose rows come with each block.
    """

    function: Callable[[Arrays, Any], Columns]
    parameters: Mapping[str, Any]
    constants: Arrays
    paths: tuple[str, ...]

    def __call__(self, rows: Index, blocks: list[Array]) -> Columns:
        """Score `rows`; errors name them."""
        arrays = {**self.constants, **dict(zip(self.paths, blocks, strict=True))}
        with located(rows=rows):
            columns = self.function(arrays, self.parameters)
        return {name: np.array(values) for name, values in columns.items()}


def compute_scores(request: Request) -> Columns:
    """Columns of the candidates, in row order."""
    columns, candidates = request.columns, request.candidates
    with request.pool.located():
        constants = request.strategy.prepare(request.constants)
    if not len(candidates):
        return _no_rows(request, constants)
    block = ScoreBlock(request.strategy.function, request.parameters, constants, tuple(columns))
    names: list[str] = []

    def values(found: Columns) -> tuple[Array, ...]:
        names[:] = found
        return tuple(found.values())

    results = map_rows(
        block,
        list(columns.values()),
        candidates,
        step=task_rows(request),
        engine=request.engine,
        what="scoring rows",
    )
    with request.pool.located():
        joined = join_rows(map(values, results), len(candidates))
    found = dict(zip(names, joined, strict=True))
    complete = request.strategy.complete
    return complete(found, request.parameters) if complete else found


def task_rows(request: Request) -> int:
    """Rows of a task: they follow from the shapes alone."""
    return min(TASK_BLOCKS * block_rows(request), TASK_ROWS)


def block_rows(request: Request) -> int:
    """Rows of a compute block of the widest array."""
    columns = request.columns.values()
    return compute_rows(max((prod(column.shape[1:]) for column in columns), default=1))


def _no_rows(request: Request, constants: Arrays) -> Columns:
    """Columns without a row: one made-up row of zeros tells their names and types."""
    columns = request.columns.items()
    rows = {path: np.zeros((1, *column.shape[1:]), column.dtype) for path, column in columns}
    rows |= {path: ~np.zeros(1, bool) for path in rows if path.startswith(f"{PRESENT}/")}
    found = request.strategy.function({**constants, **rows}, request.parameters)
    return {name: np.asarray(values)[:0] for name, values in found.items()}
