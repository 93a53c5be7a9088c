"""What the networks see: the features of labeled rows and candidates, on one scale."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from mmselect.arrays import Floats, Index, Rows, Singles, check_candidates, check_rows, same_length
from mmselect.core.presence import Present
from mmselect.core.side_by_side import side_by_side
from mmselect.engine import SERIAL, Engine, blas_threads, ranges
from mmselect.errors import SelectionError

BLOCK = 1024
"""Rows worked on at once; sums over rows are taken block by block, in order."""


class Inputs(NamedTuple):
    """Rows of labeled samples and candidates; no other takes part.

    Attributes
    ----------
    x : (r, D) ndarray of float32
        Features side by side, centred, each modality scaled to a mean square of 1.
    edges : list of int
        Where each modality's columns begin, and D.
    labeled : (l,) ndarray of int
        Positions in `x`, increasing.
    candidates : (u,) ndarray of int
        The same.
    rows : (r,) ndarray of int
        Row numbers of the pool.
    """

    x: Singles
    edges: list[int]
    labeled: Index
    candidates: Index
    rows: Index


def inputs_of(
    features: Mapping[str, Rows],
    *,
    labeled: Index,
    candidates: Index | None = None,
    present: Present | None = None,
    engine: Engine = SERIAL,
) -> Inputs:
    """Put features side by side, less their mean, each modality on the scale of the others.

    A network learns at one rate and weighs reconstruction against other terms, so neither the
    pool's units nor those of one modality may count. The mean and the scale are taken over the rows
    that take part, in float64.

    Parameters
    ----------
    features : mapping of str to (n, d) Rows
        In memory or on disk; widths may differ.
    labeled : (l,) ndarray of int
        Rows; at least one.
    candidates : (u,) ndarray of int, optional
        Rows to pick from, increasing; None is all that are not labeled.
    present : mapping of str to (n,) ndarray of bool, optional
        Which rows have a modality; in the others the mean stands for it, which is 0 here.
    engine : Engine, optional

    Returns
    -------
    Inputs

    Raises
    ------
    SelectionError
        If there are no labeled rows or no candidates.
    DataError
        If a feature cannot be used.

    Examples
    --------
    >>> found = inputs_of({"a": np.array([[1.0], [5.0], [9.0]])}, labeled=np.array([0]),
    ...     candidates=np.array([1]))
    >>> found.x.tolist(), found.labeled, found.candidates
    ([[-1.0], [1.0]], array([0]), array([1]))
    """
    n = same_length(list(features.values()))
    labeled = check_rows(labeled, n)
    candidates = check_candidates(candidates, labeled, n)
    if not len(labeled) or not len(candidates):
        found = f"{len(labeled):,} and {len(candidates):,}"
        raise SelectionError(f"expected labeled samples and candidates, found {found}")
    rows = np.union1d(labeled, candidates)
    x, _ = side_by_side(features, rows, present=present, engine=engine)
    edges = [0, *np.cumsum([source.shape[1] for source in features.values()]).tolist()]
    _standardise(x, edges, engine)
    places = np.searchsorted(rows, labeled), np.searchsorted(rows, candidates)
    return Inputs(x, edges, *places, rows)


def _standardise(x: Singles, edges: list[int], engine: Engine) -> None:
    """Take off each column's mean, and divide each modality by its root mean square."""
    blocks = [slice(a, b) for a, b in ranges(0, len(x), BLOCK)]

    def total(block: slice) -> Floats:
        return x[block].sum(axis=0, dtype=np.float64)

    mean = sum(engine.map(total, blocks), np.zeros(x.shape[1])) / len(x)

    def power(block: slice) -> Floats:
        return np.square(x[block] - mean).sum(axis=0)

    squares = sum(engine.map(power, blocks), np.zeros(x.shape[1]))
    scale = np.ones(x.shape[1])
    for left, right in pairwise(edges):
        mean_square = squares[left:right].sum() / max(len(x) * (right - left), 1)
        scale[left:right] = mean_square**-0.5 if mean_square > 0 else 1.0

    def apply(block: slice) -> None:
        x[block] = (x[block] - mean) * scale

    with blas_threads():
        for _ in engine.map(apply, blocks):
            pass
