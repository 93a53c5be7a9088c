"""k-means as a cold start: k clusters, and of each the sample nearest to its centre."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike

from mmselect.arrays import Index, Rows, Singles
from mmselect.core.chosen import Chosen
from mmselect.core.constraints.allowed import Allowed
from mmselect.core.coverage.directions import squared_norms
from mmselect.core.coverage.lloyd import lloyd
from mmselect.core.coverage.matching import Coverage, match_distinct
from mmselect.core.features import Features, checked
from mmselect.core.joined import joined
from mmselect.core.limits import check_limits
from mmselect.core.presence import Present
from mmselect.core.sampling.start import kmeans_plusplus
from mmselect.engine import SERIAL, Engine, blas_threads, ranges

QUERIES = 4096


def kmeans(
    features: Features,
    k: int,
    rng: np.random.Generator,
    *,
    labeled: ArrayLike | None = None,
    present: Present | None = None,
    unit: bool = False,
    init: Literal["kmeans++", "uniform"] = "kmeans++",
    iterations: int = 20,
    allowed: Allowed | None = None,
    at: Index | None = None,
    engine: Engine = SERIAL,
) -> Coverage:
    """Cluster the unlabeled samples and pick the sample nearest to each centre.

    Lloyd's iterations from centres drawn by `rng`; a centre that owns no sample is moved to the one
    farthest from its own centre. Clusters are taken from the largest to the smallest, a sample at
    most once.

    Parameters
    ----------
    features : mapping or sequence of arrays, each (n, d_m)
        Widths may differ.
    k : int
    rng : numpy.random.Generator
    labeled : sequence of int, optional
        Rows to leave out.
    present : mapping of str to (n,) ndarray of bool, optional
        Which rows have a modality; in the others its mean over those that have it stands for it.
    unit : bool
        Normalise each row of each modality first.
    init : {"kmeans++", "uniform"}
        Start from samples drawn by D² sampling (Arthur and Vassilvitskii, 2007), or uniformly.
        Where clusters are clear, Lloyd's iterations cannot leave a poor uniform start.
    iterations : int
    allowed, at
        As for :func:`mmselect.core.coverage.matching.match_distinct`, by position among the rows
        that are not labeled. k is the number of clusters then.
    engine : Engine

    Returns
    -------
    Coverage
        The gain of a pick is the size of its cluster. Picks of a smaller budget are not a prefix.

    Raises
    ------
    SchemaError, DataError, BudgetError, SelectionError
        See :func:`mmselect.core.features.checked` and :func:`mmselect.core.joined.joined`.
    ParameterError
        If `init` or `iterations` is not one of the values above.

    Examples
    --------
    >>> x = np.array([[0.0], [0.1], [0.2], [9.0], [9.1]])
    >>> kmeans([x], 2, np.random.default_rng(0)).picks.tolist()[0]
    1
    """
    check_limits(init=init, iterations=iterations)
    given = checked(features, k, labeled, present)
    with blas_threads():
        how: dict[str, Any] = {"unit": unit, "center": True, "present": given.present}
        points = joined(given.features, **how, engine=engine)
        x: Rows = points.with_ones(_typical_length(points))
        x = Chosen(x, given.candidates) if len(given.labeled) else x
        n = x.shape[0]
        drawn = init == "kmeans++"
        first = kmeans_plusplus(x, k, rng, engine) if drawn else rng.choice(n, k, replace=False)
        centres, sizes = lloyd(x, x[first], iterations, engine)
        order = np.argsort(-sizes, kind="stable")
        how = {"nearest": True, "allowed": allowed, "at": at, "engine": engine}
        picks = match_distinct(x, centres[order], **how)
        gains = np.resize(sizes[order], len(picks)).astype(np.float64)
    return Coverage(given.candidates[picks], gains, "exact", points.zero_rows)


def _typical_length(x: Rows) -> float:
    """Power of two near the length of some rows, so that dividing by it changes no digit."""
    some = x[np.unique(np.linspace(0, x.shape[0] - 1, 1024).astype(np.intp))]
    typical = float(np.median(np.sqrt(squared_norms(some))))
    return 2.0 ** np.ceil(np.log2(typical)) if typical > 0 else 1.0


def cluster_centres(
    x: Singles,
    k: int,
    rng: np.random.Generator,
    iterations: int = 20,
    threads: int = 1,
    start: Singles | None = None,
) -> Singles:
    """Centres (k, d) of Lloyd's iterations by faiss; `x` is (n, d) with n ≥ k.

    They begin at `start` (k, d), or at rows that faiss draws uniformly, seeded by `rng`.

    The last digits may depend on the number of threads. Some centres may be nearest to no row: see
    :func:`fill_empty`.

    Examples
    --------
    >>> x = np.array([[0.0], [0.2], [9.0]], np.float32)
    >>> np.sort(cluster_centres(x, 2, np.random.default_rng(0)), axis=0).ravel().tolist()
    [0.10000000149011612, 9.0]
    """
    import faiss

    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(threads)
    try:
        clustering = faiss.Kmeans(
            x.shape[1],
            k,
            niter=iterations,
            seed=int(rng.integers(2**31 - 1)),
            min_points_per_centroid=1,
            max_points_per_centroid=1024,
        )
        clustering.train(x, init_centroids=start)
    finally:
        faiss.omp_set_num_threads(before)
    return np.asarray(clustering.centroids, dtype=np.float32)


def fill_empty(x: Singles, centres: Singles, engine: Engine = SERIAL) -> Index:
    """Move centres that are nearest to no row to the rows farthest from their own centres.

    Parameters
    ----------
    x : (n, d) float32 array
    centres : (k, d) float32 array
        Changed in place.
    engine : Engine

    Returns
    -------
    (k,) integer array
        Sizes of the clusters before the move.

    Examples
    --------
    >>> x, centres = np.array([[0.0], [1.0], [9.0]], np.float32), np.array([[1.0], [99.0]], "f4")
    >>> fill_empty(x, centres).tolist(), centres.ravel().tolist()
    ([3, 0], [1.0, 9.0])
    """
    half = np.einsum("ij,ij->i", centres, centres) / 2

    def nearest(rows: tuple[int, int]) -> tuple[Index, Singles]:
        closeness = x[slice(*rows)] @ centres.T
        closeness -= half
        owner = closeness.argmax(axis=1)
        return owner, closeness[np.arange(len(owner)), owner]

    step = max(1, min(QUERIES, (1 << 22) // len(centres)))
    parts = list(engine.map(nearest, ranges(0, len(x), step), "assigning rows"))
    owner = np.concatenate([part[0] for part in parts])
    squares = np.einsum("ij,ij->i", x, x)
    distance = squares - 2 * np.concatenate([part[1] for part in parts])
    sizes = np.bincount(owner, minlength=len(centres))
    empty = np.flatnonzero(sizes == 0)
    centres[empty] = x[np.argsort(-distance, kind="stable")[: len(empty)]]
    return sizes
