"""Logits of a linear fused head, computed from features when rows are asked for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from mmselect.arrays import Array, Floats, Rows, Singles, same_length
from mmselect.engine import blas_threads, ranges
from mmselect.errors import ParameterError
from mmselect.tasks import concurrent, portable

TILE = 64
"""Rows of every product: always the same shape, so that a row's bits do not depend on others."""


@dataclass(frozen=True)
class LinearLogits:
    """A row source f = b + Σ_m W_m z_m: what a pool need not export if it has W, b and z.

    Parameters
    ----------
    features : mapping of str to (n, d) Rows
        Features of each modality.
    weight : mapping of str to (c, d) ndarray
        Columns of the head for each modality.
    bias : (c,) ndarray, optional
        None is 0.

    Raises
    ------
    ParameterError
        If names or shapes do not fit together.

    Examples
    --------
    >>> z = {"image": np.array([[1.0], [2.0]])}
    >>> LinearLogits(z, {"image": np.array([[1.0], [-1.0]])})[0:2].tolist()
    [[1.0, -1.0], [2.0, -2.0]]
    """

    features: Mapping[str, Rows]
    weight: Mapping[str, Array]
    bias: Array | None = None

    def __post_init__(self) -> None:
        if not self.features or set(self.weight) != set(self.features):
            found = f"{sorted(self.features)} and {sorted(self.weight)}"
            raise ParameterError(f"expected features and weights of the same names, found {found}")
        same_length(list(self.features.values()))
        classes = len(next(iter(self.weight.values())))
        for name, z in self.features.items():
            expected, shape = (classes, z.shape[1]), self.weight[name].shape
            if shape != expected:
                raise ParameterError(f"{name}: expected weights {expected}, found {shape}")
        if self.bias is not None and self.bias.shape != (classes,):
            raise ParameterError(f"bias: expected ({classes},), found {self.bias.shape}")

    @property
    def shape(self) -> tuple[int, ...]:
        """Samples and classes."""
        return next(iter(self.features.values())).shape[0], len(self.base)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Computed in float64, kept in float32."""
        return np.dtype(np.float32)

    @property
    def plain(self) -> bool:
        """Whether any thread may ask for rows."""
        return all(concurrent(z) for z in self.features.values())

    @property
    def portable(self) -> bool:
        """Whether another process can open all features itself."""
        return all(portable(z) for z in self.features.values())

    @property
    def watches(self) -> list[Any]:
        """What watches the features that are read."""
        return [watch for z in self.features.values() for watch in getattr(z, "watches", ())]

    @cached_property
    def heads(self) -> list[Floats]:
        """Weights (c, d) of each modality, in the order of the features."""
        return [np.asarray(self.weight[name], dtype=np.float64) for name in self.features]

    @cached_property
    def base(self) -> Floats:
        """The bias (c,)."""
        classes = len(next(iter(self.weight.values())))
        return np.zeros(classes) if self.bias is None else self.bias.astype(np.float64)

    def detached(self) -> LinearLogits:
        """Return the same head over no samples."""
        none = {name: np.empty((0, z.shape[1]), z.dtype) for name, z in self.features.items()}
        return replace(self, features=none)

    def __getitem__(self, index: Any) -> Singles:
        blocks = [z[index] for z in self.features.values()]
        rows = len(blocks[0])
        out = np.empty((rows, self.shape[1]), np.float32)
        with blas_threads(), np.errstate(over="ignore", invalid="ignore"):
            for start, stop in ranges(0, rows, TILE):
                total = np.zeros((TILE, self.shape[1])) + self.base
                for block, head in zip(blocks, self.heads, strict=True):
                    tile = np.zeros((TILE, block.shape[1]))
                    tile[: stop - start] = block[start:stop]
                    total += tile @ head.T
                out[start:stop] = total[: stop - start]
        return out
