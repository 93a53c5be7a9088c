"""TypiClust: the most typical sample of each cluster that has the fewest labels.

Hacohen, Dekel and Weinshall, *Active Learning on a Budget: Opposite Strategies Suit High and Low
Budgets*, ICML 2022.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

import numpy as np

from mmselect.arrays import (
    Array,
    Floats,
    Index,
    Rows,
    Singles,
    check_budget,
    check_candidates,
    check_rows,
    same_length,
)
from mmselect.core.constraints.allowed import Allowed
from mmselect.core.coverage.kmeans import cluster_centres
from mmselect.core.limits import check_limits
from mmselect.core.presence import Present
from mmselect.core.sampling.start import kmeans_plusplus
from mmselect.core.side_by_side import Unit, side_by_side
from mmselect.engine import SERIAL, Engine, Progress, blas_threads, ranges

CLUSTERS, NEIGHBOURS, SMALL = 500, 20, 5
"""Most clusters; neighbours that make a sample typical; clusters up to this size come last."""

BLOCK, CHUNK = 128, 4096
"""Rows whose neighbours are found together, and rows of their cluster compared at a time."""


class Typical(NamedTuple):
    """What :func:`typiclust` returns.

    Attributes
    ----------
    picks : (k,) ndarray of int
        Rows in pick order.
    typicality : (k,) ndarray of float64
        1 over the mean distance to the nearest neighbours in the cluster, of each pick.
    """

    picks: Index
    typicality: Floats


def typiclust(
    features: Mapping[str, Rows],
    k: int,
    rng: np.random.Generator,
    *,
    labeled: Index | None = None,
    candidates: Index | None = None,
    present: Present | None = None,
    unit: bool = False,
    clusters: int = CLUSTERS,
    iterations: int = 20,
    allowed: Allowed | None = None,
    engine: Engine = SERIAL,
    progress: Progress | None = None,
) -> Typical:
    """Pick the most typical samples, cluster by cluster, those with the fewest labels first.

    k-means cuts labeled rows and candidates into ``min(l + k, clusters)`` clusters. They are taken
    in turn, in the order of (labeled rows in it, −size), each giving its most typical candidate
    that is not picked yet, until there are `k`. Typicality is ``1/(d̄ + 1e-5)``, d̄ the mean
    Euclidean distance to the ``min(20, size // 2)`` nearest in the cluster. Clusters of at most 5
    rows come last, and only if the others are used up.

    Parameters
    ----------
    features : mapping of str to (n, d) Rows
        In memory or on disk.
    k : int
    rng : numpy.random.Generator
        For k-means.
    labeled : (l,) ndarray of int, optional
        Rows; none is fine.
    candidates : (r,) ndarray of int, optional
        Rows to pick from, increasing; None is all that are not labeled. Others take no part.
    present : mapping of str to (n,) ndarray of bool, optional
        Which rows have a modality; see :func:`mmselect.core.side_by_side.side_by_side`.
    unit : bool
        Normalise each row of each modality first.
    clusters : int
    iterations : int
        Of k-means.
    allowed : Allowed, optional
        Which candidates may be picked next, by position; told of every pick. It ends the selection:
        a cluster without an allowed row is passed over, and typicality per cost counts.
    engine : Engine, optional
    progress : callable, optional
        Told the rows whose typicality is known.

    Returns
    -------
    Typical

    Raises
    ------
    ParameterError
        If `clusters` or `iterations` is out of range (:mod:`mmselect.core.limits`).
    SelectionError, BudgetError
        If `k` does not fit the candidates.
    DataError
        If a feature cannot be used.

    Examples
    --------
    >>> x = np.array([0, 1, 2, 3, 4, 5, 9, 9.1, 9.2, 9.3, 9.4, 9.5])[:, None]
    >>> typiclust({"x": x}, 2, np.random.default_rng(0)).picks.tolist()
    [1, 7]
    """
    n = same_length(list(features.values()))
    check_limits(clusters=clusters, iterations=iterations)
    labeled = np.empty(0, np.intp) if labeled is None else check_rows(labeled, n)
    candidates = check_candidates(candidates, labeled, n)
    check_budget(k, len(candidates))
    rows = np.union1d(labeled, candidates)
    each: Unit = "modality" if unit else "none"
    x, _ = side_by_side(features, rows, unit=each, present=present, engine=engine)
    x -= x.mean(axis=0, dtype=np.float64).astype(np.float32)  # distances stay, products get finer
    known = np.isin(rows, labeled)
    count = min(len(labeled) + k, clusters, len(rows))
    with blas_threads():
        start = x[kmeans_plusplus(x, count, rng, engine)]
        with engine.phase("clustering"):
            centres = cluster_centres(x, count, rng, iterations, start=start)
    members = _members(x, centres, engine)
    if allowed is not None:
        every = list(_typicality(x, members, engine, progress))
        at, values = _in_turn(members, every, known, allowed)
        return Typical(rows[at], values)
    turns = _turns(members, known, k)
    picks, typicality = np.empty(k, np.intp), np.empty(k)
    used = [members[i] for i in np.unique(turns)]
    for cluster, typical in zip(
        np.unique(turns), _typicality(x, used, engine, progress), strict=True
    ):
        free = ~known[members[cluster]]
        inside, values = members[cluster][free], typical[free]
        at = np.flatnonzero(turns == cluster)
        best = np.argsort(-values, kind="stable")[: len(at)]
        picks[at], typicality[at] = inside[best], values[best]
    return Typical(rows[picks], typicality)


def _members(x: Singles, centres: Singles, engine: Engine) -> list[Index]:
    """Rows of each cluster, increasing; a row is its nearest centre's, the first of equals."""
    wide = centres.astype(np.float64)
    half = np.vecdot(wide, wide) / 2

    def nearest(block: tuple[int, int]) -> Index:
        owner: Index = (x[slice(*block)].astype(np.float64) @ wide.T - half).argmax(axis=1)
        return owner

    owner = np.concatenate(list(engine.map(nearest, ranges(0, len(x), CHUNK))))
    order = np.argsort(owner, kind="stable")
    return np.split(order, np.cumsum(np.bincount(owner, minlength=len(centres)))[:-1])


def _turns(members: list[Index], known: Array, k: int) -> Index:
    """Whose turn it is: the cluster of each pick."""
    size = np.array([len(rows) for rows in members])
    free = np.array([int((~known[rows]).sum()) for rows in members])
    order, small = _order(members, known), size <= SMALL
    place = np.empty(len(size), np.intp)
    place[order] = np.arange(len(size))
    cluster = np.repeat(np.arange(len(size)), free)
    turn = np.arange(len(cluster)) - np.repeat(np.cumsum(free) - free, free)
    turns: Index = cluster[np.lexsort([place[cluster], turn, small[cluster]])[:k]]
    return turns


def _order(members: list[Index], known: Array) -> Index:
    """Clusters in the order of their turns: large ones, those with few labels, the largest."""
    size = np.array([len(rows) for rows in members])
    count = np.array([int(known[rows].sum()) for rows in members])
    first_row = np.array([rows[0] if len(rows) else -1 for rows in members])
    return np.lexsort([first_row, -size, count, size <= SMALL])


def _in_turn(
    members: list[Index], typicality: list[Floats], known: Array, allowed: Allowed
) -> tuple[Index, Floats]:
    """Rows that the clusters give in turn, for as long as any row is allowed, and their values."""
    position = np.cumsum(~known) - 1
    order = _order(members, known)
    large = [i for i in order if len(members[i]) > SMALL]
    picks, values = list[int](), list[float]()

    def round_of(clusters: Iterable[int]) -> int:
        before = len(picks)
        for i in clusters:
            rows = members[i][~known[members[i]]]
            open_rows = np.flatnonzero(allowed.among(position[rows]))
            if allowed.done or not len(open_rows):
                continue
            own = typicality[i][~known[members[i]]]
            worth = allowed.per_cost(own[open_rows], position[rows[open_rows]])
            best = open_rows[int(worth.argmax())]
            allowed.take(int(position[rows[best]]))
            picks.append(int(rows[best]))
            values.append(float(own[best]))
        return len(picks) - before

    while not allowed.done:
        if not round_of(large):
            round_of(order)
    return np.array(picks, np.intp), np.array(values)


def _typicality(
    x: Singles, members: list[Index], engine: Engine, progress: Progress | None
) -> Iterator[Floats]:
    """Typicality of the rows of each cluster among themselves."""
    total, done = sum(map(len, members)), 0
    tasks = ((rows, block) for rows in members for block in ranges(0, len(rows), BLOCK))
    parts = engine.map(lambda task: _typical_block(x, *task), tasks)
    for rows in members:
        blocks = [next(parts) for _ in ranges(0, len(rows), BLOCK)]
        done += len(rows)
        if progress:
            progress(done, total)
        yield np.concatenate(blocks)


def _typical_block(x: Singles, rows: Index, block: tuple[int, int]) -> Floats:
    """Typicality of some rows of a cluster: neighbours by products, distances by differences."""
    kept = min(NEIGHBOURS, len(rows) // 2)
    own = x[rows[slice(*block)]].astype(np.float64)
    squares = np.vecdot(own, own)[:, None]
    near: Floats = np.empty((len(own), 0))
    where: Index = np.empty((len(own), 0), np.intp)
    for a, b in ranges(0, len(rows), CHUNK):
        others = x[rows[a:b]].astype(np.float64)
        squared = squares - 2 * (own @ others.T) + np.vecdot(others, others)
        itself = np.arange(max(a, block[0]), min(b, block[1]))
        squared[itself - block[0], itself - a] = np.inf
        near = np.hstack([near, squared])
        where = np.hstack([where, np.broadcast_to(np.arange(a, b), squared.shape)])
        if near.shape[1] > kept:
            best = np.argpartition(near, kept, axis=1)[:, :kept]
            near = np.take_along_axis(near, best, axis=1)
            where = np.take_along_axis(where, best, axis=1)
    apart = x[rows[where]] - own[:, None]
    mean = np.sort(np.sqrt(np.vecdot(apart, apart)), axis=1).sum(axis=1) / max(kept, 1)
    typical: Floats = 1 / (mean + 1e-5)
    return typical
