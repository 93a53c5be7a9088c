"""The MMCSAL and ActiveFT objectives: their terms and closed-form gradients, no autograd.

Letters as in the paper: θ (k, D) are the parameters, each modality's part of a row of unit length;
x (n, D) are the samples, likewise; c_i is the parameter that owns sample i. A product of rows is
the sum of M cosines, so ``sim / τ`` is ``sharpness · ⟨x_i, θ_j⟩`` with ``sharpness = 1 / (M τ)``.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from mmselect.arrays import Floats, Index, Rows
from mmselect.core.coverage.gains import all_products
from mmselect.core.scores.bernoulli import sigmoid
from mmselect.engine import SERIAL, Engine, compute_rows, ranges

Matrix: TypeAlias = NDArray[np.floating[Any]]
"""float32, or float64 where the tests want to see more digits."""

TILE = 512
"""Side of a tile of similarities between parameters."""

SUMMED = 2048
"""Samples that are added to the sums of their parameters together."""


@dataclass(frozen=True)
class Terms:
    """Value of the objective and of its three terms.

    Attributes
    ----------
    total : float
        With the paper's loss ``distribution - λ_div·diversity - λ_align·alignment``; with the
        code's loss ``J - λ_align·alignment``.
    distribution, diversity, alignment : float
        D, R and A of the paper, whichever the loss.
    """

    total: float
    distribution: float
    diversity: float
    alignment: float


@dataclass(frozen=True)
class Weights:
    """What the objective is made of; see :func:`mmselect.core.parametric.parametric`."""

    tau: float
    diversity: float
    alignment: float
    loss: Literal["paper", "code"]
    align_over_tau: bool
    offsets: tuple[int, ...]

    @property
    def modalities(self) -> int:
        """Number of modalities, M."""
        return len(self.offsets) - 1

    @property
    def sharpness(self) -> float:
        """``1 / (M τ)``: a sum of M cosines times it is the mean cosine over τ."""
        return 1.0 / (self.modalities * self.tau)


def value_and_gradient(
    x: Rows, theta: Matrix, owner: Index, sums: Matrix, weights: Weights, engine: Engine = SERIAL
) -> tuple[Terms, Matrix]:
    """Return the loss and its gradient with respect to every parameter, in the ambient space.

    ``L = D - λ_div R - λ_align A`` (Shen et al., MMCSAL, 2024, Eqs. 5-9; with λ_align = 0 Xie et
    al., ActiveFT, 2023), or ``J - λ_align A`` as ActiveFT's released code has it:

    - ``D = -(1/n) Σ_i sim(x_i, θ_{c_i}) / τ``
    - ``R = -(1/k) Σ_j log Σ_{l≠j} exp(sim(θ_j, θ_l) / τ)``
    - ``A`` = mean over ``j ≠ l`` and modalities ``a ≠ b`` of ``⟨θ_j^a, θ_l^b⟩ / τ``
    - ``J = (1/n) Σ_i softplus(log(λ_div S_{c_i}) - sim(x_i, θ_{c_i}) / τ)`` where
      ``S_c = Σ_l exp(sim(θ_l, θ_c) / τ)``, θ_l held constant

    Parameters
    ----------
    x : array, shape (n, D)
    theta : array, shape (k, D)
    owner : int array, shape (n,)
    sums : array, shape (k, D)
        Sum of the samples that each parameter owns.
    weights : Weights
    engine : Engine

    Returns
    -------
    Terms
    gradient : array, shape (k, D)

    Examples
    --------
    >>> x = np.eye(2)
    >>> weights = Weights(1.0, 1.0, 0.0, "paper", True, (0, 2))
    >>> terms, gradient = value_and_gradient(x, x, np.array([0, 1]), x, weights)
    >>> terms
    Terms(total=-1.0, distribution=-1.0, diversity=-0.0, alignment=0.0)
    """
    n, k = x.shape[0], len(theta)
    sharpness = weights.sharpness
    distribution = -sharpness / n * float(np.einsum("ij,ij->", sums, theta, dtype=np.float64))
    similar, logsum = _similarities(theta, sharpness, engine)
    diversity = -float(logsum.mean()) if k > 1 else 0.0
    if weights.loss == "paper":
        total = distribution - weights.diversity * diversity
        share = np.full(k, weights.diversity * sharpness / k)
        gradient = _pull(theta, similar, logsum, share, True, engine)
        _subtract(gradient, sums, sharpness / n)
    else:
        own = np.einsum("ij,ij->i", theta, theta, dtype=np.float64) * sharpness
        logsum = np.logaddexp(logsum, own)
        total, share, weighted = _code_loss(x, theta, owner, logsum, weights, engine)
        gradient = _pull(theta, similar, logsum, share * sharpness, False, engine)
        _subtract(gradient, weighted, sharpness)
    alignment = 0.0
    if weights.alignment and k > 1 and weights.modalities > 1:
        alignment = _alignment(theta, weights, gradient)
        total -= weights.alignment * alignment
    return Terms(total, distribution, diversity, alignment), gradient


def _similarities(theta: Matrix, sharpness: float, engine: Engine) -> tuple[Matrix, Floats]:
    """``sim(θ_j, θ_l)/τ``, -inf on the diagonal, and its log-sum-exp per row (k,).

    Sums and exponentials are taken in float64: a last bit that differs between processors would
    grow from step to step, until other samples are picked.
    """
    similar = all_products(theta, engine, TILE, wide=True)

    def logsumexp(rows: tuple[int, int]) -> Floats:
        block = similar[slice(*rows)]
        block *= sharpness
        block[np.arange(len(block)), np.arange(*rows)] = -np.inf
        top = block.max(axis=1, keepdims=True)
        total = np.exp((block - top).astype(np.float64)).sum(axis=1)
        logsum: Floats = top[:, 0] + np.log(total)
        return logsum

    if len(theta) == 1:
        return np.full_like(similar, -np.inf), np.array([-np.inf])
    blocks = ranges(0, len(theta), TILE)
    return similar, np.concatenate(list(engine.map(logsumexp, blocks)))


def _pull(
    theta: Matrix,
    similar: Matrix,
    logsum: Floats,
    share: Floats,
    symmetric: bool,
    engine: Engine,
) -> Matrix:
    """``share_j Σ_l (P_jl + P_lj) θ_l`` with ``P = exp(similar - logsum)``, or with P_jl alone.

    The log-sum-exp is part of the exponent, so nothing overflows whatever the temperature.
    """
    if len(theta) == 1:
        return np.zeros_like(theta)
    out, blocks = np.empty_like(theta), list(ranges(0, len(theta), TILE))

    def pull(rows: tuple[int, int]) -> None:
        part, total = slice(*rows), np.zeros((rows[1] - rows[0], theta.shape[1]))
        for start, stop in blocks:
            near = similar[part, start:stop].astype(np.float64)
            weight = np.exp(near - logsum[part, None])
            if symmetric:
                weight += np.exp(near - logsum[start:stop])
            total += weight @ theta[start:stop].astype(np.float64)
        out[part] = total * share[part, None]

    list(engine.map(pull, blocks))
    return out


def _subtract(gradient: Matrix, sums: Matrix, factor: float) -> None:
    """Subtract ``factor · sums`` in place, block after block, so that no third matrix is made."""
    for start, stop in ranges(0, len(gradient), compute_rows(gradient.shape[1])):
        gradient[start:stop] -= (factor * sums[start:stop]).astype(gradient.dtype)


def _code_loss(
    x: Rows,
    theta: Matrix,
    owner: Index,
    logsum: Floats,
    weights: Weights,
    engine: Engine,
) -> tuple[float, Floats, Floats]:
    """J, the mean of σ over each parameter's samples (over n), and the σ-weighted sums (over n)."""
    n, k = x.shape[0], len(theta)

    def excess(rows: tuple[int, int]) -> Floats:
        part = slice(*rows)
        own = np.einsum("ij,ij->i", x[part], theta[owner[part]], dtype=np.float64)
        block: Floats = logsum[owner[part]] - weights.sharpness * own
        return block

    blocks = ranges(0, n, compute_rows(x.shape[1]))
    u = np.concatenate(list(engine.map(excess, blocks))) + np.log(weights.diversity)
    sigma = sigmoid(u)
    share = np.bincount(owner, sigma, minlength=k) / n
    return float(np.logaddexp(0.0, u).mean()), share, owned_sums(x, owner, k, sigma / n)


