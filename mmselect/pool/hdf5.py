"""Whatever HDF5 does with a file from somebody else happens in :func:`hdf5`, and nowhere else."""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import gc
from collections.abc import Callable, Iterator
from functools import cache
from math import prod
from typing import Any

import h5py
from h5py import h5d, h5g, h5o, h5p, h5pl, h5t, h5z
from h5py._hl.base import phil  # the lock that h5py itself takes around every call of HDF5

from mmselect.engine import format_bytes
from mmselect.errors import FormatError, MmselectError, SchemaError

FILTERS = {1: "gzip", 2: "shuffle", 3: "fletcher32", 4: "szip", 6: "scale-offset", 32000: "lzf"}
"""The filters that are part of HDF5 or of h5py; nothing is loaded for them."""

OTHER_FILTERS = {
    5: "nbit",
    307: "bzip2",
    32001: "blosc",
    32004: "lz4",
    32008: "bitshuffle",
    32013: "zfp",
    32015: "zstd",
    32026: "blosc2",
}

MOST_EXPANDED, SPARE = 1100, 1 << 20
"""Deflate shrinks nothing more than 1032 times; what is smaller than `SPARE` harms nobody."""


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Call HDF5 on a file object without Python's collector.

    HDF5 calls the file object back, and what the collector then finds may belong to HDF5, which
    would be entered a second time by the same thread and crash. An interrupt that meets such a call
    comes out as what it is, not as the error that h5py makes of it.
    """
    with phil:
        collecting = gc.isenabled()
        gc.disable()
        try:
            yield
        except Exception as error:
            cause: BaseException | None = error
            while isinstance(cause, Exception):
                cause = cause.__cause__ or cause.__context__
            if isinstance(cause, KeyboardInterrupt | SystemExit):
                raise cause from None
            raise
        finally:
            if collecting:
                gc.enable()


@contextlib.contextmanager
def hdf5(file: str, dataset: str | None = None) -> Iterator[None]:
    """Turn whatever HDF5 and h5py raise into one error; let HDF5 load no filter plugin meanwhile.

    Raises
    ------
    FormatError
        For anything raised in the block that is no `MmselectError`.
    """
    try:
        with undisturbed(), _without_plugins():
            yield
    except MmselectError:
        raise
    except Exception as error:  # h5py raises errors of a dozen kinds
        detail = "not enough memory" if isinstance(error, MemoryError) else str(error)
        detail = detail.strip("'\" ").partition("\n")[0][:200] or type(error).__name__
        message = f"HDF5 cannot read it: {detail}"
        raise FormatError(message, file=file, dataset=dataset) from None


@contextlib.contextmanager
def _without_plugins() -> Iterator[None]:
    folders = [h5pl.get(i) for i in range(h5pl.size())]
    try:
        for _ in folders:
            h5pl.remove(0)
        yield
    finally:
        for folder in folders:
            h5pl.append(folder)


def open_object(group: h5g.GroupID, name: bytes) -> Any:
    """Open what a hard link leads to.

    Where HDF5 fails over a virtual dataset it keeps a list of properties, and frees it after Python
    has ended, by a call to Python. Then it is closed while there is Python.
    """
    try:
        return h5o.open(group, name)
    except Exception:
        _close_at_exit()
        raise


@cache
def _close_at_exit() -> None:
    with contextlib.suppress(OSError, AttributeError):  # a build that hides its functions
        atexit.register(_close, ctypes.CDLL(h5py.defs.__file__).H5close)


def _close(library: Callable[[], object]) -> None:
    """Close HDF5, which crashes over lists of properties that Python still holds: these first."""
    for each in gc.get_objects():
        if isinstance(each, h5p.PropDCID):
            each.close()
    library()


def check_filters(properties: h5py.h5p.PropDCID) -> list[str]:
    """Name the filters; refuse those that HDF5 would load a plugin for or crash in.

    Raises
    ------
    SchemaError
        Naming the filter.
    """
    names = []
    for i in range(properties.get_nfilters()):
        code, _, values, _ = properties.get_filter(i)
        name = FILTERS.get(code)
        if name is None or not h5z.filter_avail(code):
            named = name or OTHER_FILTERS.get(code, "unknown")
            allowed = ", ".join(FILTERS.values())
            expected = f"expected no filter but {allowed}" if name is None else "this HDF5 lacks it"
            way = "store it again without, for example with h5repack -f NONE"
            raise SchemaError(f"{expected}, found filter {named} ({code}); {way}")
        if name == "szip" and not _sound_szip(values):
            raise SchemaError(f"filter szip cannot have the parameters {tuple(values)}")
        names.append(name)
    if "fletcher32" in names[:-1]:
        raise SchemaError("expected fletcher32 as the last of the filters")
    return names


def _sound_szip(values: tuple[int, ...]) -> bool:
    """Whether options, samples in a block, bits of a sample and samples in a line can be true."""
    if len(values) < 4:
        return False
    _, block, bits, line = values[:4]
    return block in range(2, 33, 2) and 1 <= bits <= 64 and 1 <= line <= 128 * block


def check_chunks(dataset: h5d.DatasetID, filters: list[str]) -> None:
    """Refuse chunks over which HDF5 would read before their start, or take any memory they ask for.

    Raises
    ------
    SchemaError
        If one is smaller than the checksum in it, or szip is told another size than the chunk's.
    """
    if "fletcher32" in filters and dataset.chunk_iter(lambda c: (c.size < 4) or None):
        raise SchemaError("expected chunks with a checksum, found one of less than 4 bytes")
    if "szip" in filters:
        size = prod(dataset.get_create_plist().get_chunk()) * dataset.get_type().get_size()
        for i in range(dataset.get_num_chunks()):
            skipped, stored = dataset.read_direct_chunk(dataset.get_chunk_info(i).chunk_offset)
            told = int.from_bytes(stored[:4], "little")
            if not skipped and told != size:
                raise SchemaError(f"expected chunks of {size:,} bytes, found one of {told:,}")


def check_size(
    dataset: h5d.DatasetID, properties: h5py.h5p.PropDCID, shape: tuple[int, ...]
) -> None:
    """Refuse sizes that the file cannot hold, before memory is taken for them.

    Raises
    ------
    SchemaError
        If the dataset, or one of its chunks, is far larger than what is stored for it.
    """
    item, stored = dataset.get_type().get_size(), dataset.get_storage_size()
    chunk = properties.get_chunk() if properties.get_layout() == h5d.CHUNKED else ()
    check_declared(max(prod(shape), prod(chunk)) * item, stored)


def check_declared(size: int, stored: int) -> None:
    """Refuse a size that what is stored cannot fill.

    Raises
    ------
    SchemaError
    """
    if size > SPARE + MOST_EXPANDED * stored:
        declared = f"expected data for the {format_bytes(size)} that it declares"
        raise SchemaError(f"{declared}, found {stored:,} bytes")


def is_native(dataset: h5py.Dataset) -> bool:
    """Whether numbers are stored as NumPy has them in memory, and are no named values."""
    stored = dataset.id.get_type()
    plain = dataset.dtype.kind in "fiu" and h5py.check_enum_dtype(dataset.dtype) is None
    return plain and bool(h5t.py_create(dataset.dtype).equal(stored))
