"""One softmax kernel for entropies, confidences, gradients and coalitions, straight from logits.

With ``d = x - max x``, ``e = exp d`` and ``Z' = Σ e`` over all classes *but the largest*, most of
what is asked of a distribution is a sum of terms of one sign, so that nothing cancels, not even
where the model is certain::

    H = log1p(Z') - (Σ e·d) / (1 + Z')          entropy, no logarithm per class
    1 - p(1) = Z' / (1 + Z')                    least confidence
    1 - (p(1) - p(2)) = (Z' + e(2)) / (1 + Z')  margin

:func:`strips` works on rows in strips that stay in cache. Sums are taken over at most :data:`CHUNK`
classes in the type of the logits (float32 for float16) and added up in float64, by einsum's own
loops: those of BLAS differ between processors, and are slower here. Each row's result has the same
bits whatever rows stand beside it.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from mmselect.arrays import LARGEST, Array, Floats, Index, Singles, check_finite, widen
from mmselect.core.limits import check_limits
from mmselect.engine import ranges
from mmselect.errors import DataError, ParameterError, RowNumbers, SchemaError

Logits: TypeAlias = NDArray[np.floating[Any]]
Activation = Literal["softmax", "sigmoid-norm", "sigmoid"]
"""How logits become probabilities. ``sigmoid``: each class by itself, for multi-label heads; it has
a kernel of its own, :mod:`mmselect.core.scores.bernoulli`."""

CHUNK = 256
"""Classes summed in the logits' own type, at most, before the partial sum goes to float64."""

STRIP_ELEMENTS = 1 << 19
"""Logits of one head in a strip: 2 MB in float32. Smaller strips would sit better in the cache, but
then the calls into NumPy, some sixty for each strip, cost more than the cache gives. Strips are not
padded: NumPy copies short rows that lie apart into buffers before it works on them."""

MASKED = -1e4
"""Stands for a logit of -inf: its exponential is 0, and 0 times it is 0."""

KEPT = 4
_SCRATCH = threading.local()


class Head(NamedTuple):
    """One head's strip: the largest class, Z' and H of each row."""

    top: Index
    rest: Floats
    entropy: Floats


class Strip(NamedTuple):
    """Some rows of all heads.

    Attributes
    ----------
    rows : slice
    e : (m, rows, c) ndarray
        exp(x - max x) of each head. Memory to use, as `scratch`, by whoever needs it no more.
    scratch : (rows, c) ndarray
    heads : list of Head
    """

    rows: slice
    e: Logits
    scratch: Logits
    heads: list[Head]


