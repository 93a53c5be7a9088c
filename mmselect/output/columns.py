"""Metadata columns that go along with a result, read as they are written out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmselect.output.tables import Whole, plain
from mmselect.pool.column import Column
from mmselect.pool.reading import Pool


@dataclass(frozen=True)
class Along:
    """A metadata column at some rows: a sequence whose slices are read when they are asked for.

    Attributes
    ----------
    column : Column
    rows : (n,) integer array
    """

    column: Column
    rows: NDArray[np.intp]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, cut: slice) -> list[Any]:
        values = self.column[self.rows[cut]]
        if values.dtype.kind == "f":
            return [Whole(str(value)) for value in values]  # in as few digits as their type needs
        return plain(values)


def columns_of(pool: Pool, names: Iterable[str], rows: NDArray[np.intp]) -> dict[str, list[Any]]:
    """Values of metadata columns at `rows`, as plain Python values.

    Parameters
    ----------
    pool : Pool
    names : iterable of str
        Columns of ``/metadata``.
    rows : (n,) integer array

    Returns
    -------
    dict of str to list
        One entry per column, in the order of `names`.

    Raises
    ------
    SelectionError
        For a column that the pool does not have.

    Examples
    --------
    >>> import mmselect, numpy as np
    >>> from mmselect.demo import EMOJI
    >>> with mmselect.open_pool(EMOJI) as pool:
    ...     columns_of(pool, ["vendor", "name"], np.array([0]))
    {'vendor': ['google'], 'name': ['grinning face']}
    """
    return {name: column[:] for name, column in columns_along(pool, names, rows).items()}


def columns_along(pool: Pool, names: Iterable[str], rows: NDArray[np.intp]) -> dict[str, Along]:
    """Metadata columns at `rows`, not read yet; for arguments see :func:`columns_of`."""
    return {name: Along(pool.metadata(name, "columns"), rows) for name in names}


def beside(fields: Mapping[str, Any], more: Mapping[str, Any]) -> dict[str, Any]:
    """Put columns after the fields of a result; one whose name is taken becomes ``metadata_NAME``.

    Examples
    --------
    >>> beside({"id": ["a"], "score": [1.0]}, {"id": [7], "loss": [0.5]})
    {'id': ['a'], 'score': [1.0], 'metadata_id': [7], 'loss': [0.5]}
    """
    joined = dict(fields)
    for name, values in more.items():
        free = name
        while free in joined or (free != name and free in more):
            free = f"metadata_{free}"
        joined[free] = values
    return joined
