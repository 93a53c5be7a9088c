"""Multi-label heads: every class is a yes or no of its own, and a sample counts by their mean.

With p = σ(x) of each logit, entropies, confidences and divergences are those of the two outcomes
(p, 1 − p), averaged over the classes. They come from the smaller of the two probabilities,
``1 / (1 + exp |x|)``, so nothing cancels where a head is certain.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from mmselect.arrays import Array, Floats
from mmselect.core.scores.softmax import MASKED, Logits, check_logits, one_shape

BLOCK = 1 << 16
"""Logits of one head that are worked on at once."""


class Bernoulli(NamedTuple):
    """What :func:`bernoulli` returns: means over the classes, float64.

    Attributes
    ----------
    entropy : (m, n) ndarray
        Of each head, in nats, from 0 to log 2.
    jsd : (n,) ndarray
        How much the heads differ: H of the mean p less the mean H, of each class.
    """

    entropy: Floats
    jsd: Floats


def bernoulli(heads: Mapping[str, Logits]) -> Bernoulli:
    """Entropy of each multi-label head and the Jensen-Shannon divergence of all.

    Parameters
    ----------
    heads : mapping of name to (n, c) array of float16, float32 or float64
        Logits of each head; the names appear in errors. ``-inf`` means never.

    Returns
    -------
    Bernoulli

    Raises
    ------
    SchemaError
        If the heads differ in shape or are not matrices of floats.
    DataError
        For rows with nan or +inf, or of -inf alone.

    Examples
    --------
    Certain heads that say the opposite of one class of two:

    >>> found = bernoulli({"a": np.array([[99.0, 99.0]]), "b": np.array([[99.0, -99.0]])})
    >>> found.entropy.round(6).ravel().tolist(), found.jsd.round(6).tolist()
    ([0.0, 0.0], [0.346574])
    """
    n, c = one_shape(heads)
    found = Bernoulli(np.zeros((len(heads), n)), np.zeros(n))
    for rows in _blocks(n, c):
        yes, no, total = (np.zeros((rows.stop - rows.start, c)) for _ in range(3))
        for own, (name, logits) in zip(found.entropy, heads.items(), strict=True):
            x = _checked(logits[rows], rows, name)
            entropies, tail = _entropies(x), _tail(x)
            own[rows] = entropies.mean(axis=1)
            total += entropies
            yes += np.where(x > 0, 1 - tail, tail)
            no += np.where(x > 0, tail, 1 - tail)
        if len(heads) > 1:
            mixed = _of_tail(np.minimum(yes, no) / len(heads))
            found.jsd[rows] = (mixed - total / len(heads)).mean(axis=1).clip(0.0, np.log(2))
    return found


def bernoulli_confidence(logits: Logits, name: str = "logits") -> Floats:
    """Mean over the classes of one minus the larger of p and 1 − p.

    Twice this is one minus their gap, so the margin ranks samples the same way.

    Parameters
    ----------
    logits : (n, c) array of float16, float32 or float64
    name : str
        What to call the array in errors.

    Returns
    -------
    (n,) ndarray of float64
        In [0, 1/2].

    Raises
    ------
    DataError
        For rows with nan or +inf, or of -inf alone.

    Examples
    --------
    >>> bernoulli_confidence(np.log([[1.0, 3.0], [1 / 3, 1e9]])).round(6).tolist()
    [0.375, 0.125]
    """
    n, c = one_shape({name: logits})
    least = np.zeros(n)
    for rows in _blocks(n, c):
        least[rows] = _tail(_checked(logits[rows], rows, name)).mean(axis=1)
    return least


def sigmoid(x: Floats) -> Floats:
    """1 / (1 + exp(−x)), without overflow.

    Examples
    --------
    >>> sigmoid(np.array([-1e9, 0.0, 1e9])).tolist()
    [0.0, 0.5, 1.0]
    """
    return np.exp(-np.logaddexp(0, -x))


def _blocks(n: int, c: int) -> list[slice]:
    """Rows in blocks whose size follows from the shape alone; none where there is no class."""
    step = max(BLOCK // max(c, 1), 1)
    return [slice(a, min(a + step, n)) for a in range(0, n, step)] if c else []


def _checked(logits: Array, rows: slice, name: str) -> Floats:
    x = logits.astype(np.float64)
    check_logits(x.max(axis=1), range(rows.start, rows.stop), name)
    return np.maximum(x, MASKED, out=x)


def _tail(x: Floats) -> Floats:
    """Smaller of p and 1 − p."""
    e = np.exp(-np.abs(x))
    return np.asarray(e / (1 + e))


def _entropies(x: Floats) -> Floats:
    """H of (p, 1 − p): log(1 + e) + |x| e/(1 + e), e = exp(−|x|)."""
    size = np.abs(x)
    e = np.exp(-size)
    return np.asarray(np.log1p(e) + size * e / (1 + e))


def _of_tail(tail: Floats) -> Floats:
    """H of (q, 1 − q) for q up to 1/2."""
    logs = np.log(np.maximum(tail, np.finfo(np.float64).tiny))
    return np.asarray(-tail * logs - (1 - tail) * np.log1p(-tail))
