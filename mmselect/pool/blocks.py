"""Blocks of rows on their way to a file: as arrays, held against the format and each other."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from mmselect.errors import DataError, SchemaError
from mmselect.pool.ids import Ids, as_stored, check_ids
from mmselect.pool.presence import check_present
from mmselect.pool.schema import Axes, axes_of, match, place_of
from mmselect.pool.values import bad_rows

Tensor = Any
"""NumPy array, sequence, or anything with ``__dlpack__`` or ``.cpu().numpy()``."""


def to_numpy(values: Tensor) -> NDArray[Any]:
    """Turn an array, a tensor of any library on any device, or a sequence into a NumPy array.

    Examples
    --------
    >>> to_numpy(["a", "b"]), to_numpy((1, 2)).dtype.kind
    (array(['a', 'b'], dtype='<U1'), 'i')
    """
    if isinstance(values, np.ndarray | h5py.Dataset):
        return np.asarray(values)
    if hasattr(values, "detach"):
        values = values.detach()
    if hasattr(values, "cpu"):
        values = values.cpu()
    if str(getattr(values, "dtype", "")).endswith("bfloat16"):  # NumPy has no such type
        values = values.float()
    if hasattr(values, "numpy"):
        return np.asarray(values.numpy())
    if hasattr(values, "__dlpack__"):
        return np.from_dlpack(values)
    return np.asarray(values)


def as_array(name: str, values: Tensor) -> NDArray[Any]:
    """Turn what is given for a dataset into an array, of its own type or, failing one, its table's.

    Examples
    --------
    >>> as_array("/labeled", [0, 1]), as_array("/metadata/caption", ["a", float("nan")])
    (array([False,  True]), array(['a', nan], dtype=object))
    """
    array, place = to_numpy(values), match(name)
    kind = place.dataset.kind if place else "float"
    if array.size == 0 and not hasattr(values, "dtype") and kind != "float":
        return array.astype({"boolean": bool, "integer": np.int64}.get(kind, object))
    if array.dtype.kind == "U" and not isinstance(values, np.ndarray):
        return np.array(values, object)  # NumPy makes words of the None and nan among text
    if kind == "boolean" and array.dtype.kind in "iu" and np.isin(array, (0, 1)).all():
        return array.astype(bool)
    return array


def check_arrays(arrays: Mapping[str, NDArray[Any]], axes: Axes | None = None) -> None:
    """Hold arrays against the schema, and ids, labels and masks against what a pool may hold.

    Raises
    ------
    SchemaError
        If a name, shape or type is not in the table, or sizes differ.
    DataError
        If ids repeat or cannot be printed on a line, a label lies beyond the classes, or a sample
        has no modality.
    """
    axes = axes_of(arrays, axes)
    if "/id" in arrays:
        check_ids(Ids(as_stored(arrays["/id"], "/id")))
    for name, array in arrays.items():
        if place_of(name).dataset.kind in ("integer", "boolean"):
            for problem, rows in bad_rows(place_of(name), array, axes.sizes).items():
                raise DataError(problem, dataset=name, rows=rows.tolist())
    check_present(arrays)


class Alike:
    """What blocks of rows have in common, learned from the first of them.

    Attributes
    ----------
    constants : mapping of dataset path to array
        The datasets without a row per sample.
    axes : Axes
    first : dict of dataset path to array
        No rows, but the type and shape of a row, of each dataset.
    """

    def __init__(self, constants: Mapping[str, NDArray[Any]]) -> None:
        self.constants, self.axes = constants, Axes()
        self.first: dict[str, NDArray[Any]] = {}

    def accept(self, block: Mapping[str, NDArray[Any]]) -> int:
        """Hold a block against the format and the first one; return its rows.

        Raises
        ------
        SchemaError, DataError
            See :func:`check_arrays`; or it has other datasets or types.
        """
        check_arrays(block if self.first else {**block, **self.constants}, self.axes)
        self.first = self.first or {name: values[:0].copy() for name, values in block.items()}
        if other := sorted(self.first.keys() ^ block.keys()):
            found = "an additional one" if other[0] in block else "none"
            message = f"expected the datasets of the first rows, found {found}"
            raise SchemaError(message, dataset=other[0])
        for name, values in block.items():
            old, new = _kind(self.first[name]), _kind(values)
            if old != new:
                message = f"expected {old}, as in the first rows, found {new}"
                raise SchemaError(message, dataset=name)
        return self.axes.restart("the first rows")


def _kind(values: NDArray[Any]) -> str:
    return "text" if values.dtype.kind in "OSU" else str(values.dtype)
