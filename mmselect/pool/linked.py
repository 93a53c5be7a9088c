"""A dataset that a pool does not hold itself: where it lies, named from the pool's folder."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import h5py
import numpy as np

from mmselect.pool.hdf5 import undisturbed


@dataclass(frozen=True)
class Link:
    """A dataset in another HDF5 file, or plain numbers in other files.

    Attributes
    ----------
    shape, dtype
        As of a NumPy array.
    file, path : str
        The HDF5 file, and the dataset in it.
    pieces : tuple of (str, int, int)
        In place of these: each file, the first byte of the numbers in it, and how many bytes.
    shards : tuple of (str, str, int)
        In place of all these, numbers in several HDF5 files: each file, the dataset, its rows.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    file: str = ""
    path: str = ""
    pieces: tuple[tuple[str, int, int], ...] = ()
    shards: tuple[tuple[str, str, int], ...] = ()

    def store(self, handle: h5py.File, name: str) -> None:
        """Write it under a name."""
        with undisturbed():
            if self.shards:
                handle.create_virtual_dataset(name, self._together())
                return
            if not self.pieces:
                handle[name] = h5py.ExternalLink(self.file, self.path)
                return
            pieces = [(os.fsencode(file), place, size) for file, place, size in self.pieces]
            handle.create_dataset(name, self.shape, self.dtype, external=pieces, track_times=False)

    def _together(self) -> h5py.VirtualLayout:
        layout, start = h5py.VirtualLayout(self.shape, self.dtype), 0
        for file, path, rows in self.shards:
            shape = (rows, *self.shape[1:])
            layout[start : start + rows] = h5py.VirtualSource(file, path, shape, self.dtype)
            start += rows
        return layout
