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
from mmselect.core.scores.confidence import least_confidence
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
    heads: Mapping[str, Rows], rows: Index, *, engine: Engine = SERIAL
) -> dict[str, Floats]:
    """Doubt u of each head on some rows, read and computed block by block.

    Parameters
    ----------
    heads : mapping of str to Rows, each (n, c)
        Logits; -inf masks a class. The names appear in errors.
    rows : (r,) ndarray of int
        Rows to visit, in this order.
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
    block = partial(_least_confidences, tuple(heads))
    columns = join_rows(map_rows(block, sources, rows, step=step, engine=engine), len(rows))
    return dict(zip(heads, columns, strict=True))


def _least_confidences(
    names: tuple[str, ...], rows: Index, logits: list[Array]
) -> tuple[Floats, ...]:
    with located(rows=rows):
        return tuple(least_confidence(x, name=n) for n, x in zip(names, logits, strict=True))


def doubt_weights(
    fused: Mapping[str, Floats], heads: Mapping[str, Floats], *, sharpen: bool = False
) -> Doubt:
    """Weights from the doubt of the fused head and of the heads of single modalities.

    Parameters
    ----------
    fused, heads : mapping of str to (n,) ndarray of float64
        u of each head; either may be empty.
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
    used: list[str] = []
    parts: list[Floats] = []
    for group in (fused, heads):
        relative = {name: _over_mean(u, sharpen) for name, u in group.items()}
        doubted = {name: part for name, part in relative.items() if part is not None}
        if doubted:
            used += doubted
            parts.append(np.mean(list(doubted.values()), axis=0))
    n = len(next(iter([*fused.values(), *heads.values()])))
    return Doubt(np.mean([np.ones(n), *parts], axis=0), tuple(used))


def _over_mean(u: Floats, sharpen: bool) -> Floats | None:
    """Doubt relative to its mean; None where nothing is in doubt."""
    if sharpen and len(u):
        u = np.maximum(u - np.quantile(u, QUANTILE), 0.0)
    mean = u.mean() if len(u) else 0.0
    return u / mean if mean > 0 else None