def owned_sums(x: Rows, owner: Index, k: int, factors: Floats | None = None) -> Floats:
    """Sum of the samples of each parameter, times their factors, (k, D).

    Examples
    --------
    >>> owned_sums(np.array([[1.0], [2.0], [5.0]]), np.array([1, 0, 1]), 2).tolist()
    [[2.0], [6.0]]
    """
    from scipy.sparse import csr_array

    sums = np.zeros((k, x.shape[1]))
    factors = np.ones(x.shape[0]) if factors is None else factors
    for start, stop in ranges(0, x.shape[0], SUMMED):
        columns = np.arange(stop - start)
        ones = csr_array((factors[start:stop], (owner[start:stop], columns)), (k, stop - start))
        sums += ones.astype(x.dtype) @ x[start:stop]
    return sums


def _alignment(theta: Matrix, weights: Weights, gradient: Matrix) -> float:
    """Return A, and take its part off the gradient in place.

    In O(kD): the pairs j ≠ l are all pairs less those of a row with itself.
    """
    k, m = len(theta), weights.modalities
    parts, pulls = theta.reshape(k, m, -1), gradient.reshape(k, m, -1)
    tau = weights.tau if weights.align_over_tau else 1.0
    pairs = k * (k - 1) * m * (m - 1) * tau
    column = parts.sum(axis=0, dtype=np.float64)  # (m, d): Σ_j θ_j^a
    every = float((column.sum(axis=0) ** 2).sum() - (column**2).sum())
    others = (column.sum(axis=0) - column).astype(theta.dtype)
    factor = theta.dtype.type(2.0 * weights.alignment / pairs)
    for start, stop in ranges(0, k, compute_rows(theta.shape[1])):
        part = parts[start:stop]
        row = part.sum(axis=1)  # Σ_a θ_j^a
        every -= float(np.einsum("ij,ij->", row, row, dtype=np.float64))
        every += float(np.einsum("imj,imj->", part, part, dtype=np.float64))
        pulls[start:stop] -= factor * (others - (row[:, None] - part))
    return every / pairs


