"""Whether a model computes the same numbers again."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

CLOSE = 0.02
"""How far a batch that is computed again may differ, relative to its largest number."""


def agree(a: NDArray[Any], b: NDArray[Any], close: float = CLOSE) -> bool:
    """Whether two arrays hold the same numbers, but for what another run of a model may change.

    Examples
    --------
    >>> agree(np.array([1.0, 100.0]), np.array([1.5, 101.0]))
    True
    >>> agree(np.array([1, 2]), np.array([1, 3]))
    False
    """
    if a.shape != b.shape or a.dtype.kind != "f":
        return bool(np.array_equal(a, b))
    wide, other = a.astype(np.float64), b.astype(np.float64)
    finite = np.isfinite(wide)
    if not np.array_equal(wide[~finite], other[~finite], equal_nan=True):
        return False
    size = np.abs(wide[finite]).max(initial=0)
    return bool((np.abs(wide[finite] - other[finite]) <= close * size).all())
