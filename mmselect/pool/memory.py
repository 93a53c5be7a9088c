"""A pool whose datasets are arrays in memory, for work that makes a new one again and again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from numpy.typing import NDArray

from mmselect.errors import located
from mmselect.pool.layout import Layout
from mmselect.pool.parts import ArrayPart
from mmselect.pool.presence import lay_masks
from mmselect.pool.reading import Column, Pool
from mmselect.pool.schema import axes_of, per_sample


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
    DataError
        If a sample has no modality.

    Examples
    --------
    >>> import numpy as np
    >>> pool = hold({"/features/image": np.zeros((3, 2)), "/id": np.arange(3)}, "made up")
    >>> pool.n, pool.modalities, pool.columns["/features/image"][1:].shape
    (3, ['image'], (2, 2))
    """
    with located(file=file):
        sizes = axes_of(arrays).sizes
    pool = Pool(Layout(), [file], sizes["n"], sizes)
    for path, array in arrays.items():
        if per_sample(path):
            part = ArrayPart(file, path, array.shape, array.dtype, array)
            pool.columns[path] = Column(path, (part,), array.shape, array.dtype)
        else:
            pool.constants[path] = array
    with pool.located():
        lay_masks(pool)
    return pool
