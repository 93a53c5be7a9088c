"""Facility location that knows, of each sample, its nearest neighbours only."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from mmselect.arrays import Array, Index, Rows, Singles
from mmselect.core.chosen import held, over_blocks
from mmselect.core.coverage import neighbours
from mmselect.core.features import Given
from mmselect.core.presence import Present
from mmselect.core.unit_rows import unit_rows
from mmselect.engine import Engine, ranges
from mmselect.tasks import concurrent

if TYPE_CHECKING:
    from scipy.sparse import csr_array

FORM = 2
"""Version of what :func:`known_neighbours` finds: a larger one ignores what was kept before."""

NEIGHBOURS = 256
"""Most similar samples known of each, where nothing else is said."""

UNKNOWN = 0.5
"""What a similarity that is not known is taken for, of the smallest that is."""

KEPT = "neighbours"
"""What files of neighbours in a cache begin with."""

BLOCK = 8192
"""Samples whose neighbours are sorted into a sparse array at a time."""

Known = dict[str, Array]
"""``similar`` (n, count) and ``found`` (n, count), as :func:`nearest_neighbours` has them, its
``name``, and ``zero_rows``, of each modality."""


def known_neighbours(given: Given, count: int, center: bool, engine: Engine) -> Known:
    """Find the most similar samples of every sample, labeled ones included, or take kept ones.

    They depend on features alone, neither on labels nor on logits: what is kept of a pool
    (:class:`mmselect.cache.Cache`) holds for every round in which labeled and unlabeled samples
    together are the same.
    """
    n = len(given.labeled) + len(given.candidates)
    count = min(count, n)

    def search() -> Known:
        how: dict[str, Any] = {"center": center, "present": given.present, "engine": engine}
        _, room, whole = rows_held([*given.features.values()], n, engine.memory)
        features = given.features if whole else _for_all_threads(given.features)
        every = unit_rows(features, **how)
        x = every.whole(engine) if whole else every
        pairs = given.pairs()
        similar, found, name = neighbours.nearest_neighbours(x, count, engine, pairs, room)
        zeros = np.array([*every.zero_rows.values()])
        return {"similar": similar, "found": found, "name": np.array(name), "zero_rows": zeros}

    def valid(known: Known) -> bool:
        return bool(
            known.keys() == {"similar", "found", "name", "zero_rows"}
            and known["similar"].shape == known["found"].shape == (n, count)
            and known["similar"].dtype == np.float32
            and known["found"].dtype == np.int32
            and not np.isnan(known["similar"].max())
            and 0 <= known["found"].min() <= known["found"].max() < n
            and known["zero_rows"].shape == (len(given.features),)
        )

    if engine.cache is None:
        return search()
    digest = neighbours_digest(given.features, given.present, count, center, engine)
    known: Known = engine.cache.kept(KEPT, digest, valid, search)
    return known


def rows_held(columns: Sequence[Rows], n: int, memory: int) -> tuple[int, int, bool]:
    """Bytes of n rows held as stored, of rows made of them that are held at a time, whether of all.

    All rows where they fit, or take no more than those that one thread alone can read, which are
    held as stored otherwise. Else as many as fit, but no more than all take as they are stored.

    Examples
    --------
    >>> x = np.zeros((9, 4), np.float16)
    >>> [rows_held([x], 9, memory) for memory in (144, 143, 71)]
    [(0, 144, True), (0, 72, False), (0, 71, False)]
    """
    stored = [n * column.shape[1] * column.dtype.itemsize for column in columns]
    made = 4 * n * sum(column.shape[1] for column in columns)
    apart = [size for size, x in zip(stored, columns, strict=True) if not concurrent(x)]
    if made <= memory or (apart and made <= sum(stored)):
        return 0, made, True
    return sum(apart), min(memory, sum(stored)), False


def _for_all_threads(features: dict[str, Array]) -> dict[str, Array]:
    """Take into memory what only one thread can read."""
    return {name: x if concurrent(x) else held(x) for name, x in features.items()}


def neighbours_digest(
    features: Mapping[str, Array], present: Present, count: int, center: bool, engine: Engine
) -> str:
    """Digest of all that neighbours depend on: every byte of the features, and how they are found.

    Examples
    --------
    >>> from mmselect.engine import SERIAL
    >>> x = np.ones((2, 1), np.float32)
    >>> one, two = (neighbours_digest({"a": z}, {}, 9, True, SERIAL) for z in (x, 2 * x))
    >>> len(one), one == two
    (64, False)
    """
    how = neighbours.settings(len(next(iter(features.values()))))
    digest = hashlib.sha256(f"{FORM} {np.__version__} {count} {center} {how}".encode())
    for name, array in features.items():
        digest.update(f" {array.shape} {array.dtype.str}".encode())
        if name in present:
            digest.update(present[name].tobytes())
        for part in over_blocks(_digest, array, engine, "comparing features with the cache"):
            digest.update(part)
    return digest.hexdigest()


def _digest(_first: int, block: Array) -> bytes:
    return hashlib.sha256(np.ascontiguousarray(block).data).digest()


def edges_among(known: Known, clients: Index) -> tuple[csr_array, Singles]:
    """Similarities of some samples to each other that may count, and what these samples have.

    A sample has its largest similarity to the others or, where more, half of its smallest known
    one: what it does not know is similar to it by something from 0 to that.

    Parameters
    ----------
    known : Known
    clients : (m,) ndarray of int
        Increasing.

    Returns
    -------
    edges : sparse array, shape (m, m)
        Those above what the sample has.
    best : (m,) ndarray of float32
        At least 0.

    Examples
    --------
    >>> known = {"similar": np.array([[1, 0.5], [1, 0.75], [0.75, 1]], np.float32),
    ...     "found": np.array([[0, 1], [1, 2], [1, 2]], np.int32)}
    >>> edges, best = edges_among(known, np.array([1, 2]))
    >>> edges.toarray().round(2).tolist(), best.tolist()
    ([[1.0, 0.75], [0.75, 1.0]], [0.375, 0.375])
    """
    from scipy.sparse import csr_array

    similar, found, m = known["similar"], known["found"], len(clients)
    position = np.full(len(similar), -1, np.int32)
    position[clients] = np.arange(m, dtype=np.int32)
    blocks = [(a, b, clients[a:b]) for a, b in ranges(0, m, BLOCK)]
    best, counts = np.zeros(m, np.float32), np.zeros(m + 1, np.int64)
    for a, b, rows in blocks:
        near, among = similar[rows], position[found[rows]]
        best[a:b] = np.where(among < 0, near, 0).max(axis=1, initial=0)
        if near.shape[1] < len(similar):
            np.maximum(best[a:b], UNKNOWN * near.min(axis=1), out=best[a:b])
        counts[a + 1 : b + 1] = ((near > best[a:b, None]) & (among >= 0)).sum(axis=1)
    starts = counts.cumsum()
    if starts[-1] < 1 << 31:  # else SciPy makes the columns as wide as these
        starts = starts.astype(np.int32)
    values, columns = np.empty(starts[-1], np.float32), np.empty(starts[-1], np.int32)
    for a, b, rows in blocks:
        near, among = similar[rows], position[found[rows]]
        inside = (near > best[a:b, None]) & (among >= 0)
        values[starts[a] : starts[b]], columns[starts[a] : starts[b]] = near[inside], among[inside]
    return csr_array((values, columns, starts), shape=(m, m)), best
