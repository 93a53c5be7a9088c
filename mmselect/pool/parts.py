"""A dataset in one file, read by rows: through HDF5, past it, from other datasets, or from memory.

Numbers that lie in a row in a file are read with plain system calls, by any thread, into memory
that is used again: no HDF5 lock is waited for, and no page stays mapped.
"""

from __future__ import annotations

import os
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, pairwise
from math import prod
from typing import Any, BinaryIO

import h5py
import numpy as np
from numpy.typing import NDArray

from mmselect.errors import FormatError, located
from mmselect.files import read_into
from mmselect.pool.hdf5 import hdf5
from mmselect.pool.texts import Lengths

MOST_CHUNKS = 1 << 12
"""Chunks that HDF5 is asked for at once."""


@dataclass(frozen=True)
class Part:
    """What all kinds have.

    Attributes
    ----------
    file, path : str
        Where errors say that it is.
    shape, dtype
        As of a NumPy array; text has the type ``object`` (bytes).
    """

    file: str
    path: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def row_bytes(self) -> int:
        """Bytes of one row in memory."""
        return prod(self.shape[1:]) * self.dtype.itemsize

    @property
    def plain(self) -> bool:
        """Whether any thread may read it."""
        return True

    @property
    def compressed(self) -> bool:
        """Whether it stands behind an HDF5 filter."""
        return False

    def read(self, start: int, stop: int, out: NDArray[Any] | None = None) -> NDArray[Any]:
        """Rows from `start` to `stop`; in `out`, if it is given and of the same type."""
        raise NotImplementedError

    def gather(self, rows: NDArray[np.integer[Any]], out: NDArray[Any]) -> None:
        """Read increasing `rows` into `out`, in runs."""
        for a, b in pairwise(self.runs(rows)):
            block = self.read(int(rows[a]), int(rows[b - 1]) + 1)
            out[a:b] = block[rows[a:b] - rows[a]]

    def unwritten(self) -> NDArray[np.intp]:
        """Rows for which the file holds nothing, or not all."""
        return np.empty(0, np.intp)

    def runs(self, rows: NDArray[np.integer[Any]]) -> NDArray[np.intp]:
        """Cut increasing `rows` where reading on would read what nobody wants."""
        apart = np.flatnonzero(np.diff(rows) > 1) + 1
        return np.concatenate([[0], apart, [len(rows)]]) if len(rows) else apart

    def chunk_end(self, row: int) -> int:
        """First row, from `row` on, before which whatever is read as a whole ends."""
        return row

    def announce(self, start: int, stop: int) -> None:
        """Tell the system that these rows are read next, so that the disk is ahead of us."""


