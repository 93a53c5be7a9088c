"""Samples that lack a modality: which, in what patterns, and what stands in for the numbers.

Two samples are compared by what both have (``methods.md`` 5b): with P_i the modalities of sample i,
``s_ij`` is the mean of the cosines over ``P_i ∩ P_j``, 0 where that is empty. There are few
patterns, and all pairs of two patterns share one divisor, so s_ij is a product of rows, absent
blocks being 0, times a factor of the two patterns.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from mmselect.arrays import Array, Floats, Index, Rows, Singles
from mmselect.core.chosen import Chosen
from mmselect.errors import DataError, SchemaError

Mask: TypeAlias = NDArray[np.bool_]
Present: TypeAlias = Mapping[str, Mask]
"""Which samples have a modality, by its name; one that is not named is there for all."""


def check_present(present: Present | None, names: Sequence[str], n: int) -> dict[str, Mask]:
    """Masks of the modalities that some samples lack, checked.

    Parameters
    ----------
    present : mapping of str to (n,) ndarray of bool, optional
        None: nobody lacks anything. Names that are not among `names` are left out.
    names : sequence of str
        All modalities.
    n : int

    Raises
    ------
    SchemaError
        If a mask is not boolean or has another shape.
    DataError
        If a sample has no modality.

    Examples
    --------
    >>> check_present({"a": np.array([True, False]), "b": np.array([True, True])}, ["a", "b"], 2)
    {'a': array([ True, False])}
    """
    masks = {name: mask for name, mask in (present or {}).items() if name in names}
    for name, mask in masks.items():
        if mask.shape != (n,) or mask.dtype != np.bool_:
            found = f"{mask.dtype} of shape {mask.shape}"
            raise SchemaError(f"present: expected booleans ({n},), found {found}", dataset=name)
    if masks.keys() >= {*names}:
        bare = np.flatnonzero(~np.logical_or.reduce([*masks.values()]))
        if len(bare):
            message = "expected at least one modality of every sample, found none"
            raise DataError(f"present: {message}", rows=bare.tolist())
    return {name: mask for name, mask in masks.items() if not mask.all()}


def blanked(features: Mapping[str, Array], present: Present) -> dict[str, Array]:
    """Features with zeros in rows that lack the modality; copied only where something else stands.

    What is read block by block (:class:`~mmselect.core.chosen.Chosen`) has zeros there already.

    Examples
    --------
    >>> x = np.array([[1.0], [np.nan]])
    >>> blanked({"a": x}, {"a": np.array([True, False])})["a"].tolist()
    [[1.0], [0.0]]
    """
    found = dict(features)
    for name, mask in present.items():
        if not isinstance(found[name], Chosen) and found[name][~mask].any():  # nan counts too
            found[name] = np.where(mask[:, None], found[name], found[name].dtype.type(0))
    return found


def cut(present: Present, rows: Index) -> dict[str, Mask]:
    """Masks of some rows.

    Examples
    --------
    >>> cut({"a": np.array([True, False])}, np.array([1]))
    {'a': array([False])}
    """
    return {name: mask[rows] for name, mask in present.items()}


@dataclass(frozen=True)
class Patterns:
    """The sets of modalities that samples have, and which of them each sample has.

    Attributes
    ----------
    code : (n,) ndarray of int
        Number of each sample's pattern.
    has : (p, m) ndarray of bool
        The modalities of each pattern.
    """

    code: Index
    has: Mask

    @property
    def count(self) -> Index:
        """How many modalities each sample has, (n,)."""
        count: Index = self.has.sum(axis=1)[self.code]
        return count

    def rows(self) -> list[tuple[list[int], Index]]:
        """Numbers of its modalities, and its samples in ascending order, for each pattern."""
        return [
            (np.flatnonzero(has).tolist(), np.flatnonzero(self.code == number))
            for number, has in enumerate(self.has)
        ]

    def pairs(self, rows: Index | None = None) -> Pairs:
        """Factors that make products of some rows, of all modalities, means over common ones."""
        common = self.has.astype(np.int64) @ self.has.T
        m = self.has.shape[1]
        factor = np.divide(m, common, out=np.zeros(common.shape), where=common > 0)
        return Pairs(self.code if rows is None else self.code[rows], factor)


def patterns_of(present: Present, names: Sequence[str], n: int) -> Patterns:
    """Find the patterns of modalities.

    Parameters
    ----------
    present : mapping of str to (n,) ndarray of bool
    names : sequence of str
        All modalities, in the order of the columns of `has`.
    n : int

    Examples
    --------
    >>> found = patterns_of({"a": np.array([True, False, True])}, ["a", "b"], 3)
    >>> found.has.tolist(), found.code.tolist(), found.pairs().factor.tolist()
    ([[False, True], [True, True]], [1, 0, 1], [[2.0, 2.0], [2.0, 1.0]])
    """
    found, code = np.unique(bits_of(present, names, n), return_inverse=True)
    return Patterns(code, (found[:, None] >> np.arange(len(names)) & 1).astype(bool))


def bits_of(present: Present, names: Sequence[str], n: int) -> Index:
    """Write each sample's modalities as a number, (n,): bit m is set if it has number m.

    Examples
    --------
    >>> bits_of({"a": np.array([True, False])}, ["a", "b"], 2).tolist()
    [3, 2]
    """
    bits = np.zeros(n, np.intp)
    for m, name in enumerate(names):
        bits |= present.get(name, np.ones(n, bool)).astype(np.intp) << m
    return bits


def matrix_of(present: Present, names: Sequence[str], rows: Index) -> Mask | None:
    """Which modalities some samples have, (r, m); None if none of the modalities has a mask.

    Examples
    --------
    >>> matrix_of({"a": np.array([True, False])}, ["a", "b"], np.array([1])).tolist()
    [[False, True]]
    """
    if not any(name in present for name in names):
        return None
    every = np.ones(len(rows), bool)
    return np.stack([present[m][rows] if m in present else every for m in names], axis=1)


@dataclass(frozen=True)
class Pairs:
    """Factor of each pair of patterns by which a product of two rows becomes their similarity.

    Attributes
    ----------
    code : (n,) ndarray of int
        Pattern of each row.
    factor : (p, p) ndarray of float64
        ``m / |P ∩ Q|``, or 0 where they have nothing in common.
    """

    code: Index
    factor: Floats

    def of(self, rows: Any, others: Any, dtype: Any = np.float32) -> NDArray[Any]:
        """Factors of some rows with others, as a matrix."""
        wanted = self.factor.astype(dtype)[self.code[rows]]
        found: NDArray[Any] = wanted[:, self.code[others]]
        return found


def similarities(x: Rows, rows: Any, others: Any, pairs: Pairs | None) -> Singles:
    """Similarities of some rows of `x` with others: products, times a factor of their patterns.

    Parameters
    ----------
    x : (n, d) Rows of float32
        A product of two complete rows is their similarity.
    rows, others : slice or ndarray of int
    pairs : Pairs, optional
        None: every row is complete.

    Examples
    --------
    >>> x = np.array([[1, 0], [0.5, 0.5]], dtype=np.float32)
    >>> pairs = patterns_of({"b": np.array([False, True])}, ["a", "b"], 2).pairs()
    >>> similarities(x, slice(0, 2), slice(0, 1), pairs).tolist()
    [[2.0], [1.0]]
    """
    return compared(x[rows], x[others], rows, others, pairs)


def compared(left: Singles, right: Singles, rows: Any, others: Any, pairs: Pairs | None) -> Singles:
    """:func:`similarities` of rows that are there: those in `rows`, and those in `others`."""
    products: Singles = left @ right.T
    if pairs is not None:
        products *= pairs.of(rows, others)
    return products
