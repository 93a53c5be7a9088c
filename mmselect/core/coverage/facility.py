"""Facility location: cover every unlabeled sample by something similar that is labeled."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from mmselect.core.coverage.gains import TILE, all_gains, positive_sum
from mmselect.core.coverage.matching import Coverage
from mmselect.core.coverage.neighbours import lose, nearest_neighbours, sparse_greedy
from mmselect.core.features import (
    Array,
    Features,
    Originals,
    Progress,
    as_modalities,
    check_budget,
    join,
    labeled_rows,
)
from mmselect.engine import blas_threads, map_ordered, ranges, thread_count
from mmselect.errors import ParameterError

Floats = NDArray[np.float32]

EXACT_UP_TO = 50_000
"""Clients up to which "auto" is exact: the first gains need all n² similarities once."""

COLUMNS = 64
"""Candidates evaluated together."""

KEPT_BYTES = 96 << 20
"""Similarities of promising candidates that are kept, so that their gains stay up to date."""

PAIRS = 12_000_000
"""Once no more pairs than this can still matter, they are all kept, and nothing else is."""

SAMPLED = 256
"""Clients from which the number of such pairs is estimated."""

NOISE = 1e-6
"""Gains below it are float32 rounding and count as 0."""

TIE = 1e-10
"""Relative difference below which two gains in float64 are equal."""

NEAR_TIES = 64
"""Near-tied candidates (the lowest rows) that are decided in float64."""


def facility(
    features: Features,
    k: int,
    *,
    labeled: Sequence[int] | Array | None = None,
    center: bool = True,
    form: Literal["auto", "exact", "sparse"] = "auto",
    neighbours: int = 64,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Coverage:
    """Pick, k times, the sample that brings the unlabeled ones closest to something labeled.

    ``argmax_j Σ_i max(0, s_ij - best_i)``, where the clients i are all unlabeled samples, ``s_ij``
    is the mean of their modalities' cosines, 0 where negative, and ``best_i`` the largest s to
    anything labeled or picked so far: greedy maximisation of the facility location function
    (Nemhauser, Wolsey and Fisher, 1978; lazily, Minoux, 1978). Ties go to the lower row.

    The exact form never holds n² similarities: it is lazy while a pick changes most gains, and
    once the clients have something close, it keeps the pairs in which a client could still
    improve (at most 12 million), from which all gains follow. The sparse form knows, of each
    client, its `neighbours` most similar candidates, and is greedy, exactly, on those.

    Parameters
    ----------
    features : mapping or sequence of arrays, each (n, d_m)
        Widths may differ.
    k : int
        Budget: at most the number of rows that are not labeled.
    labeled : sequence of int, optional
        Rows that are labeled already: never picked, and what they cover is covered.
    center : bool
        Remove each modality's mean over the pool first.
    form : {"auto", "exact", "sparse"}
        "auto" is exact for up to 50,000 unlabeled rows.
    neighbours : int
        Candidates known of each client in the sparse form.
    threads : int, optional
    progress : callable, optional
        Called with the number of picks made and `k`.

    Returns
    -------
    Coverage
        The gain of a pick is what it added to the sum; `form` says how it was computed.

    Raises
    ------
    SchemaError, DataError
        See :func:`mmselect.core.features.join`.
    BudgetError, SelectionError
        If `k` does not fit the candidates, or a labeled row is outside the pool.
    ParameterError
        If `form` or `neighbours` is not one of the values above.

    Examples
    --------
    >>> x = np.array([[1.0, 0.0], [0.9, 0.1], [0.9, -0.1], [0.0, 1.0]])
    >>> facility([x], 2, center=False).picks
    array([1, 3])
    """
    if form not in ("auto", "exact", "sparse") or neighbours < 1:
        raise ParameterError(
            "expected form auto, exact or sparse and neighbours ≥ 1, "
            f"found form={form!r}, neighbours={neighbours}"
        )
    named = as_modalities(features)
    n = len(next(iter(named.values())))
    rows = labeled_rows(labeled, n)
    check_budget(k, n - len(rows))
    exact = form == "exact" or (form == "auto" and n - len(rows) <= EXACT_UP_TO)
    threads = thread_count(threads)
    with blas_threads(1):
        x, _, zero_rows = join(named, center=center, threads=threads)
        x *= np.float32(len(named) ** -0.5)  # a product is now the mean cosine
        candidates = np.setdiff1d(np.arange(n), rows, assume_unique=True)
        clients = x[candidates] if len(rows) else x
        best = _covered(clients, x[rows], threads)
        if exact:
            exactly = _Similarity(Originals(named, unit=True, center=center), candidates)
            picks, gains = _Greedy(clients, exactly, best, k, threads).run(progress)
            name = "exact"
        else:
            edges, name = nearest_neighbours(clients, neighbours, threads)
            picks, gains = sparse_greedy(edges, best, k, progress)
    return Coverage(candidates[picks], gains, name, zero_rows)


def _covered(clients: Floats, labeled: Floats, threads: int) -> Floats:
    """Largest similarity of each client to a labeled row, at least 0."""

    def covered(rows: tuple[int, int]) -> Floats:
        best = np.zeros(rows[1] - rows[0], dtype=np.float32)
        for start, stop in ranges(0, len(labeled), TILE):
            products = clients[slice(*rows)] @ labeled[start:stop].T
            np.maximum(best, products.max(axis=1), out=best)
        return best

    return np.concatenate(list(map_ordered(covered, ranges(0, len(clients), TILE), threads)))


class _Similarity:
    """Similarities in float64, from the features as given."""

    def __init__(self, originals: Originals, clients: NDArray[np.int64]) -> None:
        self.originals, self.clients = originals, clients
        self.modalities = len(originals.arrays)

    def between(self, rows: NDArray[np.signedinteger[Any]], point: int) -> NDArray[np.float64]:
        """Mean cosine of some clients to one candidate."""
        wide = self.originals.rows(self.clients[point : point + 1])[0] / self.modalities
        out = np.empty(len(rows))
        for start, stop in ranges(0, len(rows), TILE):
            block = self.originals.rows(self.clients[rows[start:stop]])
            out[start:stop] = np.einsum("ij,j->i", block, wide)
        return out


class _Greedy:
    """The exact greedy: lazy first, then on the pairs that still matter.

    Gains only fall, so the last known gain of a candidate is an upper bound (`bound`). A candidate
    that comes to the top is evaluated, and its similarities to all clients are kept in a slot:
    from then on a pick changes its gain only through the clients that the pick covers better.
    When evaluations have cost as much, all gains are computed anew, each similarity serving two.

    Two samples that know each other best have exactly the same gain, so ties are common: float32
    gains choose who may win, float64 similarities decide.
    """

    def __init__(self, x: Floats, exactly: _Similarity, best: Floats, k: int, threads: int) -> None:
        n, d = x.shape
        self.x, self.exactly, self.k, self.threads = x, exactly, k, threads
        self.best, self.exact_best = best, best.astype(np.float64)
        self.rounding = np.float32((d / 8 + 16) * 2.0**-23)
        slots = min(max(KEPT_BYTES // (4 * n), 2 * COLUMNS), n)
        self.columns = np.empty((slots, n), dtype=np.float32)
        self.owner = np.full(slots, -1, dtype=np.int64)
        self.gain = np.full(slots, -np.inf)
        self.fresh = np.zeros(n, dtype=bool)  # in a slot, or picked
        self.bound = np.zeros(n)
        self.evaluated = self.checked = 0
        self.edges: csr_array | None = None

    def run(self, progress: Progress | None) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        picks, gains = np.empty(self.k, dtype=np.int64), np.zeros(self.k)
        self._compute_all()
        for step in range(self.k):
            if self.edges is None:
                self._bring_up_to_date()
            pick, gain = self._choose()
            if gain < NOISE:
                # Nothing is left to cover: the lower rows first.
                picks[step:] = np.flatnonzero(self.bound > -np.inf)[: self.k - step]
                break
            picks[step], gains[step] = pick, gain
            self._cover(pick)
            if progress is not None:
                progress(step + 1, self.k)
        if progress is not None:
            progress(self.k, self.k)
        return picks, gains

    def _window(self, gain: float) -> float:
        """Difference of two gains that float32 similarities may turn round."""
        return 4e-7 * (gain + float(np.sqrt(len(self.x))))

    def _compute_all(self) -> None:
        """All gains anew; and from here on the pairs that still matter, if they are few enough."""
        n = len(self.x)
        few = self._few_pairs()
        gains, edges = all_gains(
            self.x, self.best - self.rounding if few else None, self.best, self.threads
        )
        picked = np.isneginf(self.bound)
        self.bound = np.where(picked, -np.inf, gains)
        self.owner[:], self.gain[:], self.fresh[:] = -1, -np.inf, picked
        self.evaluated = self.checked = 0
        if edges is not None:
            self.edges, self.by_candidate = edges, edges.tocsc()
            self.columns = np.empty((0, n), dtype=np.float32)

    def _few_pairs(self) -> bool:
        """Whether the pairs in which a client can still improve may be kept."""
        n = len(self.x)
        rows = np.arange(0, n, max(n // SAMPLED, 1))
        matter = [
            np.count_nonzero(self.x[part] @ self.x.T > self.best[part, None])
            for part in np.array_split(rows, max(len(rows) // 16, 1))
        ]
        self.checked = self.evaluated
        return sum(matter) / len(rows) * n < 0.9 * PAIRS

    def _bring_up_to_date(self) -> None:
        """Evaluate candidates until no stale one can be the best, or tie with it."""
        while True:
            top = float(self.gain.max())
            least = top - self._window(top) if np.isfinite(top) else -np.inf
            stale = np.where(self.fresh, -np.inf, self.bound)
            highest = stale.max()
            if highest == -np.inf or (np.isfinite(top) and highest <= max(least, NOISE / 2)):
                return
            n, since = len(self.x), self.evaluated - self.checked
            costly = self.evaluated >= max(n // 3, 4 * COLUMNS)
            if costly or (since >= max(n // 12, COLUMNS) and self._few_pairs()):
                self._compute_all()
                if self.edges is not None:
                    return
                continue
            count = min(COLUMNS, int(np.isfinite(stale).sum()))
            order = np.argpartition(-stale, count - 1)[:count]
            self._evaluate(order[np.argsort(-stale[order], kind="stable")])

    def _evaluate(self, candidates: NDArray[np.int64]) -> None:
        slots = self._release(len(candidates), float(self.bound[candidates].max()))
        candidates = candidates[: len(slots)]
        points = self.x[candidates]

        def evaluate(rows: tuple[int, int]) -> NDArray[np.float64]:
            part = slice(*rows)
            products = points @ self.x[part].T
            self.columns[slots, part] = products
            return positive_sum(products - self.best[part], axis=1)

        total = np.zeros(len(candidates))
        for part in map_ordered(evaluate, ranges(0, len(self.x), TILE), self.threads):
            total += part
        self.owner[slots], self.gain[slots] = candidates, total
        self.bound[candidates], self.fresh[candidates] = total, True
        self.evaluated += len(candidates)

    def _release(self, count: int, incoming: float) -> NDArray[np.int64]:
        """Free the slots with the least gains, but none that is better than what comes in."""
        slots = np.argpartition(self.gain, count - 1)[:count]
        slots = slots[self.gain[slots] < incoming]
        if not len(slots):
            slots = np.array([int(np.argmin(self.gain))])
        old = self.owner[slots]
        self.fresh[old[old >= 0]] = False
        return slots

    def _choose(self) -> tuple[int, float]:
        """Choose the best candidate; near-ties by float64 similarities, then the lower row."""
        index, gain = (
            (self.owner, self.gain)
            if self.edges is None
            else (np.arange(len(self.bound)), self.bound)
        )
        place = int(np.argmax(gain))
        top = float(gain[place])
        near = np.flatnonzero(gain >= top - self._window(top))
        if len(near) > 1 and top >= NOISE:
            near = near[np.argsort(index[near])][:NEAR_TIES]
            total = np.array([self._exact_gain(int(index[place])) for place in near])
            place = int(near[np.argmax(total >= total.max() - TIE * (1 + total.max()))])
        return int(index[place]), float(gain[place])

    def _improvable(self, candidate: int) -> NDArray[np.signedinteger[Any]]:
        """Clients to which the candidate may be closer than what they have."""
        if self.edges is None:
            column = self.columns[np.flatnonzero(self.owner == candidate)[0]]
            return np.flatnonzero(column > self.best - self.rounding)
        part = slice(*self.by_candidate.indptr[candidate : candidate + 2])
        clients = self.by_candidate.indices[part]
        better = self.by_candidate.data[part] > self.best[clients] - self.rounding
        improvable: NDArray[np.signedinteger[Any]] = clients[better]
        return improvable

    def _exact_gain(self, candidate: int) -> float:
        rows = self._improvable(candidate)
        similar = self.exactly.between(rows, candidate)
        return float(np.maximum(similar - self.exact_best[rows], 0.0).sum(dtype=np.float64))

    def _cover(self, pick: int) -> None:
        better = self._improvable(pick)
        similar = self.exactly.between(better, pick)
        rises = similar > self.exact_best[better]
        better = better[rises]
        self.exact_best[better] = similar[rises]
        old, new = self.best[better], self.exact_best[better].astype(np.float32)
        self.best[better] = new
        if self.edges is None:
            self.gain[self.owner == pick], self.fresh[pick] = -np.inf, True
            self.owner[self.owner == pick] = -1
            self._update_slots(better, old, new)
        else:
            lose(self.edges, self.bound, better, old, new)
        self.bound[pick] = -np.inf

    def _update_slots(
        self, better: NDArray[np.signedinteger[Any]], old: Floats, new: Floats
    ) -> None:
        kept = np.flatnonzero(self.owner >= 0)
        for start, stop in ranges(0, len(kept), max(1, (1 << 21) // max(len(better), 1))):
            known = self.columns[np.ix_(kept[start:stop], better)]
            self.gain[kept[start:stop]] -= positive_sum(known - old, axis=1) - positive_sum(
                known - new, axis=1
            )
        self.bound[self.owner[kept]] = self.gain[kept]
