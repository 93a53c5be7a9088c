"""A per-sample dataset over all shards, which another process can open again."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mmselect.errors import FormatError
from mmselect.pool.layout import Layout, survey
from mmselect.pool.parts import Part
from mmselect.pool.presence import PRESENT, Mask, blank, mask_over
from mmselect.pool.schema import names_in, place_of
from mmselect.pool.values import Watch
from mmselect.tasks import increasing

KEPT = 4
"""Pools that a worker keeps open."""


class Origin(NamedTuple):
    """The files of a pool, by whole paths, and the size and time of each when it was opened."""

    files: tuple[str, ...]
    states: tuple[tuple[int, int], ...]


def origin_of(files: Sequence[str]) -> Origin:
    """Say where a pool lies, so that another process finds the same one."""
    paths = [Path(file).absolute() for file in files]
    return Origin(tuple(map(str, paths)), tuple(map(_state, paths)))


def _state(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_size, found.st_mtime_ns


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

    check : callable
        Raises if a file was changed since it was opened; called after every read.
    watch : Watch, optional
        Sees what is read.
    present : (n,) boolean array, optional
        Rows that mean something; the others are read as zeros. None: all.
    origin : Origin, optional
        The files, for another process to open them again; None: it lies in memory.

    Indexing with a slice or an integer array reads rows into memory.
    """

    path: str
    parts: tuple[Part, ...]
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    check: Callable[[], None] = lambda: None
    watch: Watch | None = None
    present: Mask | None = None
    origin: Origin | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        """Send the names of the files in place of what is open here."""
        if self.origin is None:
            return Column, tuple(getattr(self, each.name) for each in fields(self))
        masked, watched = self.present is not None, self.watch is not None
        return _again, (self.origin, self.path, self.shape, self.dtype, masked, watched)

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
        if out is None and len(pieces) == 1 and pieces[0][0].dtype == self.dtype:
            part, a, b = pieces[0]
            return self._seen(slice(start, stop), part.read(a, b))
        block = np.empty((stop - start, *self.shape[1:]), self.dtype) if out is None else out
        done = 0
        for part, a, b in pieces:
            target = block[done : done + b - a]
            found = part.read(a, b, target)
            if found is not target:
                target[...] = found
            done += b - a
        return self._seen(slice(start, stop), block)

    def take(self, rows: NDArray[np.integer[Any]]) -> NDArray[Any]:
        """Rows in any order: runs of rows, and of a chunked dataset whole chunks, each once."""
        out = np.empty((len(rows), *self.shape[1:]), self.dtype)
        ordered, order = rows.astype(np.intp, copy=False), None
        if not increasing(ordered):
            order = np.argsort(ordered, kind="stable")
            ordered = ordered[order]
        first = 0
        for part in self.parts:
            low, high = np.searchsorted(ordered, [first, first + len(part)])
            part.gather(ordered[low:high] - first, out[low:high])
            first += len(part)
        if order is not None:
            out[order] = out.copy()
        return self._seen(rows, out)

    def _seen(self, rows: Any, block: NDArray[Any]) -> NDArray[Any]:
        self.check()
        if self.present is not None:
            blank(block, self.present[rows])
        if self.watch is not None:
            self.watch.see(rows, block)
        return block

    def unwritten(self) -> int:
        """Count rows that no shard holds in full."""
        return sum(len(part.unwritten()) for part in self.parts)

    def chunk_end(self, row: int) -> int:
        """First row, from `row` on, with which a chunk begins, or a shard."""
        first = 0
        for part in self.parts:
            if row <= first + len(part):
                return first + part.chunk_end(max(row - first, 0))
            first += len(part)
        return row

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
    def portable(self) -> bool:
        """Whether another process can open it."""
        return self.origin is not None

    @property
    def watches(self) -> list[Watch]:
        """What sees the rows that are read."""
        return [] if self.watch is None else [self.watch]

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


def column_of(
    path: str, parts: Sequence[Part], check: Callable[[], None], origin: Origin | None = None
) -> Column:
    """Make a column of the parts that its shards hold."""
    dtypes = [part.dtype for part in parts if len(part)] or [parts[0].dtype]
    dtype = dtypes[0] if len({*dtypes}) == 1 else np.result_type(*dtypes)
    return Column(
        path, tuple(parts), (sum(map(len, parts)), *parts[0].shape[1:]), dtype, check, origin=origin
    )


_open: dict[Origin, Layout] = {}
_opening = threading.Lock()


def _again(
    origin: Origin,
    path: str,
    shape: tuple[int, ...],
    dtype: np.dtype[Any],
    masked: bool,
    watched: bool,
) -> Column:
    """Make a column in a worker: open the files it was made of, or find them open."""
    layout = _layout(origin)
    present = mask_over(path, _masks(layout)) if masked else None
    watch = Watch(place_of(path), shape, present) if watched else None
    parts = tuple(shard.parts[path] for shard in layout.shards)
    return Column(path, parts, shape, dtype, layout.check, watch, present, origin)


def _layout(origin: Origin) -> Layout:
    """Open files as another process has found them.

    Raises
    ------
    FormatError
        If they are not there, or not the same any more.
    """
    with _opening:
        if origin in _open:
            return _open[origin]
        for file, state in zip(origin.files, origin.states, strict=True):
            where = Path(file)
            if not where.is_file():
                message = (
                    "a worker finds no such file; workers need the same files in the same place"
                )
                raise FormatError(message, file=file)
            if _state(where) != state:
                raise FormatError("a worker finds another file, or a changed one", file=file)
        layout = survey(map(Path, origin.files))
        if not layout.shards:
            raise layout.problems[0]
        for shard in layout.shards:  # closed when nobody reads any of its columns any more
            weakref.finalize(layout, shard.folder.close)
        while len(_open) >= KEPT:
            del _open[next(iter(_open))]
        _open[origin] = layout
        return layout


def _masks(layout: Layout) -> dict[str, Mask]:
    """Who has which modality, over all shards."""
    first = layout.shards[0].parts
    found = {}
    for name in names_in(PRESENT, first):
        parts = [shard.parts[f"{PRESENT}/{name}"] for shard in layout.shards]
        found[name] = np.concatenate([part.read(0, len(part)).astype(bool) for part in parts])
    return found
