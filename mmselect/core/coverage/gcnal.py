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
    check_candidates,
    check_rows,
    same_length,
)
from mmselect.core.constraints.allowed import Allowed
from mmselect.core.constraints.highest import top
from mmselect.core.coverage.kcenter import kcenter
from mmselect.core.limits import check_limits
from mmselect.core.presence import Present
from mmselect.core.scores.bernoulli import sigmoid
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

BLOCK = 1024
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
    present: Present | None = None,
    variant: Variant = "uncertain",
    epochs: int = EPOCHS,
    dropout: float = DROPOUT,
    allowed: Allowed | None = None,
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
    computed once, and a step is a product of X with 128 columns and one back; nothing of size
    n × D is made but X. In float64 but for terms of the order 1/n: a network that is trained
    amplifies rounding, and the picks are not to depend on the processor.

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
    present : mapping of str to (n,) ndarray of bool, optional
        Which rows have a modality; see :func:`mmselect.core.side_by_side.side_by_side`.
    variant : {"uncertain", "core"}
        The samples with s nearest to 0.1, or k-center on H from the labeled rows.
    epochs : int
        Steps of training, each over all samples.
    dropout : float
        Share of the hidden units that each step leaves out.
    allowed : Allowed, optional
        Which candidates may be picked next, by position; told of every pick. It ends the selection.
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
    candidates = check_candidates(candidates, labeled, n)
    check_budget(k, len(candidates))
    check_limits(variant=variant, epochs=epochs, dropout=dropout)
    if not len(labeled):
        raise SelectionError("expected labeled samples, to tell from unlabeled ones, found none")
    rows = np.union1d(labeled, candidates)
    x, zero_rows = side_by_side(features, rows, unit="row", present=present, engine=engine)
    with blas_threads():
        network = _Network.draw(_Adjacency.of(x, engine), np.isin(rows, labeled), rng, dropout)
        losses = tuple(network.train(epochs, progress))
        logit = network.forward()
    score = sigmoid(logit)
    own = np.searchsorted(rows, candidates)
    if variant == "uncertain":
        gain = -np.abs(score[own] - MARGIN)
        best = top(gain, k, allowed)
        return Graph(candidates[best], gain[best], score[own], losses, zero_rows)
    at = np.searchsorted(rows, labeled)
    how: dict[str, Any] = {"labeled": at, "allowed": allowed, "progress": progress}
    cover = kcenter([network.hidden.astype(np.float32)], k, engine=engine, **how)
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
        The diagonal of A less that of Y Yᵀ diag(1/colsum), which is 1 less a sample's similarity to
        itself over its column sum, relative to `usual`.
    usual : float
        Mean of these diagonals. The differences to it are of the order 1/n, so that their part of a
        product may be computed in float32.
    kernel : (D, D) ndarray
        Xᵀ diag(1/colsum) X / 2 + usual · I: X times it is A X, but for `own` and `total`.
    total : (D,) ndarray
        Σ x_i / colsum_i / 2.
    engine : Engine
    """

    x: Singles
    inverse: Floats
    own: Floats
    usual: float
    kernel: Floats
    total: Floats
    engine: Engine

    @classmethod
    def of(cls, x: Singles, engine: Engine) -> _Adjacency:
        n, width = x.shape
        blank = np.zeros(0)
        bare = cls(x, np.ones(n), blank, 0.0, np.zeros((0, 0)), blank, engine)
        itself = np.concatenate(list(bare.over(lambda _, wide: (1 + np.vecdot(wide, wide)) / 2)))
        sums = bare.similar(np.ones(n)) - itself
        inverse = np.divide(1.0, sums, out=np.zeros(n), where=sums > 1e-12 * n)
        own = 1 - itself * inverse

        def weighed(block: slice, wide: Floats) -> tuple[Floats, Floats]:
            scaled = wide * inverse[block, None]
            return wide.T @ scaled, scaled.sum(axis=0)

        kernel, total = np.zeros((width, width)), np.zeros(width)
        for own_kernel, own_total in bare.over(weighed):
            kernel += own_kernel / 2
            total += own_total / 2
        usual = float(own.mean())
        kernel += usual * np.eye(width)
        return cls(x, inverse, own - usual, usual, kernel, total, engine)

    def over(self, function: Callable[[slice, Floats], Any]) -> Iterator[Any]:
        """Results of a function over blocks, in order: it takes their place, and X in float64."""

        def run(ends: tuple[int, int]) -> Any:
            block = slice(*ends)
            return function(block, self.x[block].astype(np.float64))

        return self.engine.map(run, ranges(0, len(self.x), BLOCK))

    def similar(self, v: Floats) -> Floats:
        """Compute Y Yᵀ v."""
        u = np.zeros(self.x.shape[1])
        for part in self.over(lambda block, wide: v[block] @ wide):
            u += part
        product: Floats = np.concatenate(list(self.over(lambda _, wide: wide @ u)))
        return (product + float(v.sum())) / 2

    def times(self, v: Floats) -> Floats:
        """Compute A v."""
        return self.similar(v * self.inverse) + (self.usual + self.own) * v

    def transposed(self, v: Floats) -> Floats:
        """Compute Aᵀ v."""
        return self.similar(v) * self.inverse + (self.usual + self.own) * v


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
    hidden : (n, 128) ndarray
        H of the latest pass.
    """

    graph: _Adjacency
    labeled: Array
    weights: list[Floats]
    dropout: float
    key: int
    hidden: Floats

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
        return cls(graph, labeled, weights, dropout, key, np.empty((n, HIDDEN)))

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

    def forward(self, step: int = 0) -> Floats:
        """Logit of s, and H in `hidden`; with a `step` above 0 as its dropout leaves it."""
        graph, (first, bias, second, last) = self.graph, self.weights
        mixed, small = graph.kernel @ first, first.astype(np.float32)
        shared = graph.total @ first + bias

        def layer(block: slice, wide: Floats) -> Floats:
            h = wide @ mixed
            h += graph.own[block, None] * (graph.x[block] @ small)
            h += shared
            np.maximum(h, 0, out=h)
            if step and self.dropout:
                h *= self.kept(step, block) / (1 - self.dropout)
            self.hidden[block] = h
            return h @ second

        return graph.times(np.concatenate(list(graph.over(layer)))) + last

    def kept(self, step: int, block: slice) -> Array:
        """Which hidden units of a block's rows dropout leaves in this step."""
        rng = np.random.default_rng((self.key, step, block.start))
        shape = (block.stop - block.start, HIDDEN)
        kept: Array = rng.random(shape, dtype=np.float32) >= self.dropout
        return kept

    def gradients(self, step: int) -> tuple[float, list[Floats]]:
        """Loss in a step, and its gradient by each of the weights."""
        graph, (_, _, second, _) = self.graph, self.weights
        logit = self.forward(step)
        count = int(self.labeled.sum())
        share = np.where(self.labeled, 1 / count, UNLABELED_WEIGHT / (len(logit) - count))
        signed = np.where(self.labeled, -logit, logit)
        loss = float(np.logaddexp(0, signed) @ share)
        by_logit = np.where(self.labeled, -share, share) * sigmoid(signed)
        by_summed = graph.transposed(by_logit)
        scale = second / (1 - self.dropout * bool(step))

        def back(block: slice, wide: Floats) -> tuple[Array, ...]:
            here, h = by_summed[block], self.hidden[block]
            delta = np.where(h > 0, here[:, None] * scale, 0.0)
            rest = (graph.own[block, None] * delta).astype(np.float32)
            return wide.T @ delta, graph.x[block].T @ rest, delta.sum(axis=0), here @ h

        width = graph.x.shape[1]
        shapes: tuple[Any, ...] = ((width, HIDDEN), (width, HIDDEN), HIDDEN, HIDDEN)
        parts = [np.zeros(shape) for shape in shapes]
        for part in graph.over(back):
            for whole, own in zip(parts, part, strict=True):
                whole += own
        mixed, rest, bias, final = parts
        first = graph.kernel @ mixed + rest + np.outer(graph.total, bias)
        return loss, [first, bias, final, np.array([by_logit.sum()])]
