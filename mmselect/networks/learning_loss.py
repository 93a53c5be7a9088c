"""Learning loss: a network that learns which samples have the larger loss.

Yoo and Kweon, *Learning Loss for Active Learning*, CVPR 2019.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from scipy.special import log_softmax
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn

from mmselect.arrays import Array, Floats, Index, Singles, check_labels
from mmselect.core.limits import check_limits
from mmselect.engine import Progress, blas_threads, ranges
from mmselect.errors import SelectionError
from mmselect.networks.inputs import BLOCK, Inputs
from mmselect.networks.training import (
    adam,
    batches,
    check_sound,
    count_steps,
    descend,
    layers,
    on_threads,
    tensor,
)

HIDDEN = 128
"""Units that see one modality."""

MARGIN = 1.0
"""ξ: how far apart the predictions of a pair should be."""

RATE, DECAY = 1e-3, 5e-4
"""Learning rate and weight decay of Adam."""

EPOCHS, STEPS = 200, 1000
"""Passes over the labeled rows, and most steps."""

FOLDS = 5
PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
"""scikit-learn's C of the linear head, strongest penalty first; the held-out rows choose."""

ITERATIONS, TOLERANCE = 100, 1e-3
"""Where a fit ends: of its losses only the order counts."""


class Losses(NamedTuple):
    """What :func:`learning_loss` returns.

    Attributes
    ----------
    predicted : (u,) ndarray of float64
        Of each candidate, without a unit: larger = more loss.
    targets : (l,) ndarray of float64
        Held-out cross-entropy of each labeled row; inf where no other row has its class.
    losses : list of float
        Of the training, in each step.
    """

    predicted: Floats
    targets: Floats
    losses: list[float]


def learning_loss(
    data: Inputs,
    labels: Index,
    rng: np.random.Generator,
    *,
    epochs: int = EPOCHS,
    steps: int = STEPS,
    progress: Progress | None = None,
) -> Losses:
    """Predict which candidates have the larger loss.

    Each modality goes through a layer of 128 ReLU units, side by side they go through one more. The
    rows of a batch are paired, i with B − 1 − i, and the loss of a pair is
    ``max(0, ξ − sgn(l_i − l_j)(l̂_i − l̂_j))``, ξ = 1 (Eq. 2). l is the cross-entropy of a linear
    head that was fitted without the row (:func:`held_out_losses`): the losses of the fused head
    itself say nothing, as it has fitted these rows. Trained on one thread.

    Parameters
    ----------
    data : Inputs
        Of labeled rows and candidates: :func:`~mmselect.networks.inputs.inputs_of`.
    labels : (l,) ndarray of int
        Classes of the labeled rows, from 0; at least two of them.
    rng : numpy.random.Generator
        For folds, weights and batches.
    epochs : int
        Passes over the labeled rows, in batches of 128.
    steps : int
        No more steps than this; 0: no bound.
    progress : callable, optional
        Told the steps done.

    Returns
    -------
    Losses

    Raises
    ------
    ParameterError
        If `epochs` or `steps` is out of range (:mod:`mmselect.core.limits`).
    SelectionError
        If labeled rows are not of two classes.
    DataError
        If a labeled row has no class.

    Examples
    --------
    >>> from mmselect.networks.inputs import inputs_of
    >>> x = {"x": np.random.default_rng(0).normal(size=(30, 4))}
    >>> labels = np.arange(10) % 2
    >>> data = inputs_of(x, labeled=np.arange(10))
    >>> found = learning_loss(data, labels, np.random.default_rng(0), epochs=3)
    >>> found.predicted.shape, found.targets.shape
    ((20,), (10,))
    """
    check_limits(epochs=epochs, steps=steps)
    check_labels(labels, data.rows[data.labeled])
    count = count_steps(len(labels), epochs, steps)
    with on_threads():
        targets = held_out_losses(data.x[data.labeled], labels, rng)
        network = _Network.draw(data.edges, rng)
        losses = list(network.train(data, targets, rng, count, progress))
        return Losses(network.predict(data), targets, losses)


