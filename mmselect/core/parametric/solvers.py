"""Two solvers of the same objective: Adam as published, and Riemannian L-BFGS.

Both move parameters on a product of spheres: each modality's part of each parameter has unit
length. `evaluate` gives the objective's terms and the gradient in the ambient space.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from math import cos, pi
from typing import NamedTuple

import numpy as np

from mmselect.arrays import Singles
from mmselect.core.parametric.objective import Matrix, Terms, retract, tangent
from mmselect.engine import compute_rows, ranges

Evaluate = Callable[[Singles], tuple[Terms, Matrix]]

BETAS, EPSILON = (0.9, 0.999), 1e-8
LAST_RATE = 1e-6
"""Where the cosine schedule ends."""

MEMORY, PAIR_BYTES = 10, 128 << 20
"""Pairs of steps and gradient changes that L-BFGS remembers, and what more than 3 may take."""

ARMIJO, HALVINGS = 1e-4, 12


class Descent(NamedTuple):
    """What is lowered, on which spheres, in how many steps, and who is told of each."""

    evaluate: Evaluate
    offsets: tuple[int, ...]
    steps: int
    watch: Callable[[int], None] = lambda _step: None

    def at(self, theta: Singles) -> tuple[Terms, Matrix]:
        """Terms of the objective, and its gradient in the tangent space."""
        terms, gradient = self.evaluate(theta)
        tangent(theta, gradient, self.offsets)
        return terms, gradient


def adam(theta: Singles, descent: Descent, rate: float) -> list[Terms]:
    """Adam with a cosine schedule, in place; the gradient is projected, the result normalised.

    Kingma and Ba (2015), betas 0.9 and 0.999. Step t = 0 … steps-1 has the rate
    ``1e-6 + (rate - 1e-6) (1 + cos(π t / steps)) / 2``.

    Returns
    -------
    list of Terms
        Before each step, and after the last.

    Examples
    --------
    >>> theta, goal = np.array([[1.0, 0.0]], dtype=np.float32), np.array([[0.0, 1.0]])
    >>> def evaluate(theta):
    ...     value = -float((goal * theta).sum())
    ...     return Terms(value, value, 0.0, 0.0), -goal.astype(np.float32)
    >>> history = adam(theta, Descent(evaluate, (0, 2), 100), 0.1)
    >>> len(history), round(history[-1].total, 2)
    (101, -1.0)
    """
    first, second = np.zeros_like(theta), np.zeros_like(theta)
    history: list[Terms] = []
    for step in range(steps := descent.steps):
        terms, gradient = descent.at(theta)
        history.append(terms)
        descent.watch(step)
        now = LAST_RATE + (rate - LAST_RATE) * (1 + cos(pi * step / steps)) / 2
        corrections = (1 - BETAS[0] ** (step + 1), 1 - BETAS[1] ** (step + 1))
        for a, b in ranges(0, len(theta), compute_rows(theta.shape[1])):
            _adam_step(theta[a:b], gradient[a:b], first[a:b], second[a:b], now, corrections)
        retract(theta, descent.offsets)
    history.append(descent.evaluate(theta)[0])
    descent.watch(steps)
    return history


def _adam_step(
    theta: Singles,
    gradient: Matrix,
    first: Singles,
    second: Singles,
    rate: float,
    corrections: tuple[float, float],
) -> None:
    first *= np.float32(BETAS[0])
    first += np.float32(1 - BETAS[0]) * gradient
    second *= np.float32(BETAS[1])
    gradient *= gradient
    second += np.float32(1 - BETAS[1]) * gradient
    spread = np.sqrt(second) * np.float32(corrections[1] ** -0.5)
    spread += np.float32(EPSILON)
    theta -= np.float32(rate / corrections[0]) * first / spread


def lbfgs(
    theta: Singles, descent: Descent, rates: Callable[[], Singles], tolerance: float
) -> list[Terms]:
    """Limited-memory BFGS on the product of spheres, in place.

    Pairs are carried along by projection on the new tangent space, steps retracted by
    normalisation, their length halved until the loss falls as Armijo asks. `rates` gives a first
    guess of each parameter's inverse curvature, (k, 1), where the objective was last evaluated; the
    pairs correct it. Ends after the steps of `descent`, when three steps together gain less than
    `tolerance`, or when no step length helps.

    Returns
    -------
    list of Terms
        At the start and after each step.

    Examples
    --------
    >>> theta, goal = np.array([[0.8, 0.6]], dtype=np.float32), np.array([[0.0, 1.0]])
    >>> def evaluate(theta):
    ...     value = -float((goal * theta).sum())
    ...     return Terms(value, value, 0.0, 0.0), -goal.astype(np.float32)
    >>> rates = lambda: np.ones((1, 1), dtype=np.float32)
    >>> history = lbfgs(theta, Descent(evaluate, (0, 2), 20), rates, 1e-9)
    >>> round(history[-1].total, 4)
    -1.0
    """
    kept = min(MEMORY, max(3, PAIR_BYTES // (8 * theta.size)))
    pairs: deque[tuple[Matrix, Matrix, float]] = deque(maxlen=kept)
    terms, gradient = descent.at(theta)
    history = [terms]
    descent.watch(0)
    while len(history) <= descent.steps:
        direction = _direction(gradient, pairs, rates())
        slope = _dot(direction, gradient)
        if not slope < 0:
            pairs.clear()
            direction = _direction(gradient, pairs, rates())
            slope = _dot(direction, gradient)
        found = _search(theta, direction, slope, terms.total, descent)
        if found is None:
            if not pairs:
                break
            pairs.clear()  # the curvature estimate failed: restart from the preconditioned gradient
            continue
        length, new, terms, fresh = found
        change, step = fresh.copy(), direction
        tangent(new, gradient, descent.offsets)
        change -= gradient
        step *= np.float32(length)
        theta[:] = new
        _remember(pairs, theta, step, change, descent.offsets)
        gradient = fresh
        history.append(terms)
        descent.watch(len(history) - 1)
        if len(history) > 3 and history[-4].total - terms.total < tolerance:
            break
    return history


def _search(
    theta: Singles, direction: Matrix, slope: float, value: float, descent: Descent
) -> tuple[float, Singles, Terms, Matrix] | None:
    """Halve the step until the loss falls as Armijo asks; None if it never does."""
    length = 1.0
    for _ in range(HALVINGS):
        new = theta + np.float32(length) * direction
        retract(new, descent.offsets)
        terms, gradient = descent.at(new)
        if terms.total <= value + ARMIJO * length * slope:
            return length, new, terms, gradient
        length /= 2
    return None


def _remember(
    pairs: deque[tuple[Matrix, Matrix, float]],
    theta: Singles,
    step: Matrix,
    change: Matrix,
    offsets: tuple[int, ...],
) -> None:
    """Carry the pairs to the new tangent space, add one, and keep those of positive curvature."""
    tangent(theta, step, offsets)
    for old_step, old_change, _ in pairs:
        tangent(theta, old_step, offsets)
        tangent(theta, old_change, offsets)
    pairs.append((step, change, 0.0))
    products = [(s, y, _dot(s, y)) for s, y, _ in pairs]
    pairs.clear()
    pairs.extend(pair for pair in products if pair[2] > 1e-10 * _dot(pair[1], pair[1]))


def _direction(
    gradient: Matrix, pairs: deque[tuple[Matrix, Matrix, float]], rates: Singles
) -> Matrix:
    """Two-loop recursion (Nocedal, 1980), from a diagonal first guess."""
    direction = -gradient
    factors = []
    for step, change, product in reversed(pairs):
        factor = _dot(step, direction) / product
        direction -= np.float32(factor) * change
        factors.append(factor)
    direction *= rates
    if pairs:
        _, change, product = pairs[-1]
        direction *= np.float32(product / _dot(change, rates * change))
    for (step, change, product), factor in zip(pairs, reversed(factors), strict=True):
        direction += np.float32(factor - _dot(change, direction) / product) * step
    return direction


def _dot(a: Matrix, b: Matrix) -> float:
    blocks = ranges(0, len(a), compute_rows(a.shape[1]))
    return sum(float(np.einsum("ij,ij->", a[p:q], b[p:q], dtype=np.float64)) for p, q in blocks)
