"""Entropies and the Jensen-Shannon divergence, straight from logits.

    JSD = H(Σ π_m p_m) - Σ π_m H(p_m)           one logarithm per class for all heads

The kernel, and how it keeps its digits, is :mod:`mmselect.core.scores.softmax`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from mmselect.arrays import Floats
from mmselect.core.presence import Present, patterns_of
from mmselect.core.scores.bernoulli import bernoulli
from mmselect.core.scores.softmax import Activation, Logits, Strip, row_dots, row_sums, strips
from mmselect.errors import SchemaError, located


class Heads(NamedTuple):
    """What :func:`information` returns: entropies (m, n) and divergence (n,), float64, in nats."""

    entropy: Floats
    jsd: Floats


def entropy(logits: Logits, *, activation: Activation = "softmax", name: str = "logits") -> Floats:
    """Entropy H(p) of each row's distribution (methods, section 1).

    Parameters
    ----------
    logits : (n, c) array of float16, float32 or float64
        ``-inf`` masks a class.
    activation : {"softmax", "sigmoid-norm", "sigmoid"}
        How logits become probabilities; ``sigmoid-norm`` is sigmoid(x) / Σ sigmoid(x); with
        ``sigmoid``, for multi-label heads, every class is a yes or no of its own and the result is
        the mean over them.
    name : str
        What to call the array in errors.

    Returns
    -------
    (n,) float64 array
        In nats, from 0 to log c.

    Raises
    ------
    DataError
        For rows with nan or +inf, or of -inf alone.

    Examples
    --------
    >>> entropy(np.array([[0.0, 0.0], [50.0, -np.inf]])).round(6)
    array([0.693147, 0.      ])
    """
    return np.asarray(information({name: logits}, activation=activation).entropy[0])


def information(
    heads: Mapping[str, Logits],
    *,
    present: Present | None = None,
    activation: Activation = "softmax",
) -> Heads:
    """Entropy of each head and the Jensen-Shannon divergence of all, in one pass (SMEM Eqs. 5-6).

    Parameters
    ----------
    heads : mapping of name to (n, c) array of float16, float32 or float64
        Logits of each head; the names appear in errors. At least one.
    present : mapping of name to (n,) ndarray of bool, optional
        Which rows have the head's modality; its logits in the others are not read.
    activation : {"softmax", "sigmoid-norm", "sigmoid"}
        How logits become probabilities; see :func:`entropy`.

    Returns
    -------
    Heads
        ``entropy`` (m, n) in the order of `heads`, nan where absent, and ``jsd`` (n,) of the heads
        that are there, with uniform weights, clipped to [0, log m]; both float64, in nats.

    Raises
    ------
    SchemaError
        If the heads differ in shape or are not matrices of floats.
    DataError
        For rows with nan or +inf, or of -inf alone.

    Examples
    --------
    Two heads that are each certain, of different classes, diverge by log 2:

    >>> sure = np.array([[40.0, 0.0]])
    >>> heads = information({"image": sure, "text": sure[:, ::-1]})
    >>> heads.jsd.round(6), heads.entropy.round(6).ravel()
    (array([0.693147]), array([0., 0.]))
    """
    lacking = {name: mask for name, mask in (present or {}).items() if name in heads}
    if not lacking:
        return _of_all(heads, activation)
    names, n = list(heads), max(len(logits) for logits in heads.values())
    found = Heads(np.full((len(names), n), np.nan), np.zeros(n))
    for own, rows in patterns_of(lacking, names, n).rows():
        if own:
            with located(rows=rows):
                part = _of_all({names[m]: heads[names[m]][rows] for m in own}, activation)
            found.entropy[np.ix_(np.array(own), rows)], found.jsd[rows] = part
    return found


def _of_all(heads: Mapping[str, Logits], activation: Activation) -> Heads:
    """Entropies and divergence of heads that all rows have."""
    if activation == "sigmoid":
        return Heads(*bernoulli(heads))
    m, n = len(heads), max((len(logits) for logits in heads.values()), default=0)
    found = Heads(np.zeros((m, n)), np.zeros(n))
    for strip in strips(heads, activation):
        for entropies, head in zip(found.entropy, strip.heads, strict=True):
            entropies[strip.rows] = head.entropy
        if m > 1:
            jsd = _mixture_entropy(strip) - found.entropy[:, strip.rows].mean(axis=0)
            found.jsd[strip.rows] = jsd.clip(0.0, np.log(m))
    return found


def bald(logits: Logits, *, activation: Activation = "softmax", name: str = "logits") -> Floats:
    """Mutual information of the prediction and the model, from stochastic passes (BALD).

    H(mean_t p_t) - mean_t H(p_t): the divergence of the passes (methods, section 1).

    Parameters
    ----------
    logits : (n, t, c) array of float16, float32 or float64
        Logits of t dropout passes or ensemble members.
    activation, name
        As in :func:`entropy`.

    Returns
    -------
    (n,) float64 array
        In nats, from 0 to log t.

    Raises
    ------
    DataError
        For rows with nan or +inf, or of -inf alone.

    Examples
    --------
    >>> bald(np.array([[[40.0, 0.0], [0.0, 40.0]], [[1.0, 2.0], [1.0, 2.0]]])).round(6)
    array([0.693147, 0.      ])
    """
    if logits.ndim != 3:
        raise SchemaError(f"expected axes (n, t, c), found shape {logits.shape}", dataset=name)
    passes = {f"{name}[:, {t}]": logits[:, t] for t in range(logits.shape[1])}
    return information(passes, activation=activation).jsd if passes else np.zeros(len(logits))


def _mixture_entropy(strip: Strip) -> Floats:
    """Entropy of the mean of the heads' distributions.

    The class that the first head likes best is kept apart: where all heads are certain of it, its
    share comes from the small others, not from a difference with 1.
    """
    e, heads, mean = strip.e, strip.heads, strip.scratch
    weights = np.stack([1 / (len(heads) * (1 + head.rest)) for head in heads], axis=1)
    np.einsum("nm,mnc->nc", weights.astype(e.dtype), e, out=mean)
    each, top = np.arange(len(mean)), heads[0].top
    own = mean[each, top].astype(np.float64)
    mean[each, top] = 0
    rest = row_sums(mean)
    mean[each, top] = 1  # log 1 = 0: it takes no part
    logs = e[0]
    with np.errstate(divide="ignore", invalid="ignore"):
        others = row_dots(mean, np.log(mean, out=logs))
    if np.isnan(others).any():  # 0 · log 0: only where a probability is below the smallest float
        np.maximum(mean, np.finfo(mean.dtype).tiny, out=mean)
        others = row_dots(mean, np.log(mean, out=logs))
    sure = rest < 0.5
    own_term = np.where(sure, (1 - rest) * np.log1p(-np.minimum(rest, 0.5)), _xlogx(own))
    return np.asarray(-(others + own_term))


def _xlogx(p: Floats) -> Floats:
    return p * np.log(np.maximum(p, np.finfo(np.float64).tiny))
