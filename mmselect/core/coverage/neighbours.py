"""Facility location on nearest neighbours only, for pools with too many pairs of samples."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mmselect.arrays import Array, Floats, Index, Rows, Singles
from mmselect.core.constraints.allowed import Allowed
from mmselect.core.constraints.highest import Highest
from mmselect.core.coverage.inverted import among_lists, inverted_lists
from mmselect.core.coverage.products import among_all
from mmselect.core.presence import Pairs
from mmselect.engine import Engine, Progress, ranges

if TYPE_CHECKING:
    from scipy.sparse import csr_array

FLAT_UP_TO = 50_000
"""Rows up to which neighbours are searched exhaustively."""

PROBES = 32
"""Inverted lists looked into for each row, above that."""

TRAINING = 39
"""Rows for each list from which its centre is found."""

STEPS = 6
"""Steps of the clustering."""

SEED = 1
"""Seed of the clustering."""

CLIENTS = 1 << 10
"""Clients whose pairs are widened together, to add up gains or take from them."""

BLOCK = 256
"""Candidates that share one upper bound of their gains."""

TIE = 1e-7
"""Difference of gains, relative to 10 more than the gain, below which they are equal."""


def nearest_neighbours(
    x: Rows, count: int, engine: Engine, pairs: Pairs | None = None, room: int = 0
) -> tuple[Singles, NDArray[np.int32], str]:
    """Most similar rows of each row; the row itself is always among them.

    Exhaustive for up to 50,000 rows, else from the 32 nearest of 4√n inverted lists.

    Parameters
    ----------
    x : (n, d) Rows of float32
        Any thread may read it. Afterwards the rows of an array may stand in another order.
    count : int
        At most n.
    engine : Engine
    pairs : Pairs, optional
        What makes products similarities where modalities lack; None: nothing.
    room : int
        Bytes of rows of inverted lists in memory at a time, if `x` is no array.

    Returns
    -------
    similar : float32 array, shape (n, count)
        -inf where a row's lists hold fewer rows.
    found : int32 array, shape (n, count)
    name : str
        How the neighbours were found, for provenance.

    Examples
    --------
    >>> from mmselect.engine import SERIAL
    >>> similar, found, name = nearest_neighbours(np.eye(3, dtype=np.float32), 1, SERIAL)
    >>> found.tolist(), name
    ([[0], [1], [2]], 'sparse: 1 nearest neighbours, exhaustive search')
    """
    n = x.shape[0]
    if n <= FLAT_UP_TO:
        (similar, found), name = among_all(x, count, engine, pairs), "exhaustive search"
    else:
        lists_count = int(4 * n**0.5)
        with engine.phase("clustering"):
            centres = _centres(x[_training(n, lists_count, pairs)], lists_count)
        lists = inverted_lists(x, centres, PROBES, engine)
        similar, found = among_lists(x, lists, count, engine, pairs, room)
        name = f"searched in {PROBES} of {len(centres)} inverted lists"
    return similar, found, f"sparse: {count} nearest neighbours, {name}"


def settings(n: int) -> list[object]:
    """Return all but the features that the neighbours among so many rows depend on.

    Examples
    --------
    >>> settings(50_000)
    [50000]
    """
    if n <= FLAT_UP_TO:
        return [FLAT_UP_TO]
    import faiss

    return [FLAT_UP_TO, PROBES, TRAINING, STEPS, faiss.__version__]


def _training(n: int, lists: int, pairs: Pairs | None) -> Index:
    """Rows from which lists are made: such as have all modalities, if there are enough of them.

    A list of rows with one modality alone would draw all of those: they would find each other, and
    no complete row.
    """
    import faiss

    wanted = TRAINING * lists
    if pairs is not None:
        complete = np.flatnonzero(pairs.factor.diagonal()[pairs.code] == 1)
        if len(complete) >= wanted:
            return complete[np.linspace(0, len(complete) - 1, wanted).astype(np.intp)]
    if n <= wanted:
        return np.arange(n)
    # Those that faiss itself would take of all of them.
    order = np.empty(n, np.int32)
    faiss.rand_perm(faiss.swig_ptr(order), n, SEED)  # type: ignore[attr-defined]
    return order[:wanted].astype(np.intp)


def _centres(x: Singles, count: int) -> Singles:
    import faiss

    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)  # centres do not depend on the number of threads
    try:
        clustering = faiss.Clustering(x.shape[1], count)
        clustering.niter, clustering.seed = STEPS, SEED
        clustering.max_points_per_centroid = TRAINING
        clustering.spherical = True
        clustering.train(x, faiss.IndexFlatIP(x.shape[1]))
    finally:
        faiss.omp_set_num_threads(before)
    centres: Singles = faiss.vector_to_array(clustering.centroids).reshape(count, -1)
    return centres[_grouped(centres)]


def _grouped(centres: Singles) -> Index:
    """Order in which similar centres stand together, so that rows of a block look into few lists.

    Examples
    --------
    >>> x = np.array([[1, 0], [0, 1], [0.1, 0.9], [0.9, 0.1]], dtype=np.float32)
    >>> _grouped(x).tolist()
    [0, 3, 1, 2]
    """
    some = centres[:: max(int(len(centres) ** 0.5), 1)] if len(centres) > 4 else centres[:2]
    return np.argsort((centres @ some.T).argmax(axis=1), kind="stable")


def sparse_greedy(
    edges: csr_array,
    best: Singles,
    k: int,
    weights: Floats | None = None,
    progress: Progress | None = None,
    allowed: Allowed | None = None,
) -> tuple[Index, Floats]:
    """Greedy facility location over known similarities, exactly; no other counts.

    Every gain is kept up to date: a pick changes only the candidates that its clients know.

    Parameters
    ----------
    edges : sparse array, shape (clients, candidates)
        Similarities, positive.
    best : float32 array, shape (clients,)
        What each client has already.
    k : int
    weights : float64 array, shape (clients,), optional
        What each client counts, of mean 1; None is 1.
    progress : callable, optional
    allowed : Allowed, optional
        Which candidates may be picked next; it ends the selection, in place of `k`.

    Returns
    -------
    picks : int64 array, shape (k,)
        Gains equal up to float32 rounding go to the lower row: two samples that know each other
        best have the same gain, so such ties are common.
    gains : float64 array, shape (k,)

    Examples
    --------
    >>> from scipy.sparse import csr_array
    >>> edges = csr_array(np.array([[1.0, 0.5], [0.9, 1.0]], dtype=np.float32))
    >>> sparse_greedy(edges, np.zeros(2, dtype=np.float32), 2)[0]
    array([0, 1])
    """
    by_candidate = edges.tocsc()
    have = best.astype(np.float64)
    gain = first_gains(edges, have, weights)
    highest = _Highest(gain) if allowed is None else Highest(gain, allowed, TIE)
    size = k if allowed is None else allowed.most
    picks, gains = np.empty(size, dtype=np.intp), np.zeros(size)
    step = 0
    while step < k if allowed is None else not allowed.done:
        pick = highest.first()
        picks[step], gains[step] = pick, max(gain[pick], 0.0)
        column = slice(by_candidate.indptr[pick], by_candidate.indptr[pick + 1])
        clients = by_candidate.indices[column]
        new = by_candidate.data[column].astype(np.float64)
        better = new > have[clients]
        clients, new = clients[better], new[better]
        subtract_covered(edges, gain, clients, have[clients], new, weights)
        have[clients] = new
        gain[pick] = -np.inf
        if allowed is not None:
            allowed.take(pick)
        step += 1
        if progress is not None:
            progress(min(step, k), k)
    return picks[:step], gains[:step]


class _Highest:
    """The highest of gains that only fall: `bound` holds what the maxima of blocks were once."""

    def __init__(self, gain: Floats) -> None:
        self.gain = gain
        self.bound = np.maximum.reduceat(gain, np.arange(0, len(gain), BLOCK))
        self.refreshed = 0  # blocks whose bound was computed anew

    def first(self) -> int:
        """Return the lowest row whose gain equals the highest, up to rounding."""
        top = -np.inf
        while top != self.bound.max():
            top = self._refresh(int(np.argmax(self.bound)))
        least = top - TIE * (10 + abs(top))
        blocks = np.flatnonzero(self.bound >= least).tolist()
        block = next(block for block in blocks if self._refresh(block) >= least)
        inside = self.gain[block * BLOCK : (block + 1) * BLOCK]
        return block * BLOCK + int(np.argmax(inside >= least))

    def _refresh(self, block: int) -> float:
        self.bound[block] = self.gain[block * BLOCK : (block + 1) * BLOCK].max()
        self.refreshed += 1
        return float(self.bound[block])


def first_gains(edges: csr_array, have: Floats, weights: Array | None) -> Floats:
    """Σ_i w_i max(0, s_ij - have_i) for every j, over known similarities.

    Parameters
    ----------
    edges : sparse array, shape (clients, candidates)
    have : float64 array, shape (clients,)
    weights : float array, shape (clients,), or None
        w_i; None is 1.

    Examples
    --------
    >>> from scipy.sparse import csr_array
    >>> first_gains(csr_array(np.array([[1.0, 0.5]])), np.array([0.25]), None).tolist()
    [0.75, 0.25]
    """
    gains = np.zeros(edges.shape[1])
    known = np.diff(edges.indptr)
    for start, stop in ranges(0, edges.shape[0], CLIENTS):
        part = slice(*edges.indptr[[start, stop]])
        client = np.repeat(np.arange(start, stop), known[start:stop])
        excess = np.maximum(edges.data[part].astype(np.float64) - have[client], 0)
        if weights is not None:
            excess *= weights[client]
        np.add.at(gains, edges.indices[part], excess)
    return gains


def subtract_covered(
    edges: csr_array,
    gain: Floats,
    clients: Array,
    old: Array,
    new: Array,
    weights: Array | None = None,
) -> None:
    """Take from the gains what clients no longer need, having `new` instead of `old`.

    Parameters
    ----------
    edges : sparse array, shape (clients, candidates)
    gain : float64 array, shape (candidates,)
        Changed in place.
    clients : int array, shape (b,)
    old, new : float array, shape (b,)
    weights : float array, shape (clients,), optional
        What each client counts; None is 1.

    Examples
    --------
    >>> from scipy.sparse import csr_array
    >>> edges, gain = csr_array(np.array([[1.0, 0.5]])), np.array([1.0, 0.5])
    >>> subtract_covered(edges, gain, np.array([0]), np.array([0.0]), np.array([0.8]))
    >>> gain.round(6).tolist()
    [0.2, 0.0]
    """
    for start, stop in ranges(0, len(clients), CLIENTS):
        part = slice(start, stop)
        first = edges.indptr[clients[part]]
        known = edges.indptr[clients[part] + 1] - first
        before = np.cumsum(known) - known
        place = np.repeat(first - before, known) + np.arange(known.sum())
        similar = edges.data[place].astype(np.float64)
        had, have = np.repeat(old[part], known), np.repeat(new[part], known)
        lost = np.maximum(similar - had, 0) - np.maximum(similar - have, 0)
        if weights is not None:
            lost *= np.repeat(weights[clients[part]], known)
        np.subtract.at(gain, edges.indices[place], lost)
