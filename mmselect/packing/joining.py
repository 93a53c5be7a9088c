"""Rows of several sources brought together: by their order, or by their ids."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from mmselect.arrays import Index
from mmselect.engine import compute_rows, ranges
from mmselect.errors import DataError, SchemaError, located
from mmselect.packing.source import Files, Source
from mmselect.pool.ids import Ids, as_stored
from mmselect.pool.parts import ArrayPart, Part, Plain

IDS = 1 << 15
"""Ids that are read at a time."""


def ids_in(source: Source) -> Ids:
    """Read a source as ids.

    Raises
    ------
    SchemaError, DataError
        If it holds no ids: numbers with a point, or names that repeat or cannot be printed.
    """
    column = source.column
    with located(place=source.place, dataset=source.key or "/id"):
        if column.dtype.kind not in "OSUiu" or len(column.shape) != 1:
            found = f"{column.dtype} of shape {column.shape}"
            raise SchemaError(
                f"expected ids, text or integers, found {found}", file=str(source.path)
            )
        blocks = [as_stored(column.read(*each)) for each in ranges(0, len(column), IDS)]
        ids = Ids(np.concatenate(blocks) if blocks else as_stored(column.read(0, 0)))
        for what, rows in ids.faults().items():
            raise DataError(what.format(ids.shown(rows[0])), rows=rows)
    return ids


@dataclass(frozen=True)
class Match:
    """Where each sample is found in a source.

    Attributes
    ----------
    rows : (n,) integer array
        Row of the source; -1 where it has none.
    others : int
        Rows of the source that no sample has.
    """

    rows: Index
    others: int

    @property
    def missing(self) -> Index:
        """Samples that the source does not have."""
        return np.flatnonzero(self.rows < 0)

    @property
    def same_order(self) -> bool:
        """Whether row i is sample i throughout."""
        return not self.others and bool((self.rows == np.arange(len(self.rows))).all())


def match(samples: Ids, found: Ids) -> Match:
    """Find samples among the ids of a source; integers and the same numbers as text are equal.

    Examples
    --------
    >>> a, b = Ids(np.array([b"x", b"7"], object)), Ids(np.array([7, 9]))
    >>> match(a, b)
    Match(rows=array([-1,  0]), others=1)
    """
    wanted, names = (ids.values.astype("S") for ids in (samples, found))
    if not len(names):
        return Match(np.full(len(wanted), -1), 0)
    order = np.argsort(names, kind="stable")
    places = np.minimum(np.searchsorted(names[order], wanted), len(names) - 1)
    rows = np.where(names[order[places]] == wanted, order[places], -1)
    return Match(rows, len(names) - int((rows >= 0).sum()))


def first_difference(samples: Ids, found: Ids) -> int | None:
    """Find the first row at which ids differ; None where they do not."""
    if len(samples) != len(found):
        return min(len(samples), len(found))
    unlike = np.flatnonzero(samples.values.astype("S") != found.values.astype("S"))
    return int(unlike[0]) if unlike.size else None


def spooled(source: Source, folder: Path, files: Files) -> Source:
    """Copy what is read in order only into a nameless file, so that any row can be read."""
    column = source.column
    step = 16 * compute_rows(int(np.prod(column.shape[1:])))
    blocks = (column.read(start, stop) for start, stop in ranges(0, len(column), step))
    where = (str(source.path), source.key, column.shape)
    part: Part
    if column.dtype.kind in "OSU":
        values = (
            np.concatenate([as_stored(b) for b in blocks]) if len(column) else column.read(0, 0)
        )
        part = ArrayPart(*where, np.dtype(object), values)
    else:
        spool = tempfile.TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115  closed with the files
        file = files.enter_context(spool)
        for block in blocks:
            file.write(np.ascontiguousarray(block, column.dtype).view(np.uint8).data)
        part = Plain(*where, column.dtype, ((file, 0, file.tell()),))
    return replace(source, parts=(part,), in_order=False, pieces=())
