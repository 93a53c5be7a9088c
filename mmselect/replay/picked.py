"""Whether a strategy picks what heads find easy or hard (MMCSAL, Figs. 3 to 5).

The paper ranks samples by the mean probability of their true class while a model is trained on all
labels. Here the heads of the rounds rank them, and only those that were not fitted on the sample:
what a head has learned by heart looks easy to it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

BINS = 5
"""Groups of equal size, from the least to the most confident samples, as in the paper."""

FINE = 1000
"""Ranks are kept in thousandths."""


def truth_ranks(chances: NDArray[np.float64], known: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Rank the samples that a model was not trained on by the probability of their true class.

    Parameters
    ----------
    chances : (u,) array
        That probability, of those samples alone.
    known : (n,) boolean array
        What the model was trained on; the other u are those.

    Returns
    -------
    (n,) array of int64
        From 0 (least probable) to 1,000, equal ones alike; -1 for what it was trained on.

    Examples
    --------
    >>> truth_ranks(np.array([0.2, 0.4]), np.array([True, False, False])).tolist()
    [-1, 250, 750]
    """
    found = np.full(len(known), -1, np.int64)
    # rounded: the last digits of a probability are no order
    place = rankdata(np.round(chances, 9)) - 0.5
    found[~known] = np.rint(FINE * place / max(len(chances), 1)).astype(np.int64)
    return found


def confidence_bins(
    runs: Sequence[Any], names: Sequence[str], first: int
) -> dict[str, list[float]]:
    """Share of a strategy's picks in each fifth of the samples, from least to most confident.

    A sample's confidence is its mean rank over the heads of all strategies and rounds of a seed
    that were not fitted on it, so that all strategies of a seed are measured alike.

    Parameters
    ----------
    runs : sequence of Run
    names : sequence of str
        Strategies.
    first : int
        The first batch that counts: 1 where all strategies share the start.

    Returns
    -------
    dict
        Five shares per strategy, means over the seeds; empty where runs were stored without ranks.
    """
    if not runs or any(run.ranks is None for run in runs):
        return {}
    shares: dict[str, list[NDArray[np.float64]]] = {name: [] for name in names}
    for seed in dict.fromkeys(run.seed for run in runs):
        some = [run for run in runs if run.seed == seed]
        heads = np.sum([run.heads for run in some], axis=0)
        known = np.flatnonzero(heads)
        mean = np.sum([run.ranks for run in some], axis=0)[known] / heads[known]
        place = (rankdata(mean) - 0.5) / max(len(known), 1)
        group = np.full(len(heads), -1)
        group[known] = np.minimum((BINS * place).astype(int), BINS - 1)
        for run in some:
            found = group[[row for batch in run.picks[first:] for row in batch]]
            counts = np.bincount(found[found >= 0], minlength=BINS)
            shares[run.strategy].append(counts / max(counts.sum(), 1))
    return {name: np.mean(values, axis=0).tolist() for name, values in shares.items()}