def strips(heads: Mapping[str, Logits], activation: Activation) -> Iterator[Strip]:
    """Exponentials and entropies of heads of one shape, strip by strip.

    Parameters
    ----------
    heads : mapping of name to (n, c) array of float16, float32 or float64
        Logits of each head, ``-inf`` for a masked class; the names appear in errors.
    activation : {"softmax", "sigmoid-norm"}
        How logits become probabilities.

    Yields
    ------
    Strip
        Valid until the next one; none where there are no rows or no classes.

    Raises
    ------
    ParameterError
        If there is no head, or the activation is unknown.
    SchemaError
        If the heads differ in shape or are not matrices of floats.
    DataError
        For rows with nan or +inf, or of -inf alone.

    Examples
    --------
    >>> (strip,) = strips({"image": np.log([[2.0, 1.0]])}, "softmax")
    >>> strip.e[0, 0].round(6).tolist(), strip.heads[0].rest.round(6).tolist()
    ([1.0, 0.5], [0.5])
    """
    n, c = one_shape(heads)
    check_limits(activation=activation)
    if not n or not c:
        return
    step = max(STRIP_ELEMENTS // c, 8)
    memory = _buffers(min(step, n), len(heads), c, _working_type(*heads.values()))
    for start, stop in ranges(0, n, step):
        e, d = memory[:-1, : stop - start], memory[-1, : stop - start]
        found = []
        for own, (name, logits) in zip(e, heads.items(), strict=True):
            x = _activated(logits[start:stop], activation, d)
            top = x.argmax(axis=1)
            largest = x[np.arange(len(x)), top]
            check_logits(largest, range(start, stop), name)
            found.append(_head(x, top, largest, own, d))
        yield Strip(slice(start, stop), e, d, found)


def check_logits(largest: Array, rows: RowNumbers | None = None, name: str | None = None) -> None:
    """Accept rows by their largest logit: nan and +inf show in it, and so do all −inf and fills.

    Other logits of a row may be as low as they like: that masks a class.

    Raises
    ------
    DataError
        Naming the rows that hold what the first bad one holds.

    Examples
    --------
    >>> check_logits(np.array([1.0, np.nan]), range(10, 12), "/multimodal_logits")
    Traceback (most recent call last):
    mmselect.errors.DataError: /multimodal_logits: row 11: expected finite logits, found nan
    """
    bad = np.flatnonzero(~(np.abs(largest) <= LARGEST))  # nan is not
    if not len(bad):
        return
    if np.isfinite(largest[bad]).all():
        numbers = range(len(largest)) if rows is None else rows
        check_finite(np.abs(largest), numbers, name)
    bad = bad[~np.isfinite(largest[bad])]
    kinds = {np.inf: "+inf", -np.inf: "-inf in every class"}
    found = [kinds.get(value, "nan") for value in largest[bad].tolist()]
    same = [int(row) for row, kind in zip(bad, found, strict=True) if kind == found[0]]
    named = same if rows is None else [int(rows[row]) for row in same]
    raise DataError(f"expected finite logits, found {found[0]}", dataset=name, rows=named)


def odds(x: Array, top: Array, at: Index) -> tuple[Singles, Floats]:
    """Odds of all classes but one, relative to the largest logit or to that class's own.

    Parameters
    ----------
    x : (b, c) ndarray
        Logits. The difference is taken in their own type: it is what decides, not its rounding.
    top : (b,) ndarray
        The logit that counts as 1.
    at : (b,) ndarray of int
        The class left out.

    Returns
    -------
    e : (b, c) ndarray of float32
        exp(x - top), and 0 at class `at`.
    total : (b,) ndarray of float64
        Σ e.

    Examples
    --------
    >>> e, total = odds(np.log([[2.0, 1.0, 1.0]]), np.log([2.0]), np.array([0]))
    >>> e.tolist(), total.tolist()
    ([[0.0, 0.5, 0.5]], [1.0])
    """
    e = np.empty(x.shape, np.float32)
    _exponentials(x, top, at, e, e)
    return e, e.sum(axis=1, dtype=np.float64)


def probability(x: Array, at: Index) -> Floats:
    """Probability of one class of each row, ``softmax(x)_at = o / (o + R)``, by odds to the top.

    Parameters
    ----------
    x : (b, c) ndarray
        Logits.
    at : (b,) ndarray of int

    Returns
    -------
    (b,) ndarray of float64

    Examples
    --------
    >>> probability(np.log([[3.0, 1.0], [3.0, 1.0]]), np.array([0, 1])).round(6)
    array([0.75, 0.25])
    """
    top = x.max(axis=1)
    # In float64: where the class is far below the top, float32 would underflow to 0.
    own = np.exp(x[np.arange(len(x)), at].astype(np.float64) - top)
    _, others = odds(x, top, at)
    return np.asarray(own / (own + others))


def row_sums(a: Logits) -> Floats:
    """Σ over the last axis, in chunks; with the same bits on any BLAS."""
    return _by_chunks("nkc->nk", a)


def row_dots(a: Logits, b: Logits) -> Floats:
    """Σ a·b over the last axis, in chunks."""
    return _by_chunks("nkc,nkc->nk", a, b)


def _by_chunks(sums: str, *factors: Logits) -> Floats:
    """Add up sums over whole chunks and over what is left, in float64."""
    n, c = factors[0].shape
    whole = c - c % CHUNK
    parts = (slice(0, whole), whole // CHUNK), (slice(whole, c), 1)
    first, *others = (
        np.einsum(sums, *(a[:, part].reshape(n, count, -1, copy=False) for a in factors))
        for part, count in parts
        if part.start < part.stop
    )
    total = first.sum(axis=-1, dtype=np.float64)
    for left in others:
        total += left[:, 0]
    return np.asarray(total)


def _exponentials(x: Array, top: Array, at: Index, d: Array, e: Array) -> None:
    """Fill d = x - top and e = exp d, with 0 at class `at`; the two may be one array."""
    with np.errstate(over="ignore", invalid="ignore"):  # −inf: a difference beyond the type's range
        np.subtract(x, top[:, None], out=d, casting="same_kind")
        np.exp(d, out=e)
    e[np.arange(len(e)), at] = 0


def _head(x: Logits, top: Index, largest: Array, e: Logits, d: Logits) -> Head:
    """Fill `e`, and return what follows from it; `d` is memory, and may be where `x` is."""
    _exponentials(x, largest, top, d, e)
    with np.errstate(over="ignore", invalid="ignore"):
        rest, weighted = row_sums(e), row_dots(e, d)
    if np.isnan(weighted).any():  # 0 · -inf: only rows with masked classes come here
        np.maximum(d, MASKED, out=d)
        weighted = row_dots(e, d)
    e[np.arange(len(e)), top] = 1
    return Head(top, rest, np.log1p(rest) - weighted / (1 + rest))


def _activated(logits: Logits, activation: Activation, memory: Logits) -> Logits:
    """Logits of the softmax that is meant, in the working type; `memory` holds a conversion."""
    if activation == "sigmoid-norm":  # log sigmoid(x) = min(x, 0) - log1p(exp(-|x|))
        x = logits.astype(memory.dtype)
        smooth: Logits = np.minimum(x, 0) - np.log1p(np.exp(-np.abs(x)))
        return smooth
    if logits.dtype == memory.dtype:
        return logits
    return widen(logits, memory)


def _buffers(rows: int, m: int, c: int, dtype: np.dtype[Any]) -> Logits:
    """Memory for `m` heads' exponentials and, last, for one head's logits and differences.

    Each thread keeps what it had: making it anew for every block would cost a sixth of the time.
    """
    kept: dict[Any, Logits] = _SCRATCH.__dict__
    key = f"{rows} {m} {c} {dtype}"
    if key not in kept:
        if len(kept) >= KEPT:
            kept.clear()
        kept[key] = np.empty((m + 1, rows, c), dtype)
    return kept[key]


def _working_type(*arrays: Logits) -> np.dtype[Any]:
    return np.result_type(np.float32, *(array.dtype.newbyteorder("=") for array in arrays))


def one_shape(heads: Mapping[str, Logits]) -> tuple[int, int]:
    """Accept heads of one shape (n, c).

    Raises
    ------
    ParameterError, SchemaError
        If there is none, or they differ or are not matrices of floats.
    """
    if not heads:
        raise ParameterError("expected at least one head, found none")
    first, *_ = heads.values()
    for name, logits in heads.items():
        if logits.ndim != 2 or logits.dtype.kind != "f":
            found = f"{logits.dtype} of shape {logits.shape}"
            raise SchemaError(f"expected floats with axes (n, c), found {found}", dataset=name)
        if logits.shape != first.shape:
            message = f"expected shape {first.shape}, found {logits.shape}"
            raise SchemaError(message, dataset=name)
    n, c = first.shape
    return n, c
