"""What a model doubts: how much each unlabeled sample counts when a pool is covered.

``u_i = 1 - max_c softmax(f_i)_c``, of the fused head and of the head of each modality. The weight
of sample i is the mean of 1, ``u_i / ū`` of the fused head, and the mean over modalities of
``u_i^m / ū^m``, each mean ū over all samples given; what is nowhere in doubt is left out. So the
weights have mean 1, no sample counts nothing, and no modality outweighs another.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import NamedTuple

import numpy as np

from mmselect.arrays import Array, Floats, Index, Rows
from mmselect.core.presence import Mask, Present
from mmselect.core.scores.confidence import least_confidence
from mmselect.core.scores.softmax import Activation
from mmselect.engine import SERIAL, Engine, compute_rows, join_rows, map_rows
from mmselect.errors import located

QUANTILE = 0.1
"""Share of the samples that are not in doubt, with `sharpen`."""


class Doubt(NamedTuple):
    """What :func:`doubt_weights` returns.

    Attributes
    ----------
    weights : (n,) ndarray of float64
        Of mean 1.
    used : tuple of str
        Names of the heads that are part of them; none: all weights are 1.
    """

    weights: Floats
    used: tuple[str, ...]


def least_confidences(
    heads: Mapping[str, Rows],
    rows: Index,
    *,
    activation: Activation = "softmax",
    engine: Engine = SERIAL,
) -> dict[str, Floats]:
    """Doubt u of each head on some rows, read and computed block by block.

    Parameters
    ----------
    heads : mapping of str to Rows, each (n, c)
        Logits; -inf masks a class. The names appear in errors.
    rows : (r,) ndarray of int
        Rows to visit, in this order.
    activation : {"softmax", "sigmoid"}
        ``sigmoid`` for multi-label heads: the mean over the classes of min(p, 1 - p).
    engine : Engine

    Returns
    -------
    dict of str to (r,) ndarray of float64
        In [0, 1 - 1/c].

    Raises
    ------
    DataError
        For rows with nan or +inf, or of -inf alone.

    Examples
    --------
    >>> heads = {"fused": np.log([[0.7, 0.3], [0.5, 0.5], [1.0, 1.0]])}
    >>> least_confidences(heads, np.array([0, 2]))["fused"].round(6)
    array([0.3, 0.5])
    """
    if not heads:
        return {}

    sources = list(heads.values())
    step = compute_rows(max(source.shape[1] for source in sources))
    block = partial(_least_confidences, tuple(heads), activation)
    columns = join_rows(map_rows(block, sources, rows, step=step, engine=engine), len(rows))
    return dict(zip(heads, columns, strict=True))


def _least_confidences(
    names: tuple[str, ...], activation: Activation, rows: Index, logits: list[Array]
) -> tuple[Floats, ...]:
    with located(rows=rows):
        heads = zip(names, logits, strict=True)
        return tuple(least_confidence(x, activation=activation, name=name) for name, x in heads)


def doubt_weights(
    fused: Mapping[str, Floats],
    heads: Mapping[str, Floats],
    *,
    present: Present | None = None,
    sharpen: bool = False,
) -> Doubt:
    """Weights from the doubt of the fused head and of the heads of single modalities.

    Parameters
    ----------
    fused, heads : mapping of str to (n,) ndarray of float64
        u of each head; either may be empty.
    present : mapping of str to (n,) ndarray of bool, optional
        Which samples have the modality of a head: means are over them, and a sample counts by the
        heads that it has; one without any by the other parts alone.
    sharpen : bool
        Take ``max(0, u - its 10 % quantile)`` for u first, for heads that are never sure, such as
        those trained with BCE over thousands of classes.

    Returns
    -------
    Doubt

    Examples
    --------
    >>> doubt_weights({"fused": np.array([0.1, 0.3])}, {"image": np.array([0.0, 0.0])})
    Doubt(weights=array([0.75, 1.25]), used=('fused',))
    """
    n = len(next(iter([*fused.values(), *heads.values()])))
    used: list[str] = []
    parts: list[Floats] = [np.ones(n)]
    for group in (fused, heads):
        there = {name: (present or {}).get(name) for name in group}
        relative = {name: _over_mean(u, sharpen, there[name]) for name, u in group.items()}
        doubted = {name: part for name, part in relative.items() if part is not None}
        if doubted:
            used += doubted
            parts.append(_mean_of([*doubted.values()]))
    weights = _mean_of(parts)
    lacking = any(name in (present or {}) for name in used)
    return Doubt(weights / weights.mean() if lacking else weights, tuple(used))


def _mean_of(parts: list[Floats]) -> Floats:
    """Mean of the parts that each sample has; nan where it has none."""
    stacked = np.stack(parts)
    missing = np.isnan(stacked)
    if not missing.any():
        return np.asarray(np.mean(parts, axis=0))
    count = (~missing).sum(axis=0)
    total = np.where(missing, 0.0, stacked).sum(axis=0)
    mean: Floats = np.divide(total, count, out=np.full(len(count), np.nan), where=count > 0)
    return mean


def _over_mean(u: Floats, sharpen: bool, there: Mask | None) -> Floats | None:
    """Doubt relative to its mean, nan where absent; None where nothing is in doubt."""
    own = u if there is None else u[there]
    if sharpen and len(own):
        least = np.quantile(own, QUANTILE)
        u, own = np.maximum(u - least, 0.0), np.maximum(own - least, 0.0)
    mean = own.mean() if len(own) else 0.0
    if not mean > 0:
        return None
    return u / mean if there is None else np.where(there, u / mean, np.nan)
