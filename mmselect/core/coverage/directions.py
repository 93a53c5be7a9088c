"""Directions in which a pool is wide, and rows in them: distances bounded from below, cheaply."""

from __future__ import annotations

import numpy as np

from mmselect.arrays import Array, Floats, Singles
from mmselect.core.side_by_side import Joined

SAMPLED = 2048
"""Rows from which the directions are found."""


def main_directions(points: Joined, origin: Array, count: int) -> Singles:
    """Orthonormal directions in which a pool is wide, the widest first.

    Parameters
    ----------
    points : Joined
        n rows of width d.
    origin : array, shape (d,)
        What the rows are looked at from.
    count : int

    Returns
    -------
    float32 array, shape (d, min(count, d))

    Examples
    --------
    >>> points = Joined({"a": np.array([[0.0, 3.0], [0.0, -3.0], [1.0, 0.0]])})
    >>> abs(main_directions(points, np.zeros(2), 1)).round(2).tolist()
    [[0.0], [1.0]]
    """
    n, d = len(points), len(points.mean)
    basis = np.zeros((d, min(count, d)), dtype=np.float32)
    if not count:
        return basis
    sample = points.less(np.arange(0, n, max(n // SAMPLED, 1)), origin)
    basis[:, : len(sample)] = sample[: basis.shape[1]].T
    for _ in range(3):  # subspace iteration; any orthonormal basis gives a valid bound
        basis = np.linalg.qr(sample.T @ (sample @ basis))[0]
    return basis


def sketched(x: Singles, basis: Singles) -> Singles:
    """Rows in the directions of a basis, and the length of what is left.

    The distance of two of these is at most that of the rows.

    Parameters
    ----------
    x : float32 array, shape (b, d)
    basis : float32 array, shape (d, width)
        Orthonormal columns.

    Returns
    -------
    float32 array, shape (b, width + 1)

    Examples
    --------
    >>> x, basis = np.array([[3, 0, 4]], dtype=np.float32), np.eye(3, 1, dtype=np.float32)
    >>> sketched(x, basis).tolist()
    [[3.0, 4.0]]
    """
    inside = x @ basis
    whole = squared_norms(x)
    rest = np.sqrt(np.maximum(whole - squared_norms(inside), 0.0))
    # Cancellation: where the residual is below 10 % of the norm, compute it directly.
    short = rest < 0.1 * np.sqrt(whole)
    rest[short] = np.linalg.norm(x[short] - inside[short] @ basis.T, axis=1)
    return np.column_stack([inside, rest.astype(np.float32)])


def squared_norms(x: Singles) -> Floats:
    """Squared norm of every row, in float64, (b,).

    Examples
    --------
    >>> squared_norms(np.array([[3, 4]], dtype=np.float32)).tolist()
    [25.0]
    """
    wide = x.astype(np.float64)  # faster than a sum that widens as it goes
    squares: Floats = np.vecdot(wide, wide)
    return squares
