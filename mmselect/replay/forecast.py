"""How many more labels: a learning curve, fitted and drawn on.

The curve is that of PALM (Machnio, Nielsen and Mehdipour Ghazi, ICCV 2025), accuracy after x labels
A(x) = A_max (1 − (1 − δ)^((x / b + α)^β)). Four numbers from a handful of rounds cannot be told one
by one, so what is said of the labels still to come is an average over all curves of a grid, each
weighed by how well it fits the rounds: curves that have all but ended beside curves that go on.
"""

from __future__ import annotations

import math
from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares
from scipy.stats import norm

from mmselect.replay.comparison import ALIKE, INTERVAL, Curves

LEAST_ROUNDS = 4
"""Points that a fit of four numbers takes."""

REACHED = (np.arange(60) + 0.5) / 60
"""Shares of A_max that the last round has reached, all as likely beforehand."""

BETAS = np.linspace(0.3, 1.0, 15)
ALPHAS = (0.0, 0.05, 0.1, 0.2, 0.4, 0.8)
"""Shifts, as shares of the labels in the last round."""

MOST_DEGREES = 8
"""Degrees of freedom that the spread over seeds counts for at most: rounds are not independent."""

LEVELS = norm.ppf((np.arange(9) + 0.5) / 9)
"""Errors of the level that all rounds share, as quantiles of a standard normal."""

Array = NDArray[np.float64]


class Palm(NamedTuple):
    """The four numbers of the curve, and the batch that its labels are counted in."""

    most: float
    delta: float
    alpha: float
    beta: float
    batch: float


class Fit(NamedTuple):
    """Curves A (1 − exp(−k (x / last + α)^β)) with how likely each is."""

    most: Array
    k: Array
    alpha: Array
    beta: Array
    weight: Array
    last: float
    level: float
    """Standard error of the level."""


def curve(found: Palm, labels: Array) -> Array:
    """Accuracy after so many labels.

    Examples
    --------
    >>> curve(Palm(0.8, 0.5, 0.0, 1.0, 10.0), np.array([10.0, 20.0])).round(6).tolist()
    [0.4, 0.6]
    """
    power = (labels / found.batch + found.alpha) ** found.beta
    return np.asarray(found.most * (1 - (1 - found.delta) ** power))


@cache
def _grid() -> tuple[Array, Array, Array]:
    """Collect k, α and β of each curve of the grid; k from the share of A_max reached."""
    s, b, a = (x.ravel() for x in np.meshgrid(REACHED, BETAS, ALPHAS, indexing="ij"))
    return -np.log1p(-s) / (1 + a) ** b, a, b


def fit(labeled: Curves, accuracy: Curves) -> Fit | None:
    """Weigh all curves of the grid by how well they fit the mean over seeds.

    The level of each curve is the best one. Weights are a likelihood of Student's t: the variance
    of a point is unknown, and the spread of the seeds about their own levels says roughly what it
    is. No curve may end above 1.

    Parameters
    ----------
    labeled, accuracy : (s, r) array

    Returns
    -------
    Fit or None
        None for fewer than two seeds or four rounds with the start, and for seeds that are alike.
    """
    seeds, rounds = accuracy.shape
    if seeds < 2 or rounds < LEAST_ROUNDS or np.ptp(accuracy, axis=0).max() <= ALIKE:
        return None
    x, y = labeled.mean(axis=0), accuracy.mean(axis=0)
    k, a, b = _grid()
    shape = -np.expm1(-k[:, None] * (x / x[-1] + a[:, None]) ** b[:, None])
    best = shape @ y / np.square(shape).sum(axis=1)
    rss = np.square(best[:, None] * shape - y).sum(axis=1)
    level = accuracy.mean(axis=1)
    rest = accuracy - level[:, None]
    degrees = (seeds - 1) * (rounds - 1)
    noise = np.square(rest - rest.mean(axis=0)).sum() / degrees / seeds
    known = min(degrees, MOST_DEGREES)
    # the floor keeps a perfect fit of seeds that differ in level alone from a weight of infinity
    log = -(known + rounds - 1) / 2 * np.log(np.maximum(known * noise + rss, 1e-12))
    log = np.where(best > 1, -np.inf, log)
    if not np.isfinite(log.max()):
        return None
    weight = np.exp(log - log.max())
    kept = weight > 1e-6
    error = float(level.std(ddof=1)) / math.sqrt(seeds)
    share = weight[kept] / weight[kept].sum()
    return Fit(best[kept], k[kept], a[kept], b[kept], share, float(x[-1]), error)


def parameters(labeled: Curves, accuracy: Curves) -> Palm | None:
    """Fit the one curve that is nearest to the mean over seeds, by least squares.

    Returns
    -------
    Palm or None
        None where there is no fit.
    """
    found = fit(labeled, accuracy)
    if found is None:
        return None
    x, y = labeled.mean(axis=0), accuracy.mean(axis=0)
    i = int(found.weight.argmax())
    begin = [found.most[i], math.log(found.k[i]), max(found.alpha[i], 1e-3), found.beta[i]]

    def miss(p: Array) -> Array:
        power = np.exp(p[1]) * (x / x[-1] + p[2]) ** p[3]
        return np.asarray(-p[0] * np.expm1(-power) - y)

    bounds = ([0, -20, 0, BETAS[0]], [1, 20, 1, BETAS[-1]])
    low, high = (np.array(bound, float) for bound in bounds)
    most, log_k, alpha, beta = least_squares(
        miss, np.clip(begin, low + 1e-9, high - 1e-9), bounds=bounds, xtol=1e-12, ftol=1e-12
    ).x
    batch = float(x[1] - x[0])
    scale = batch / x[-1]  # from labels over the last to labels over the batch
    delta = -math.expm1(-math.exp(log_k) * scale**beta)
    return Palm(float(most), delta, float(alpha / scale), float(beta), batch)


def labels_for(
    found: Fit, target: float, confidence: float = INTERVAL
) -> tuple[float, float, float]:
    """How many labels an accuracy takes.

    Parameters
    ----------
    found : Fit
    target : float
    confidence : float
        Chance, by the weights, that the bounds hold it.

    Returns
    -------
    median, low, high : float
        Infinite where curves with that much weight end below the target.
    """
    goal = target - found.level * LEVELS[:, None]
    with np.errstate(divide="ignore", invalid="ignore"):
        left = np.where(goal < found.most, 1 - goal / found.most, np.nan)
        u = (-np.log(left) / found.k) ** (1 / found.beta) - found.alpha
    labels = np.where(np.isnan(left), np.inf, np.maximum(u, 0) * found.last).ravel()
    order = np.argsort(labels, kind="stable")
    share = np.cumsum(np.tile(found.weight, len(LEVELS))[order]) / len(LEVELS)
    tail = (1 - confidence) / 2
    places = np.minimum(np.searchsorted(share, [0.5, tail, 1 - tail]), len(labels) - 1)
    median, low, high = labels[order[places]].tolist()
    return median, low, high
