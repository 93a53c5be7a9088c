"""Blocks of rows on their way to a file, held against the format and against each other."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from numpy.typing import NDArray

from mmselect.errors import SchemaError, located
from mmselect.pool.ids import Ids, as_stored, check_ids
from mmselect.pool.presence import check_present
from mmselect.pool.schema import Axes, axes_of, place_of
from mmselect.pool.values import check_values


def check_arrays(
    arrays: Mapping[str, NDArray[Any]], axes: Axes | None = None, others: Collection[str] = ()
) -> None:
    """Hold arrays against the schema, and ids, labels and masks against what a pool may hold.

    `others` are datasets of the same pool that are written elsewhere.

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
            with located(dataset=name):
                check_values(place_of(name), array, axes.sizes)
    check_present(arrays, others)


class Alike:
    """What blocks of rows have in common, learned from the first of them.

    Attributes
    ----------
    constants : mapping of dataset path to array
        The datasets without a row per sample.
    others : collection of dataset path
        What else the pool has, written elsewhere.
    axes : Axes
    first : dict of dataset path to array
        No rows, but the type and shape of a row, of each dataset.
    """

    def __init__(self, constants: Mapping[str, NDArray[Any]], others: Collection[str] = ()) -> None:
        self.constants, self.others, self.axes = constants, others, Axes()
        self.first: dict[str, NDArray[Any]] = {}

    def accept(self, block: Mapping[str, NDArray[Any]]) -> int:
        """Hold a block against the format and the first one; return its rows.

        Raises
        ------
        SchemaError, DataError
            See :func:`check_arrays`; or it has other datasets or types.
        """
        every = block if self.first else {**block, **self.constants}
        check_arrays(every, self.axes, self.others)
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
