"""Greedy facility location over all similarities, exactly, and never holding them all."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from mmselect.arrays import Floats, Index, Singles
from mmselect.core.coverage.gains import TILE, all_gains, part_of, positive_sum
from mmselect.core.coverage.neighbours import subtract_covered
from mmselect.core.features import Originals
from mmselect.engine import Engine, Progress, ranges

if TYPE_CHECKING:
    from scipy.sparse import csr_array

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


class Similarity:
    """Similarities in float64, from the features as given."""

    def __init__(self, originals: Originals, clients: Index) -> None:
        self.originals, self.clients = originals, clients
        self.modalities = len(originals.arrays)

    def between(self, rows: Index, point: int) -> Floats:
        """Mean cosine of some clients to one candidate."""
        wide = self.originals.rows(self.clients[point : point + 1])[0] / self.modalities
        out = np.empty(len(rows))
        for start, stop in ranges(0, len(rows), TILE):
            block = self.originals.rows(self.clients[rows[start:stop]])
            out[start:stop] = np.einsum("ij,j->i", block, wide)
        return out


class ExactGreedy:
    """The exact greedy: lazy first, then on the pairs that still matter.

    Gains only fall, so the last known gain of a candidate is an upper bound (`bound`). A candidate
    that comes to the top is evaluated, and its similarities to all clients are kept in a slot:
    from then on a pick changes its gain only through the clients that the pick covers better.
    When evaluations have cost as much, all gains are computed anew, each similarity serving two.

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
    ) -> None:
        n, d = x.shape
        self.x, self.exactly, self.k, self.engine = x, exactly, k, engine
        self.exact_weights = weights
        self.weights = None if weights is None else weights.astype(np.float32)
        # Errors of n similarities add up like this, be they weighed or not (then it is √n).
        self.spread = float(np.sqrt(n) if weights is None else np.linalg.norm(weights))
        self.work = {"evaluated": 0, "passes": 0, "decided": 0}
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

    def run(self, progress: Progress | None) -> tuple[Index, Floats]:
        """Pick until the budget is spent: picks in order, and what each added."""
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
        return 4e-7 * (gain + self.spread)

    def _compute_all(self) -> None:
        """All gains anew; and from here on the pairs that still matter, if they are few enough."""
        n = len(self.x)
        few = self._few_pairs()
        least = self.best - self.rounding if few else None
        gains, edges = all_gains(self.x, least, self.best, self.engine, self.weights)
        self.work["passes"] += 1
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

    def _evaluate(self, candidates: Index) -> None:
        slots = self._release(len(candidates), float(self.bound[candidates].max()))
        candidates = candidates[: len(slots)]
        points = self.x[candidates]

        def evaluate(rows: tuple[int, int]) -> Floats:
            part = slice(*rows)
            products = points @ self.x[part].T
            self.columns[slots, part] = products
            return positive_sum(products - self.best[part], 1, part_of(self.weights, part))

        total = np.zeros(len(candidates))
        for part in self.engine.map(evaluate, ranges(0, len(self.x), TILE)):
            total += part
        self.owner[slots], self.gain[slots] = candidates, total
        self.bound[candidates], self.fresh[candidates] = total, True
        self.evaluated += len(candidates)
        self.work["evaluated"] += len(candidates)

    def _release(self, count: int, incoming: float) -> Index:
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

    def _improvable(self, candidate: int) -> Index:
        """Clients to which the candidate may be closer than what they have."""
        if self.edges is None:
            column = self.columns[np.flatnonzero(self.owner == candidate)[0]]
            return np.flatnonzero(column > self.best - self.rounding)
        part = slice(*self.by_candidate.indptr[candidate : candidate + 2])
        clients = self.by_candidate.indices[part]
        better = self.by_candidate.data[part] > self.best[clients] - self.rounding
        improvable: Index = clients[better]
        return improvable

    def _exact_gain(self, candidate: int) -> float:
        rows = self._improvable(candidate)
        similar = self._similar(rows, candidate)
        excess = np.maximum(similar - self.exact_best[rows], 0.0)
        if self.exact_weights is not None:
            excess *= self.exact_weights[rows]
        return float(excess.sum(dtype=np.float64))

    def _similar(self, rows: Index, candidate: int) -> Floats:
        self.work["decided"] += len(rows)
        return self.exactly.between(rows, candidate)

    def _cover(self, pick: int) -> None:
        better = self._improvable(pick)
        similar = self._similar(better, pick)
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
            subtract_covered(self.edges, self.bound, better, old, new, self.weights)
        self.bound[pick] = -np.inf

    def _update_slots(self, better: Index, old: Singles, new: Singles) -> None:
        kept, weights = np.flatnonzero(self.owner >= 0), part_of(self.weights, better)
        for start, stop in ranges(0, len(kept), max(1, (1 << 21) // max(len(better), 1))):
            known = self.columns[np.ix_(kept[start:stop], better)]
            before = positive_sum(known - old, 1, weights)
            self.gain[kept[start:stop]] -= before - positive_sum(known - new, 1, weights)
        self.bound[self.owner[kept]] = self.gain[kept]
