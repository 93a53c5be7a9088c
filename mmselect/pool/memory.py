"""A pool whose datasets are arrays in memory, for work that makes a new one again and again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from mmselect.errors import SchemaError
from mmselect.pool.layout import Layout
from mmselect.pool.reading import Column, Part, Pool
from mmselect.pool.schema import match


@dataclass(frozen=True)
class ArrayPart(Part):
    """An array in place of a dataset in a file."""

    dataset: NDArray[Any]

    @property
    def plain(self) -> bool:
        """Any thread may read an array."""
        return True

    @property
    def compressed(self) -> bool:
        """An array never is."""
        return False

    def read(self, start: int, stop: int, out: NDArray[Any] | None = None) -> NDArray[Any]:
        """Rows from `start` to `stop`; in `out`, if it is given."""
        if out is None:
            return self.dataset[start:stop].copy()
        out[...] = self.dataset[start:stop]
        return out

    def announce(self, start: int, stop: int) -> None:
        """Nothing is read from a disk."""


def hold(arrays: Mapping[str, NDArray[Any]], file: str) -> Pool:
    """Make a pool of arrays, without a copy.

    Parameters
    ----------
    arrays : mapping of dataset path to array
        As in the format: ``/features/image`` and so on.
    file : str
        What errors name.

    Returns
    -------
    Pool

    Raises
    ------
    SchemaError
        If a path is not in the format, or sizes differ.

    Examples
    --------
    >>> import numpy as np
    >>> pool = hold({"/features/image": np.zeros((3, 2)), "/id": np.arange(3)}, "made up")
    >>> pool.n, pool.modalities, pool.columns["/features/image"][1:].shape
    (3, ['image'], (2, 2))
    """
    sizes: dict[str, int] = {}
    for path, array in arrays.items():
        place = match(path)
        if place is None or array.ndim != len(place.axes):
            message = f"expected a dataset of the format, found shape {array.shape}"
            raise SchemaError(message, file=file, dataset=path)
        for axis, size in zip(place.axes, array.shape, strict=True):
            if sizes.setdefault(axis, size) != size:
                message = f"expected {axis} = {sizes[axis]:,}, found {size:,}"
                raise SchemaError(message, file=file, dataset=path)
    pool = Pool(Layout(), [file], sizes["n"], sizes)
    for path, array in arrays.items():
        place = match(path)
        if place is not None and place.dataset.per_sample:
            pool.columns[path] = Column(path, (ArrayPart(array),), array.shape, array.dtype)
        else:
            pool.constants[path] = array
    return pool
