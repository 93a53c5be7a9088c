"""Chunks that hold whole rows as they are: numbers that lie in a row, in several pieces."""

from __future__ import annotations

from math import prod
from typing import Any

import h5py
import numpy as np

MOST_CHUNKS, SMALLEST_CHUNK = 1 << 17, 1 << 12
"""So many chunks, of so many bytes, are looked up in a moment and read faster than by HDF5."""


def whole_rows(dataset: h5py.Dataset, room: int) -> list[tuple[int, int]]:
    """Where chunks of whole rows lie: first byte and bytes of each, joined where they touch.

    None, so that HDF5 reads them, where that would not be faster or some are not in a file of
    `room` bytes. The chunks have no filter, and the file no user block: versions of HDF5 say
    different places of what stands behind one.
    """
    if not dataset.chunks:
        return []
    chunk, shape = dataset.chunks, dataset.shape
    size = prod(chunk) * dataset.dtype.itemsize
    count = -(-shape[0] // chunk[0])
    known = count <= MOST_CHUNKS and size >= SMALLEST_CHUNK
    if chunk[1:] != shape[1:] or not known or dataset.id.get_num_chunks() != count:
        return []
    places = np.full(count, -1)

    def see(about: Any) -> None:
        index, rest = divmod(about.chunk_offset[0], chunk[0])
        if not rest and index < count and about.size == size:
            places[index] = about.byte_offset

    dataset.id.chunk_iter(see)
    if (places < 0).any() or (places > room - size).any():
        return []
    firsts = np.flatnonzero(np.diff(places, prepend=-1 - size) != size)
    sizes = np.diff(firsts, append=count) * size
    sizes[-1] -= count * size - prod(shape) * dataset.dtype.itemsize
    return list(zip(places[firsts].tolist(), sizes.tolist(), strict=True))
