"""A pool file laid out first and filled afterwards, with plain writes at known places.

HDF5 writes the names, shapes and places of all datasets once and is closed. Rows then go straight
to their places, so that whatever ends the program leaves a file that HDF5 can open.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
from numpy.typing import NDArray

from mmselect.pool.ids import as_stored
from mmselect.pool.schema import FORMAT, VERSION
from mmselect.pool.storage import TEXT

COPY_BYTES = 16 << 20


class Spec(NamedTuple):
    """Shape of one row of a dataset, and its type."""

    tail: tuple[int, ...]
    dtype: np.dtype[Any]

    @property
    def row_bytes(self) -> int:
        """Bytes of one row."""
        return prod(self.tail) * self.dtype.itemsize


def lay_out(
    path: Path, specs: Mapping[str, Spec], n: int, constants: Mapping[str, NDArray[Any]]
) -> None:
    """Make a pool of `n` rows whose numbers are still to come.

    Parameters
    ----------
    path : Path
        An existing file is emptied.
    specs : mapping of dataset to Spec
        Stored contiguously; nothing is written to them, so that they take no room yet where the
        file system knows holes.
    n : int
        Rows.
    constants : mapping of dataset to array
        Written at once.
    """
    places = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    places.set_layout(h5py.h5d.CONTIGUOUS)
    places.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    places.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    with plain_errors(), h5py.File(path, "w") as handle:
        handle.attrs.update(format=FORMAT, format_version=VERSION)
        for name, array in constants.items():
            text = array.dtype.kind in "OSU"
            values, kind = (as_stored(array), TEXT) if text else (array, array.dtype)
            handle.create_dataset(name, data=values, dtype=kind, track_times=False)
        for name, spec in specs.items():
            handle.create_dataset(name, (n, *spec.tail), spec.dtype, dcpl=places, track_times=False)
    sync(path)


def offsets(path: Path, specs: Mapping[str, Spec]) -> dict[str, int]:
    """Where in the file the numbers of each dataset begin."""
    with plain_errors(), h5py.File(path, "r") as handle:
        return {name: int(handle[name].id.get_offset()) for name in specs}


def rows_laid_out(path: Path, specs: Mapping[str, Spec]) -> int:
    """How many rows the datasets have room for."""
    with plain_errors(), h5py.File(path, "r") as handle:
        return int(handle[next(iter(specs))].shape[0])


def copy_rows(
    source: Path,
    target: Path,
    specs: Mapping[str, Spec],
    places: tuple[Mapping[str, int], Mapping[str, int]],
    rows: int,
) -> None:
    """Copy the first `rows` rows of every dataset between two files, each with its own places."""
    with source.open("rb") as old, target.open("r+b", buffering=0) as new:
        for name, spec in specs.items():
            here, there = places[0][name], places[1][name]
            for start in range(0, rows * spec.row_bytes, COPY_BYTES):
                size = min(COPY_BYTES, rows * spec.row_bytes - start)
                old.seek(here + start)
                write_at(new.fileno(), there + start, old.read(size))
    sync(target)


def write_at(file: int, place: int, data: bytes | memoryview) -> None:
    """Write all of `data` at a place; the system may take less of it at a time."""
    view, done = memoryview(data).cast("B"), 0
    while done < len(view):
        done += os.pwrite(file, view[done:], place + done)


def read_at(file: int, place: int, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Read an array from a place."""
    size = prod(shape) * dtype.itemsize
    return np.frombuffer(os.pread(file, size, place), dtype).reshape(shape)


def sync(path: Path) -> None:
    """Wait until a file is on the disk."""
    with path.open("rb") as handle:
        os.fsync(handle.fileno())


@contextmanager
def plain_errors() -> Iterator[None]:
    """Turn HDF5's account of a system error back into that error."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        number = re.search(r"errno = (\d+)", str(error))
        if number is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1]))) from error
