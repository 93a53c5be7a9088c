"""Directions in which a pool is wide, and rows in them: distances bounded from below, cheaply."""

from __future__ import annotations

import numpy as np

from mmselect.arrays import Floats, Rows, Singles
from mmselect.engine import SERIAL, Engine, compute_rows, ranges

SAMPLED = 1024
"""Rows from which the directions are found."""

SMALLEST = 1e-9
"""Share of the widest direction's square below which rounding would rule a direction."""


def main_directions(points: Rows, count: int) -> Singles:
    """Orthonormal directions in which a pool is wide, the widest first.

    Parameters
    ----------
    points : float32 Rows, shape (n, d)
    count : int

    Returns
    -------
    float32 array, shape (d, at most count)

    Examples
    --------
    >>> points = np.array([[0.0, 3.0], [0.0, -3.0], [1.0, 0.0]], np.float32)
    >>> abs(main_directions(points, 1)).round(2).tolist()
    [[0.0], [1.0]]
    """
    n, d = points.shape
    basis = np.zeros((d, min(count, d)), dtype=np.float32)
    if not count:
        return basis
    sample = points[np.arange(0, n, max(n // SAMPLED, 1))]
    basis[:, : len(sample)] = sample[: basis.shape[1]].T
    for _ in range(2):  # subspace iteration; any orthonormal basis gives a valid bound
        wide = (sample.T @ (sample @ basis)).astype(np.float64)
        # The same space as by a QR decomposition, in a third of its time, and in order.
        squares, turn = np.linalg.eigh(wide.T @ wide)
        kept = squares > SMALLEST * squares.max(initial=0.0)  # none, if all rows are equal
        basis = wide @ (turn[:, kept] / np.sqrt(squares[kept]))[:, ::-1]
        basis = basis.astype(np.float32)
    return basis


def sketched(x: Singles, basis: Singles, squares: Floats) -> Singles:
    """Rows in the directions of a basis, and the length of what is left.

    The distance of two of these is at most that of the rows.

    Parameters
    ----------
    x : float32 array, shape (b, d)
    basis : float32 array, shape (d, width)
        Orthonormal columns.
    squares : float64 array, shape (b,)
        Squared norms of the rows.

    Returns
    -------
    float32 array, shape (b, width + 1)

    Examples
    --------
    >>> x, basis = np.array([[3, 0, 4]], dtype=np.float32), np.eye(3, 1, dtype=np.float32)
    >>> sketched(x, basis, squared_norms(x)).tolist()
    [[3.0, 4.0]]
    """
    inside = x @ basis
    rest = np.sqrt(np.maximum(squares - squared_norms(inside), 0.0))
    # Cancellation: where the residual is below 10 % of the norm, compute it directly.
    short = rest < 0.1 * np.sqrt(squares)
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


def norms_of(x: Rows, engine: Engine = SERIAL) -> Floats:
    """Norms of many rows, block by block, in float64, (n,).

    Examples
    --------
    >>> norms_of(np.array([[3, 4]], dtype=np.float32)).tolist()
    [5.0]
    """
    blocks = ranges(0, x.shape[0], compute_rows(x.shape[1]))
    squares = engine.map(lambda part: squared_norms(x[slice(*part)]), blocks)
    norms: Floats = np.sqrt(np.concatenate(list(squares)))
    return norms
