"""Texts of variable length, whose lengths are looked at before HDF5 believes them.

HDF5 takes memory for a text, and clears it, before it looks whether the file holds such a text: a
wrong length of four gigabytes takes four gigabytes. What it believes are pointers of 16 bytes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from itertools import count, product
from typing import TYPE_CHECKING, BinaryIO, TypeAlias

import h5py
import numpy as np
from h5py import h5a, h5d, h5p, h5s, h5t
from numpy.typing import NDArray

from mmselect.errors import FormatError, SchemaError
from mmselect.files import read_at
from mmselect.pool.hdf5 import hdf5

if TYPE_CHECKING:
    from mmselect.pool.source import Source

POINTER = np.dtype([("length", "<u4"), ("heap", "<u8"), ("number", "<u4")])
"""How a file holds a text of variable length: where its bytes are, in a heap."""

LONGEST_WORD = 4096
"""Bytes of an attribute's text that anything of this format may have."""

_NUMBERS = count()

Lengths: TypeAlias = Callable[[int, int], NDArray[np.uint32]]
"""Lengths of the texts in some rows."""


def lengths_of(dataset: h5py.Dataset, file: BinaryIO) -> Lengths | None:
    """Make what finds the lengths of a dataset's texts; None where it has none to look up.

    Raises
    ------
    SchemaError
        If the texts are stored so that HDF5 alone finds them.
    """
    if not dataset.size:
        return None
    properties, place = dataset.id.get_create_plist(), dataset.id.get_offset()
    if properties.get_layout() == h5d.COMPACT:
        raise SchemaError("expected text in a place of its own, found it in the dataset's header")
    if properties.get_layout() == h5d.CHUNKED:
        return _Chunks(dataset).lengths
    if place is None:
        _refuse_fill(properties)
        return None
    width = POINTER.itemsize

    def lengths(start: int, stop: int) -> NDArray[np.uint32]:
        found = read_at(file.fileno(), width * (stop - start), place + width * start)
        return np.frombuffer(found, POINTER, len(found) // width)["length"]

    return lengths if dataset.ndim == 1 else None


class _Chunks:
    """The pointers in a dataset's chunks. HDF5 itself takes the filters off, in another file."""

    def __init__(self, dataset: h5py.Dataset) -> None:
        self._dataset, self._ways = dataset, dict[int, h5d.DatasetID]()
        name = f"pointers {next(_NUMBERS)}"  # HDF5 knows files in memory by their names
        self._memory = h5py.File(name, "w", driver="core", backing_store=False)

    def lengths(self, start: int, stop: int) -> NDArray[np.uint32]:
        """Lengths in the chunks that hold some rows."""
        shape, chunk = self._dataset.shape, self._dataset.chunks
        across = (range(0, size, step) for size, step in zip(shape[1:], chunk[1:], strict=True))
        found = [np.empty(0, np.uint32)]
        for corner in product(range(start // chunk[0] * chunk[0], stop, chunk[0]), *across):
            block = self._pointers(corner)["length"]
            low, high = max(start - corner[0], 0), min(stop, shape[0]) - corner[0]
            rest = (slice(0, s - at) for s, at in zip(shape[1:], corner[1:], strict=True))
            found.append(block[(slice(low, high), *rest)].ravel())
        return np.concatenate(found)

    def _pointers(self, corner: tuple[int, ...]) -> NDArray[np.void]:
        chunk = self._dataset.chunks
        if self._dataset.id.get_chunk_info_by_coord(corner).byte_offset is None:
            _refuse_fill(self._dataset.id.get_create_plist())
            return np.zeros(chunk, POINTER)
        skipped, data = self._dataset.id.read_direct_chunk(corner)
        if skipped not in self._ways:
            self._ways[skipped] = self._way(skipped)
        self._ways[skipped].write_direct_chunk((0,) * len(chunk), data)
        out = np.empty(chunk, f"V{POINTER.itemsize}")
        self._ways[skipped].read(h5s.ALL, h5s.ALL, out)
        return out.view(POINTER)

    def _way(self, skipped: int) -> h5d.DatasetID:
        """Make a dataset of one chunk with the filters that were not skipped for it."""
        properties, given = h5p.create(h5p.DATASET_CREATE), self._dataset.id.get_create_plist()
        properties.set_chunk(self._dataset.chunks)
        for i in range(given.get_nfilters()):
            if not skipped >> i & 1:
                code, flags, values, _ = given.get_filter(i)
                properties.set_filter(code, flags, values)
        kind, space = (
            h5t.create(h5t.OPAQUE, POINTER.itemsize),
            h5s.create_simple(self._dataset.chunks),
        )
        return h5d.create(self._memory.id, str(skipped).encode(), kind, space, properties)


def _refuse_fill(properties: h5p.PropDCID) -> None:
    """Refuse a text that HDF5 would fill rows with that were never written: it is not looked at."""
    if properties.fill_value_defined() == h5d.FILL_VALUE_USER_DEFINED:
        raise SchemaError("expected text in every row, found rows never written and a fill value")


def attribute(source: Source, name: str) -> str | None:
    """Read a word that stands in an attribute of a file; None where there is none.

    Raises
    ------
    FormatError
        If it is no short text or number, or cannot be read.
    """
    with hdf5(str(source.path)):
        root = source.handle.id
        if not h5a.exists(root, name.encode()):
            return None
        found = h5a.open(root, name.encode())
        kind, size = found.get_type(), found.get_storage_size()
        if not isinstance(kind, h5t.TypeStringID | h5t.TypeIntegerID | h5t.TypeFloatID):
            size = LONGEST_WORD + 1
        elif isinstance(kind, h5t.TypeStringID) and kind.is_variable_str():
            size = max(_attribute_lengths(source, name.encode()), default=LONGEST_WORD + 1)
        if size > LONGEST_WORD:
            message = f"expected a short text in attribute {name}, found something else"
            raise FormatError(message, file=str(source.path))
        value = source.handle.attrs[name]
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _attribute_lengths(source: Source, name: bytes) -> Iterator[int]:
    """Lengths in whatever HDF5 has read that looks like an attribute of this name with a text."""
    for start, stop in source.medium.ranges():
        data = read_at(source.file.fileno(), stop - start, start)
        for match in re.finditer(re.escape(name + b"\0"), data):
            for version, before in ((1, 8), (2, 8), (3, 9)):
                head = data[max(match.start() - before, 0) : match.start()]
                sizes = [int.from_bytes(head[i : i + 2], "little") for i in (2, 4, 6)]
                if len(head) < before or head[0] != version or sizes[0] != len(name) + 1:
                    continue
                step = 8 if version == 1 else 1  # the first version fills up to 8 bytes
                place = match.start() + sum(-(-size // step) * step for size in sizes)
                yield int.from_bytes(data[place : place + 4], "little")