@dataclass(frozen=True)
class Stored(Part):
    """Read through HDF5: in chunks, behind filters, or of a type that HDF5 has to convert.

    `lengths` finds how long the texts in some rows say that they are, and `room` is how long the
    file is.
    """

    dataset: h5py.Dataset
    filtered: bool
    lengths: Lengths | None = None
    room: int = 0

    @property
    def plain(self) -> bool:
        """Only where there is nothing to read."""
        return not len(self)

    @property
    def compressed(self) -> bool:
        """Whether it stands behind a filter."""
        return self.filtered

    def read(self, start: int, stop: int, out: NDArray[Any] | None = None) -> NDArray[Any]:
        """Rows from `start` to `stop`; in `out`, if it is given."""
        self._check_texts(start, stop)
        block = np.empty((stop - start, *self.shape[1:]), self.dtype) if out is None else out
        whole = (slice(start, stop), *(slice(0, size) for size in self.shape[1:]))
        with hdf5(self.file, self.path):
            for rows, *others in _with_few_chunks(whole, self.dataset.chunks):
                here = slice(rows.start - start, rows.stop - start)
                block[(here, *others)] = self.dataset[(rows, *others)]
        return block

    def unwritten(self) -> NDArray[np.intp]:
        """Rows with a chunk that was never written: HDF5 reads them as its fill value."""
        chunk, rows = self.dataset.chunks, len(self)
        if not chunk:
            layout = self.dataset.id.get_create_plist().get_layout()
            missing = layout == h5py.h5d.CONTIGUOUS and self.dataset.id.get_offset() is None
            return np.arange(rows if missing and not self.dataset.is_virtual else 0)
        across = prod(
            -(-size // step) for size, step in zip(self.shape[1:], chunk[1:], strict=True)
        )
        with hdf5(self.file, self.path):
            if self.dataset.id.get_num_chunks() >= across * -(-rows // chunk[0]):
                return np.empty(0, np.intp)
            found = np.zeros(-(-rows // chunk[0]), np.intp)
            self.dataset.id.chunk_iter(lambda info: _count(found, info.chunk_offset[0] // chunk[0]))
        return np.flatnonzero(np.repeat(found < across, chunk[0])[:rows])

    def _check_texts(self, start: int, stop: int) -> None:
        """Refuse texts longer than the file: HDF5 takes memory for them before it looks."""
        if self.lengths is None:
            return
        with hdf5(self.file, self.path), located(file=self.file, dataset=self.path):
            found = self.lengths(start, stop)
        if (total := int(found.sum(dtype=np.int64))) > self.room:
            most = int(found.argmax()) + start
            message = f"expected text shorter than the file, found {total:,} bytes"
            raise FormatError(message, file=self.file, dataset=self.path, rows=[most])

    def chunk_end(self, row: int) -> int:
        """First row, from `row` on, with which a chunk begins."""
        step = (self.dataset.chunks or (1,))[0]
        return min(-(-row // step) * step, len(self))

    def runs(self, rows: NDArray[np.integer[Any]]) -> NDArray[np.intp]:
        """Whole chunks, each once."""
        step = (self.dataset.chunks or (1024,))[0]
        return np.flatnonzero(np.diff(rows // step, prepend=-1, append=-1))


def _with_few_chunks(
    box: tuple[slice, ...], chunks: Sequence[int] | None
) -> Iterator[tuple[slice, ...]]:
    """Cut a block into such that lie in few chunks: HDF5 takes six kB for each at once."""
    steps = chunks or [max(cut.stop, 1) for cut in box]
    pairs = zip(box, steps, strict=True)
    touched = [-(-cut.stop // step) - cut.start // step for cut, step in pairs]
    if prod(touched) <= MOST_CHUNKS:
        yield box
        return
    axis = touched.index(max(touched))
    start, stop, step = box[axis].start, box[axis].stop, steps[axis]
    middle = (start // step + touched[axis] // 2) * step
    for half in (slice(start, middle), slice(middle, stop)):
        yield from _with_few_chunks((*box[:axis], half, *box[axis + 1 :]), steps)


def _bytes_of(block: NDArray[Any]) -> memoryview:
    """View contiguous numbers as bytes."""
    return block.reshape(-1, copy=False).view(np.uint8).data


def _count(found: NDArray[np.intp], index: int) -> None:
    found[index] += 1


@dataclass(frozen=True)
class Plain(Part):
    """Numbers that lie in a row in a file, or in several pieces: ``(file, place, bytes)`` each."""

    pieces: tuple[tuple[BinaryIO, int, int], ...]

    @cached_property
    def starts(self) -> list[int]:
        """First byte of each piece, counted from the first row."""
        return list(accumulate((size for *_, size in self.pieces), initial=0))[:-1]

    def read(self, start: int, stop: int, out: NDArray[Any] | None = None) -> NDArray[Any]:
        """Rows from `start` to `stop`; in `out`, if it is given and of the same type."""
        shape = (stop - start, *self.shape[1:])
        block = np.empty(shape, self.dtype) if out is None or out.dtype != self.dtype else out
        self._fill(_bytes_of(block), start * self.row_bytes)
        return block

    def gather(self, rows: NDArray[np.integer[Any]], out: NDArray[Any]) -> None:
        """Read increasing `rows` into `out`: one call for each, and nothing else, where it can be.

        An array, its shape and its type for each row would cost ten times what the row takes.
        """
        if len(self.pieces) > 1 or out.dtype != self.dtype or not out.size:
            super().gather(rows, out)
            return
        (file, place, _), raw, width = self.pieces[0], _bytes_of(out), self.row_bytes
        descriptor = file.fileno()
        for at, row in enumerate(rows.tolist()):
            target = raw[at * width : (at + 1) * width]
            if read_into(descriptor, target, place + row * width) < width:
                self._fill(target, row * width)

    def _fill(self, raw: memoryview, begin: int) -> None:
        """Read what lies from byte `begin` of the dataset on."""
        done, piece = 0, max(bisect_right(self.starts, begin) - 1, 0)
        while done < len(raw):  # the system may read less than asked
            file, place, size = self.pieces[piece]
            here = begin + done - self.starts[piece]
            if here >= size:
                piece += 1
                continue
            got = read_into(file.fileno(), raw[done : done + size - here], place + here)
            if not got:
                raise FormatError("the file has become shorter", file=file.name)
            done += got

    def announce(self, start: int, stop: int) -> None:
        """Tell the system that these rows are read next."""
        file, place, _ = self.pieces[0]
        if len(self.pieces) == 1 and hasattr(os, "posix_fadvise"):
            place, size = place + start * self.row_bytes, (stop - start) * self.row_bytes
            os.posix_fadvise(file.fileno(), place, size, os.POSIX_FADV_WILLNEED)


@dataclass(frozen=True)
class Box:
    """What a virtual dataset takes from another: which block of it `here` is which one `there`."""

    here: tuple[slice, ...]
    there: tuple[slice, ...]
    source: Part

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Rows of the virtual dataset from `start` to `stop`."""
        rows, sizes = self.there[0], [cut.stop - cut.start for cut in self.here]
        shift = self.here[0].start
        if sizes == [cut.stop - cut.start for cut in self.there]:
            block = self.source.read(*(row - shift + rows.start for row in (start, stop)))
            return block[(slice(None), *self.there[1:])]
        block = self.source.read(rows.start, rows.stop)[(slice(None), *self.there[1:])]
        return block.reshape(sizes)[start - shift : stop - shift]


@dataclass(frozen=True)
class Virtual(Part):
    """Rows put together from boxes of other datasets; `starts` are their first rows, in order."""

    boxes: tuple[Box, ...]
    starts: Sequence[int]

    @property
    def plain(self) -> bool:
        """Whether all sources are."""
        return all(box.source.plain for box in self.boxes)

    @property
    def compressed(self) -> bool:
        """Whether any source is."""
        return any(box.source.compressed for box in self.boxes)

    def read(self, start: int, stop: int, out: NDArray[Any] | None = None) -> NDArray[Any]:
        """Rows from `start` to `stop`; in `out`, if it is given."""
        block = np.empty((stop - start, *self.shape[1:]), self.dtype) if out is None else out
        # boxes side by side begin with the same row; this is the first that may be wanted
        last = max(bisect_right(self.starts, start) - 1, 0)
        for box in self.boxes[bisect_left(self.starts, self.starts[last]) :] if self.boxes else ():
            low, high = max(start, box.here[0].start), min(stop, box.here[0].stop)
            if box.here[0].start >= stop:
                break
            block[(slice(low - start, high - start), *box.here[1:])] = box.read(low, high)
        return block


@dataclass(frozen=True)
class ArrayPart(Part):
    """An array in memory."""

    values: NDArray[Any]

    def read(self, start: int, stop: int, out: NDArray[Any] | None = None) -> NDArray[Any]:
        """Rows from `start` to `stop`; in `out`, if it is given."""
        if out is None:
            return self.values[start:stop].copy()
        out[...] = self.values[start:stop]
        return out
