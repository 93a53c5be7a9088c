"""HDF5 files written so that they are whole or not there.

HDF5 writes through a Python file object that never fails it: the first error of the system is kept
and raised as soon as HDF5 has returned, and what HDF5 wrote since is kept in memory until then, as
HDF5 crashes where it cannot read what it wrote. So no failed write goes unseen.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import struct
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import h5py
import numpy as np
from numpy.typing import NDArray

from mmselect.files import begin_write_back, read_at, read_into, replacing, write_at
from mmselect.pool.hdf5 import is_native, undisturbed
from mmselect.pool.ids import as_text

TEXT = h5py.string_dtype()

DIRECT = 1 << 18
"""Bytes of a first block from which on those after it bypass HDF5, which buffers smaller ones."""

EARLY = 32 << 20
"""Bytes after which what was written goes to the disk, so that little is left for the end."""

SIZES = {b"GCOL": (8, 8), b"HEAP": (8, 8), b"BTHD": (6, 4)}
"""Where structures of HDF5 say how large they are: a heap of strings, of names, nodes of a tree."""

NAMES = struct.Struct("<8xQQQ")
"""Size of a heap of names, where the first free space in it begins, and where it lies."""

HEAP_ENTRY = struct.Struct("<H6xQ")
"""Number and length of a string in a heap."""


class Medium:
    """The file object that HDF5 reads, or writes to.

    `base` is the place in a file from somebody else from which HDF5 counts; in a file that is
    written there is nothing to mistrust.
    """

    def __init__(self, file: BinaryIO, base: int | None = None) -> None:
        self._file, self._fd, self._base, self._place = file, file.fileno(), base, 0
        self._size = os.fstat(self._fd).st_size
        self.error: BaseException | None = None
        self.seen: list[tuple[int, int]] | None = None
        self._lost: list[tuple[int, bytes]] = []
        self._heap_of: dict[int, int] = {}

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """As of a file."""
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._place, os.SEEK_END: self._size}[whence]
        self._place = start + offset
        return self._place

    def tell(self) -> int:
        """As of a file."""
        return self._place

    def read(self, size: int = -1) -> bytes:
        """As of a file; h5py takes for a file what has this."""
        return read_at(self._fd, self._size if size < 0 else size, self._place)

    def readinto(self, buffer: Any) -> int:
        """As of a file; what could not be written is there all the same."""
        view, place = memoryview(buffer).cast("B"), self._place
        got = read_into(self._fd, view, place)
        if self.seen is not None:
            self.seen.append((place, place + got))
        for start, data in self._lost:
            low, high = max(start, place), min(start + len(data), place + len(view))
            if low < high:
                view[low - place : high - place] = data[low - start : high - start]
        if self._base is not None:
            self._check(bytes(view[: NAMES.size]), self._base)
        return len(view) if self._lost else got

    def ranges(self) -> Iterator[tuple[int, int]]:
        """Parts of the file that were read since `seen` is a list, joined where they touch."""
        start = stop = 0
        for low, high in sorted(self.seen or ()):
            if low > stop:
                yield start, stop
                start = low
            stop = max(stop, high)
        yield start, stop

    def _check(self, head: bytes, base: int) -> None:
        """Refuse structures that say they are larger than the file: HDF5 takes memory for them."""
        at, width = SIZES.get(head[:4], (0, 0))
        if int.from_bytes(head[at : at + width], "little") > self._size:
            raise OSError("a structure that is larger than the file")
        if head.startswith(b"GCOL") and not self._heap_ends():
            raise OSError("a heap of strings is damaged")
        if head.startswith(b"HEAP") and len(head) == NAMES.size:
            size, free, address = NAMES.unpack(head)
            self._check_names(size, free, base + address)

    def _check_names(self, size: int, free: int, place: int) -> None:
        """Refuse names over which HDF5 crashes, or whose free spaces lead it in a circle."""
        if size and self._heap_of.setdefault(place, self._place) != self._place:
            raise OSError("two heaps say that they have the same names")
        data, seen = read_at(self._fd, size, place), set[int]()
        while free < size:  # the last one names no place in the heap
            if free in seen:
                raise OSError("a heap of names is damaged")
            seen.add(free)
            free = int.from_bytes(data[free : free + 8], "little")

    def _heap_ends(self) -> bool:
        """Whether HDF5 comes to the end of a global heap: it stays at free space without a size."""
        size = int.from_bytes(read_at(self._fd, 8, self._place + 8), "little")
        heap, place = read_at(self._fd, size, self._place), 16
        end, entry = len(heap), HEAP_ENTRY.unpack_from
        while place + 16 <= end:  # once for each string of the file
            index, length = entry(heap, place)
            step = 16 + (length + 7) // 8 * 8 if index else length
            if step < 16 or step > end - place:
                return False
            place += step
        return True

    def write(self, data: Any) -> int:
        """As of a file, but never fails."""
        view, start = memoryview(data).cast("B"), self._place
        with self._kept():
            while not self._lost and self._place < start + len(view):
                rest = view[self._place - start :]
                self._place += write_at(self._fd, rest, self._place)
        if self._place < start + len(view):
            self._lost.append((start, bytes(view)))
        self._place = start + len(view)
        self._size = max(self._size, self._place)
        low, high = (place // EARLY * EARLY for place in (start, self._place))
        if low < high:
            begin_write_back(self._fd, low, high - low)
        return len(view)

    def truncate(self, size: int | None = None) -> int:
        """As of a file, but never fails."""
        self._size = self._place if size is None else size
        with self._kept():
            os.ftruncate(self._fd, self._size)
        return self._size

    def flush(self) -> None:
        """Nothing waits to be written."""

    def check(self) -> None:
        """Raise the first error, if there was one."""
        error, self.error = self.error, None  # no circle of error, frame and this for the collector
        if error is not None:
            raise error

    @contextlib.contextmanager
    def _kept(self) -> Iterator[None]:
        try:
            yield
        except BaseException as error:  # an interrupt too: HDF5 would lose it
            self.error = self.error or error.with_traceback(None)


class Storage:
    """An HDF5 file under way. Numbers are stored contiguously, text as UTF-8 strings."""

    def __init__(self, handle: h5py.File, medium: Medium) -> None:
        self.handle, self._medium = handle, medium
        self._places: dict[str, int] = {}

    def reserve(self, name: str, like: NDArray[Any], rows: int | None) -> None:
        """Make a dataset of so many rows as those of `like`; None: of any number, in chunks."""
        dtype = TEXT if like.dtype.kind in "OSU" else like.dtype
        shape, how = (rows, *like.shape[1:]), {}
        if rows is None:
            shape, how = (0, *like.shape[1:]), {"maxshape": shape, "chunks": True}
        with undisturbed():
            self.handle.create_dataset(name, shape, dtype, track_times=False, **how)

    def write(self, name: str, start: int, values: NDArray[Any]) -> None:
        """Write rows from `start` on.

        Raises
        ------
        DataError
            For text that a string of HDF5 cannot hold.
        OSError
            If the system cannot write.
        """
        stop = start + len(values)
        if values.dtype.kind in "OSU":
            values = as_text(values, name)
        if name in self._places:
            self._medium.seek(self._places[name] + start * (values.nbytes // max(len(values), 1)))
            self._medium.write(np.ascontiguousarray(values).reshape(-1).view(np.uint8))
            self._medium.check()
            return
        with undisturbed():
            dataset = self.handle[name]
            if dataset.maxshape[0] is None and stop > len(dataset):
                dataset.resize(stop, axis=0)
            if values.size:
                dataset[start:stop] = values
                self._note_place(name, dataset, values)
        self._medium.check()

    def _note_place(self, name: str, dataset: h5py.Dataset, values: NDArray[Any]) -> None:
        """Note where a dataset lies whose next rows need neither conversion nor HDF5."""
        place = dataset.id.get_offset() if dataset.chunks is None else None
        same = is_native(dataset) and dataset.dtype == values.dtype
        if place is not None and same and values.nbytes >= DIRECT:
            self._places[name] = place

    def store(self, name: str, values: NDArray[Any]) -> None:
        """Write a whole array as a dataset."""
        self.reserve(name, values, len(values))
        self.write(name, 0, values)


@contextlib.contextmanager
def created(target: Path) -> Iterator[Storage]:
    """Make an HDF5 file, which appears under its name when it is whole.

    Raises
    ------
    OutputError
        If it cannot be written, also where HDF5 notices that only while it closes the file. What
        stood there before stays.

    Examples
    --------
    >>> import numpy as np
    >>> target = Path(tempfile.mkdtemp()) / "a.h5"
    >>> with created(target) as storage:
    ...     storage.store("x", np.arange(3))
    >>> with h5py.File(target) as handle:
    ...     handle["x"][:].tolist()
    [0, 1, 2]
    """
    with replacing(target) as file:
        if file.readable():
            with _storage(file) as storage:
                yield storage
            return
        with tempfile.TemporaryFile() as whole:  # a pipe cannot be written out of order
            with _storage(whole) as storage:
                yield storage
            shutil.copyfileobj(whole, file)


@contextlib.contextmanager
def draft(folder: Path) -> Iterator[Storage]:
    """Make an HDF5 file without a name, for data whose length nobody knows yet."""
    with tempfile.TemporaryFile(dir=folder) as file, _storage(file) as storage:
        yield storage


@contextlib.contextmanager
def _storage(file: BinaryIO) -> Iterator[Storage]:
    medium = Medium(file)
    try:
        with undisturbed():
            handle = h5py.File(medium, "w")
        try:
            yield Storage(handle, medium)
        finally:
            with undisturbed():
                handle.close()
    except Exception:
        medium.check()  # HDF5 fails over what it could not write before
        raise
    medium.check()
