"""A batch on its way from the model to the pool: types, copies to the CPU, checks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from mmselect.errors import DataError
from mmselect.pool.conversion import as_array, to_numpy
from mmselect.pool.ids import as_stored
from mmselect.pool.schema import Axes, match, place_of
from mmselect.pool.values import bad_rows
from mmselect.pool.writing import check_arrays
from mmselect.torch.export.trees import Tensor

Arrays = dict[str, NDArray[Any]]

CLOSE = 0.02
"""How far a batch that is computed again may differ, relative to its largest number."""


class Block(NamedTuple):
    """A batch on its way to the file: values on the CPU, or being copied there.

    `too_large` marks the rows whose numbers do not fit the type they are stored in; `copied` are
    the CUDA events after the copies, one for each device.
    """

    values: dict[str, Any]
    too_large: dict[str, Tensor]
    copied: list[Any]

    @property
    def rows(self) -> int:
        """Rows of the first dataset; the others are held against it later."""
        first = next(iter(self.values.values()))
        return len(first) if getattr(first, "ndim", 1) else 1


def leaving(found: Mapping[str, Any], dtype: Any = None) -> Block:
    """Give floats the type they are stored in, and start their way to the CPU.

    On CUDA, the copies go to pinned memory behind the kernels that make the numbers; nobody waits.

    Parameters
    ----------
    found : mapping of path to tensor or anything else
    dtype : torch.dtype or None
        Type of floats in the file; None is as they are, and float32 for bfloat16.
    """
    values, too_large, devices = {}, {}, set()
    for path, given in found.items():
        place = match(path)
        is_float = place is not None and place.dataset.kind == "float"
        if not is_float or not isinstance(given, torch.Tensor):
            whole = isinstance(given, list | tuple | str)
            values[path] = given if whole else np.array(to_numpy(given))
            continue
        kind = dtype or (torch.float32 if given.dtype == torch.bfloat16 else given.dtype)
        stored, cuda = given.detach().to(kind), given.device.type == "cuda"
        devices |= {given.device} if cuda else set()
        if _narrows(given.dtype, kind) and given.ndim > 1:
            mask = (stored.isinf() & given.isfinite()).flatten(1).any(dim=1)
            too_large[path] = mask.to("cpu", non_blocking=cuda)
        if stored.data_ptr() == given.data_ptr() and not cuda:
            stored = stored.clone()  # it waits for its shard, and the loader may use it again
        values[path] = stored.to("cpu", non_blocking=cuda)  # pinned by PyTorch if it may go on
    return Block(values, too_large, [_reached(device) for device in devices])


def _narrows(old: Any, new: Any) -> bool:
    """Whether a number of one floating type may be too large for another."""
    return old.is_floating_point and torch.finfo(new).max < torch.finfo(old).max


def _reached(device: Any) -> Any:
    """Mark the place that a device's work has to reach until what was asked of it is done."""
    event = torch.cuda.Event()
    event.record(torch.cuda.current_stream(device))
    return event


def arrived(block: Block, fixed: Mapping[str, NDArray[Any]], axes: Axes) -> Arrays:
    """Turn a block into arrays and hold them against the format; text becomes bytes.

    Parameters
    ----------
    block : Block
    fixed : mapping of path to array
        The datasets without a row per sample.
    axes : Axes
        Sizes that are known from batches before; those of this one are learned.

    Raises
    ------
    SchemaError
        If a name, shape or type is not what the format says, or numbers of rows differ.
    DataError
        If a value cannot be used or stored; `rows` counts within the batch.
    """
    for event in block.copied:
        event.synchronize()
    arrays = {path: as_text(path, as_array(path, each)) for path, each in block.values.items()}
    check_arrays({**arrays, **fixed}, axes)
    for path, mask in block.too_large.items():
        if mask.any():
            message = f"expected numbers that fit {arrays[path].dtype}, found larger ones"
            rows = np.flatnonzero(mask.numpy()).tolist()
            raise DataError(f"{message}: store them in a wider dtype=", dataset=path, rows=rows)
    for path, array in arrays.items():
        for problem, bad in bad_rows(place_of(path), array, axes.sizes).items():
            raise DataError(problem, dataset=path, rows=bad.tolist())
    axes.restart("the first rows")
    return arrays


def as_text(path: str, array: NDArray[Any]) -> NDArray[Any]:
    """Text as bytes objects, everything else as it is.

    Raises
    ------
    DataError
        For what HDF5 cannot hold as text; `rows` counts within the batch.
    """
    if array.dtype.kind not in "OSU" or not array.ndim:
        return array  # one text for all samples is told of later, as a shape that does not fit
    stored = as_stored(array, path)
    if bad := [row for row, text in enumerate(stored) if b"\0" in text]:
        raise DataError("expected text without NUL", dataset=path, rows=bad)
    return stored


def allclose_to_largest(a: NDArray[Any], b: NDArray[Any], close: float = CLOSE) -> bool:
    """Whether two arrays hold the same numbers, but for what another run of a model may change.

    ``|a - b| ≤ close · max |a|``; what is not finite, and what is no float, must be equal.

    Examples
    --------
    >>> allclose_to_largest(np.array([1.0, 100.0]), np.array([1.5, 101.0]))
    True
    >>> allclose_to_largest(np.array([1, 2]), np.array([1, 3]))
    False
    """
    if a.shape != b.shape or a.dtype != b.dtype or a.dtype.kind != "f":
        return a.dtype == b.dtype and bool(np.array_equal(a, b))
    finite = np.isfinite(a)
    if not np.array_equal(a[~finite], b[~finite], equal_nan=True):
        return False
    x, y = (each[finite].astype(np.float64) for each in (a, b))
    return bool((np.abs(x - y) <= close * np.abs(x).max(initial=0)).all())
