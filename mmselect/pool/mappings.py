"""The list of sources of a virtual dataset, looked at before HDF5 reads it.

HDF5 trusts what this list says of itself: a count or a rank that is not true makes it write beyond
its memory. Layouts are those of the HDF5 File Format Specification, version 3, sections III.F and
IV.A, and the flags are those that HDF5 2.0 writes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from mmselect.errors import SchemaError

Read = Callable[[int, int], bytes]
"""Reads so many bytes from an address on, or as many as there are."""

DATASPACE, LAYOUT, CONTINUATION = 1, 8, 16
VIRTUAL = 3
MOST_BLOCKS, MOST_AXES = 1000, 32
NONE, POINTS, HYPERSLAB, ALL = range(4)
FILE_AS, DATASET_AS, THIS_FILE = 1, 2, 4
"""Flags of an entry, from version 1 of the list on (HDF5 2.0)."""

LEAST_ENTRY = 34
"""Bytes of an entry: two selections, and names or flags."""


def check_mapping(read: Read, address: int) -> None:
    """Refuse an object whose list of sources is not as the specification has it.

    Parameters
    ----------
    read : callable
        Reads bytes of the file.
    address : int
        Where the header of the object stands.

    Raises
    ------
    SchemaError
        If the object is a virtual dataset whose list is damaged.
    """
    rank = None
    for kind, data in _messages(read, address):
        if kind == DATASPACE:
            rank = _byte(data, 1)
        if kind == LAYOUT and _byte(data, 0) >= 4 and _byte(data, 1) == VIRTUAL:
            heap, index = _number(data, 2, 8), _number(data, 10, 4)
            if heap != (1 << 64) - 1 and not _whole(_heap_object(read, heap, index), rank):
                raise SchemaError("its list of sources is damaged")


def _messages(read: Read, address: int) -> Iterator[tuple[int, bytes]]:
    """Yield type and data of the messages in an object's header, of either version."""
    head = read(address, 64)
    second = head[:4] == b"OHDR"
    if second:
        flags = _byte(head, 5)
        at, width = 6 + 16 * bool(flags & 32) + 4 * bool(flags & 16), 1 << (flags & 3)
        blocks = [(address + at + width, _number(head, at, width))]
        skip = 4 + 2 * bool(flags & 4)
    else:
        blocks, skip = [(address + 16, _number(head, 8, 4))], 8
    for start, length in blocks[:MOST_BLOCKS]:
        block, at = read(start, length), 0
        while at + skip <= len(block):
            kind = block[at] if second else _number(block, at, 2)
            size = _number(block, at + (1 if second else 2), 2)
            data = block[at + skip : at + skip + size]
            at += skip + size
            yield kind, data
            if kind == CONTINUATION and len(blocks) < MOST_BLOCKS:
                begin, whole = _number(data, 0, 8), _number(data, 8, 8)
                blocks.append((begin + 4, max(whole - 8, 0)) if second else (begin, whole))


def _heap_object(read: Read, heap: int, index: int) -> bytes:
    """Find an object of a global heap; empty where there is none."""
    size = _number(read(heap, 16), 8, 8)
    data, at = read(heap, size), 16
    while at + 16 <= len(data):
        found, length = _number(data, at, 2), _number(data, at + 8, 8)
        if found == index:
            return data[at + 16 : at + 16 + length]
        if found == 0:
            break
        at += 16 + (length + 7) // 8 * 8
    return b""


def _whole(block: bytes, rank: int | None) -> bool:
    """Whether a list of sources is one from its first to its last byte."""
    version, count, at = _byte(block, 0), _number(block, 1, 8), 9
    if version > 1 or count * LEAST_ENTRY > len(block):
        return False
    written: dict[int, set[int]] = {FILE_AS: set(), DATASET_AS: set()}
    for entry in range(count):
        flags = _byte(block, at) if version else 0
        at += version
        for name, earlier in written.items():
            if flags & name:  # the same as in an earlier entry
                if _number(block, at, 8) not in earlier:
                    return False
                at += 8
            elif not (name == FILE_AS and flags & THIS_FILE):
                earlier.add(entry)
                at = block.find(b"\0", at) + 1
                if at == 0:
                    return False
        for axes in (None, rank):  # in the source, in the virtual dataset
            length = _selection(memoryview(block)[at:], axes)
            if length is None:
                return False
            at += length
    return at + 4 == len(block)  # a checksum, which HDF5 looks at


def _selection(data: memoryview, rank: int | None) -> int | None:
    """Length of a selection of elements, or None where it is damaged."""
    kind, version = _number(data, 0, 4), _number(data, 4, 4)
    if kind in (NONE, ALL):
        return 16 if version == 1 and len(data) >= 16 else None
    if kind not in (POINTS, HYPERSLAB) or version not in (1, 2, 3):
        return None
    counted, width, at = True, 4, 16
    if kind == HYPERSLAB and version == 2:
        counted, width, at = not _byte(data, 8) & 1, 8, 13
    elif kind == HYPERSLAB and version == 3:
        counted, width, at = not _byte(data, 8) & 1, _byte(data, 9), 10
    elif version == 2:
        width, at = _byte(data, 8), 9
    axes = _number(data, at, 4)
    if width not in (2, 4, 8) or not 1 <= axes <= MOST_AXES or rank not in (None, axes):
        return None
    each, at = (1 if kind == POINTS else 2) * axes * width, at + 4
    if not counted:  # start, stride, count and block of each axis
        return at + 2 * each if at + 2 * each <= len(data) else None
    count, at = _number(data, at, width), at + width
    return at + count * each if at + count * each <= len(data) else None


def _byte(data: bytes | memoryview, at: int) -> int:
    return data[at] if at < len(data) else 0


def _number(data: bytes | memoryview, at: int, width: int) -> int:
    return int.from_bytes(data[at : at + width], "little")
