"""Centers of a farthest-first traversal: how near they are to many rows, and who is farthest."""

from __future__ import annotations

import numpy as np

from mmselect.arrays import Floats, Index, Singles
from mmselect.core.coverage.directions import sketched
from mmselect.engine import ranges

LANES = 4
"""Centers that kernels of BLAS multiply at once: 14 take longer than 16."""

SMALL = 1_000_000, 1_200
"""Multiplications, and products, up to which OpenBLAS copies nothing first (with AVX-512)."""

SLICE = 32
"""Rows below which other kernels would lose by such small products."""

NARROW = 64
"""Numbers per row up to which NumPy finds the largest sooner column by column."""

SKETCHED = 256
"""Centers that are sketched together."""


def apart(products: Singles, squares: Floats, others: Floats) -> Floats:
    """Squared distances, of products and squared norms.

    Examples
    --------
    >>> apart(np.float32([3.0, 2.0]), np.array([9.0, 4.0]), np.array([1.0, 1.0])).tolist()
    [4.0, 1.0]
    """
    squared: Floats = np.maximum(squares + others - 2.0 * products, 0.0)
    return squared


def farthest(reach: Floats, size: int) -> tuple[Index, float]:
    """Positions of the `size` largest, ascending, and the largest of the others.

    Examples
    --------
    >>> farthest(np.array([3.0, 1.0, 4.0, 2.0]), 2)
    (array([0, 2]), 2.0)
    """
    rest = len(reach) - size
    if rest <= 0:
        return np.arange(len(reach)), -np.inf
    order = np.argpartition(reach, rest - 1)
    return np.sort(order[rest:]), float(reach[order[rest - 1]])


def products(x: Singles, others: Singles) -> Singles:
    """Multiply many rows with a few others, slice by slice: to copy them takes as long again.

    Examples
    --------
    >>> products(np.float32([[1.0, 2.0], [3.0, 4.0]]), np.float32([[1.0, 0.0]])).tolist()
    [[1.0], [3.0]]
    """
    (n, d), rows = x.shape, min(SMALL[0] // others.size, SMALL[1] // len(others))
    if not SLICE <= rows < n:
        return x @ others.T
    out, whole = np.empty((n, len(others)), np.float32), n // rows * rows
    sliced = out[:whole].reshape(-1, rows, len(others))
    np.matmul(x[:whole].reshape(-1, rows, d), others.T, out=sliced)
    np.matmul(x[whole:], others.T, out=out[whole:])
    return out


class Centers:
    """Rows in the order in which they became centers, with room for some more.

    How near a row is to a center is told by its likeness, ``(‖x‖² - ‖x - c‖²)/2``.

    Parameters
    ----------
    size, d : int
        Most centers, and numbers in a row.
    basis : (d, width) ndarray of float32
        Directions of sketches.

    Examples
    --------
    >>> centers = Centers(2, 1, np.zeros((1, 0), np.float32))
    >>> centers.add(np.array([7]), np.array([[3.0]], np.float32), np.array([9.0]))
    >>> centers.count, centers.nearest(np.array([[1.0]], np.float32), 0).tolist()
    (1, [-1.5])
    """

    def __init__(self, size: int, d: int, basis: Singles) -> None:
        self.count, self.sketches, self.basis = 0, 0, basis
        self.rows = np.empty(size, dtype=np.int64)
        self.x = np.zeros((size, d), dtype=np.float32)  # those to come are multiplied, too
        self.squares = np.empty(size)
        self.half_squares = np.empty(size, dtype=np.float32)
        self.sketch = np.empty((size, basis.shape[1] + 1), dtype=np.float32)

    def __len__(self) -> int:
        return len(self.rows)

    def add(self, rows: Index, x: Singles, squares: Floats) -> None:
        """Make some rows the next centers."""
        new = slice(self.count, self.count + len(rows))
        self.rows[new], self.x[new] = rows, x
        self.squares[new], self.half_squares[new] = squares, squares / 2
        self.count = new.stop

    def sketch_new(self) -> None:
        """Sketch the centers that have none."""
        for a, b in ranges(self.sketches, self.count, SKETCHED):
            self.sketch[a:b] = sketched(self.x[a:b], self.basis, self.squares[a:b])
        self.sketches = self.count

    def nearest(self, x: Singles, start: int) -> Singles:
        """Likeness of each row to the nearest of all centers from `start` on."""
        new = self.count - start
        width = -(-new // LANES) * LANES if new > 1 else 1
        likeness, half = products(x, self.x[start : start + width]), self.half_squares
        if new <= NARROW:
            by_center = np.ascontiguousarray(likeness.T[:new])
            by_center -= half[start : self.count, None]
            nearest: Singles = by_center.max(axis=0)
        else:
            likeness = likeness[:, :new]
            likeness -= half[start : self.count]
            nearest = likeness.max(axis=1)
        return nearest

    def before_each(self, start: int, stop: int) -> Singles:
        """Likeness of the centers from `start` to `stop` to those before each; -inf to others."""
        likeness: Singles = self.x[start:stop] @ self.x[:stop].T
        likeness -= self.half_squares[:stop]
        later = ~np.tri(stop - start, k=-1, dtype=bool)
        np.copyto(likeness[:, start:], -np.inf, where=later)
        return likeness

    def alike(self, x: Singles, own: Index) -> Singles:
        """Likeness of each row to a center of its own."""
        alike: Singles = np.vecdot(x, self.x[own]) - self.half_squares[own]
        return alike

    def by_sketch(self, sketch: Singles, start: int) -> Singles:
        """Likeness to each center at most, by whole sketches; by parts of them a guess."""
        centers = slice(start, self.count)
        likeness = sketch @ self.sketch[centers, : sketch.shape[-1]].T
        likeness -= self.half_squares[centers]
        return likeness

    def one_by_one(self, x: Singles, start: int) -> Singles:
        """Likeness of a few rows to each center: a product of them all takes four times as long."""
        likeness: Singles = np.matmul(self.x[start : self.count], x[:, :, None])[..., 0]
        likeness -= self.half_squares[start : self.count]
        return likeness
