"""Entropies, the Jensen-Shannon divergence and confidence measures, straight from logits.

One kernel serves all of them. With ``d = x - max x``, ``e = exp d`` and ``Z' = Σ e`` over all
classes *but the largest*, every quantity below but the last is a sum of terms of one sign, so that
nothing cancels, not even where the model is certain::

    H = log1p(Z') - (Σ e·d) / (1 + Z')          entropy, no logarithm per class
    1 - p(1) = Z' / (1 + Z')                    least confidence
    1 - (p(1) - p(2)) = (Z' + e(2)) / (1 + Z')  margin
    JSD = H(Σ π_m p_m) - Σ π_m H(p_m)           one logarithm per class for all heads

Rows are worked on in strips that stay in cache. Sums are taken over at most :data:`CHUNK` classes
in the type of the logits (float32 for float16) and added up in float64. Each row's result has the
same bits whatever rows stand beside it.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

from mmselect.engine import ranges
from mmselect.errors import DataError, ParameterError, SchemaError

Float: TypeAlias = NDArray[np.floating[Any]]
Activation = Literal["softmax", "sigmoid-norm"]
ACTIVATIONS: tuple[str, ...] = get_args(Activation)

CHUNK = 512
"""Classes summed in the logits' own type, at most, before the partial sum goes to float64."""

STRIP_ELEMENTS = 1 << 18
"""Logits of one head in a strip: 1 MB in float32. Smaller strips would sit better in the cache, but
then the calls into NumPy, some sixty for each strip, cost more than the cache gives."""

MASKED = -1e4
"""Stands for a logit of -inf: its exponential is 0, and 0 times it is 0."""


class Heads(NamedTuple):
    """What :func:`information` returns: entropies (m, n) and divergence (n,), float64, in nats."""

    entropy: NDArray[np.float64]
    jsd: NDArray[np.float64]


class _Strip(NamedTuple):
    """One head's strip after the kernel: the largest class, Z' and H of each row."""

    top: NDArray[np.intp]
    rest: NDArray[np.float64]
    entropy: NDArray[np.float64]


def entropy(
    logits: Float, *, activation: Activation = "softmax", name: str = "logits"
) -> NDArray[np.float64]:
    """Entropy H(p) of each row's distribution (methods, section 1).

    Parameters
    ----------
    logits : (n, c) array of float16, float32 or float64
        ``-inf`` masks a class.
    activation : {"softmax", "sigmoid-norm"}
        How logits become probabilities; ``sigmoid-norm`` is sigmoid(x) / Σ sigmoid(x).
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
    >>> import numpy as np
    >>> entropy(np.array([[0.0, 0.0], [50.0, -np.inf]])).round(6)
    array([0.693147, 0.      ])
    """
    heads = information({name: logits}, activation=activation)
    only: NDArray[np.float64] = heads.entropy[0]
    return only


def information(heads: Mapping[str, Float], *, activation: Activation = "softmax") -> Heads:
    """Entropy of each head and the Jensen-Shannon divergence of all, in one pass (SMEM Eqs. 5-6).

    Parameters
    ----------
    heads : mapping of name to (n, c) array of float16, float32 or float64
        Logits of each head; the names appear in errors. At least one.
    activation : {"softmax", "sigmoid-norm"}
        How logits become probabilities.

    Returns
    -------
    Heads
        ``entropy`` (m, n) in the order of `heads`, and ``jsd`` (n,) with uniform weights, clipped
        to [0, log m]; both float64, in nats.

    Raises
    ------
    SchemaError
        If the heads differ in shape or are not matrices of floats.
    DataError
        For rows with nan or +inf, or of -inf alone.

    Examples
    --------
    Two heads that are each certain, of different classes, diverge by log 2:

    >>> import numpy as np
    >>> sure = np.array([[40.0, 0.0]])
    >>> heads = information({"image": sure, "text": sure[:, ::-1]})
    >>> heads.jsd.round(6), heads.entropy.round(6).ravel()
    (array([0.693147]), array([0., 0.]))
    """
    n, c = _one_shape(heads)
    _check_activation(activation)
    m = len(heads)
    found = Heads(np.empty((m, n)), np.zeros(n))
    if c == 0 or n == 0:
        return found
    dtype = _working_type(*heads.values())
    strip = _strip_rows(c)
    buffer, shifted = _buffers(min(strip, n), m, c, dtype)
    for start, stop in ranges(0, n, strip):
        rows = slice(start, stop)
        e, d = buffer[: stop - start], shifted[: stop - start]
        pieces = []
        for j, (name, logits) in enumerate(heads.items()):
            pieces.append(_exponentials(logits[rows], activation, c, e[:, j], d, name, start))
            found.entropy[j, rows] = pieces[-1].entropy
        if m > 1:
            mixed = _mixture_entropy(e, pieces, c, d)
            found.jsd[rows] = (mixed - found.entropy[:, rows].mean(axis=0)).clip(0.0, np.log(m))
    return found


