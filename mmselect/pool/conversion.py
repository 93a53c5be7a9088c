"""Arrays as people have them, of NumPy or not, as arrays of NumPy."""

from __future__ import annotations

from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from mmselect.pool.schema import match

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
