"""What a number of seeds can tell: the power of the paired t-test over seeds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.stats import chi2, norm
from scipy.stats import t as student

from mmselect.replay.comparison import ALIKE, INTERVAL, interval

POWER = 0.8
"""Chance with which so many seeds as are named tell a difference that is there from noise."""

MOST_SEEDS = 1000
"""Seeds above which two strategies count as equal."""

QUANTILES = 2000
"""Of the spread that a test estimates, over which its power is averaged."""


def power(effect: float, seeds: int, confidence: float = INTERVAL) -> float:
    """Chance that the two-sided paired t-test finds a difference that is there.

    The statistic is (Z + δ) / S with Z normal and S² a scaled chi-squared; the mean over S of what
    is left, a normal tail, is taken at 2,000 quantiles of S.

    Parameters
    ----------
    effect : float
        Mean difference over the standard deviation of the differences.
    seeds : int
        At least 2.
    confidence : float
        1 less the level of the test.

    Examples
    --------
    >>> round(power(0.5, 34), 3), round(power(0.0, 34), 3)
    (0.808, 0.05)
    """
    degrees, shift = seeds - 1, effect * math.sqrt(seeds)
    spread = np.sqrt(chi2.ppf((np.arange(QUANTILES) + 0.5) / QUANTILES, degrees) / degrees)
    least = student.ppf(0.5 + confidence / 2, degrees) * spread
    return float(np.mean(norm.sf(least - shift) + norm.cdf(-least - shift)))


def more_seeds(differences: NDArray[np.float64], confidence: float = INTERVAL) -> float:
    """Count the seeds to play besides those played until the test would likely tell a difference.

    That is, with a chance of 80 % if the true difference and its spread are those seen so far.

    Parameters
    ----------
    differences : (s,) array
        Paired, one of each seed.
    confidence : float
        Of the interval that is to leave out 0.

    Returns
    -------
    float
        0 where the interval leaves out 0 already; nan where nothing can be said: one seed, or
        seeds that are alike; infinity where more than 1,000 seeds would not do.

    Examples
    --------
    >>> more_seeds(np.array([0.1, -0.05, 0.04, 0.06, -0.02]))
    40.0
    """
    mean, low, high = interval(differences, confidence)
    played = len(differences)
    if math.isnan(low) or np.ptp(differences) <= ALIKE:
        return math.nan
    if low > 0 or high < 0:
        return 0.0
    effect = abs(mean) / float(differences.std(ddof=1))
    if power(effect, MOST_SEEDS, confidence) < POWER:
        return math.inf
    few, enough = played, MOST_SEEDS
    while enough - few > 1:
        middle = (few + enough) // 2
        few, enough = (
            (few, middle) if power(effect, middle, confidence) >= POWER else (middle, enough)
        )
    return float(enough - played)


@cache
def visible_effect(seeds: int, confidence: float = INTERVAL) -> float:
    """Find the smallest effect that so many seeds tell from 0 with a chance of 80 %.

    Parameters
    ----------
    seeds : int
        At least 2.
    confidence : float
        Of the interval that is to leave out 0.

    Returns
    -------
    float
        A mean difference over the standard deviation of the differences.

    Examples
    --------
    >>> round(visible_effect(5), 2), round(visible_effect(34), 2)
    (1.68, 0.5)
    """
    most = 1.0
    while power(most, seeds, confidence) < POWER:
        most *= 2
    return float(brentq(lambda effect: power(effect, seeds, confidence) - POWER, 0, most))


def visible(
    differences: Sequence[NDArray[np.float64]], seeds: int, confidence: float = INTERVAL
) -> float:
    """Find the smallest difference that so many seeds tell from 0 with a chance of 80 %.

    Parameters
    ----------
    differences : sequence of (s,) array
        Paired, one of each seed: how they spread over seeds is what counts. Where there are
        several pairs their variances are averaged.
    seeds : int
        At least 2; other than s where more are to be played.
    confidence : float
        Of the interval that is to leave out 0.

    Returns
    -------
    float
        nan where nothing can be said: one seed, or seeds that are alike.

    Examples
    --------
    >>> round(visible([np.array([0.1, -0.05, 0.04, 0.06, -0.02])], 5), 3)
    0.102
    """
    spread = [float(d.var(ddof=1)) for d in differences if len(d) > 1 and np.ptp(d) > ALIKE]
    if not spread or seeds < 2:
        return math.nan
    return visible_effect(seeds, confidence) * math.sqrt(float(np.mean(spread)))
