"""Least confidence and margin: how far the largest probability is from 1, and from the second."""

from __future__ import annotations

import numpy as np

from mmselect.arrays import Floats
from mmselect.core.scores.bernoulli import bernoulli_confidence
from mmselect.core.scores.softmax import Activation, Logits, strips


def least_confidence(
    logits: Logits, *, activation: Activation = "softmax", name: str = "logits"
) -> Floats:
    """One minus the largest probability, 1 - p(1) (Culotta and McCallum, AAAI 2005).

    Parameters and errors as in :func:`mmselect.core.scores.information.entropy`; returns an (n,)
    float64 array in [0, 1 - 1/c].

    Examples
    --------
    >>> least_confidence(np.log([[0.7, 0.2, 0.1]])).round(6)
    array([0.3])
    """
    if activation == "sigmoid":
        return bernoulli_confidence(logits, name)
    least = np.zeros(len(logits))
    for strip in strips({name: logits}, activation):
        rest = strip.heads[0].rest
        least[strip.rows] = rest / (1 + rest)
    return least


def margin(logits: Logits, *, activation: Activation = "softmax", name: str = "logits") -> Floats:
    """One minus the gap of the two largest probabilities, 1 - (p(1) - p(2)) (Scheffer et al. 2001).

    Parameters and errors as in :func:`mmselect.core.scores.information.entropy`; returns an (n,)
    float64 array in [0, 1]. With one class there is no second one, and the result is 1.

    Examples
    --------
    >>> margin(np.log([[0.7, 0.2, 0.1]])).round(6)
    array([0.5])
    """
    if activation == "sigmoid":
        return 2 * bernoulli_confidence(logits, name)
    gap = np.ones(len(logits))
    for strip in strips({name: logits}, activation):
        e, (head,) = strip.e[:, 0], strip.heads
        e[np.arange(len(e)), head.top] = 0
        if logits.shape[1] > 1:
            gap[strip.rows] = (head.rest + e.max(axis=1).astype(np.float64)) / (1 + head.rest)
    return gap
