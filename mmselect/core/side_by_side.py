"""Features of several modalities side by side, one matrix in memory, read block by block."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from itertools import pairwise
from typing import Literal, NamedTuple

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
from mmselect.core.features import inverse, row_norms
from mmselect.core.presence import Mask, Present
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
    present: Present | None = None,
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
    present : mapping of str to (n,) ndarray of bool, optional
        Which rows have a modality. In the others the mean over those of `rows` that have it, of
        unit length where it is to be, stands for it; what is read there has to be finite.
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
    modal = unit == "modality"
    means = usual_blocks(features, rows, present or {}, unit=modal, engine=engine)
    edges = np.cumsum([0, *(source.shape[1] for source in sources)])
    cuts = [0, edges[-1]] if unit == "row" else edges

    def join(rows: Index, blocks: list[Array]) -> tuple[Singles]:
        wide = wide_rows(names, rows, blocks)
        if unit == "row":
            fill_blocks(wide, rows, means)
        for left, right in pairwise(cuts) if unit != "none" else ():
            part = wide[:, left:right]
            norms = np.linalg.norm(part, axis=1, keepdims=True)
            np.divide(part, norms, out=part, where=norms > 0)
        if unit != "row":
            fill_blocks(wide, rows, means)
        return (wide.astype(np.float32),)

    step = compute_rows(int(edges[-1]))
    blocks = map_rows(join, sources, rows, step=step, engine=engine)
    (joined,) = join_rows(blocks, len(rows))
    return joined, int((~joined.any(axis=1)).sum())


class Usual(NamedTuple):
    """What stands for an absent modality: which rows have it, its columns, and their mean."""

    there: Mask
    columns: slice
    mean: Floats


def usual_blocks(
    features: Mapping[str, Rows],
    rows: Index,
    present: Present,
    *,
    unit: bool = False,
    engine: Engine = SERIAL,
) -> list[Usual]:
    """Mean of each modality that some samples lack, over those of `rows` that have it.

    Parameters
    ----------
    features : mapping of str to (n, d) Rows
    rows : (r,) ndarray of int
    present : mapping of str to (n,) ndarray of bool
    unit : bool
        Of the rows divided by their norms.
    engine : Engine, optional

    Examples
    --------
    >>> x, has = np.array([[1.0], [3.0], [0.0]]), np.array([True, True, False])
    >>> [(u.columns, u.mean.tolist()) for u in usual_blocks({"a": x}, np.arange(3), {"a": has})]
    [(slice(0, 1, None), [2.0])]
    """
    edges = np.cumsum([0, *(source.shape[1] for source in features.values())]).tolist()
    found = []
    for (name, source), ends in zip(features.items(), pairwise(edges), strict=True):
        if name not in present:
            continue
        own = rows[present[name][rows]]
        total = np.zeros(source.shape[1])
        step = compute_rows(source.shape[1])
        sums = partial(_sum_of, name, unit)
        for part in map_rows(sums, [source], own, step=step, engine=engine):
            total += part
        found.append(Usual(present[name], slice(*ends), total / max(len(own), 1)))
    return found


def _sum_of(name: str, unit: bool, rows: Index, blocks: list[Array]) -> Floats:
    wide = wide_rows([name], rows, blocks)
    total: Floats = inverse(row_norms(wide)) @ wide if unit else wide.sum(axis=0)
    return total


def fill_blocks(wide: Array, rows: Index, means: Sequence[Usual]) -> None:
    """Put the means where rows, modalities side by side (b, D), lack a modality, in place.

    Examples
    --------
    >>> wide, has = np.array([[5.0], [0.0]]), np.array([True, False])
    >>> fill_blocks(wide, np.arange(2), [Usual(has, slice(0, 1), np.array([2.0]))])
    >>> wide.tolist()
    [[5.0], [2.0]]
    """
    for there, columns, mean in means:
        wide[~there[rows], columns] = mean
