"""GCNAL: a graph network learns to tell labeled samples from unlabeled ones.

Caramalau, Bhattarai and Kim, *Sequential Graph Convolutional Network for Active Learning*, CVPR
2021: UncertainGCN and CoreGCN. Their similarity matrix is a Gram matrix, so it is applied by way of
its factor, and neither it nor anything else of n × n numbers is formed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np

from mmselect.arrays import (
    Array,
    Floats,
    Index,
    Rows,
    Singles,
    check_budget,
    check_rows,
    same_length,
)
from mmselect.core.coverage.kcenter import kcenter
from mmselect.core.limits import check_limits
from mmselect.core.side_by_side import side_by_side
from mmselect.engine import SERIAL, Engine, Progress, blas_threads, ranges
from mmselect.errors import SelectionError

Variant = Literal["uncertain", "core"]

HIDDEN, DROPOUT, EPOCHS = 128, 0.3, 200
"""Units of the hidden layer; share of them that a step leaves out; steps over all samples."""

RATE, DECAY = 1e-3, 5e-4
"""Learning rate and weight decay of Adam."""

UNLABELED_WEIGHT = 1.2
"""λ of the loss: the unlabeled samples' share, relative to the labeled ones'."""

MARGIN = 0.1
"""The score next to which ``uncertain`` picks: nearly surely unlabeled."""

BLOCK = 4096
"""Rows worked on at once; every sum over rows is taken block by block, in order."""


class Graph(NamedTuple):
    """What :func:`gcnal` returns.

    Attributes
    ----------
    picks : (k,) ndarray of int
        Rows in pick order.
    gains : (k,) ndarray of float64
        ``-|s − 0.1|`` of each pick, or its distance to what is labeled or picked before it.
    scores : (r,) ndarray of float64
        s of each candidate: how much it looks like a labeled sample.
    losses : tuple of float
        Before each step of the training.
    zero_rows : int
        Rows without a direction.
    """

    picks: Index
    gains: Floats
    scores: Floats
    losses: tuple[float, ...]
    zero_rows: int


def gcnal(
    features: Mapping[str, Rows],
    k: int,
    rng: np.random.Generator,
    *,
    labeled: Index,
    candidates: Index | None = None,
    variant: Variant = "uncertain",
    epochs: int = EPOCHS,
    dropout: float = DROPOUT,
    engine: Engine = SERIAL,
    progress: Progress | None = None,
) -> Graph:
    """Pick by a graph convolutional network over labeled and candidate samples.

    X are the unit rows of the features side by side, ``S = (1 + X Xᵀ)/2`` their similarities, and
    ``A = (S − I) diag(1/colsum) + I`` with the column sums of S − I. The network is
    ``H = ReLU(A X W₁ + b₁)``, 128 wide, ``s = σ(A H w₂ + b₂)``; its loss
    ``−mean_labeled log s − 1.2 mean_unlabeled log(1 − s)``, by Adam over all samples at once.

    S is ``Y Yᵀ`` with ``Y = [X, 1]/√2``, so ``A M = Y (Yᵀ (M/colsum)) − M/colsum + M``: no n × n
    matrix. In the first layer X itself is on the right, so ``Xᵀ diag(1/colsum) X`` (D × D) is
    computed once, and a step is two products of X with 256 columns; nothing of size n × D is made
    but X.

    Parameters
    ----------
    features : mapping of str to (n, d) Rows
        In memory or on disk.
    k : int
    rng : numpy.random.Generator
        For the first weights and for what dropout leaves out.
    labeled : (l,) ndarray of int
        Rows; at least one.
    candidates : (r,) ndarray of int, optional
        Rows to pick from, increasing; None is all that are not labeled. Others take no part.
    variant : {"uncertain", "core"}
        The samples with s nearest to 0.1, or k-center on H from the labeled rows.
    epochs : int
        Steps of training, each over all samples.
    dropout : float
        Share of the hidden units that each step leaves out.
    engine : Engine, optional
    progress : callable, optional
        Told the steps done.

    Returns
    -------
    Graph

    Raises
    ------
    ParameterError
        If `variant`, `epochs` or `dropout` is out of range (:mod:`mmselect.core.limits`).
    SelectionError, BudgetError
        If nothing is labeled, or `k` does not fit the candidates.
    DataError
        If a feature cannot be used.

    Examples
    --------
    >>> x = {"x": np.random.default_rng(0).normal(size=(30, 4))}
    >>> found = gcnal(x, 3, np.random.default_rng(0), labeled=np.arange(5), epochs=20)
    >>> len(set(found.picks.tolist())), found.losses[-1] < found.losses[0]
    (3, True)
    """
    n = same_length(list(features.values()))
    labeled = check_rows(labeled, n)
    candidates = check_rows(
        np.setdiff1d(np.arange(n), labeled) if candidates is None else candidates, n
    )
    check_budget(k, len(candidates))
    check_limits(variant=variant, epochs=epochs, dropout=dropout)
    if not len(labeled):
        raise SelectionError("expected labeled samples, to tell from unlabeled ones, found none")
    rows = np.union1d(labeled, candidates)
    x, zero_rows = side_by_side(features, rows, unit="row", engine=engine)
    with blas_threads():
        network = _Network.draw(_Adjacency.of(x, engine), np.isin(rows, labeled), rng, dropout)
        losses = tuple(network.train(epochs, progress))
        hidden, logit = network.forward(exact=True)
    score = _sigmoid(logit)
    own = np.searchsorted(rows, candidates)
    if variant == "uncertain":
        gain = -np.abs(score[own] - MARGIN)
        best = np.argsort(-gain, kind="stable")[:k]
        return Graph(candidates[best], gain[best], score[own], losses, zero_rows)
    at = np.searchsorted(rows, labeled)
    cover = kcenter([hidden], k, labeled=at, engine=engine, progress=progress)
    return Graph(rows[cover.picks], cover.gains, score[own], losses, zero_rows)


@dataclass(frozen=True)
class _Adjacency:
    """A, by its factor.

    Attributes
    ----------
    x : (n, D) ndarray of float32
        Unit rows.
    inverse : (n,) ndarray
        1 over the column sums of S − diag S; 0 where a sample is similar to no other.
    own : (n,) ndarray
        Of each sample, 1 less its similarity to itself over its column sum: the diagonal of A less
        that of Y Yᵀ diag(1/colsum).
    kernel : (D, D) ndarray
        Xᵀ diag(1/colsum) X / 2.
    total : (D,) ndarray
        Σ x_i / colsum_i / 2.
    engine : Engine
    """

    x: Singles
    inverse: Floats
    own: Floats
    kernel: Floats
    total: Floats
    engine: Engine

    @classmethod
    def of(cls, x: Singles, engine: Engine) -> _Adjacency:
        n, width = x.shape
        blank = np.zeros(0)
        bare = cls(x, np.ones(n), blank, np.zeros((0, 0)), blank, engine)
        itself = np.concatenate(
            list(bare.over(lambda a, b: (1 + np.square(x[a:b], dtype=np.float64).sum(axis=1)) / 2))
        )
        sums = bare.spread(*bare.gather(np.ones(n), exact=True), exact=True) - itself
        inverse = np.divide(1.0, sums, out=np.zeros(n), where=sums > 1e-12 * n)

        def weighed(a: int, b: int) -> tuple[Floats, Floats]:
            wide = x[a:b].astype(np.float64)
            scaled = wide * inverse[a:b, None]
            return wide.T @ scaled, scaled.sum(axis=0)

        kernel, total = np.zeros((width, width)), np.zeros(width)
        for own_kernel, own_total in bare.over(weighed):
            kernel += own_kernel / 2
            total += own_total / 2
        return cls(x, inverse, 1 - itself * inverse, kernel, total, engine)

    def over(self, function: Callable[[int, int], Any]) -> Iterator[Any]:
        """Results of a function of first and last row over blocks, in order."""
        return self.engine.map(lambda block: function(*block), ranges(0, len(self.x), BLOCK))

    def gather(self, v: Floats, exact: bool = False) -> tuple[Floats, float]:
        """√2 Yᵀ v, its last number apart; products in float32 unless `exact`."""
        kind = np.float64 if exact else np.float32
        total = np.zeros(self.x.shape[1])
        for part in self.over(
            lambda a, b: v[a:b].astype(kind) @ self.x[a:b].astype(kind, copy=False)
        ):
            total += part
        return total, float(v.sum())

    def spread(self, u: Floats, last: float, exact: bool = False) -> Floats:
        """Y [u, last] / √2: with :meth:`gather`, Y Yᵀ v."""
        kind = np.float64 if exact else np.float32
        parts = list(self.over(lambda a, b: self.x[a:b].astype(kind, copy=False) @ u.astype(kind)))
        return (np.concatenate(parts, dtype=np.float64) + last) / 2

    def times(self, v: Floats, exact: bool = False) -> Floats:
        """Compute A v."""
        return self.spread(*self.gather(v * self.inverse, exact), exact) + self.own * v

    def transposed(self, v: Floats, exact: bool = False) -> Floats:
        """Compute Aᵀ v."""
        return self.spread(*self.gather(v, exact), exact) * self.inverse + self.own * v


@dataclass
class _Network:
    """The graph network and its training by full-batch Adam.

    Attributes
    ----------
    graph : _Adjacency
    labeled : (n,) ndarray of bool
    weights : list of ndarray
        W₁ (D, 128), b₁ (128,), w₂ (128,) and b₂ (1,), in float64.
    dropout : float
    key : int
        Seed of what dropout leaves out: with step and row it gives the same on any thread.
    hidden : (n, 128) ndarray of float32
        H of the latest pass.
    """

    graph: _Adjacency
    labeled: Array
    weights: list[Floats]
    dropout: float
    key: int
    hidden: Singles

    @classmethod
    def draw(
        cls, graph: _Adjacency, labeled: Array, rng: np.random.Generator, dropout: float
    ) -> _Network:
        n, width = graph.x.shape
        bound = HIDDEN**-0.5  # 1/√out, the out of each layer; of the second it is 1
        weights = [
            rng.uniform(-bound, bound, (width, HIDDEN)),
            rng.uniform(-bound, bound, HIDDEN),
            rng.uniform(-1, 1, HIDDEN),
            rng.uniform(-1, 1, 1),
        ]
        key = int(rng.integers(1 << 62))
        return cls(graph, labeled, weights, dropout, key, np.empty((n, HIDDEN), np.float32))

    def train(self, steps: int, progress: Progress | None) -> Iterator[float]:
        """Take steps of Adam, weight decay being a part of the gradient; the loss before each."""
        mean = [np.zeros_like(w) for w in self.weights]
        square = [np.zeros_like(w) for w in self.weights]
        for step in range(1, steps + 1):
            loss, gradients = self.gradients(step)
            yield loss
            for w, g, m, v in zip(self.weights, gradients, mean, square, strict=True):
                g = g + DECAY * w
                m += 0.1 * (g - m)
                v += 0.001 * (np.square(g) - v)
                w -= RATE * (m / (1 - 0.9**step)) / (np.sqrt(v / (1 - 0.999**step)) + 1e-8)
            if progress:
                progress(step, steps)

    def forward(self, step: int = 0, *, exact: bool = False) -> tuple[Singles, Floats]:
        """H and the logit of s; with a `step` above 0 as dropout leaves it in that step."""
        graph, (first, bias, second, last) = self.graph, self.weights
        kind: Any = np.float64 if exact else np.float32
        both: Array = np.hstack([graph.kernel @ first, first]).astype(kind)
        shared, final = graph.total @ first + bias, second.astype(kind)

        def layer(a: int, b: int) -> Array:
            products = graph.x[a:b].astype(kind, copy=False) @ both
            products[:, HIDDEN:] *= graph.own[a:b, None].astype(kind)
            h = products[:, :HIDDEN] + products[:, HIDDEN:] + shared.astype(kind)
            np.maximum(h, 0, out=h)
            if step and self.dropout:
                h *= self.kept(step, a, b) * kind(1 / (1 - self.dropout))
            self.hidden[a:b] = h
            summed: Array = h @ final
            return summed

        whole = np.concatenate(list(graph.over(layer)), dtype=np.float64)
        return self.hidden, graph.times(whole, exact) + last

    def kept(self, step: int, a: int, b: int) -> Array:
        """Which hidden units of rows `a` to `b`, a block, dropout leaves in this step."""
        rng = np.random.default_rng((self.key, step, a))
        kept: Array = rng.random((b - a, HIDDEN), dtype=np.float32) >= self.dropout
        return kept

    def gradients(self, step: int) -> tuple[float, list[Floats]]:
        """Loss in a step, and its gradient by each of the weights."""
        graph, (_, _, second, _) = self.graph, self.weights
        _, logit = self.forward(step)
        count = int(self.labeled.sum())
        share = np.where(self.labeled, 1 / count, UNLABELED_WEIGHT / (len(logit) - count))
        signed = np.where(self.labeled, -logit, logit)
        loss = float(np.logaddexp(0, signed) @ share)
        by_logit = np.where(self.labeled, -share, share) * _sigmoid(signed)
        by_summed = graph.transposed(by_logit)
        scale = (second / (1 - self.dropout * bool(step))).astype(np.float32)

        def back(a: int, b: int) -> tuple[Array, Array, Array]:
            here, h = by_summed[a:b, None].astype(np.float32), self.hidden[a:b]
            delta = np.where(h > 0, here * scale, np.float32(0))
            both = np.hstack([delta, delta * graph.own[a:b, None].astype(np.float32)])
            return graph.x[a:b].T @ both, delta.sum(axis=0), here[:, 0] @ h

        parts = np.zeros((graph.x.shape[1], 2 * HIDDEN)), np.zeros(HIDDEN), np.zeros(HIDDEN)
        for part in graph.over(back):
            for whole, own in zip(parts, part, strict=True):
                whole += own
        products, bias, final = parts
        first = graph.kernel @ products[:, :HIDDEN] + products[:, HIDDEN:]
        first += np.outer(graph.total, bias)
        return loss, [first, bias, final, np.array([by_logit.sum()])]


def _sigmoid(x: Floats) -> Floats:
    """1/(1 + exp(−x)), without overflow."""
    return np.exp(-np.logaddexp(0, -x))