def tangent(theta: Matrix, vector: Matrix, offsets: tuple[int, ...]) -> None:
    """Project a vector on the tangent space, in place: per modality, off the parameter.

    A part that is zero (a sample without this modality) stays: its tangent space is zero.

    Examples
    --------
    >>> vector = np.array([[1.0, 2.0]])
    >>> tangent(np.array([[1.0, 0.0]]), vector, (0, 2))
    >>> vector
    array([[0., 2.]])
    """
    for start, stop in ranges(0, len(theta), compute_rows(theta.shape[1])):
        for left, right in pairwise(offsets):
            point, part = theta[start:stop, left:right], vector[start:stop, left:right]
            along = np.einsum("ij,ij->i", point, part, dtype=np.float64)
            part -= along[:, None].astype(part.dtype) * point
            part[np.einsum("ij,ij->i", point, point) == 0] = 0


def retract(theta: Matrix, offsets: tuple[int, ...]) -> None:
    """Bring every modality's part of every row back to unit length, in place; zero stays zero.

    Examples
    --------
    >>> theta = np.array([[3.0, 4.0, 0.0]])
    >>> retract(theta, (0, 2, 3))
    >>> theta
    array([[0.6, 0.8, 0. ]])
    """
    for start, stop in ranges(0, len(theta), compute_rows(theta.shape[1])):
        for left, right in pairwise(offsets):
            part = theta[start:stop, left:right]
            norms = np.sqrt(np.einsum("ij,ij->i", part, part, dtype=np.float64))
            part *= np.divide(1.0, norms, out=np.zeros_like(norms), where=norms > 0)[
                :, None
            ].astype(theta.dtype)