def held_out_losses(x: Singles, labels: Index, rng: np.random.Generator) -> Floats:
    """Cross-entropy of each labeled row under a linear head fitted without it.

    Multinomial logistic regression on the other four of five random folds, with the penalty of
    :data:`PENALTIES` that has the smallest mean: from the strongest on, until it grows.

    Parameters
    ----------
    x : (l, D) ndarray of float32
    labels : (l,) ndarray of int
    rng : numpy.random.Generator
        For the folds.

    Returns
    -------
    (l,) ndarray of float64
        inf where the other folds lack the class.

    Raises
    ------
    SelectionError
        If all rows are of one class.

    Examples
    --------
    >>> x = np.array([[-1.0], [1.0]] * 5, np.float32)
    >>> x[9] = -1
    >>> held_out_losses(x, np.arange(10) % 2, np.random.default_rng(0)).argmax()
    np.int64(9)
    """
    if len(np.unique(labels)) < 2:
        expected = "expected labeled samples of at least 2 classes"
        raise SelectionError(f"{expected}, to learn what a loss is, found 1 class")
    fold = rng.permutation(len(labels)) % FOLDS
    best, best_mean = np.zeros(len(labels)), np.inf
    with blas_threads():
        for penalty in PENALTIES:
            loss = _cross_validated(x, labels, fold, penalty)
            finite = np.isfinite(loss)
            mean = loss[finite].mean() if finite.any() else 0.0
            if mean >= best_mean:
                break
            best, best_mean = loss, mean
    return best


def _cross_validated(x: Singles, labels: Index, fold: Index, penalty: float) -> Floats:
    loss = np.full(len(labels), np.inf)
    for held in (fold == f for f in np.unique(fold)):
        known = np.unique(labels[~held])
        able = held & np.isin(labels, known)
        if not able.any():
            continue
        if len(known) < 2:
            loss[able] = 0.0  # the head knows this class alone
            continue
        head = LogisticRegression(C=penalty, tol=TOLERANCE, max_iter=ITERATIONS)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "The number of unique classes", UserWarning)
            warnings.filterwarnings("ignore", "lbfgs failed to converge")
            head.fit(x[~held], labels[~held])
        f = np.asarray(head.decision_function(x[able]), np.float64)
        f = np.stack([-f / 2, f / 2], axis=1) if f.ndim == 1 else f
        own = np.searchsorted(known, labels[able])
        loss[able] = -log_softmax(f, axis=1)[np.arange(len(own)), own]
    return loss


def ranking_loss(predicted: Tensor, targets: Tensor) -> Tensor:
    """Mean hinge of the pairs (i, B − 1 − i) of a batch; of an odd one the last row has no partner.

    Parameters
    ----------
    predicted, targets : (b,) Tensor
        Only the order of the targets counts, so they may be infinite.

    Returns
    -------
    Tensor

    Examples
    --------
    >>> ranking_loss(torch.tensor([3.0, 0.5, 1.0, 2.0]), torch.tensor([4.0, 2.0, 1.0, 1.0]))
    tensor(0.7500)
    """
    half = len(predicted) // 2
    ahead, behind = predicted[:half], predicted[: 2 * half].flip(0)[:half]
    first, second = targets[:half], targets[: 2 * half].flip(0)[:half]
    sign = (first > second).float() - (first < second).float()
    return (MARGIN - sign * (ahead - behind)).clamp(min=0).mean()


class _Network(NamedTuple):
    """The network: one layer for each modality, and one on all of them.

    Attributes
    ----------
    edges : list of int
        Where each modality's columns begin, and the width of all.
    eyes : list of torch.nn.Module
    last : torch.nn.Module
    """

    edges: list[int]
    eyes: list[nn.Module]
    last: nn.Module

    @classmethod
    def draw(cls, edges: list[int], rng: np.random.Generator) -> _Network:
        eyes: list[nn.Module] = [layers(rng, b - a, HIDDEN) for a, b in pairwise(edges)]
        return cls(edges, eyes, layers(rng, HIDDEN * len(eyes), 1))

    def __call__(self, x: Array) -> Tensor:
        parts = [
            eye(tensor(x[:, a:b]))
            for eye, (a, b) in zip(self.eyes, pairwise(self.edges), strict=True)
        ]
        return self.last(torch.cat(parts, dim=1).relu())[:, 0]

    def train(
        self,
        data: Inputs,
        targets: Floats,
        rng: np.random.Generator,
        steps: int,
        progress: Progress | None,
    ) -> Iterator[float]:
        """Take steps downhill; the loss before each."""
        optimizer = adam(*self.eyes, self.last, rate=RATE, decay=DECAY)
        drawn = batches(np.arange(len(targets)), rng)
        for step in range(1, steps + 1):
            rows = next(drawn)
            predicted = self(data.x[data.labeled[rows]])
            loss = float(descend(optimizer, ranking_loss(predicted, tensor(targets[rows]))))
            check_sound((loss,), step)
            if progress:
                progress(step, steps)
            yield loss

    @torch.no_grad()
    def predict(self, data: Inputs) -> Floats:
        """Predictions for the candidates, in blocks of a fixed size."""
        found = np.empty(len(data.candidates))
        for start, stop in ranges(0, len(found), BLOCK):
            found[start:stop] = self(data.x[data.candidates[start:stop]]).numpy()
        return found
