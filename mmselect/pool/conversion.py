"""Arrays as people have them, of NumPy or not, as arrays of NumPy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from mmselect.errors import DataError, SchemaError, unexpected
from mmselect.pool.schema import SCHEMA, Kind, by_path, match

Tensor = Any
"""NumPy array, column of a data frame, sequence, or ``__dlpack__`` or ``.cpu().numpy()`` of it."""

ARGUMENTS = tuple(dataset.argument for dataset in SCHEMA)
"""Keywords under which :func:`mmselect.write_pool` and others take arrays."""


def arrays_of(arguments: Mapping[str, Tensor | Mapping[str, Tensor] | None]) -> dict[str, Any]:
    """Turn keywords of :func:`mmselect.write_pool` into arrays by dataset path.

    Raises
    ------
    TypeError
        For a keyword that there is not.
    SchemaError, DataError
        For what is no array, such as lists of unequal lengths.

    Examples
    --------
    >>> arrays_of({"features": {"image": [[1.0, 2.0]]}, "labels": [None], "ids": None})
    {'/features/image': array([[1., 2.]]), '/label': array([-1])}
    """
    if unknown := sorted(arguments.keys() - {*ARGUMENTS}):
        raise unexpected(unknown[0], ARGUMENTS)
    for dataset in SCHEMA:
        values = arguments.get(dataset.argument)
        if dataset.named and not isinstance(values, Mapping | None):
            message = f"expected a mapping of names to arrays, found {type(values).__name__}"
            raise SchemaError(message, dataset=dataset.group)
    given = {path: as_array(path, values) for path, values in by_path(arguments).items()}
    if "/label" in given and given["/label"].dtype.kind in "OSU":
        message = "expected class indices, found text; mmselect.pack makes classes of names"
        raise SchemaError(message, dataset="/label")
    return given


def to_numpy(values: Tensor) -> NDArray[Any]:
    """Turn an array, a column, a tensor of any library, or a sequence into a NumPy array.

    What cannot be one array, such as lists of unequal lengths, becomes one of objects.

    Examples
    --------
    >>> to_numpy(["a", "b"]), to_numpy((1, 2)).dtype.kind
    (array(['a', 'b'], dtype='<U1'), 'i')
    """
    if isinstance(values, np.ndarray | h5py.Dataset):
        return np.asarray(values)
    if hasattr(values, "to_numpy"):  # pandas, polars and pyarrow
        arrow = hasattr(values, "null_count") and not hasattr(values, "chunks")
        given = {"zero_copy_only": False} if arrow and not callable(values.null_count) else {}
        return np.asarray(values.to_numpy(**given))
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
    if isinstance(values, Sequence) and len(values) and hasattr(values[0], "detach"):
        values = [to_numpy(each) for each in values]
    try:
        return np.asarray(values)
    except ValueError:
        out = np.empty(len(values), object)
        out[:] = list(values)
        return out


def as_array(name: str, values: Tensor) -> NDArray[Any]:
    """Turn what is given for a dataset into an array, of its own type or, failing one, its table's.

    Raises
    ------
    DataError
        Naming the row, for lists of unequal lengths or a row without one.

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
    if array.dtype.kind == "O" and array.ndim == 1:
        array = _unboxed(name, array, kind)
    if array.dtype.kind in "mM":
        return np.where(np.isnat(array), "", array.astype(str)).astype(object)
    if kind == "integer" and array.dtype.kind == "f" and np.isnan(array).any():
        return _classes(array)
    if kind == "boolean" and array.dtype.kind in "iu" and np.isin(array, (0, 1)).all():
        return array.astype(bool)
    return array


def _classes(array: NDArray[Any]) -> NDArray[Any]:
    """Whole numbers, and nan for an unknown class, as data frames have them."""
    known = ~np.isnan(array)
    if (array[known] != np.floor(array[known])).any():
        return array
    return np.where(known, array, -1).astype(np.int64)


def _unboxed(name: str, array: NDArray[Any], kind: Kind) -> NDArray[Any]:
    """Make rows of lists, and numbers of objects that are some; leave text as it is."""
    items = array.tolist()
    if items and isinstance(items[0], str | bytes):
        return array
    there = [item for item in items if not _is_missing(item)]
    if kind == "float" and there and hasattr(there[0], "__len__"):
        return _stacked(name, items, len(there[0]))
    if kind == "integer" and not there:
        return np.full(len(items), np.nan)
    if not there or not all(isinstance(item, bool | int | float | np.generic) for item in there):
        return array
    if len(there) == len(items):
        return np.array(items)
    return np.array([np.nan if _is_missing(item) else item for item in items], np.float64)


def _is_missing(item: Any) -> bool:
    return item is None or type(item).__name__ in ("NAType", "NaTType") or item is np.nan


def _stacked(name: str, items: Sequence[Any], width: int) -> NDArray[Any]:
    """Make a matrix of rows that are equally long."""
    for row, item in enumerate(items):
        if not hasattr(item, "__len__"):
            way = "; of a sample without this modality give zeros, and present=False"
            message = f"expected {width:,} numbers, found none{way}"
            raise DataError(message, dataset=name, rows=[row])
        if len(item) != width:
            message = f"expected {width:,} numbers, as in the first row, found {len(item):,}"
            raise DataError(message, dataset=name, rows=[row])
    return np.stack([to_numpy(item) for item in items])
