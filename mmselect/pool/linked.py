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
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    file: str = ""
    path: str = ""
    pieces: tuple[tuple[str, int, int], ...] = ()

    def store(self, handle: h5py.File, name: str) -> None:
        """Write it under a name."""
        with undisturbed():
            if not self.pieces:
                handle[name] = h5py.ExternalLink(self.file, self.path)
                return
            pieces = [(os.fsencode(file), place, size) for file, place, size in self.pieces]
            handle.create_dataset(name, self.shape, self.dtype, external=pieces, track_times=False)