def bald(
    logits: Float, *, activation: Activation = "softmax", name: str = "logits"
) -> NDArray[np.float64]:
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
    >>> import numpy as np
    >>> bald(np.array([[[40.0, 0.0], [0.0, 40.0]], [[1.0, 2.0], [1.0, 2.0]]])).round(6)
    array([0.693147, 0.      ])
    """
    if logits.ndim != 3:
        raise SchemaError(f"expected axes (n, t, c), found shape {logits.shape}", dataset=name)
    passes = {f"{name}[:, {t}]": logits[:, t] for t in range(logits.shape[1])}
    return information(passes, activation=activation).jsd if passes else np.zeros(len(logits))


def least_confidence(
    logits: Float, *, activation: Activation = "softmax", name: str = "logits"
) -> NDArray[np.float64]:
    """One minus the largest probability, 1 - p(1).

    Parameters and errors as in :func:`entropy`; returns an (n,) float64 array in [0, 1 - 1/c].

    Examples
    --------
    >>> import numpy as np
    >>> least_confidence(np.log([[0.7, 0.2, 0.1]])).round(6)
    array([0.3])
    """
    return _confidence(logits, activation, name)[0]


def margin(
    logits: Float, *, activation: Activation = "softmax", name: str = "logits"
) -> NDArray[np.float64]:
    """One minus the gap of the two largest probabilities, 1 - (p(1) - p(2)).

    Parameters and errors as in :func:`entropy`; returns an (n,) float64 array in [0, 1]. With one
    class there is no second one, and the result is 1.

    Examples
    --------
    >>> import numpy as np
    >>> margin(np.log([[0.7, 0.2, 0.1]])).round(6)
    array([0.5])
    """
    return _confidence(logits, activation, name)[1]


def _confidence(
    logits: Float, activation: Activation, name: str
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Least confidence and margin, both as sums of positive terms."""
    n, c = _one_shape({name: logits})
    _check_activation(activation)
    least, gap = np.zeros(n), np.ones(n)
    if c == 0 or n == 0:
        return least, gap
    strip = _strip_rows(c)
    buffer, shifted = _buffers(min(strip, n), 1, c, _working_type(logits))
    for start, stop in ranges(0, n, strip):
        e, d = buffer[: stop - start, 0], shifted[: stop - start]
        found = _exponentials(logits[start:stop], activation, c, e, d, name, start)
        least[start:stop] = found.rest / (1 + found.rest)
        if c > 1:
            e[np.arange(stop - start), found.top] = 0
            second = e[:, :c].max(axis=1).astype(np.float64)
            gap[start:stop] = (found.rest + second) / (1 + found.rest)
    return least, gap


def _exponentials(
    logits: Float, activation: Activation, c: int, e: Float, d: Float, name: str, first_row: int
) -> _Strip:
    """Fill `e` with exp(x - max x) and return the largest class, Z' and H of each row.

    `e` and `d` are scratch of at least c columns; those of `e` beyond c must hold 0.
    """
    x, shifted = logits, d[:, :c]
    if activation == "sigmoid-norm":
        x = _log_sigmoid(logits.astype(e.dtype))
    elif x.dtype != e.dtype:
        np.copyto(shifted, x)
        x = shifted
    top = x.argmax(axis=1)
    each = np.arange(len(x))
    largest = x[each, top]
    if not np.isfinite(largest).all():
        raise _unusable(largest, name, first_row)
    with np.errstate(over="ignore", invalid="ignore"):
        np.subtract(x, largest[:, None], out=shifted)
        np.exp(shifted, out=e[:, :c])
        e[each, top] = 0
        rest, weighted = _row_sums(e), _row_dots(e, d)
    if np.isnan(weighted).any():  # 0 · -inf: only rows with masked classes come here
        np.maximum(shifted, MASKED, out=shifted)
        weighted = _row_dots(e, d)
    e[each, top] = 1
    return _Strip(top, rest, np.log1p(rest) - weighted / (1 + rest))


