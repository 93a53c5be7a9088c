"""How often a value is among the picks, against the pool and against random picks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from mmselect.arrays import Index

CONFIDENCE = 0.95
"""Of the intervals of random picks."""


class Chance(NamedTuple):
    """How many of random picks have a value, in shares of the picks.

    Attributes
    ----------
    expected : float
        The share of the pool.
    low, high : float
        Bounds that hold the share of random picks with 95 % or more: exact, hypergeometric.
    """

    expected: float
    low: float
    high: float


def chance(having: int, n: int, k: int) -> Chance:
    """Say what random picks without replacement would hold of a value.

    Parameters
    ----------
    having : int
        Samples of the pool that have the value.
    n : int
        Samples of the pool.
    k : int
        Picks.

    Examples
    --------
    >>> chance(50, 100, 10)
    Chance(expected=0.5, low=0.2, high=0.8)
    """
    from scipy.stats import hypergeom

    tail = (1 - CONFIDENCE) / 2
    low, high = hypergeom.ppf([tail, 1 - tail], n, having, k)
    return Chance(having / n, float(low) / k, float(high) / k)


@dataclass(frozen=True)
class Facet:
    """One way to part the pool, such as by predicted class or by a column of metadata.

    Attributes
    ----------
    name : str
    values : list of str
        Those that the pool has, most frequent among the picks first, then in the pool.
    of : (k,) integer array
        Position in `values` of each pick.
    picked : (v,) integer array
        Picks with each value.
    having : (v,) integer array
        Samples of the pool with each value.
    """

    name: str
    values: list[str]
    of: Index
    picked: Index
    having: Index


def facet(name: str, labels: Sequence[str], of_pool: Index, picked: Index) -> Facet:
    """Count values, given as positions in `labels`, over the pool and among the picks.

    Parameters
    ----------
    labels : sequence of str
    of_pool : (n,) integer array
        Value of each sample.
    picked : (k,) integer array
        Positions of the picks among those samples.

    Examples
    --------
    >>> found = facet("vendor", ["a", "b", "c"], np.array([0, 1, 1, 1]), np.array([2, 0, 1]))
    >>> found.values, found.of.tolist(), found.picked.tolist(), found.having.tolist()
    (['b', 'a'], [0, 1, 0], [2, 1], [3, 1])
    """
    having = np.bincount(of_pool, minlength=len(labels))
    among = np.bincount(of_pool[picked], minlength=len(labels))
    order = np.lexsort((np.arange(len(labels)), -having, -among))
    order = order[having[order] > 0]
    place = np.empty(len(labels), np.intp)
    place[order] = np.arange(len(order))
    values = [labels[value] for value in order]
    return Facet(name, values, place[of_pool[picked]], among[order], having[order])
