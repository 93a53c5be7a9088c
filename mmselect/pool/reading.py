"""Open a pool and read it in row blocks.

A contiguous dataset is read with plain system calls at its place in the file, by any thread, into
memory that is used again: no HDF5 lock is waited for, and no page stays mapped. Chunked, compressed
and virtual datasets are read through HDF5. Several files look like one pool: rows are numbered
through, in the order given.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from math import prod
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

import h5py
import numpy as np
from numpy.typing import NDArray

from mmselect.engine import DEFAULT_MEMORY, ranges
from mmselect.errors import FormatError, Rows, SchemaError, located
from mmselect.pool.ids import Ids, as_stored, check_ids
from mmselect.pool.layout import Layout, survey
from mmselect.pool.schema import match, names_in

PoolPath = str | os.PathLike[str]


@dataclass(frozen=True)
class Part:
    """A dataset in one file; `file` and `offset` say where its numbers are if they lie in a row."""

    dataset: h5py.Dataset
    file: BinaryIO | None = None
    offset: int = 0

    def __len__(self) -> int:
        return int(self.dataset.shape[0])

    @property
    def row_bytes(self) -> int:
        """Bytes of one row in the file."""
        return int(prod(self.dataset.shape[1:]) * self.dataset.dtype.itemsize)

    @property
    def plain(self) -> bool:
        """Whether its numbers lie in a row: any thread may read them."""
        return self.file is not None or not len(self)

    @property
    def compressed(self) -> bool:
        """Whether it stands behind an HDF5 filter."""
        return filters(self.dataset) > 0

    def read(self, start: int, stop: int, out: NDArray[Any] | None = None) -> NDArray[Any]:
        """Rows from `start` to `stop`, into `out` if it is given and of the file's type."""
        if self.file is None:
            block: NDArray[Any] = self.dataset[start:stop]
            return block
        shape, dtype = (stop - start, *self.dataset.shape[1:]), self.dataset.dtype
        block = np.empty(shape, dtype) if out is None or out.dtype != dtype else out
        raw, done = block.reshape(-1, copy=False).view(np.uint8).data, 0
        while done < block.nbytes:  # the system may read less than it is asked for
            place = self.offset + start * self.row_bytes + done
            got = os.preadv(self.file.fileno(), [raw[done:]], place)
            if not got:
                raise FormatError("the file has become shorter", file=self.file.name)
            done += got
        return block

    def runs(self, rows: NDArray[np.integer[Any]]) -> NDArray[np.intp]:
        """Cut increasing `rows` where reading on would read what nobody wants."""
        if not self.plain:
            step = (self.dataset.chunks or (1024,))[0]
            return np.flatnonzero(np.diff(rows // step, prepend=-1, append=-1))
        apart = np.flatnonzero(np.diff(rows) > 1) + 1
        return np.concatenate([[0], apart, [len(rows)]]) if len(rows) else apart

    def announce(self, start: int, stop: int) -> None:
        """Tell the system that these rows are read next, so that the disk is ahead of us."""
        if self.file is not None and hasattr(os, "posix_fadvise"):
            place, size = self.offset + start * self.row_bytes, (stop - start) * self.row_bytes
            os.posix_fadvise(self.file.fileno(), place, size, os.POSIX_FADV_WILLNEED)


@dataclass(frozen=True)
class Column:
    """A per-sample dataset over all shards: an array that stays on disk.

    Attributes
    ----------
    path : str
        Its name in the pool.
    parts : tuple of Part
        One per shard.
    shape, dtype
        As of a NumPy array; text has the type ``object`` (bytes).

    Indexing with a slice or an integer array reads rows into memory.
    """

    path: str
    parts: tuple[Part, ...]
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice | NDArray[np.integer[Any]]) -> NDArray[Any]:
        if isinstance(rows, slice):
            start, stop, step = rows.indices(len(self))
            return self.read(start, max(start, stop))[::step]
        return self.take(np.asarray(rows))

    def read(self, start: int, stop: int, out: NDArray[Any] | None = None) -> NDArray[Any]:
        """Rows from `start` to `stop`, over the borders of shards; in `out`, if it is given."""
        pieces = list(self._pieces(start, stop))
        if out is None and len(pieces) == 1 and pieces[0][0].dataset.dtype == self.dtype:
            part, a, b = pieces[0]
            return part.read(a, b)
        block = np.empty((stop - start, *self.shape[1:]), self.dtype) if out is None else out
        done = 0
        for part, a, b in pieces:
            target = block[done : done + b - a]
            found = part.read(a, b, target)
            if found is not target:
                target[...] = found
            done += b - a
        return block

    def take(self, rows: NDArray[np.integer[Any]]) -> NDArray[Any]:
        """Rows in any order: runs of rows, and of a chunked dataset whole chunks, each once."""
        out = np.empty((len(rows), *self.shape[1:]), self.dtype)
        order = np.argsort(rows, kind="stable")
        ordered = rows[order]
        first = 0
        for part in self.parts:
            low, high = np.searchsorted(ordered, [first, first + len(part)])
            local = ordered[low:high] - first
            for a, b in pairwise(part.runs(local)):
                block = part.read(int(local[a]), int(local[b - 1]) + 1)
                out[order[low + a : low + b]] = block[local[a:b] - local[a]]
            first += len(part)
        return out

    def announce(self, start: int, stop: int) -> None:
        """Tell the system that these rows are read next."""
        for part, a, b in self._pieces(start, min(stop, len(self))):
            part.announce(a, b)

    @property
    def row_bytes(self) -> int:
        """Bytes of one row in memory."""
        return prod(self.shape[1:]) * self.dtype.itemsize

    @property
    def plain(self) -> bool:
        """Whether all its numbers lie in a row in their files: any thread may read them."""
        return all(part.plain for part in self.parts)

    @property
    def compressed(self) -> bool:
        """Whether any shard holds it behind an HDF5 filter."""
        return any(part.compressed for part in self.parts)

    def _pieces(self, start: int, stop: int) -> Iterator[tuple[Part, int, int]]:
        first = 0
        for part in self.parts:
            low, high = max(start - first, 0), min(stop - first, len(part))
            if low < high:
                yield part, low, high
            first += len(part)


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
    """

    layout: Layout
    files: list[str]
    n: int
    sizes: dict[str, int]
    columns: dict[str, Column] = field(default_factory=dict)
    constants: dict[str, NDArray[Any]] = field(default_factory=dict)
    unknown: list[str] = field(default_factory=list)

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
        """Every modality that any dataset names, sorted."""
        groups = ("/features", "/unimodal_logits", "/classifier/weight")
        return sorted({name for group in groups for name in self.names(group)})

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
        return np.zeros(self.n, bool) if column is None else column[:].astype(bool)

    def place(self, rows: Sequence[int]) -> tuple[str, list[int]]:
        """Name the file that holds the first of `rows`, and which of its own rows they are."""
        first = 0
        for shard in self.layout.shards:
            here = [row - first for row in rows if first <= row < first + shard.rows]
            if here and rows[0] < first + shard.rows:
                return shard.file, here
            first += shard.rows
        return self.files[0], list(rows)

    def located(self, rows: Rows | None = None) -> located:
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


def open_pool(paths: PoolPath | Sequence[PoolPath]) -> Pool:
    """Open a pool file, or several files as the shards of one pool.

    Parameters
    ----------
    paths : path or sequence of paths
        HDF5 files in pool format 1.x; rows are numbered through in this order.

    Returns
    -------
    Pool
        Names, shapes and types are read and checked; no numbers yet.

    Raises
    ------
    FormatError
        If a file is not a pool, is truncated, or has another major version.
    SchemaError
        If a dataset's name, shape or type is not what the format says, or shards differ.

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
    files = [Path(shard.file) for shard in layout.shards]
    layout.open_files += [file.open("rb") for file in files]
    for path in layout.shards[0].datasets:
        sources = [shard.datasets[path] for shard in layout.shards]
        if _per_sample(path):
            pool.columns[path] = _column(path, sources, layout.open_files)
        else:
            pool.constants[path] = np.asarray(sources[0][()])
    pool.unknown = [f"{shard.file}: {path}" for shard in layout.shards for path in shard.unknown]
    return pool


@contextlib.contextmanager
def opened_pool(pool: Pool | PoolPath | Sequence[PoolPath]) -> Iterator[Pool]:
    """Open paths for the time of the block; leave a pool that is open as it is."""
    if isinstance(pool, Pool):
        yield pool
        return
    with open_pool(pool) as opened:
        yield opened


def _per_sample(path: str) -> bool:
    place = match(path)
    return place is not None and place.dataset.per_sample


def _column(path: str, sources: list[h5py.Dataset], files: list[BinaryIO]) -> Column:
    parts = tuple(_part(*each) for each in zip(sources, files, strict=True))
    dtypes = [source.dtype for source in sources if source.size] or [sources[0].dtype]
    dtype = dtypes[0] if len({*dtypes}) == 1 else np.result_type(*dtypes)
    shape = (sum(len(part) for part in parts), *sources[0].shape[1:])
    return Column(path, parts, shape, dtype)


def _part(dataset: h5py.Dataset, file: BinaryIO) -> Part:
    offset = None if dataset.is_virtual or dataset.external else dataset.id.get_offset()
    plain = dataset.dtype.kind in "fiu" and h5py.check_enum_dtype(dataset.dtype) is None
    here = Path(dataset.file.filename) == Path(file.name)
    if offset is None or not plain or dataset.size == 0 or not here:
        return Part(dataset)
    return Part(dataset, file, offset)


def filters(dataset: h5py.Dataset) -> int:
    """Count the filters, such as gzip, that a dataset is stored behind."""
    return int(dataset.id.get_create_plist().get_nfilters())
