"""The likeliest class; how far its probability is from 1, and from that of the second one."""

from __future__ import annotations

import numpy as np

from mmselect.arrays import Array, Floats, Index, Rows
from mmselect.core.scores.bernoulli import bernoulli_confidence
from mmselect.core.scores.softmax import Activation, Logits, check_logits, strips
from mmselect.engine import Engine, compute_rows, join_rows, map_rows
from mmselect.errors import located


def top_class(logits: Rows, rows: Index, engine: Engine, name: str = "logits") -> Index:
    """Likeliest class of each of many rows, block by block.

    Examples
    --------
    >>> top_class(np.array([[0.0, 1.0], [3.0, 2.0]]), np.arange(2), Engine(1)).tolist()
    [1, 0]
    """
    step = compute_rows(logits.shape[1])
    with located(dataset=name):
        parts = map_rows(_top_class, [logits], rows, step=step, engine=engine)
        return join_rows(parts, len(rows))[0]


def _top_class(rows: Index, blocks: list[Array]) -> tuple[Index]:
    top: Index = blocks[0].argmax(axis=1)
    check_logits(blocks[0][np.arange(len(rows)), top], rows)
    return (top,)


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
        (e,), (head,) = strip.e, strip.heads
        e[np.arange(len(e)), head.top] = 0
        if logits.shape[1] > 1:
            gap[strip.rows] = (head.rest + e.max(axis=1).astype(np.float64)) / (1 + head.rest)
    return gap
