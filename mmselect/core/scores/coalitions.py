"""What a fused head says when it sees only some of the modalities (BMMAL, Sec. 3.4).

V(S) is the probability that the head gives to the pseudo-class ŷ = argmax f of the full input when
it sees only the modalities in S. For a linear head an absent modality is a zero vector, so
V(S) = softmax(b + Σ_{m∈S} W_m z_m)_ŷ, and all 2^M coalitions follow from M partial logits. For any
other head the logits of each coalition are exported. The values of a pool are not kept: Shapley
values are taken from them block by block.

Coalitions are numbered by their bits: coalition S holds modality m if bit m of S is set.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from mmselect.arrays import (
    Array,
    Floats,
    Index,
    Rows,
    Singles,
    check_finite,
    check_rows,
    native,
    same_length,
)
from mmselect.core.presence import Present, bits_of
from mmselect.core.scores.linear import LinearLogits
from mmselect.core.scores.shapley import MOST_MODALITIES, shapley_values
from mmselect.core.scores.softmax import check_logits, probability
from mmselect.engine import SERIAL, Engine, join_rows, map_rows
from mmselect.errors import NeedsError, ParameterError

BLOCK_ELEMENTS = 1 << 19
"""Logits of one coalition in a compute block: 2 MB, enough rows for a product with the head."""


def linear_shapley(
    features: Mapping[str, Rows],
    weight: Mapping[str, Array],
    bias: Array | None = None,
    *,
    rows: Index | None = None,
    engine: Engine = SERIAL,
) -> tuple[Floats, Index]:
    """Shapley value of each modality for each sample, from features and a linear head.

    Parameters
    ----------
    features : mapping of str to (n, d) Rows
        Features of each modality; the order of its names is the order of the columns. Zeros where
        a sample lacks the modality: φ is then 0 there, and the others are the players.
    weight : mapping of str to (c, d) ndarray
        Columns of the fused head for each modality.
    bias : (c,) ndarray, optional
        None is 0.
    rows : (r,) ndarray of int, optional
        Candidate rows, increasing; None is all.
    engine : Engine, optional
        Who does the work.

    Returns
    -------
    shapley : (r, m) ndarray of float64
        φ of Eq. 10; rows sum to V(all) − V(∅).
    pseudo : (r,) ndarray of int
        ŷ, the lowest class on ties.

    Raises
    ------
    ParameterError
        If names or shapes do not fit together, or there are more than 12 modalities.
    DataError
        If a feature or a logit of these rows cannot be used.

    Examples
    --------
    >>> z = {"image": np.array([[1.0]]), "text": np.array([[0.0]])}
    >>> w = {"image": np.array([[np.log(3.0)], [0.0]]), "text": np.array([[1.0], [0.0]])}
    >>> phi, pseudo = linear_shapley(z, w)
    >>> phi.round(6).tolist(), pseudo.tolist()
    ([[0.25, 0.0]], [0])
    """
    _check_modalities(list(features))
    head = LinearLogits(features, weight, bias)
    at = check_rows(rows, head.shape[0])
    block = partial(linear_block, list(features), head.heads, head.base)
    return _over_rows(block, list(features.values()), at, len(head.base), engine)


def exported_shapley(
    logits: Mapping[str, Rows],
    modalities: Sequence[str],
    *,
    present: Present | None = None,
    rows: Index | None = None,
    engine: Engine = SERIAL,
) -> tuple[Floats, Index]:
    """Shapley value of each modality for each sample, from the logits of every coalition.

    Parameters
    ----------
    logits : mapping to (n, c) Rows
        Logits of each coalition under its sorted names joined by ``+`` (``none`` is the empty one)
        or under the frozen set of its names.
    modalities : sequence of str
        All modalities; their order is the order of the columns.
    present : mapping of modality to (n,) ndarray of bool, optional
        Which samples have it. Of a coalition counts what the sample has of it: players are those
        alone, φ of the others is 0, ŷ is that of the coalition of all that it has, and the logits
        of coalitions with others have to be numbers, but count for nothing.
    rows, engine
        As for :func:`linear_shapley`.

    Returns
    -------
    shapley, pseudo
        As for :func:`linear_shapley`; ŷ is that of the coalition of all.

    Raises
    ------
    NeedsError
        If a coalition is missing.
    ParameterError
        If there are more than 12 modalities, or shapes do not fit together.
    DataError
        If a logit of these rows cannot be used.

    Examples
    --------
    >>> even, sure = np.zeros((1, 2)), np.log([[3.0, 1.0]])
    >>> logits = {"none": even, "a": even, "b": sure, frozenset({"a", "b"}): sure}
    >>> exported_shapley(logits, ["a", "b"])[0].round(6).tolist()
    [[0.0, 0.25]]
    """
    _check_modalities(modalities)
    given = {coalition_name(k) if isinstance(k, frozenset) else k: v for k, v in logits.items()}
    names = coalition_names(modalities)
    if missing := [name for name in names if name not in given]:
        raise NeedsError(f"coalition logits: expected every coalition, missing {missing}")
    sources = [given[name] for name in names]
    if len({source.shape[1:] for source in sources}) != 1:
        raise ParameterError("coalition logits: expected the same classes in every coalition")
    at = check_rows(rows, same_length(sources))
    bits = None
    if present:
        bits = bits_of(present, modalities, sources[0].shape[0])
    block = partial(_exported_block, bits)
    return _over_rows(block, sources, at, sources[0].shape[1], engine)


def linear_block(
    names: Sequence[str],
    heads: Sequence[Array],
    bias: Array,
    rows: Index,
    features: Sequence[Array],
) -> tuple[Floats, Index]:
    """Shapley values and ŷ of some samples; parameters as for :func:`linear_values`.

    Returns
    -------
    shapley : (b, m) ndarray of float64
    pseudo : (b,) ndarray of int

    Raises
    ------
    DataError
        If a feature or a logit of these rows cannot be used; `names` are those of the features.

    Examples
    --------
    >>> head = np.array([[np.log(3)], [0.0]])
    >>> phi, _ = linear_block(["x"], [head], np.zeros(2), np.array([7]), [np.array([[1.0]])])
    >>> phi.round(6).tolist()
    [[0.25]]
    """
    for name, z in zip(names, features, strict=True):
        check_finite(np.abs(z).max(axis=1, initial=0), rows, name)
    values, pseudo = linear_values(features, heads, bias, rows)
    return shapley_values(values), pseudo


def linear_values(
    features: Sequence[Array],
    heads: Sequence[Array],
    bias: Array,
    rows: Index | None = None,
) -> tuple[Floats, Index]:
    """V(S) of every coalition of some samples: softmax(b + Σ_{m∈S} W_m z_m)_ŷ (Sec. 3.4).

    Products are formed in float64 and rounded to float32, so that copies of a sample agree though
    BLAS adds up the rows of a block in different orders. Probabilities are formed in float64 from
    the odds against ŷ: differences of values near 1 keep their digits.

    Parameters
    ----------
    features : sequence of (b, d) ndarray
    heads : sequence of (c, d) ndarray
    bias : (c,) ndarray
    rows : (b,) ndarray of int, optional
        Row numbers to name in errors.

    Returns
    -------
    values : (b, 2^M) ndarray of float64
        Column S is coalition S: column 0 is V(∅), the last one V(all).
    pseudo : (b,) ndarray of int

    Raises
    ------
    DataError
        If the logits of a row hold nan or +inf, or are all −inf.

    Examples
    --------
    >>> head = np.array([[np.log(3)], [0.0]])
    >>> linear_values([np.array([[1.0]])], [head], np.zeros(2))[0].round(6)
    array([[0.5 , 0.75]])
    """
    parts = [_partial_logits(z, w) for z, w in zip(features, heads, strict=True)]
    f = np.repeat(bias.astype(np.float32)[None], len(parts[0]), axis=0)
    whole = f
    for part in parts:
        whole = whole + part
    pseudo = whole.argmax(axis=1)
    check_logits(whole[np.arange(len(whole)), pseudo], rows)
    values = np.empty((len(whole), 1 << len(parts)))
    _visit(f, parts, 0, 0, pseudo, values)
    return values, pseudo


def exported_values(
    logits: Sequence[Array], rows: Index | None = None, bits: Index | None = None
) -> tuple[Floats, Index]:
    """V(S) of every coalition of some samples, from the logits of each, numbered by their bits.

    Parameters
    ----------
    logits : sequence of 2^M (b, c) ndarray
    rows : (b,) ndarray of int, optional
        Row numbers to name in errors.
    bits : (b,) ndarray of int, optional
        The coalition of all that each sample has; of others counts what it has of them.

    Returns
    -------
    values, pseudo
        As for :func:`linear_values`.

    Raises
    ------
    DataError
        If the logits of a row hold nan or +inf, or are all −inf.

    Examples
    --------
    >>> exported_values([np.zeros((1, 2)), np.log([[3.0, 1.0]])])[0].round(6)
    array([[0.5 , 0.75]])
    """
    blocks = [native(block) for block in logits]
    for block in blocks:
        check_logits(block.max(axis=1), rows)
    pseudo = blocks[-1].argmax(axis=1)
    if bits is not None:
        tops = np.stack([block.argmax(axis=1) for block in blocks], axis=1)
        pseudo = tops[np.arange(len(tops)), bits]
    values = np.stack([probability(block, pseudo) for block in blocks], axis=1)
    if bits is not None:
        values = np.take_along_axis(values, np.arange(len(blocks)) & bits[:, None], axis=1)
    return values, pseudo


def block_rows(classes: int) -> int:
    """Count the samples whose coalitions are computed at a time.

    Examples
    --------
    >>> block_rows(10), block_rows(3129), block_rows(10**6)
    (1024, 167, 64)
    """
    return min(max(BLOCK_ELEMENTS // max(classes, 1), 64), 1024)


def coalition_name(modalities: Iterable[str]) -> str:
    """Name of a coalition in a pool: sorted, joined by ``+``, ``none`` if empty.

    Examples
    --------
    >>> coalition_name(["text", "image"]), coalition_name([])
    ('image+text', 'none')
    """
    return "+".join(sorted(modalities)) or "none"


def coalition_names(modalities: Sequence[str]) -> list[str]:
    """Names of all coalitions, in the order of their bits.

    Examples
    --------
    >>> coalition_names(["a", "b"])
    ['none', 'a', 'b', 'a+b']
    """
    members = [
        [name for m, name in enumerate(modalities) if coalition >> m & 1]
        for coalition in range(1 << len(modalities))
    ]
    return [coalition_name(names) for names in members]


def _visit(
    f: Singles, parts: list[Singles], m: int, coalition: int, pseudo: Index, values: Floats
) -> None:
    """Walk the tree of coalitions: at depth m, modality m is left out or added."""
    if m == len(parts):
        values[:, coalition] = probability(f, pseudo)
        return
    _visit(f, parts, m + 1, coalition, pseudo, values)
    _visit(f + parts[m], parts, m + 1, coalition | 1 << m, pseudo, values)


def _partial_logits(z: Array, head: Array) -> Singles:
    """W_m z_m (b, c)."""
    return (z.astype(np.float64) @ head.astype(np.float64, copy=False).T).astype(np.float32)


def _exported_block(bits: Index | None, rows: Index, logits: list[Array]) -> tuple[Floats, Index]:
    values, pseudo = exported_values(logits, rows, None if bits is None else bits[rows])
    return shapley_values(values), pseudo


def _over_rows(
    block: Callable[[Index, list[Array]], tuple[Floats, Index]],
    sources: Sequence[Rows],
    rows: Index,
    classes: int,
    engine: Engine,
) -> tuple[Floats, Index]:
    how: dict[str, Any] = {
        "step": block_rows(classes),
        "engine": engine,
        "what": "computing contributions",
    }
    phi, pseudo = join_rows(map_rows(block, sources, rows, **how), len(rows))
    return phi, pseudo


def _check_modalities(modalities: Sequence[str]) -> None:
    if not 1 <= len(modalities) <= MOST_MODALITIES:
        found = len(modalities)
        raise ParameterError(f"modalities: expected 1 to {MOST_MODALITIES}, found {found}")
