"""The uncertainty indicator of SRAAL, a score in its own right."""

from __future__ import annotations

import numpy as np

from mmselect.arrays import Array, Floats
from mmselect.core.scores.softmax import check_logits


def sraal_indicator(logits: Array) -> Floats:
    """How unsure a prediction is, by its variance over the classes (SRAAL).

    ``U = 1 − (MinVar / Var) · m`` with m = max p, Var the variance of p over the classes, and
    MinVar the smallest variance that a distribution with this maximum can have, the rest being
    spread evenly (Zhang et al., *State-Relabeling Adversarial Active Learning*, CVPR 2020, Eqs.
    6-7). With S the sum of squares of the other classes' probabilities around their own mean, this
    is ``(S + V (1 − m)) / (S + V)``, V = c MinVar: sums of positive terms, in which nothing cancels
    where the head is certain. Computed from logits in float64.

    Parameters
    ----------
    logits : (n, c) ndarray of float16, float32 or float64
        ``-inf`` masks a class.

    Returns
    -------
    (n,) ndarray of float64
        0 where p is one-hot, 1 − 1/c where it is uniform (the limit of 0/0).

    Raises
    ------
    DataError
        For rows with nan or +inf, or of -inf alone.

    Examples
    --------
    >>> sraal_indicator(np.array([[0.0, 0.0, 0.0, 0.0], [0.0, 999.0, 0.0, 0.0]])).tolist()
    [0.75, 0.0]
    """
    n, c = logits.shape
    if c < 2 or not n:
        return np.zeros(n)
    f = logits.astype(np.float64)
    y = f.argmax(axis=1)[:, None]
    top = np.take_along_axis(f, y, axis=1)
    check_logits(top[:, 0])
    below = f - top
    e = np.exp(below)
    np.put_along_axis(e, y, 0.0, axis=1)
    rest = e.sum(axis=1)
    # Near the uniform distribution all exponentials are near 1: their distance to 1 has the digits.
    even = below.min(axis=1) > -1
    e[even] = np.expm1(below[even])
    mean = e.sum(axis=1) / (c - 1)  # of the other classes; the largest one's place holds 0
    deviations = e - mean[:, None]
    np.put_along_axis(deviations, y, 0.0, axis=1)
    largest = np.where(even, 0.0, 1.0) - mean
    among_others = np.square(deviations).sum(axis=1)
    against_largest = np.square(largest) * (c - 1) / c
    total = among_others + against_largest
    unsure = rest / (1 + rest)
    shared = among_others + against_largest * unsure
    indicator: Floats = np.divide(shared, total, out=unsure, where=total > 0)
    return indicator
