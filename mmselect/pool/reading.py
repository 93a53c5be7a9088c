"""Open a pool and read it in row blocks.

Several files look like one pool: rows are numbered through, in the order given.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from mmselect.engine import DEFAULT_MEMORY, ranges
from mmselect.errors import (
    MmselectError,
    RowNumbers,
    SchemaError,
    SelectionError,
    located,
    printable,
    suggestion,
)
from mmselect.pool.column import Column, column_of, origin_of
from mmselect.pool.ids import Ids, as_stored, check_ids
from mmselect.pool.layout import Layout, survey
from mmselect.pool.presence import PRESENT, Mask, lay_masks
from mmselect.pool.schema import modalities_in, names_in, per_sample, place_of
from mmselect.pool.values import check_values

PoolPath = str | os.PathLike[str]


@dataclass
class Pool:
    """A pool of samples, open for reading. Use it in a ``with`` block.

    Attributes
    ----------
    files : list of str
        Its shards, in order.
    n : int
        Samples.
    sizes : dict
        Size of each axis by letter (``c``, ``t``, ``d of image``, …).
    columns : dict of path to Column
        Datasets with a row per sample.
    constants : dict of path to array
        The classifier and the class names.
    unknown : list of str
        Names that the format does not know, as ``file: /path``.
    present : dict of modality to (n,) boolean array
        Which samples have it, for each modality that some lack; it is laid over the columns.
    notices : list of str
        What the user should know of the masks.
    """

    layout: Layout
    files: list[str]
    n: int
    sizes: dict[str, int]
    columns: dict[str, Column] = field(default_factory=dict)
    constants: dict[str, NDArray[Any]] = field(default_factory=dict)
    unknown: list[str] = field(default_factory=list)
    present: dict[str, Mask] = field(default_factory=dict)
    notices: list[str] = field(default_factory=list)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the files. Arrays read from them stay valid."""
        self.layout.close()

    @property
    def paths(self) -> set[str]:
        """All datasets the pool has."""
        return self.columns.keys() | self.constants.keys()

    def names(self, group: str) -> list[str]:
        """User-chosen names in a group, sorted: the modalities of ``/features``, for example."""
        return names_in(group, self.paths)

    @property
    def modalities(self) -> list[str]:
        """Every modality that any dataset is of, sorted."""
        return modalities_in(self.paths)

    @property
    def masked(self) -> list[str]:
        """Modalities that have a mask in ``/present``, sorted."""
        return self.names(PRESENT)

    @cached_property
    def ids(self) -> Ids:
        """The samples' ids; row numbers where the pool has none.

        Raises
        ------
        DataError
            If two samples have the same id, or an id cannot be printed on a line.
        """
        column = self.columns.get("/id")
        ids = Ids(np.arange(self.n) if column is None else as_stored(column[:]))
        with self.located():
            check_ids(ids)
        return ids

    @cached_property
    def labeled(self) -> NDArray[np.bool_]:
        """Mask (n,) of the samples that the pool says are labeled."""
        column = self.columns.get("/labeled")
        if column is None:
            return np.zeros(self.n, bool)
        mask = column[:]
        with self.located(), located(dataset="/labeled"):
            check_values(place_of("/labeled"), mask, self.sizes)
        return mask.astype(bool)

    def metadata(self, name: str, asked: str) -> Column:
        """Find the column ``/metadata/{name}``; `asked` is the option that names it.

        Raises
        ------
        SelectionError
            If the pool has none of that name.
        """
        if (column := self.columns.get(f"/metadata/{name}")) is not None:
            return column
        known = self.names("/metadata")
        expected = f"expected a column of /metadata ({', '.join(known) or 'none is there'})"
        message = f"{asked}: {expected}, found {name!r}{suggestion(name, known)}"
        raise SelectionError(message, file=self.files[0])

    def place(self, rows: Sequence[int]) -> tuple[str, list[int]]:
        """Name the file that holds the first of `rows`, and which of its own rows they are."""
        first = 0
        for shard in self.layout.shards:
            here = [row - first for row in rows if first <= row < first + shard.rows]
            if here and rows[0] < first + shard.rows:
                return shard.file, here
            first += shard.rows
        return self.files[0], list(rows)

    def located(self, rows: RowNumbers | None = None) -> contextlib.AbstractContextManager[None]:
        """Make errors raised in a ``with`` block name the file; `rows` renames their rows."""
        return located(file=self.files[0], rows=rows, place=self.place)

    def blocks(
        self, paths: Sequence[str], step: int, memory: int = DEFAULT_MEMORY
    ) -> Iterator[tuple[int, dict[str, NDArray[Any]]]]:
        """Read datasets from the first row to the last, in blocks of `step` rows.

        Parameters
        ----------
        paths : sequence of str
            Datasets with a row per sample.
        step : int
            Rows of a block; the last one may be shorter.
        memory : int
            Bytes to read at a time, for all `paths` together; at least one block is read.

        Yields
        ------
        (int, dict of path to array)
            First row of the block, and its rows of each dataset.
        """
        columns = [self.columns[path] for path in paths]
        row = sum(column.row_bytes for column in columns)
        rows = max(memory // max(row, 1) // step, 1) * step
        for start, stop in ranges(0, self.n, rows):
            read = [column.read(start, stop) for column in columns]
            for a, b in ranges(start, stop, step):
                cut = slice(a - start, b - start)
                yield a, {path: block[cut] for path, block in zip(paths, read, strict=True)}


def open_pool(
    paths: PoolPath | Sequence[PoolPath], *, masks: bool = True, ids: bool = True
) -> Pool:
    """Open a pool file, or several files as the shards of one pool.

    Parameters
    ----------
    paths : path or sequence of paths
        HDF5 files in pool format 1.x; rows are numbered through in this order.
    masks : bool
        False leaves rows as they are stored, also of samples that lack the modality: for a shard
        by itself, in which perhaps nobody has it.
    ids : bool
        False leaves the ids unread, which are held whole: for a pool of which no id is needed.

    Returns
    -------
    Pool
        Names, shapes, types and ids are read and checked; no numbers yet.

    Raises
    ------
    FormatError
        If a file is not a pool, is truncated, or has another major version.
    SchemaError
        If a dataset's name, shape or type is not what the format says, or shards differ.
    DataError
        If ids repeat, or cannot be printed on a line, or a sample has no modality.

    Examples
    --------
    >>> from mmselect.demo import EMOJI
    >>> with open_pool(EMOJI) as pool:
    ...     pool.modalities, pool.columns["/multimodal_logits"].shape
    (['image', 'text'], (3812, 76))
    """
    many = [paths] if isinstance(paths, str | os.PathLike) else list(paths)
    if not many:
        raise SchemaError("expected at least one pool file, found none")
    layout = survey(Path(path) for path in many)
    if layout.problems:
        layout.close()
        raise layout.problems[0]
    pool = Pool(layout, [str(path) for path in many], layout.sizes["n"], layout.sizes)
    origin = origin_of([shard.file for shard in layout.shards])
    try:
        for path in layout.shards[0].parts:
            parts = [shard.parts[path] for shard in layout.shards]
            if per_sample(path):
                pool.columns[path] = column_of(path, parts, layout.check, origin)
            else:
                array = parts[0].read(0, len(parts[0]))
                if array.dtype.kind == "f":
                    with np.errstate(invalid="ignore"):  # signalling nan becomes any other
                        np.multiply(array, 1, out=array)
                pool.constants[path] = array
        pool.unknown = [
            printable(f"{shard.file}: {path}") for shard in layout.shards for path in shard.unknown
        ]
        if ids:
            _ = pool.ids  # no command works on ids that it could not print
        with pool.located():
            if masks:
                lay_masks(pool)
    except MmselectError:
        layout.close()
        raise
    return pool


@contextlib.contextmanager
def opened_pool(pool: Pool | PoolPath | Sequence[PoolPath]) -> Iterator[Pool]:
    """Open paths for the time of the block; leave a pool that is open as it is."""
    if isinstance(pool, Pool):
        yield pool
        return
    with open_pool(pool) as opened:
        yield opened
