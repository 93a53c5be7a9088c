"""Which differences between strategies are more than noise.

Every strategy starts from the same samples for the same seed, so seeds are paired: differences are
taken within a seed, and intervals and tests are those of Student's t over the seeds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student

INTERVAL = 0.95
"""Confidence of the intervals."""

TEST = 0.9
"""Confidence of the two-sided tests behind the matrix of wins, as in BMMAL's Fig. 5."""

ALIKE = 1e-12
"""Seeds that differ by no more are copies: what is left are last digits."""

FINE = 2001
"""Label counts at which curves are compared, from the first to the last."""

Curves = NDArray[np.float64]


def area(labeled: Curves, accuracy: Curves) -> NDArray[np.float64]:
    """Area under each learning curve, over its width: the mean accuracy on the way.

    Parameters
    ----------
    labeled : (s, r) array
        Labeled samples after each round.
    accuracy : (s, r) array

    Returns
    -------
    (s,) array of float64

    Examples
    --------
    >>> area(np.array([[10, 20, 40]]), np.array([[0.2, 0.4, 0.5]])).round(6).tolist()
    [0.4]
    """
    width = labeled[:, -1] - labeled[:, 0]
    return np.asarray(np.trapezoid(accuracy, labeled, axis=1) / np.where(width > 0, width, 1))


def labels_to_reach(labeled: Curves, accuracy: Curves, target: float) -> float:
    """Find how many labels one curve needs to reach an accuracy first; nan if it does not.

    Parameters
    ----------
    labeled, accuracy : (r,) array
    target : float

    Examples
    --------
    >>> labels_to_reach(np.array([10, 20]), np.array([0.2, 0.4]), 0.3)
    15.0
    >>> labels_to_reach(np.array([10, 20]), np.array([0.2, 0.4]), 0.5)
    nan
    """
    there = np.flatnonzero(accuracy >= target)
    if not len(there):
        return math.nan
    i = int(there[0])
    if i == 0:
        return float(labeled[0])
    share = (target - accuracy[i - 1]) / (accuracy[i] - accuracy[i - 1])
    return float(labeled[i - 1] + share * (labeled[i] - labeled[i - 1]))


def labels_interval(
    labeled: Curves, accuracy: Curves, level: NDArray[np.float64], confidence: float = INTERVAL
) -> tuple[float, float]:
    """Bounds of the labels after which curves are as accurate as a level of each seed.

    All label counts that a paired t-test over seeds does not refuse: where the accuracy of the
    curve, drawn straight between rounds, less the level has an interval that holds 0.

    Parameters
    ----------
    labeled, accuracy : (s, r) array
    level : (s,) array
    confidence : float

    Returns
    -------
    low, high : float
        `low` is the last count where even that is refused as too few; `high` is infinite where the
        last count may be too few. nan for one seed and for seeds that are alike.

    Examples
    --------
    >>> labeled = np.array([[0, 100]] * 3)
    >>> accuracy = np.array([[0.0, 1.0], [0.02, 1.02], [-0.02, 0.98]])
    >>> [round(x) for x in labels_interval(labeled, accuracy, np.full(3, 0.5))]
    [45, 55]
    """
    grid = np.linspace(labeled[:, 0].mean(), labeled[:, -1].mean(), FINE)
    lines = [np.interp(grid, x, y) for x, y in zip(labeled, accuracy, strict=True)]
    values = np.array(lines) - level[:, None]
    s = len(values)
    if s < 2 or np.ptp(values, axis=0).max() <= ALIKE:
        return math.nan, math.nan
    mean, spread = values.mean(axis=0), values.std(axis=0, ddof=1)
    half = float(student.ppf(0.5 + confidence / 2, s - 1)) * spread / math.sqrt(s)
    enough, few = np.flatnonzero(mean + half >= 0), np.flatnonzero(mean - half <= 0)
    low = float(grid[enough[0] if len(enough) else -1])
    if not len(few):
        return low, float(grid[0])
    return low, float(grid[few[-1] + 1]) if few[-1] + 1 < FINE else math.inf


def joint_confidence(comparisons: int) -> float:
    """Confidence of each of several intervals that hold all at once with `INTERVAL` (Bonferroni).

    Examples
    --------
    >>> round(joint_confidence(1), 6), round(joint_confidence(5), 6)
    (0.95, 0.99)
    """
    return 1 - (1 - INTERVAL) / max(comparisons, 1)


def interval(
    values: NDArray[np.float64], confidence: float = INTERVAL
) -> tuple[float, float, float]:
    """Mean of values over seeds, and the interval of its Student's t.

    The bounds are nan for one seed, and where all seeds give one value other than 0: they are
    copies then, as for deterministic strategies that start alike, and say nothing about chance.

    Parameters
    ----------
    values : (s,) array
    confidence : float

    Returns
    -------
    mean, low, high : float

    Examples
    --------
    >>> [round(x, 3) for x in interval(np.array([1.0, 2.0, 3.0]))]
    [2.0, -0.484, 4.484]
    """
    mean, s = float(values.mean()), len(values)
    if s < 2 or (abs(mean) > ALIKE and np.ptp(values) <= ALIKE):
        return mean, math.nan, math.nan
    half = float(student.ppf(0.5 + confidence / 2, s - 1) * values.std(ddof=1) / math.sqrt(s))
    return mean, mean - half, mean + half


def band(values: Curves) -> Curves:
    """Mean and bounds over seeds of each round, (3, r); for one seed the bounds are the curve.

    Examples
    --------
    >>> band(np.array([[0.5, 0.6]])).tolist()
    [[0.5, 0.6], [0.5, 0.6], [0.5, 0.6]]
    """
    found = np.array([interval(column) for column in values.T]).T
    return np.where(np.isnan(found), found[0], found)


def wins(ours: Curves, theirs: Curves, confidence: float = TEST) -> float:
    """Share of the rounds in which one strategy is significantly better than another.

    BMMAL's P_ij (Sec. 5, Fig. 5) for one setting: 1/L for each of the L rounds in which the
    two-sided t-test over seeds says so.

    Parameters
    ----------
    ours, theirs : (s, L) array
        A measure for each seed and round; larger is better. Rounds after the start only.

    Returns
    -------
    float
        From 0 to 1; nan for one seed. By chance alone (1 − confidence) / 2 is expected.

    Examples
    --------
    >>> ours = np.array([[0.5, 0.6], [0.6, 0.6], [0.5, 0.5]])
    >>> wins(ours, ours - [[0.1, 0.1], [0.11, -0.1], [0.12, 0.0]])
    0.5
    """
    if len(ours) < 2:
        return math.nan
    low = [interval(column, confidence)[1] for column in (ours - theirs).T]
    return float(np.mean([bound > 0 for bound in low]))


def beaten(matrix: Sequence[Sequence[float]]) -> list[float]:
    """Bottom row of BMMAL's Fig. 5: how often a column's strategy is beaten, over the other rows.

    Examples
    --------
    >>> beaten([[0.0, 0.5, 1.0], [0.0, 0.0, 0.5], [0.25, 0.0, 0.0]])
    [0.125, 0.25, 0.75]
    """
    values, others = np.array(matrix, float), max(len(matrix) - 1, 1)
    return [float((column.sum() - column[j]) / others) for j, column in enumerate(values.T)]