def _mixture_entropy(e: Float, heads: Sequence[_Strip], c: int, q: Float) -> NDArray[np.float64]:
    """Entropy of the mean of the heads' distributions; `e` (rows, m, c) holds exponentials.

    The class that the first head likes best is kept apart: where all heads are certain of it, its
    share comes from the small others, not from a difference with 1. `q` is scratch.
    """
    weights = np.stack([1 / (len(heads) * (1 + head.rest)) for head in heads], axis=1)
    np.matmul(weights[:, None].astype(e.dtype), e, out=q[:, None])
    each, top = np.arange(len(q)), heads[0].top
    own = q[each, top].astype(np.float64)
    q[each, top] = 0
    rest = _row_sums(q)
    q[each, top], q[:, c:] = 1, 1  # log 1 = 0: these take no part
    logs = e[:, 0]
    with np.errstate(divide="ignore", invalid="ignore"):
        others = _row_dots(q, np.log(q, out=logs))
    if np.isnan(others).any():  # 0 · log 0: only where a probability is below the smallest float
        others = _row_dots(q, np.log(np.maximum(q, np.finfo(q.dtype).tiny, out=q), out=logs))
    sure = rest < 0.5
    own_term = np.where(sure, (1 - rest) * np.log1p(-np.minimum(rest, 0.5)), _xlogx(own))
    logs[:, c:] = 0
    entropies: NDArray[np.float64] = -(others + own_term)
    return entropies


def _xlogx(p: NDArray[np.float64]) -> NDArray[np.float64]:
    return p * np.log(np.maximum(p, np.finfo(np.float64).tiny))


def _row_sums(a: Float) -> NDArray[np.float64]:
    chunks = _chunks(a)
    sums: NDArray[np.float64] = np.vecdot(chunks, np.ones(chunks.shape[-1], a.dtype)).sum(
        axis=-1, dtype=np.float64
    )
    return sums


def _row_dots(a: Float, b: Float) -> NDArray[np.float64]:
    dots: NDArray[np.float64] = np.vecdot(_chunks(a), _chunks(b)).sum(axis=-1, dtype=np.float64)
    return dots


def _chunks(a: Float) -> Float:
    """Cut the last axis, made by :func:`_padded`, in equal chunks, as a view."""
    return a.reshape(len(a), -(-a.shape[1] // CHUNK), -1, copy=False)


def _padded(c: int) -> int:
    """Columns of the scratch for `c` classes: whole chunks, of a multiple of 16 classes each."""
    count = -(-c // CHUNK)
    return c if count == 1 else count * (-(-c // (16 * count)) * 16)


def _buffers(rows: int, m: int, c: int, dtype: np.dtype[Any]) -> tuple[Float, Float]:
    """Scratch for `m` heads' exponentials and one head's differences, padded to whole chunks.

    Each thread keeps those it had: making them anew for every block would cost a sixth of the
    time. Columns beyond `c` hold 0 in the first, and every user leaves them so.
    """
    kept: dict[Any, tuple[Float, Float]] = _SCRATCH.__dict__
    key = f"{rows} {m} {c} {dtype}"
    if key not in kept:
        if len(kept) >= KEPT:
            kept.clear()
        width = _padded(c)
        kept[key] = np.zeros((rows, m, width), dtype), np.zeros((rows, width), dtype)
    return kept[key]


KEPT = 4
_SCRATCH = threading.local()


def _strip_rows(c: int) -> int:
    return max(STRIP_ELEMENTS // c, 8)


def _log_sigmoid(x: Float) -> Float:
    """Logarithm of sigmoid(x), as min(x, 0) - log1p(exp(-|x|)), without overflow."""
    smooth: Float = np.minimum(x, 0) - np.log1p(np.exp(-np.abs(x)))
    return smooth


def _working_type(*arrays: Float) -> np.dtype[Any]:
    return np.result_type(np.float32, *(array.dtype.newbyteorder("=") for array in arrays))


def _one_shape(heads: Mapping[str, Float]) -> tuple[int, int]:
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


def _check_activation(activation: str) -> None:
    if activation not in ACTIVATIONS:
        expected = " or ".join(ACTIVATIONS)
        raise ParameterError(f"activation: expected {expected}, found {activation!r}")


def _unusable(largest: Float, name: str, first_row: int) -> DataError:
    """Say what is wrong with the rows that have no finite largest logit."""
    rows = np.flatnonzero(~np.isfinite(largest))
    kinds = {np.inf: "+inf", -np.inf: "-inf in every class"}
    found = kinds.get(float(largest[rows[0]]), "nan")
    same = [int(r) + first_row for r in rows if kinds.get(float(largest[r]), "nan") == found]
    return DataError(f"expected finite logits, found {found}", dataset=name, rows=same)
