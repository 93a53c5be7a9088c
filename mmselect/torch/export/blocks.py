"""A batch on its way from the model to the pool: types, copies to the CPU, checks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from mmselect.errors import located
from mmselect.pool.blocks import Alike
from mmselect.pool.conversion import as_array, to_numpy
from mmselect.pool.ids import as_text
from mmselect.pool.presence import PRESENT, blank, mask_over
from mmselect.pool.schema import match, names_in, place_of
from mmselect.pool.values import check_values, narrowed

Arrays = dict[str, NDArray[Any]]

CLOSE = 0.02
"""How far a batch that is computed again may differ, relative to its largest number."""


class Block(NamedTuple):
    """A batch on its way to the file: values on the CPU, or being copied there.

    `copied` are the CUDA events after the copies, one for each device.
    """

    values: dict[str, Any]
    copied: list[Any]

    @property
    def rows(self) -> int:
        """Rows of the first dataset; the others are held against it later."""
        first = next(iter(self.values.values()))
        return len(first) if getattr(first, "ndim", 1) else 1


def leaving(found: Mapping[str, Any]) -> Block:
    """Start the way of a batch to the CPU, in copies: it waits for its shard.

    On CUDA, the copies go to pinned memory behind the kernels that make the numbers; nobody waits.

    Parameters
    ----------
    found : mapping of path to tensor or anything else
    """
    values = {}
    devices = {given.device for given in found.values() if getattr(given, "is_cuda", False)}
    for path, given in found.items():
        if isinstance(given, torch.Tensor) and is_float(path):
            wide = torch.float32 if given.dtype == torch.bfloat16 else given.dtype  # as NumPy has
            stored = given.detach().to(wide)  # a copy that nobody waits for goes to pinned memory
            values[path] = stored.to("cpu", non_blocking=given.is_cuda, copy=True)
        else:
            whole = isinstance(given, list | tuple | str)
            values[path] = given if whole else np.array(to_numpy(given))
    return Block(values, [torch.cuda.current_stream(device).record_event() for device in devices])


def arrived(block: Block, alike: Alike, dtype: Any = None) -> Arrays:
    """Turn a block into arrays of the types that are stored, and hold them against the format.

    Parameters
    ----------
    block : Block
    alike : Alike
        What is known from batches before; what this one adds is learned.
    dtype : torch.dtype or None
        Type of floats in the file; None is as they are.

    Raises
    ------
    SchemaError
        If a name, shape or type is not what the format says, or not as before.
    DataError
        If a value cannot be used or stored; `rows` counts within the batch.
    """
    for event in block.copied:
        event.synchronize()
    arrays = {path: stored(path, values) for path, values in block.values.items()}
    alike.accept(arrays)
    present = {name: arrays[f"{PRESENT}/{name}"] for name in names_in(PRESENT, arrays)}
    for path, array in arrays.items():
        blank(array, mask_over(path, present))
        with located(dataset=path):
            if dtype is not None and is_float(path):
                arrays[path] = narrowed(array, torch.empty(0, dtype=dtype).numpy().dtype)
            check_values(place_of(path), array, alike.axes.sizes)
    return arrays


def is_float(path: str) -> bool:
    """Whether the format stores floats under a path; not where it has no such dataset.

    Examples
    --------
    >>> is_float("/features/image"), is_float("/label"), is_float("/feature")
    (True, False, False)
    """
    place = match(path)
    return place is not None and place.dataset.kind == "float"


def stored(path: str, values: Any) -> NDArray[Any]:
    """Turn what is given for a dataset into an array as a file holds it: text as bytes objects."""
    array = as_array(path, values)
    if array.dtype.kind not in "OSU" or not array.ndim:
        return array  # one text for all samples is told of later, as a shape that does not fit
    return as_text(array, path)


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
    largest = np.abs(a[np.isfinite(a)], dtype=np.float64).max(initial=0)
    return np.allclose(
        b.astype(np.float64), a.astype(np.float64), rtol=0, atol=close * largest, equal_nan=True
    )
