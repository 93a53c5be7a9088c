"""Facility location on nearest neighbours only, for pools with too many pairs of samples."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from mmselect.arrays import Array, Floats, Index, Singles
from mmselect.engine import Engine, Progress, ranges

if TYPE_CHECKING:
    from scipy.sparse import csr_array

FLAT_UP_TO = 50_000
"""Rows up to which neighbours are searched exhaustively."""

PROBES = 32
"""Inverted lists looked into for each row, above that."""

QUERIES = 1024

TIE = 1e-7
"""Difference of gains, relative to 10 more than the gain, below which they are equal."""


def nearest_neighbours(x: Singles, count: int, engine: Engine) -> tuple[csr_array, str]:
    """Similarities of each row to its most similar rows, negative ones left out.

    Exhaustive for up to 50,000 rows, else from the 32 nearest of 4√n inverted lists (faiss); the
    row itself is always among them.

    Parameters
    ----------
    x : float32 array, shape (n, d)
    count : int
    engine : Engine

    Returns
    -------
    edges : sparse array, shape (n, n)
        Row i holds the similarities of client i.
    name : str
        How the neighbours were found, for provenance.

    Examples
    --------
    >>> from mmselect.engine import SERIAL
    >>> edges, name = nearest_neighbours(np.eye(3, dtype=np.float32), 1, SERIAL)
    >>> edges.toarray().tolist() == np.eye(3).tolist(), name
    (True, 'sparse: 1 nearest neighbours, exhaustive search')
    """
    from scipy.sparse import csr_array

    n = len(x)
    count = min(count, n)
    index, name = _index(x)

    def search(rows: tuple[int, int]) -> tuple[Singles, Index]:
        import faiss

        faiss.omp_set_num_threads(1)  # of the calling thread only: blocks are the unit of work
        similar, found = index.search(x[slice(*rows)], count)
        own = np.arange(*rows)
        missing = ~(found == own[:, None]).any(axis=1)
        found[missing, -1] = own[missing]
        similar[missing, -1] = np.einsum("ij,ij->i", x[own[missing]], x[own[missing]])
        return similar, found

    parts = list(engine.map(search, ranges(0, n, QUERIES)))
    similar = np.concatenate([part[0] for part in parts])
    found = np.concatenate([part[1] for part in parts])
    valid = (found >= 0) & (similar > 0)
    starts = np.concatenate([[0], np.cumsum(valid.sum(axis=1))])
    edges = csr_array((similar[valid], found[valid], starts), shape=(n, n))
    return edges, f"sparse: {count} nearest neighbours, {name}"


def _index(x: Singles) -> tuple[Any, str]:
    import faiss

    n, d = x.shape
    if n <= FLAT_UP_TO:
        flat = faiss.IndexFlatIP(d)
        flat.add(x)
        return flat, "exhaustive search"
    lists = int(4 * n**0.5)
    faiss.omp_set_num_threads(1)  # centres do not depend on the number of threads
    index = faiss.IndexIVFFlat(faiss.IndexFlatIP(d), d, lists, faiss.METRIC_INNER_PRODUCT)
    index.cp.niter, index.cp.max_points_per_centroid, index.cp.seed = 6, 39, 1
    index.train(x)
    index.add(x)
    index.nprobe = PROBES
    return index, f"searched in {PROBES} of {lists} inverted lists"


def sparse_greedy(
    edges: csr_array,
    best: Singles,
    k: int,
    weights: Floats | None = None,
    progress: Progress | None = None,
) -> tuple[Index, Floats]:
    """Greedy facility location over known similarities, exactly; unknown ones are 0.

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
    gain = _first_gains(edges, have, weights)
    picks, gains = np.empty(k, dtype=np.intp), np.zeros(k)
    for step in range(k):
        top = gain.max()
        pick = int(np.argmax(gain >= top - TIE * (10 + abs(top))))
        picks[step], gains[step] = pick, max(gain[pick], 0.0)
        column = slice(by_candidate.indptr[pick], by_candidate.indptr[pick + 1])
        clients = by_candidate.indices[column]
        new = by_candidate.data[column].astype(np.float64)
        better = new > have[clients]
        clients, new = clients[better], new[better]
        subtract_covered(edges, gain, clients, have[clients], new, weights)
        have[clients] = new
        gain[pick] = -np.inf
        if progress is not None:
            progress(step + 1, k)
    return picks, gains


def _first_gains(edges: csr_array, have: Floats, weights: Floats | None) -> Floats:
    client = np.repeat(np.arange(edges.shape[0]), np.diff(edges.indptr))
    excess = np.maximum(edges.data.astype(np.float64) - have[client], 0)
    if weights is not None:
        excess *= weights[client]
    gains = np.zeros(edges.shape[1])
    gains += np.bincount(edges.indices, excess, minlength=len(gains))
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
    known = edges.indptr[clients + 1] - edges.indptr[clients]
    before = np.cumsum(known) - known
    place = np.repeat(edges.indptr[clients] - before, known) + np.arange(known.sum())
    similar = edges.data[place].astype(np.float64)
    had, have = np.repeat(old, known), np.repeat(new, known)
    lost = np.maximum(similar - had, 0) - np.maximum(similar - have, 0)
    if weights is not None:
        lost *= np.repeat(weights[clients], known)
    np.subtract.at(gain, edges.indices[place], lost)
