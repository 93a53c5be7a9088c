"""A pool whose datasets are arrays in memory, for work that makes a new one again and again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from numpy.typing import NDArray

from mmselect.errors import UsageError, located
from mmselect.pool.blocks import check_arrays
from mmselect.pool.column import Column
from mmselect.pool.conversion import ARGUMENTS, arrays_of, to_numpy
from mmselect.pool.ids import as_stored
from mmselect.pool.layout import Layout
from mmselect.pool.parts import ArrayPart
from mmselect.pool.presence import lay_masks
from mmselect.pool.reading import Pool, PoolPath
from mmselect.pool.schema import axes_of, per_sample

HELD = "arrays"
"""What errors and provenance call a pool that is in no file."""


def pool_of(**arguments: Any) -> Pool:
    """Make a pool of what :func:`mmselect.write_pool` takes, with its checks and without a file.

    Parameters
    ----------
    **arguments
        ``features={"image": a}``, ``multimodal_logits=y`` and so on.

    Returns
    -------
    Pool

    Raises
    ------
    SchemaError, DataError
        As of :func:`mmselect.write_pool`.

    Examples
    --------
    >>> pool = pool_of(features={"image": [[1.0, 2.0], [3.0, 4.0]]}, ids=["a", "b"])
    >>> pool.n, pool.ids.text([1])
    (2, ['b'])
    """
    with located(file=HELD):
        arrays = arrays_of(arguments)
        check_arrays(arrays)
        texts = {p: as_stored(a, p) for p, a in arrays.items() if a.dtype.kind in "OSU"}
    return hold(arrays | texts, HELD)


Given = Pool | PoolPath | Sequence[PoolPath]


def held_pool(pool: Given | None, asked: Mapping[str, Any]) -> tuple[Given, dict[str, Any]]:
    """Make a pool of the arrays among some keywords, where none is given.

    Returns
    -------
    pool
        The pool, or the paths, that was given; or one of arrays.
    dict
        The keywords that are no arrays. `labeled` is one if it is a mask.

    Raises
    ------
    UsageError
        If there are both a pool and arrays, or neither.
    SchemaError, DataError
        As of :func:`pool_of`.
    """
    arrays = {name: each for name, each in asked.items() if name in ARGUMENTS and each is not None}
    if "labeled" in arrays and to_numpy(arrays["labeled"]).dtype != bool:
        del arrays["labeled"]
    if pool is None and not arrays:
        expected = "expected a path, a Pool, or arrays such as features={...}"
        raise UsageError(f"pool: {expected}, found none")
    if pool is None:
        return pool_of(**arrays), {n: each for n, each in asked.items() if n not in arrays}
    if beside := sorted(arrays.keys() - {"labeled"}):
        raise UsageError(f"{beside[0]}: expected a pool or arrays, found both")
    return pool, dict(asked)


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
