"""Logits of a linear fused head, computed from features when rows are asked for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from mmselect.arrays import Array, Rows, Singles, same_length
from mmselect.engine import blas_threads, ranges
from mmselect.errors import ParameterError

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
    >>> import numpy as np
    >>> z = {"image": np.array([[1.0], [2.0]])}
    >>> LinearLogits(z, {"image": np.array([[1.0], [-1.0]])})[0:2].tolist()
    [[1.0, -1.0], [2.0, -2.0]]
    """

    features: Mapping[str, Rows]
    weight: Mapping[str, Array]
    bias: Array | None = None

    def __post_init__(self) -> None:
        same_length(list(self.features.values()))
        for name, z in self.features.items():
            if name not in self.weight or self.weight[name].shape[1] != z.shape[1]:
                found = self.weight[name].shape if name in self.weight else "none"
                raise ParameterError(f"{name}: expected weights (c, {z.shape[1]}), found {found}")

    @property
    def shape(self) -> tuple[int, ...]:
        """Samples and classes."""
        first = next(iter(self.features))
        return self.features[first].shape[0], self.weight[first].shape[0]

    @property
    def dtype(self) -> np.dtype[Any]:
        """Computed in float64, kept in float32."""
        return np.dtype(np.float32)

    def __getitem__(self, index: Any) -> Singles:
        blocks = {name: z[index] for name, z in self.features.items()}
        rows = len(next(iter(blocks.values())))
        out = np.empty((rows, self.shape[1]), np.float32)
        bias = 0.0 if self.bias is None else self.bias.astype(np.float64)
        with blas_threads(), np.errstate(over="ignore", invalid="ignore"):
            for start, stop in ranges(0, rows, TILE):
                total = np.zeros((TILE, self.shape[1])) + bias
                for name, block in blocks.items():
                    tile = np.zeros((TILE, block.shape[1]))
                    tile[: stop - start] = block[start:stop]
                    total += tile @ self.weight[name].astype(np.float64).T
                out[start:stop] = total[: stop - start]
        return out
