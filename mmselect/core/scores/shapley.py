"""How much each modality contributes to a prediction: exact Shapley values (BMMAL, Sec. 3.4).

The players are the modalities, the payout V(S) of a coalition S is the probability of the
pseudo-class with only the modalities in S (Eq. 10;
:mod:`mmselect.core.scores.coalitions` computes it).
From contributions follow the dominance degree and the weights that balance the gradients.

Coalitions are numbered by their bits: coalition S holds modality m if bit m of S is set.
"""

from __future__ import annotations

from math import comb

import numpy as np

from mmselect.arrays import Array, Floats
from mmselect.core.presence import Mask
from mmselect.errors import ParameterError

MOST_MODALITIES = 12
"""2^12 coalitions of a sample are still quick; beyond it exact values are out of reach."""


def shapley_values(values: Array) -> Floats:
    """Shapley value of each modality from the values of all coalitions (Eq. 10).

    φ_m = Σ_{S ⊆ M∖m} |S|! (M−|S|−1)! / M! · [V(S∪m) − V(S)], so Σ φ_m = V(all) − V(∅).

    Parameters
    ----------
    values : (n, 2^M) ndarray
        Column S is coalition S, by bits.

    Returns
    -------
    (n, m) ndarray of float64

    Raises
    ------
    ParameterError
        If the columns are not 2^M for an M from 1 to 12.

    Examples
    --------
    >>> shapley_values(np.array([[0.5, 0.75, 0.5, 1.0]])).tolist()
    [[0.375, 0.125]]
    """
    columns = values.shape[-1]
    m = columns.bit_length() - 1
    if values.ndim != 2 or columns != 1 << m or not 1 <= m <= MOST_MODALITIES:
        raise ParameterError(f"values: expected 2 to 4096 coalitions, found {values.shape}")
    values = values.astype(np.float64, copy=False)
    # |S|! (M−|S|−1)! / M! = 1 / (M · C(M−1, |S|))
    share = np.array([1 / (m * comb(m - 1, s)) for s in range(m)])
    phi = np.empty((len(values), m))
    for player in range(m):
        without = np.array([s for s in range(columns) if not s >> player & 1])
        size = np.array([int(s).bit_count() for s in without])
        gain = values[:, without | 1 << player] - values[:, without]
        phi[:, player] = np.vecdot(np.ascontiguousarray(gain), share[size])
    return phi


def contributions(shapley: Array, has: Mask | None = None) -> Floats:
    """Contribution Φ_m = |φ_m| / Σ|φ| (Eq. 12); where all φ are 0, 1/M (our choice).

    Parameters
    ----------
    shapley : (n, m) ndarray
        0 where a sample lacks the modality.
    has : (n, m) ndarray of bool, optional
        Which modalities each sample has: the players are those alone, M counts them, and Φ of the
        others is 0. None: all.

    Returns
    -------
    (n, m) ndarray of float64
        Rows sum to 1.

    Examples
    --------
    >>> contributions(np.array([[0.3, -0.1], [0.0, 0.0]])).round(12).tolist()
    [[0.75, 0.25], [0.5, 0.5]]
    """
    size = np.abs(shapley, dtype=np.float64)
    # Division by the largest first: tiny values must not underflow in their sum.
    largest = size.max(axis=1, keepdims=True)
    even = np.ones_like(size) if has is None else has.astype(np.float64)
    size = np.divide(size, largest, out=even, where=largest > 0)
    return np.asarray(size / size.sum(axis=1, keepdims=True))


def dominance_degree(contribution: Array, has: Mask | None = None) -> Floats:
    """Dominance degree ρ = Σ_m (max Φ − Φ_m) = M max Φ − 1 (Eq. 5): 0 balanced, M − 1 at most.

    Parameters
    ----------
    contribution : (n, m) ndarray
        Rows sum to 1.
    has : (n, m) ndarray of bool, optional
        Which modalities each sample has; M counts those. None: all.

    Returns
    -------
    (n,) ndarray of float64

    Examples
    --------
    >>> dominance_degree(np.array([[0.75, 0.25], [0.5, 0.5]])).tolist()
    [0.5, 0.0]
    """
    top = contribution.max(axis=1, keepdims=True)
    return np.asarray((top - contribution).sum(axis=1, where=True if has is None else has))


def balance_weights(contribution: Array, has: Mask | None = None) -> Floats:
    """Weights w_m = 1 − (max Φ − Φ_m): Eq. 14 for two modalities, our choice for more.

    Parameters
    ----------
    contribution : (n, m) ndarray
    has : (n, m) ndarray of bool, optional
        Which modalities each sample has. None: all.

    Returns
    -------
    (n, m) ndarray of float64
        In [0, 1]; 1 for the strongest modality of each sample, 0 for one that it lacks.

    Examples
    --------
    >>> balance_weights(np.array([[0.75, 0.25], [0.5, 0.5]])).tolist()
    [[1.0, 0.5], [1.0, 1.0]]
    """
    weights = 1 - (contribution.max(axis=1, keepdims=True) - contribution)
    return np.asarray(weights if has is None else np.where(has, weights, 0.0))
