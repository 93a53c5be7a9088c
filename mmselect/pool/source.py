"""The files of an untrusted pool: each opened once, and none outside the pool's folder.

HDF5 never follows a link by itself: it would open whatever the link names. Links, virtual datasets
and external storage are looked at step by step here, and their files opened like the pool's own.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import groupby
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

import h5py
import numpy as np
from h5py import h5d, h5g, h5l, h5o, h5s

from mmselect.errors import FormatError, SchemaError
from mmselect.files import read_at, reason
from mmselect.pool.chunks import whole_rows
from mmselect.pool.foreign import how_to_pack
from mmselect.pool.hdf5 import (
    check_chunks,
    check_declared,
    check_filters,
    check_size,
    hdf5,
    is_native,
    open_object,
)
from mmselect.pool.mappings import check_mapping
from mmselect.pool.parts import Box, Part, Plain, Stored, Virtual
from mmselect.pool.storage import Medium
from mmselect.pool.texts import lengths_of

DEEPEST, MOST_FOLLOWED = 32, 1_000_000
"""Links and virtual datasets within each other, and all of them together, before it is an error."""

SIGNATURE = b"\x89HDF\r\n\x1a\n"


@dataclass
class Source:
    """One open file: its name, the same descriptor for HDF5 and for plain reads, and its state."""

    path: Path
    folder: Path
    file: BinaryIO
    medium: Medium
    handle: h5py.File
    state: os.stat_result

    def check(self) -> None:
        """Refuse a file that was changed since it was opened.

        Raises
        ------
        FormatError
        """
        now = os.fstat(self.file.fileno())
        if (now.st_size, now.st_mtime_ns) != (self.state.st_size, self.state.st_mtime_ns):
            raise FormatError("the file has changed since it was opened", file=str(self.path))

    def bytes_at(self, address: int, size: int) -> bytes:
        """Read what stands at an address of HDF5, which counts from behind a user block."""
        start = address + self.handle.userblock_size
        there = min(size, self.state.st_size - start)
        return read_at(self.file.fileno(), there, start) if there > 0 else b""


Place = tuple[Source, Any]
"""A file, and a group, dataset or named type in it."""


@dataclass
class Folder:
    """The files beside a pool, or below its folder, that its datasets come from."""

    pool: Path
    sources: dict[str, Source] = field(default_factory=dict)
    files: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)
    parts: dict[tuple[str, int, str], Part] = field(default_factory=dict)
    room: dict[str, int] = field(default_factory=dict)
    followed: int = 0

    def __post_init__(self) -> None:
        self.root = Path(os.path.realpath(self.pool)).parent

    def close(self) -> None:
        """Close all files."""
        self.files.close()

    def open(self, path: Path) -> Source:
        """Open an HDF5 file, or find it among the open ones.

        Raises
        ------
        FormatError
            If it cannot be read, is no regular file, not HDF5, or truncated.
        """
        key = os.path.realpath(path)
        if key in self.sources:
            return self.sources[key]
        if path.is_dir():
            message = f"expected an HDF5 file, found a folder{how_to_pack(path)}"
            raise FormatError(message, file=str(path))
        file, state = self._regular(path)
        if state.st_size == 0:
            raise FormatError("expected an HDF5 file, found an empty file", file=str(path))
        offsets = (0, *(512 << i for i in range(state.st_size.bit_length())))
        begin = next((at for at in offsets if read_at(file.fileno(), 8, at) == SIGNATURE), None)
        if begin is None:
            foreign = path.suffix.lower() not in (".h5", ".hdf5")
            message = "expected an HDF5 file, found something else"
            raise FormatError(message + how_to_pack(path) * foreign, file=str(path))
        try:
            with hdf5(str(path)):
                medium = Medium(file, begin)
                medium.seen = []
                handle = h5py.File(medium, "r")
                self.files.callback(handle.close)
                if handle.id.get_create_plist().get_sizes() != (8, 8):
                    raise FormatError("expected addresses of 8 bytes", file=str(path))
        except FormatError as error:
            if stored := re.search(r"stored_eof\s*=\s*(\d+)", error.message):
                lengths = f"expected {int(stored[1]):,} bytes, found {state.st_size:,}"
                error.message = f"truncated: {lengths}"
            raise
        source = self.sources[key] = Source(path, Path(key).parent, file, medium, handle, state)
        return source

    def part(self, place: Place, path: str) -> Part:
        """Make what reads the dataset at a place.

        Raises
        ------
        SchemaError
            If a source of it is not where it may be, or its sizes or filters are not trusted.
        """
        return self._part(*place, path, 0)

    def follow(self, source: Source, start: Any, name: str) -> Place:
        """Open what stands under a path, after a look at every link on the way.

        Raises
        ------
        SchemaError
            If a link leads nowhere, in a circle, or out of the pool's folder.
        """
        return self._walk(source, start, name.encode("utf-8", "surrogateescape"), 0)

    def _walk(self, source: Source, start: Any, path: bytes, depth: int) -> Place:
        here = start
        if path.startswith(b"/"):
            here = h5g.open(source.handle.id, b"/")
        for name in path.split(b"/"):
            if name not in (b"", b"."):
                source, here = self._step(source, here, name, path, depth)
        return source, here

    def _step(self, source: Source, group: Any, name: bytes, path: bytes, depth: int) -> Place:
        if not isinstance(group, h5g.GroupID) or not group.links.exists(name):
            raise SchemaError(f"link to {_text(path)!r}, which does not exist")
        about = group.links.get_info(name)
        kind = about.type
        if kind == h5l.TYPE_HARD:
            check_mapping(source.bytes_at, about.u)
            return source, open_object(group, name)
        self._count(depth)
        target = group.links.get_val(name)
        if kind == h5l.TYPE_SOFT:
            return self._walk(source, group, target, depth + 1)
        if kind == h5l.TYPE_EXTERNAL:
            file, path = target
            return self._away("external link to", source, file, path, depth + 1)
        raise SchemaError("expected a link within HDF5, found one of another kind")

    def _away(self, what: str, source: Source, file: bytes, path: bytes, depth: int) -> Place:
        """Open what stands under a path in another file."""
        name, opened = _text(file), source
        if file != b".":
            other = self._beside(what, source, file)
            try:
                opened = self.open(other)
                opened.medium.seen = None
            except FormatError as error:
                message = f"{what} {name!r}, which HDF5 cannot open: {error.message}"
                raise SchemaError(message) from None
        try:
            return self._walk(opened, None, b"/" + path, depth)
        except SchemaError as error:
            if "which does not exist" not in error.message:
                raise
            raise SchemaError(f"{what} {name!r}, which has no {_text(path)!r}") from None

    def _beside(self, what: str, source: Source, name: bytes) -> Path:
        """Find a file that another one names.

        Raises
        ------
        SchemaError
            If it is not there, no regular file, or neither beside the pool nor below.
        """
        shown = _text(name)
        path = Path(os.path.realpath(source.folder / shown))
        if not path.is_relative_to(self.root):
            raise SchemaError(f"{what} {shown!r}, which is not beside the pool")
        if not path.is_file():
            there = "is no regular file" if path.exists() else "does not exist"
            raise SchemaError(f"{what} {shown!r}, which {there}")
        return path

    def _part(self, source: Source, found: Any, path: str, depth: int) -> Part:
        if not isinstance(found, h5d.DatasetID):
            raise SchemaError("expected a dataset, found something else")
        self._count(depth)
        key = str(source.path), h5o.get_info(found).addr, path
        if key not in self.parts:  # a source may fill many places of a virtual dataset
            self.parts[key] = self._new_part(source, found, path, depth)
        return self.parts[key]

    def _new_part(self, source: Source, found: Any, path: str, depth: int) -> Part:
        where, properties = str(source.path), found.get_create_plist()
        if properties.get_layout() == h5d.VIRTUAL:
            return self._virtual(source, found, path, depth)
        dataset = h5py.Dataset(found)
        shape, dtype = dataset.shape, dataset.dtype
        if shape is None:
            raise SchemaError("expected numbers or text, found an empty dataset")
        filters = check_filters(properties)
        if properties.get_external_count():
            return self._external(source, dataset, path)
        check_size(found, properties, shape)
        check_chunks(found, filters)
        offset, size = found.get_offset(), prod(shape) * dtype.itemsize
        native = bool(size) and is_native(dataset)
        known = native and not filters and not source.handle.userblock_size
        if known and (chunks := whole_rows(dataset, source.state.st_size)):
            pieces = tuple((source.file, *piece) for piece in chunks)
            return Plain(where, path, shape, dtype, pieces)
        if offset is None or not native:
            texts = lengths_of(dataset, source.file) if dtype.kind == "O" else None
            room = source.state.st_size
            return Stored(where, path, shape, dtype, dataset, bool(filters), texts, room)
        if offset + size > source.state.st_size:
            held = f"{source.state.st_size:,} bytes of file"
            raise SchemaError(f"expected numbers up to byte {offset + size:,}, found {held}")
        return Plain(where, path, shape, dtype, ((source.file, offset, size),))

    def _external(self, source: Source, dataset: h5py.Dataset, path: str) -> Part:
        """Make what reads numbers that lie in other files, as they are."""
        what, pieces = "external storage's source", []
        if not is_native(dataset):
            raise SchemaError(f"expected plain numbers in external storage, found {dataset.dtype}")
        self._check_room(dataset)
        left = prod(dataset.shape) * dataset.dtype.itemsize
        for name, offset, size in _externals(dataset):
            file, state = self._regular(self._beside(what, source, name))
            size = min(size, left)
            if offset + size > state.st_size:
                held = f"{state.st_size:,} bytes"
                expected = f"expected {offset + size:,} bytes"
                raise SchemaError(f"{what} {_text(name)!r}: {expected}, found {held}")
            pieces.append((file, int(offset), int(size)))
            left -= size
        if left:
            raise SchemaError(f"external storage lacks the last {left:,} bytes")
        return Plain(str(source.path), path, dataset.shape, dataset.dtype, tuple(pieces))

    def _virtual(self, source: Source, found: h5d.DatasetID, path: str, depth: int) -> Part:
        """Make what reads the sources of a virtual dataset, once they are known to fill it."""
        dataset, boxes = h5py.Dataset(found), []
        for name, target, *spaces in _mappings(found.get_create_plist()):
            what = f"virtual dataset's source {_text(name)!r}"
            place = self._away("virtual dataset's source", source, name, target, depth + 1)
            part = self._part(*place, path, depth + 1)
            here, there = (
                _cut(s, each.shape) for s, each in zip(spaces, (dataset, part), strict=True)
            )
            if here is None or there is None:
                raise SchemaError(f"{what}: expected a block of rows, found another selection")
            if _long(here) != _long(there):
                raise SchemaError(f"{what}: expected {_sizes(here)} numbers, found {_sizes(there)}")
            end = tuple(cut.stop for cut in there)
            if len(part.shape) != len(end) or (np.array(part.shape) < end).any():
                raise SchemaError(f"{what}: expected shape {end}, found {part.shape}")
            if not np.can_cast(part.dtype, dataset.dtype, "same_kind"):
                raise SchemaError(f"{what}: expected {dataset.dtype}, found {part.dtype}")
            boxes.append(Box(here, there, part))
        self._check_room(dataset)
        boxes.sort(key=lambda box: [cut.start for cut in box.here])
        if not _fills(boxes, 0, dataset.shape):
            raise SchemaError("expected a source for every row of a virtual dataset, once each")
        starts = [box.here[0].start for box in boxes]
        shape = str(source.path), path, dataset.shape, dataset.dtype
        return Virtual(*shape, tuple(boxes), starts)

    def _check_room(self, dataset: h5py.Dataset) -> None:
        """Refuse a dataset that is put together of the same few numbers again and again."""
        check_declared(prod(dataset.shape) * dataset.dtype.itemsize, sum(self.room.values()))

    def _count(self, depth: int) -> None:
        self.followed += 1
        if depth > DEEPEST or self.followed > MOST_FOLLOWED:
            raise SchemaError("links or virtual datasets lead in a circle, or too deep")

    def _regular(self, path: Path) -> tuple[BinaryIO, os.stat_result]:
        """Open a regular file; devices and pipes are not even opened.

        Raises
        ------
        FormatError
        """
        try:
            kind = path.stat()
            if not (stat.S_ISREG(kind.st_mode) or stat.S_ISDIR(kind.st_mode)):
                raise FormatError("expected a regular file, found none", file=str(path))
            file = self.files.enter_context(path.open("rb", buffering=0))
            state = os.fstat(file.fileno())
        except (OSError, ValueError) as error:
            why = reason(error) if isinstance(error, OSError) else str(error)
            raise FormatError(f"cannot be read: {why}", file=str(path)) from None
        self.room[os.path.realpath(path)] = state.st_size
        return file, state


def _text(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")


def _externals(dataset: h5py.Dataset) -> Iterator[tuple[bytes, int, int]]:
    properties = dataset.id.get_create_plist()
    return (properties.get_external(i) for i in range(properties.get_external_count()))


def _mappings(
    properties: h5py.h5p.PropDCID,
) -> Iterator[tuple[bytes, bytes, h5s.SpaceID, h5s.SpaceID]]:
    """List each source: file, dataset, and the selections here and there."""
    for i in range(properties.get_virtual_count()):
        names = properties.get_virtual_filename(i), properties.get_virtual_dsetname(i)
        file, name = (name.encode("utf-8", "surrogateescape") for name in names)
        yield file, name, properties.get_virtual_vspace(i), properties.get_virtual_srcspace(i)


def _cut(space: h5s.SpaceID, shape: tuple[int, ...]) -> tuple[slice, ...] | None:
    """Slices of a selection within a shape, if it is a block without gaps and with an end."""
    if space.get_select_type() == h5s.SEL_ALL:
        return tuple(slice(0, size) for size in shape)
    try:
        low, high = space.get_select_bounds()
        cut = tuple(slice(int(a), int(b) + 1) for a, b in zip(low, high, strict=True))
        whole = space.get_select_npoints() == prod(_sizes(cut))
    except RuntimeError:  # a selection that grows with its source
        return None
    return cut if whole else None


def _sizes(cut: tuple[slice, ...]) -> tuple[int, ...]:
    return tuple(each.stop - each.start for each in cut)


def _long(cut: tuple[slice, ...]) -> list[int]:
    """Sizes without those of 1: rows of one file each may be vectors there."""
    return [size for size in _sizes(cut) if size != 1]


def _fills(boxes: list[Box], axis: int, shape: tuple[int, ...]) -> bool:
    """Whether sorted boxes fill a shape without overlap, row by row and then column by column."""
    if axis == len(shape):
        return len(boxes) == 1
    done = 0
    for (start, stop), group in groupby(boxes, lambda b: (b.here[axis].start, b.here[axis].stop)):
        if start != done or not _fills([*group], axis + 1, shape):
            return False
        done = stop
    return done == shape[axis]
