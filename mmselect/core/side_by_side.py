"""Features of several modalities side by side, one matrix in memory, read block by block."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import pairwise
from typing import Literal

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
    same_length,
)
from mmselect.engine import SERIAL, Engine, compute_rows, join_rows, map_rows
from mmselect.errors import ParameterError

Unit = Literal["none", "row", "modality"]


def wide_rows(names: Iterable[str], rows: Index, blocks: list[Array]) -> Floats:
    """Blocks of all modalities side by side, checked, in float64.

    Parameters
    ----------
    names : iterable of str
        What to call each block in errors.
    rows : (b,) ndarray of int
        Row numbers, for errors.
    blocks : list of (b, d) ndarray

    Returns
    -------
    (b, Σd) ndarray of float64

    Raises
    ------
    DataError
        If a value is nan, infinite or too large.

    Examples
    --------
    >>> wide_rows(["a", "b"], np.arange(1), [np.ones((1, 1)), np.ones((1, 2), "f2")])
    array([[1., 1., 1.]])
    """
    for name, block in zip(names, blocks, strict=True):
        limit = LARGEST / np.sqrt(max(block.shape[1], 1))  # then the norm is below LARGEST
        check_finite(np.abs(block).max(axis=1, initial=0), rows, name, limit=limit)
    return np.concatenate(blocks, axis=1, dtype=np.float64)


def side_by_side(
    features: Mapping[str, Rows],
    rows: Index | None = None,
    *,
    unit: Unit = "none",
    engine: Engine = SERIAL,
) -> tuple[Singles, int]:
    """Put some rows of all modalities side by side in memory, read block by block.

    Parameters
    ----------
    features : mapping of str to (n, d) Rows
        In memory or on disk; widths may differ.
    rows : (r,) ndarray of int, optional
        Increasing; None is all.
    unit : {"none", "row", "modality"}
        Divide each whole row by its Euclidean norm, or each modality's part of it by the part's;
        what is zero stays zero.
    engine : Engine, optional

    Returns
    -------
    joined : (r, Σd) ndarray of float32
    zero_rows : int
        Rows that are zero in every modality.

    Raises
    ------
    ParameterError
        If there are no features, or their lengths differ.
    DataError
        If a value is nan, infinite or too large.

    Examples
    --------
    >>> joined, zero_rows = side_by_side({"a": np.array([[3.0], [0]]), "b": np.array([[4.0], [0]])},
    ...     unit="row")
    >>> joined.round(6).tolist(), zero_rows
    ([[0.6000000238418579, 0.800000011920929], [0.0, 0.0]], 1)
    """
    if not features:
        raise ParameterError("features: expected at least one modality, found none")
    names, sources = list(features), list(features.values())
    rows = check_rows(rows, same_length(sources))
    edges = np.cumsum([0, *(source.shape[1] for source in sources)])
    cuts = [0, edges[-1]] if unit == "row" else edges

    def join(rows: Index, blocks: list[Array]) -> tuple[Singles]:
        wide = wide_rows(names, rows, blocks)
        for left, right in pairwise(cuts) if unit != "none" else ():
            part = wide[:, left:right]
            norms = np.linalg.norm(part, axis=1, keepdims=True)
            np.divide(part, norms, out=part, where=norms > 0)
        return (wide.astype(np.float32),)

    step = compute_rows(int(edges[-1]))
    blocks = map_rows(join, sources, rows, step=step, engine=engine)
    (joined,) = join_rows(blocks, len(rows))
    return joined, int((~joined.any(axis=1)).sum())
