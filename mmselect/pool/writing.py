"""Write a pool, from NumPy arrays or anything that turns into them."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from mmselect.errors import DataError, SchemaError
from mmselect.files import replacing
from mmselect.pool.ids import Ids, check_unique
from mmselect.pool.reading import as_stored
from mmselect.pool.schema import FORMAT, NAME, VERSION, match, type_problem

Tensor = Any
"""NumPy array, sequence, or anything with ``__dlpack__`` or ``.cpu().numpy()``."""


def write_pool(
    path: str | os.PathLike[str],
    *,
    ids: Tensor | Sequence[str] | None = None,
    features: Mapping[str, Tensor] | None = None,
    unimodal_logits: Mapping[str, Tensor] | None = None,
    multimodal_logits: Tensor | None = None,
    coalition_logits: Mapping[str, Tensor] | None = None,
    classifier_weight: Mapping[str, Tensor] | None = None,
    classifier_bias: Tensor | None = None,
    dropout_logits: Tensor | None = None,
    labels: Tensor | None = None,
    labeled: Tensor | None = None,
    class_names: Sequence[str] | None = None,
    metadata: Mapping[str, Tensor] | None = None,
) -> None:
    """Write a pool file in format 1.0.

    The file appears under its name only when it is whole. Floats keep their type; storage is
    contiguous. The format's page says what each dataset means and which axes it has.

    Parameters
    ----------
    path : path
        The file to write; an existing one is replaced.
    ids : (n,) sequence of str or integers, optional
        Unique names.
    features, unimodal_logits : mapping of modality to (n, d) or (n, c) array, optional
    multimodal_logits : (n, c) array, optional
    coalition_logits : mapping of coalition (``a+b`` or ``none``) to (n, c) array, optional
    classifier_weight : mapping of modality to (c, d) array, optional
    classifier_bias : (c,) array, optional
    dropout_logits : (n, t, c) array, optional
    labels : (n,) integer array, optional
        Class index, -1 = unknown.
    labeled : (n,) boolean array, optional
    class_names : (c,) sequence of str, optional
    metadata : mapping of column to (n,) array or sequence, optional

    Arrays are NumPy arrays, sequences, or anything with ``__dlpack__`` or ``.cpu().numpy()``, such
    as torch tensors on any device.

    Raises
    ------
    SchemaError
        If a name, shape or type is not what the format says, or sizes differ.
    DataError
        If ids repeat, are empty, or hold a line break.
    OutputError
        If the file cannot be written.

    Examples
    --------
    >>> import mmselect, numpy as np, tempfile, pathlib
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "pool.h5"
    >>> mmselect.write_pool(path, ids=["a", "b"], features={"image": np.zeros((2, 3))})
    >>> with mmselect.open_pool(path) as pool:
    ...     pool.n, pool.ids.text([1])
    (2, ['b'])
    """
    given = {
        "/id": ids,
        "/multimodal_logits": multimodal_logits,
        "/classifier/bias": classifier_bias,
        "/dropout_logits": dropout_logits,
        "/label": labels,
        "/labeled": labeled,
        "/class_names": class_names,
        **_named("/features", features),
        **_named("/unimodal_logits", unimodal_logits),
        **_named("/coalition_logits", coalition_logits),
        **_named("/classifier/weight", classifier_weight),
        **_named("/metadata", metadata),
    }
    arrays = {name: _typed(name, values) for name, values in given.items() if values is not None}
    check_arrays(arrays)
    with replacing(Path(path)) as temporary, h5py.File(temporary, "w") as handle:
        handle.attrs.update(format=FORMAT, format_version=VERSION)
        for name, array in arrays.items():
            store(handle, name, array)


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


def _named(group: str, arrays: Mapping[str, Tensor] | None) -> dict[str, Tensor]:
    return {f"{group}/{name}": array for name, array in (arrays or {}).items()}


def _typed(name: str, values: Tensor) -> NDArray[Any]:
    """Turn into an array; an empty list, which has no type of its own, gets the schema's."""
    array, place = to_numpy(values), match(name)
    untyped = array.size == 0 and not hasattr(values, "dtype")
    if untyped and place and place.dataset.kind != "float":
        kinds = {"boolean": bool, "integer": np.int64}
        return array.astype(kinds.get(place.dataset.kind, object))
    return array


def check_arrays(arrays: Mapping[str, NDArray[Any]]) -> None:
    """Hold every array against the schema and the others before anything is written."""
    sizes: dict[str, tuple[int, str]] = {}
    for name, array in arrays.items():
        place = match(name)
        if place is None:
            message = f"expected a name of {NAME} (coalitions: sorted, joined by +)"
            raise SchemaError(message, dataset=name)
        if array.ndim != len(place.axes):
            message = f"expected axes ({', '.join(place.axes)}), found shape {array.shape}"
            raise SchemaError(message, dataset=name)
        if 0 in array.shape[1:]:
            message = f"expected axes of at least 1 beside n, found shape {array.shape}"
            raise SchemaError(message, dataset=name)
        if problem := type_problem(place.dataset, array.dtype):
            raise SchemaError(problem, dataset=name)
        for axis, size in zip(place.axes, array.shape, strict=True):
            expected, source = sizes.setdefault(axis, (size, name))
            if size != expected:
                message = f"expected {axis} = {expected:,}, as in {source}, found {size:,}"
                raise SchemaError(message, dataset=name)
    if "n" not in sizes:
        raise SchemaError("expected at least one array with a row per sample, found none")
    if "/id" in arrays:
        check_ids(Ids(as_stored(arrays["/id"])))


def check_ids(ids: Ids) -> None:
    """Refuse ids that repeat or that a line of text cannot carry.

    Raises
    ------
    DataError
        Naming the rows.
    """
    if bad := ids.unprintable():
        message = "expected UTF-8 text without line breaks, not empty"
        raise DataError(f"{message}, found {ids.values[bad[0]]!r}", dataset="/id", rows=bad)
    check_unique(ids)


def store(handle: h5py.File, name: str, array: NDArray[Any]) -> None:
    """Write a whole array as a dataset; text as HDF5 strings."""
    if array.dtype.kind in "OSU":
        text = [item.decode() if isinstance(item, bytes) else str(item) for item in array.tolist()]
        handle.create_dataset(name, data=text, dtype=h5py.string_dtype(), track_times=False)
    else:
        handle.create_dataset(name, data=array, track_times=False)
