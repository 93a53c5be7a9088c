"""Greedy facility location over all similarities, exactly."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from mmselect.arrays import Floats, Index, Singles
from mmselect.core.constraints.allowed import Allowed
from mmselect.core.coverage.gains import (
    WIDENED,
    all_gains,
    all_pairs,
    all_products,
    covered_sum,
)
from mmselect.core.coverage.neighbours import first_gains, subtract_covered
from mmselect.core.features import Given, centred_norms, column_means, inverse, row_norms
from mmselect.core.presence import Pairs, similarities
from mmselect.engine import Engine, Progress, ranges

if TYPE_CHECKING:
    from scipy.sparse import csr_array

MATRIX_BYTES = 1 << 30
"""Bytes that all n² similarities may take: up to some 16,000 clients they are held."""

TILE = 2048
"""Side of a block of similarities between clients and candidates."""

PAIRS = 12_000_000
"""Once no more pairs than this can still matter, they are held, and nothing else is."""

SAMPLED = 256
"""Clients from which the number of such pairs is estimated."""

NOISE = 1e-6
"""Gains below it are float32 rounding and count as 0."""

TIE = 1e-10
"""Relative difference below which two gains in float64 are equal."""

NEAR_TIES = 64
"""Near-tied candidates (the lowest rows) that are decided in float64."""


class Similarity:
    """Similarities in float64, from the features (n, d_m) as given."""

    def __init__(self, given: Given, pairs: Pairs | None, center: bool) -> None:
        self.arrays, self.clients = list(given.features.values()), given.candidates
        there = [given.present.get(name) for name in given.features]
        self.means = [
            column_means(array, mask) if center else None
            for array, mask in zip(self.arrays, there, strict=True)
        ]
        self.pairs = pairs

    def between(self, rows: Index, point: int) -> Floats:
        """Mean cosine of some clients to one candidate, over the modalities that both have."""
        wide = self._rows(self.clients[point : point + 1])[0] / len(self.arrays)
        out = np.empty(len(rows))
        for start, stop in ranges(0, len(rows), TILE):
            block = self._rows(self.clients[rows[start:stop]])
            out[start:stop] = np.einsum("ij,j->i", block, wide)
        if self.pairs is not None:
            out *= self.pairs.of(rows, [point], np.float64)[:, 0]
        return out

    def _rows(self, index: Index) -> Floats:
        """Put the unit rows of all modalities side by side."""
        parts = []
        for array, mean in zip(self.arrays, self.means, strict=True):
            part = array[index].astype(np.float64)
            norms = row_norms(part)
            if mean is not None:
                part -= mean
                norms = centred_norms(part, norms, array.dtype)
            parts.append(part * inverse(norms)[:, None])
        return np.concatenate(parts, axis=1)


class ExactGreedy:
    """The exact greedy, all gains up to date after every pick.

    A pick changes gains only through the clients that it covers better, and by their similarities
    to the candidates. While picks cover many clients better, whole rows of similarities are taken
    from the matrix of all, if it may be held, or computed. Else, once few pairs are left in which
    a client can still improve, those are held.

    Two samples that know each other best have exactly the same gain, so ties are common: float32
    gains choose who may win, float64 similarities decide.
    """

    def __init__(
        self,
        x: Singles,
        exactly: Similarity,
        best: Singles,
        k: int,
        weights: Floats | None,
        engine: Engine,
        allowed: Allowed | None = None,
    ) -> None:
        n, d = x.shape
        self.x, self.exactly, self.k, self.engine = x, exactly, k, engine
        self.pairs = exactly.pairs
        self.allowed = allowed
        self.weights = np.ones(n) if weights is None else weights
        # The rounding errors of n similarities are independent, so their sum grows like √n.
        self.spread = float(np.linalg.norm(self.weights))
        self.work = {"rows": 0, "passes": 0, "decided": 0}
        self.best, self.exact_best = best, best.astype(np.float64)
        self.rounding = np.float32((d / 8 + 16) * 2.0**-23)
        self.matrix = (
            all_products(x, engine, pairs=self.pairs) if 4 * n * n <= MATRIX_BYTES else None
        )
        self.edges: csr_array | None = None
        self.since = 0  # clients covered better since pairs were counted

    def run(self, progress: Progress | None) -> tuple[Index, Floats]:
        """Pick until the budget is spent: picks in order, and what each added."""
        size = self.k if self.allowed is None else self.allowed.most
        picks, gains = np.empty(size, dtype=np.int64), np.zeros(size)
        self.gain = self._all_gains()
        step = 0
        while step < self.k if self.allowed is None else not self.allowed.done:
            self._hold_pairs_if_few()
            pick, gain = self._choose()
            if gain < NOISE and self.allowed is None:
                # Everything is covered: the rest of the budget goes to the lowest rows.
                picks[step:] = np.flatnonzero(self.gain > -np.inf)[: self.k - step]
                step = self.k
                break
            picks[step], gains[step] = pick, gain
            self._cover(pick)
            if self.allowed is not None:
                self.allowed.take(pick)
            step += 1
            if progress is not None:
                progress(min(step, self.k), self.k)
        if progress is not None:
            progress(self.k, self.k)
        return picks[:step], gains[:step]

    def _window(self, gain: float) -> float:
        """Difference of two gains that float32 similarities may turn round."""
        return 4e-7 * (gain + self.spread)

    def _all_gains(self) -> Floats:
        self.work["passes"] += 1
        if self.matrix is None:
            return all_gains(self.x, self.best, self.weights, self.engine, self.pairs)
        return self._sums(np.arange(len(self.x)), self.best, np.full_like(self.best, np.inf))

    def _hold_pairs_if_few(self) -> None:
        """Hold the pairs that still matter and nothing else, if they are few enough."""
        if self.matrix is None and self.edges is None and 8 * self.since >= len(self.x):
            self.since = 0
            if self._few_pairs():
                self._hold_pairs()

    def _few_pairs(self) -> bool:
        """Whether the pairs in which a client can still improve may be kept."""
        n = len(self.x)
        rows = np.arange(0, n, max(n // SAMPLED, 1))
        matter = [
            np.count_nonzero(
                similarities(self.x, part, slice(None), self.pairs) > self.best[part, None]
            )
            for part in np.array_split(rows, max(len(rows) // 16, 1))
        ]
        return sum(matter) / len(rows) * n < 0.9 * PAIRS

    def _hold_pairs(self) -> None:
        least = self.best - self.rounding
        self.edges = all_pairs(self.x, least, self.engine, self.pairs)
        self.by_candidate = self.edges.tocsc()
        gain = first_gains(self.edges, self.best.astype(np.float64), self.weights)
        self.gain = np.where(np.isneginf(self.gain), -np.inf, gain)
        self.work["passes"] += 1

    def _sums(self, clients: Index, old: Singles, new: Singles) -> Floats:
        """Sum, for every candidate, what it gives these clients beyond `old`, up to `new`."""
        step = TILE if self.matrix is None else WIDENED

        def sums(columns: tuple[int, int]) -> Floats:
            total, part = np.zeros(columns[1] - columns[0]), slice(*columns)
            for chosen in (slice(a, b) for a, b in ranges(0, len(clients), step)):
                rows = clients[chosen]
                products = self._products(rows, part)
                total += covered_sum(products, old[chosen], new[chosen], self.weights[rows])
            return total

        return np.concatenate(list(self.engine.map(sums, ranges(0, len(self.x), TILE))))

    def _products(self, clients: Index, candidates: slice) -> Singles:
        if self.matrix is not None:
            return self.matrix[clients, candidates]
        return similarities(self.x, clients, candidates, self.pairs)

    def _choose(self) -> tuple[int, float]:
        """Choose the best candidate; near-ties by float64 similarities, then the lower row."""
        if self.allowed is not None:
            return self._choose_allowed(self.allowed)
        pick = int(np.argmax(self.gain))
        top = float(self.gain[pick])
        near = np.flatnonzero(self.gain >= top - self._window(top))[:NEAR_TIES]
        if len(near) == 1 or top < NOISE:
            return pick, top
        total = np.array([self._exact_gain(int(candidate)) for candidate in near])
        pick = int(near[np.argmax(total >= total.max() - TIE * (1 + total.max()))])
        return pick, float(self.gain[pick])

    def _choose_allowed(self, allowed: Allowed) -> tuple[int, float]:
        """Choose the best of the allowed candidates, per cost where there are costs."""
        mask, cost = allowed.mask(), allowed.cost
        worth = np.where(self.gain < NOISE, 0.0, self.gain)  # all covered: the lowest row
        key = np.where(mask, worth / cost, -np.inf)
        pick = int(np.argmax(key))
        if not key[pick]:
            return pick, 0.0
        window = self._window(float(self.gain[pick]))
        near = np.flatnonzero(key + window / cost >= key[pick])[:NEAR_TIES]
        if len(near) > 1:
            total = np.array([self._exact_gain(int(candidate)) for candidate in near]) / cost[near]
            least = total.max() - TIE * (1 / cost[near] + total.max())
            pick = int(near[np.argmax(total >= least)])
        return pick, float(self.gain[pick])

    def _improvable(self, candidate: int) -> Index:
        """Clients to which the candidate may be closer than what they have."""
        if self.edges is None:
            return np.flatnonzero(self._column(candidate) > self.best - self.rounding)
        part = slice(*self.by_candidate.indptr[candidate : candidate + 2])
        clients = self.by_candidate.indices[part]
        better = self.by_candidate.data[part] > self.best[clients] - self.rounding
        improvable: Index = clients[better]
        return improvable

    def _exact_gain(self, candidate: int) -> float:
        rows = self._improvable(candidate)
        likeness = self._likeness(rows, candidate)
        return float(self.weights[rows] @ np.maximum(likeness - self.exact_best[rows], 0.0))

    def _column(self, candidate: int) -> Singles:
        """Similarities of all clients to one candidate."""
        if self.matrix is not None:
            held: Singles = self.matrix[candidate]
            return held
        column: Singles = self.x @ self.x[candidate]
        if self.pairs is not None:
            column *= self.pairs.of([candidate], slice(None))[0]
        return column

    def _likeness(self, rows: Index, candidate: int) -> Floats:
        self.work["decided"] += len(rows)
        return self.exactly.between(rows, candidate)

    def _cover(self, pick: int) -> None:
        better = self._improvable(pick)
        likeness = self._likeness(better, pick)
        rises = likeness > self.exact_best[better]
        better = better[rises]
        self.exact_best[better] = likeness[rises]
        old, new = self.best[better], self.exact_best[better].astype(np.float32)
        self.best[better] = new
        if self.edges is not None:
            subtract_covered(self.edges, self.gain, better, old, new, self.weights)
        else:
            self.gain -= self._sums(better, old, new)
            self.since += len(better)
            self.work["rows"] += len(better)
        self.gain[pick] = -np.inf
