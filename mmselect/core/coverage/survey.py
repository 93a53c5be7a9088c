"""One pass over all pairs: gains of all candidates given several covers, and pairs that matter."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import NDArray

from mmselect.arrays import Floats, Rows, Singles
from mmselect.core.coverage.gains import TILE, Tiles, triangle
from mmselect.core.presence import Pairs, compared
from mmselect.engine import Engine, ranges

if TYPE_CHECKING:
    from scipy.sparse import csr_array

STRIP = 64
"""Rows of a tile that are in cache together."""

ROUNDING = 2.0**-13
"""Relative error of gains at most: float32 sums of up to 1,024 terms, none of them negative."""

Edges: TypeAlias = tuple[NDArray[np.int32], NDArray[np.int32], Singles]
"""Clients, candidates, similarities."""

PIECE = 1 << 20
"""Pairs that are moved together."""


class Found:
    """Pairs that were found, side by side; what they free goes back to the system at once.

    Parameters
    ----------
    room : int
        How many are expected at most; what is never filled takes no memory.

    Examples
    --------
    >>> found = Found(1)
    >>> one = np.array([0, 2], np.int32)
    >>> found.add((one, one, np.array([1, 0.5], np.float32)))
    >>> found.leave_out(np.array([False, False, True]))
    >>> found.size, found.by_client(3).toarray()[0].tolist()
    (1, [1.0, 0.0, 0.0])
    """

    def __init__(self, room: int) -> None:
        kinds = (np.int32, np.int32, np.float32)
        self.size, self.arrays = 0, tuple(np.empty(room, kind) for kind in kinds)

    def add(self, edges: Edges) -> None:
        """Add some pairs, none of which is there."""
        stop = self.size + len(edges[0])
        if stop > len(self.arrays[0]):
            grown = [np.empty(stop + stop // 4, array.dtype) for array in self.arrays]
            for new, old in zip(grown, self.arrays, strict=True):
                new[: self.size] = old[: self.size]
            self.arrays = tuple(grown)
        for array, part in zip(self.arrays, edges, strict=True):
            array[self.size : stop] = part
        self.size = stop

    def leave_out(self, clients: NDArray[np.bool_]) -> None:
        """Drop the pairs of some clients, a mask (n,)."""
        size, self.size = self.size, 0
        for start, stop in ranges(0, size, PIECE):
            kept = ~clients[self.arrays[0][start:stop]]
            own, other, value = (array[start:stop][kept] for array in self.arrays)
            self.add((own, other, value))

    def by_client(self, n: int) -> csr_array:
        """Pairs in the order of their clients, of n; none is left here."""
        from scipy.sparse import coo_array

        clients, candidates, values = (array[: self.size] for array in self.arrays)
        pairs = coo_array((values, (clients, candidates)), shape=(n, n))
        pairs.has_canonical_format = True  # every pair is there once
        self.size, self.arrays = 0, tuple(np.empty(0, array.dtype) for array in self.arrays)
        return pairs.tocsr()


def survey(
    x: Rows,
    covers: Singles,
    least: Singles | None,
    weights: Floats,
    engine: Engine,
    pairs: Pairs | None = None,
    room: int = 0,
) -> tuple[Floats, Found]:
    """Σ_i w_i max(0, s_ij - b_i) for every j and every cover b, and similarities above `least`.

    Each similarity is computed once and used twice, as s_ij and as s_ji.

    Parameters
    ----------
    x : float32 Rows, shape (n, d)
        Products of rows are similarities.
    covers : float32 array, shape (covers, n)
        What clients have, for each cover.
    least : float32 array, shape (n,), or None
        Pairs with ``s_ij > least_i`` are returned; None: no pairs.
    weights : float64 array, shape (n,)
    engine : Engine
    pairs : Pairs, optional
        What makes products similarities where modalities lack; None: nothing.
    room : int
        How many pairs are expected.

    Returns
    -------
    gains : float64 array, shape (covers, n)
        Up to a relative error of `ROUNDING`, beside that of the similarities.
    edges : Found

    Examples
    --------
    >>> from mmselect.engine import SERIAL
    >>> x, covers = np.eye(2, dtype=np.float32), np.array([[0, 0], [0, 0.5]], dtype=np.float32)
    >>> gains, edges = survey(x, covers, covers[1], np.ones(2), SERIAL)
    >>> gains.tolist(), edges.by_client(2).toarray().tolist()
    ([[1.0, 1.0], [1.0, 0.5]], [[1.0, 0.0], [0.0, 1.0]])
    """
    n, counts = x.shape[0], weights.astype(np.float32)
    work = partial(_row_of_tiles, x, covers, least, counts, pairs)
    total = np.zeros((len(covers), n))
    found = Found(room)
    for gains, edges in engine.map(work, triangle(n, TILE), "comparing all pairs", sent=True):
        total += gains
        for part in edges:
            found.add(part)
    return total, found


def _row_of_tiles(
    x: Rows,
    covers: Singles,
    least: Singles | None,
    counts: Singles,
    pairs: Pairs | None,
    tiles: Tiles,
) -> tuple[Floats, list[Edges]]:
    (a, b), gains, edges = tiles[0], np.zeros(covers.shape), []
    own = x[a:b]
    for start, stop in tiles:
        tile = x[start:stop] if start > a else own
        products = compared(own, tile, slice(a, b), slice(start, stop), pairs)
        by_columns = tile_gains(products, covers[:, a:b, None], counts[a:b], rows=True)
        gains[:, start:stop] += by_columns
        if start > a:
            others = covers[:, None, start:stop]
            gains[:, a:b] += tile_gains(products, others, counts[start:stop], rows=False)
        if least is not None:
            edges.append(_above(products, least[a:b, None], a, start))
            if start > a:
                candidate, client, value = _above(products, least[start:stop], a, start)
                edges.append((client, candidate, value))
    return gains, edges


def tile_gains(products: Singles, covers: Singles, weights: Singles, rows: bool) -> Floats:
    """Gains of a tile's candidates, whose clients are its rows or its columns, (covers, c).

    Covers only rise, so what is above one is taken from what is above the one before.
    """
    steps = np.diff(covers, axis=0, prepend=np.float32(0))
    gains = np.zeros((len(covers), products.shape[rows]))
    spare = np.empty((STRIP, products.shape[1]), np.float32)
    zeros = np.zeros(products.shape[1], np.float32)
    for start, stop in ranges(0, len(products), STRIP):
        over, part = spare[: stop - start], slice(start, stop)
        source = products[part]
        for gain, step in zip(gains, steps, strict=True):
            np.subtract(source, step[part] if rows else step, out=over)
            np.maximum(over, zeros, out=over)
            if rows:
                gain += weights[part] @ over
            else:
                gain[part] = over @ weights
            source = over
    return gains


def _above(products: Singles, least: Singles, row: int, column: int) -> Edges:
    """Rows, columns and values above `least` of a tile that begins at (row, column)."""
    at = np.flatnonzero(products > least)
    rows, columns = np.divmod(at.astype(np.int32), np.int32(products.shape[1]))
    return rows + np.int32(row), columns + np.int32(column), products.ravel()[at]
