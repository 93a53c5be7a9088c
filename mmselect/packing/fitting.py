"""What a source's values become in a pool: types, classes of labels, and what no pool may hold."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmselect.engine import ranges
from mmselect.errors import DataError, SchemaError, few
from mmselect.pool.column import Column
from mmselect.pool.ids import as_stored
from mmselect.pool.schema import Place
from mmselect.pool.values import narrowed

BLOCK = 1 << 16
"""Labels that are looked at together."""

Turn = Callable[[NDArray[Any]], NDArray[Any]]


def fitted(place: Place, dtype: np.dtype[Any], floats: str | None) -> tuple[np.dtype[Any], Turn]:
    """Find the type in which a dataset is stored, and what turns values into it.

    Parameters
    ----------
    place : Place
    dtype : dtype
        Of the source.
    floats : str, optional
        Type of features and logits; as they come where none is said.

    Raises
    ------
    SchemaError
        If there is none, such as for text among features.

    Examples
    --------
    >>> from mmselect.pool.schema import place_of
    >>> target, turn = fitted(place_of("/features/image"), np.dtype("i1"), None)
    >>> target, turn(np.array([[1, -2]], "i1")).tolist()
    (dtype('float32'), [[1.0, -2.0]])
    """
    kind, text = place.dataset.kind, dtype.kind in "OSU"
    if kind == "float":
        if text or dtype.kind not in "fiub":
            raise SchemaError(f"expected numbers, found {'text' if text else dtype}")
        target = _float(dtype)
        if floats and (place.dataset.is_logits or place.dataset.group == "/features"):
            target = np.dtype(floats)
        return target, lambda block: narrowed(block, target)
    if kind == "boolean" and not text:
        return np.dtype(bool), _truth
    if dtype.kind in "mM":
        return np.dtype(object), lambda block: as_stored(block.astype(str))
    if dtype.kind == "f" and dtype.itemsize > 8:
        return np.dtype("f8"), lambda block: narrowed(block, np.dtype("f8"))
    own = dtype.newbyteorder("=")
    return own, lambda block: block.astype(own, copy=False)


def _float(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Floats as they come; whole numbers in the smallest float that holds them, or float64."""
    if dtype.kind == "f":
        return dtype.newbyteorder("=") if dtype.itemsize <= 8 else np.dtype("f8")
    return np.dtype("f4" if dtype.itemsize <= 2 else "f8")


def _truth(block: NDArray[Any]) -> NDArray[np.bool_]:
    wrong = np.flatnonzero((block != 0) & (block != 1))
    if wrong.size:
        raise DataError("expected 0 or 1, found another number", rows=wrong.tolist())
    return block.astype(bool)


def classes(column: Column, known: Sequence[str]) -> tuple[NDArray[np.int64], list[str]]:
    """Class indices of labels, and the names of the classes where labels are text.

    Parameters
    ----------
    column : Column
        Class indices, with nan or -1 where they are unknown; or names, empty where unknown.
    known : sequence of str
        Names of the classes in the order of their indices; empty: those that there are, sorted.

    Raises
    ------
    DataError
        For a number that is no class, and for a name that is not known.
    SchemaError
        If labels are no column.
    """
    if len(column.shape) != 1:
        raise SchemaError(f"expected one label per sample, found shape {column.shape}")
    codes = np.empty(len(column), np.int64)
    found = {name.encode(): i for i, name in enumerate(known)} | {b"": -1}
    text, first = column.dtype.kind in "OSU", len(found)
    for start, stop in ranges(0, len(column), BLOCK):
        block = column.read(start, stop)
        if not text:
            codes[start:stop] = _indices(block, start)
            continue
        names = as_stored(block).tolist()
        codes[start:stop] = [found.setdefault(name, len(found) - 1) for name in names]
    if not text:
        return codes, list(known)
    others = [name.decode("utf-8", "replace") for name in list(found)[first:]]
    if known and others:
        rows = np.flatnonzero(codes >= len(known)).tolist()
        message = f"expected one of the class names ({few(list(known))}), found {others[0]!r}"
        raise DataError(message, rows=rows)
    if known:
        return codes, list(known)
    order = np.argsort(np.array(others, object))
    rank = np.append(np.argsort(order), -1)
    return rank[codes], [others[i] for i in order]


def _indices(block: NDArray[Any], start: int) -> NDArray[np.int64]:
    """Whole numbers; nan is an unknown class."""
    if block.dtype.kind in "iub":
        return block.astype(np.int64)
    numbers = np.where(np.isnan(block), -1, block)
    if (wrong := np.flatnonzero(numbers != np.floor(numbers))).size:
        message = f"expected classes, found {numbers[wrong[0]]:g}"
        raise DataError(message, rows=(wrong + start).tolist())
    return numbers.astype(np.int64)
