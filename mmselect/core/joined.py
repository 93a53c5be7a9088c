"""Rows of all modalities side by side, made of what is stored when they are asked for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np

from mmselect.arrays import Array, Floats, Index, Rows, Singles, native
from mmselect.core.chosen import over_blocks
from mmselect.core.features import central, checked_norms, counted, inverse, row_norms
from mmselect.core.presence import Mask, Present
from mmselect.engine import SERIAL, Engine
from mmselect.errors import located
from mmselect.tasks import concurrent

HELD = 128 << 20
"""Bytes of rows that are held ready: those of smaller pools are not made anew in every round."""


def fits_ready(n: int, width: int, memory: int) -> bool:
    """Whether all rows are held ready in float32, beside what they are made of.

    Examples
    --------
    >>> fits_ready(1000, 1024, 1 << 28), fits_ready(180_000, 1024, 1 << 32)
    (True, False)
    """
    return 4 * n * width <= min(HELD, memory)


@dataclass(frozen=True)
class Joined:
    """Rows of all modalities, less an origin, never all in memory.

    Build it with :func:`joined`. A slice or an array of positions gives rows in float32.

    Attributes
    ----------
    arrays : tuple of (n, d_m) Rows
        As they are stored, in memory or on disk.
    scales : tuple of (n,) ndarray of float64 or None
        What rows of each modality are multiplied by.
    there : tuple of (n,) ndarray of bool or None
        Which rows have each modality.
    means : tuple of (d_m,) ndarray of float64
        What stands for each modality in rows that lack it: at first the mean of the others.
    origin : (Σ d_m,) ndarray
    zero_rows : dict of str to int
        Rows of each modality without a direction.
    longest : float
        Norm of the longest row of a modality, no origin taken off.
    """

    arrays: tuple[Rows, ...]
    scales: tuple[Floats | None, ...]
    there: tuple[Mask | None, ...]
    means: tuple[Floats, ...]
    origin: Array
    zero_rows: dict[str, int]
    longest: float

    def __len__(self) -> int:
        return self.arrays[0].shape[0]

    @property
    def shape(self) -> tuple[int, int]:
        """Rows, and the width of all modalities."""
        return len(self), len(self.origin)

    @property
    def dtype(self) -> np.dtype[Any]:
        """That of the rows."""
        return np.dtype(np.float32)

    @property
    def plain(self) -> bool:
        """Whether any thread may read it."""
        return all(map(concurrent, self.arrays))

    @property
    def offsets(self) -> tuple[int, ...]:
        """Modality number m fills the columns ``offsets[m]:offsets[m + 1]``."""
        return (0, *np.cumsum([len(mean) for mean in self.means]).tolist())

    @property
    def mean(self) -> Floats:
        """What stands for all modalities."""
        return np.concatenate(self.means)

    def __getitem__(self, index: Any) -> Singles:
        parts = [array[index] for array in self.arrays]
        return self._put(parts, index, np.empty((len(parts[0]), len(self.origin)), np.float32))

    def read(self, start: int, stop: int, out: Singles) -> Singles:
        """Rows of a range, put into `out`."""
        index = slice(start, stop)
        return self._put([array[index] for array in self.arrays], index, out)

    def _put(self, parts: list[Array], index: Any, out: Singles) -> Singles:
        ends = pairwise(self.offsets)
        for stored, scale, there, mean, (left, right) in zip(
            parts, self.scales, self.there, self.means, ends, strict=True
        ):
            part = native(stored)
            if scale is not None:
                part = part * scale[index, None].astype(part.dtype)
            target, origin = out[:, left:right], self.origin[left:right]
            np.subtract(part, origin, out=target, casting="same_kind")
            if there is not None:
                target[~there[index]] = mean.astype(part.dtype) - origin
        return out

    def lacking(self, factors: Floats) -> Joined:
        """Rows times a factor (n,) each, and zeros where they lack a modality."""
        scales = tuple(factors if s is None else s * factors for s in self.scales)
        return replace(self, scales=scales, means=tuple(map(np.zeros_like, self.means)))

    def over(self, length: float) -> Joined:
        """Rows over a length."""
        whole = np.full(len(self), 1 / length)
        return replace(
            self,
            scales=tuple(whole if s is None else s / length for s in self.scales),
            means=tuple(mean / length for mean in self.means),
            origin=self.origin / length,
            longest=self.longest / length,
        )

    def with_ones(self, length: float) -> Joined:
        """Rows over a length, and two columns of ones besides."""
        rows = self.over(length)
        return replace(
            rows,
            arrays=(*self.arrays, np.ones((len(self), 2), np.float32)),
            scales=(*rows.scales, None),
            there=(*self.there, None),
            means=(*rows.means, np.zeros(2)),
            origin=np.append(rows.origin, [0, 0]).astype(self.origin.dtype),
        )

    def exact(self, index: Index) -> Floats:
        """Rows in float64, no origin taken off: what counts where float32 cannot decide."""
        out, ends = np.empty((len(index), len(self.origin))), pairwise(self.offsets)
        for array, scale, there, mean, (left, right) in zip(
            self.arrays, self.scales, self.there, self.means, ends, strict=True
        ):
            part = native(array[index])
            if scale is not None:
                part = part.astype(np.float64)
                part *= scale[index, None]
            out[:, left:right] = part
            if there is not None:
                out[~there[index], left:right] = mean
        return out


def joined(
    features: Mapping[str, Array],
    *,
    unit: bool = False,
    center: bool = False,
    present: Present | None = None,
    engine: Engine = SERIAL,
) -> Joined:
    """Look at all rows once, for their norms and means, and make :class:`Joined` of them.

    Parameters
    ----------
    features : mapping of str to (n, d_m) array, in memory or to be read block by block
    unit : bool
        Divide each row of each modality by its norm; a zero row stays zero.
    center : bool
        Take the mean of all rows off, as they are used: the origin. Else it is zero.
    present : mapping of str to (n,) ndarray of bool, optional
        Which rows have a modality; in the others its mean stands for it.
    engine : Engine

    Raises
    ------
    DataError
        If a row holds nan or an infinity, or is too large.

    Examples
    --------
    >>> features = {"a": np.array([[1.0], [3.0]]), "b": np.array([[0.0], [8.0]])}
    >>> points = joined(features, center=True)
    >>> points.exact(np.array([1])).tolist(), points[1:].tolist()
    ([[3.0, 8.0]], [[1.0, 4.0]])
    """
    there = [(present or {}).get(name) for name in features]
    scales: list[Floats | None] = []
    means, zero_rows, longest = [], {}, 0.0
    for (name, array), mask in zip(features.items(), there, strict=True):
        with located(dataset=name):
            norms, mean = _norms_and_mean(array, unit, mask, engine)
        zero_rows[name] = int((norms[slice(None) if mask is None else mask] == 0).sum())
        scales.append(inverse(norms) if unit else None)
        longest = max(longest, 1.0 if unit else float(norms.max()))
        means.append(mean if unit else central(array, mean, mask, norms))
    whole = np.concatenate(means)
    kind = np.result_type(np.float32, *(array.dtype for array in features.values()))
    origin = (whole if center else np.zeros_like(whole)).astype(kind)
    sources = tuple(features.values())
    return Joined(sources, tuple(scales), tuple(there), tuple(means), origin, zero_rows, longest)


def _norms_and_mean(
    array: Array, unit: bool, there: Mask | None, engine: Engine
) -> tuple[Floats, Floats]:
    """Norms of the rows as given, and the mean of the rows as they are used."""

    def measure(first: int, block: Array) -> tuple[Floats, Floats]:
        wide = native(block).astype(np.float64)
        if unit:
            norms = row_norms(wide, first)
            return norms, inverse(norms) @ wide
        with np.errstate(over="ignore", invalid="ignore"):  # told of by checked_norms
            squared = np.vecdot(wide, wide)  # BLAS: faster, the last bit is its own
        return checked_norms(squared, block, first), np.ones(len(wide)) @ wide

    parts = list(over_blocks(measure, array, engine, "reading features"))
    norms = np.concatenate([norms for norms, _ in parts])
    return norms, np.sum([total for _, total in parts], axis=0) / counted(array, there)
