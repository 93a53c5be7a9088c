"""Picks in groups, and how near the nearest of a group can be, without a look at each pick.

The residuals of picks with one predicted class are alike: of a group, the largest and smallest
entry in each class bound a row's cosine with all of its residuals,
⟨a, a_j⟩ ≤ Σ_c max(a_c · high_c, a_c · low_c), and with the norms of the group its distance. So of
gradients most groups can be left out for most rows, by one narrow product with all groups.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from hashlib import blake2b
from itertools import pairwise

import numpy as np

from mmselect.arrays import Floats, Index, Singles
from mmselect.core.sampling.distances import COSINE_ERROR, TILE_ROWS, Tile, Units

GROUP = 8, 32
"""Picks of a group: small classes are joined up to the first, large ones cut to the second."""


@dataclass(frozen=True)
class Groups:
    """Points in groups: units and norms lie in the order of the groups.

    Attributes
    ----------
    order : (k,) ndarray of int
        Which point lies where; of those of length 0 the first alone.
    starts : list of int
        Where each group begins, and the end.
    units : tuple of (k, width) ndarray of float32
        Unit factors.
    norms : (k,) ndarray of float64
        Lengths.
    box : (g, 2c) ndarray of float32
        Largest and smallest entry of the first factors of each group; () where they bound nothing.
    positive : bool
        Whether the other factors have no negative entry.
    """

    order: Index
    starts: list[int]
    units: Units
    norms: Floats
    box: Singles = field(default_factory=lambda: np.empty((0, 0), np.float32))
    positive: bool = False

    def bounds(self, units: Units, norms: Floats) -> Floats:
        """Bound ‖g_j‖² − 2⟨g_i, g_j⟩ from below, over the points j of each group.

        Parameters
        ----------
        units, norms
            Unit factors and lengths of b points i.

        Returns
        -------
        (g, b) ndarray of float64
        """
        if not self.box.size:
            return np.full((len(self.starts) - 1, len(norms)), -np.inf)
        parts = np.hstack([np.maximum(units[0], 0), np.minimum(units[0], 0)])
        cosine = self.box @ parts.T
        if not (self.positive and _positive(units[1:])):
            # The other factors may have a negative cosine, too: then the smallest counts as well.
            least = np.roll(self.box, len(units[0].T), axis=1) @ parts.T
            np.maximum(cosine, -least, out=cosine)
        pull: Floats = np.clip(cosine, 0, 1, out=cosine) + 8 * np.float64(COSINE_ERROR)
        pull *= norms
        shortest = np.minimum.reduceat(self.norms, self.starts[:-1])
        longest = np.maximum.reduceat(self.norms, self.starts[:-1])
        length: Floats = np.clip(pull, shortest[:, None], longest[:, None])
        pull *= -2
        pull += length
        pull *= length
        return pull


def in_order(tiles: list[Tile]) -> Groups:
    """Points in the order they have, each tile a group; of equal ones the first alone.

    Parameters
    ----------
    tiles : list of tuple
        As for :func:`by_class`.

    Examples
    --------
    >>> groups = in_order([(0, (np.array([[1], [1], [-1]], np.float32),), np.ones(3))])
    >>> groups.order.tolist(), groups.starts
    ([0, 2], [0, 2])
    """
    seen: dict[bytes, int] = {}
    for start, units, lengths in tiles:
        for i, numbers in enumerate(zip(*units, lengths, strict=True)):
            seen.setdefault(blake2b(b"".join(map(bytes, numbers))).digest(), start + i)
    order = np.array([*seen.values()], np.intp)
    starts = [*range(0, len(order), TILE_ROWS), len(order)]
    return Groups(order, starts, *_taken(tiles, order))


def _taken(tiles: list[Tile], order: Index) -> tuple[Units, Floats]:
    """Take unit factors and lengths in an order."""
    factors = zip(*(units for _, units, _ in tiles), strict=True)
    norms = np.concatenate([lengths for _, _, lengths in tiles])
    return tuple(np.concatenate(parts)[order] for parts in factors), norms[order]


def by_class(tiles: list[Tile]) -> Groups:
    """Group outer products by the largest entry of their first factors, then by length.

    Parameters
    ----------
    tiles : list of tuple
        Position of the first, unit factors and lengths of each, as `Tiles` hold them.

    Examples
    --------
    >>> a = np.array([[0, 1]] * 20 + [[1, 0]] * 40 + [[0, -1]], np.float32)
    >>> groups = by_class([(0, (a, np.ones((61, 1), np.float32)), np.arange(61.0))])
    >>> groups.starts, groups.order[[0, 39, 40, 60]].tolist(), groups.box[2].tolist()
    ([0, 20, 40, 61], [20, 59, 0, 60], [0.0, 1.0, 0.0, -1.0])
    """
    norms = np.concatenate([lengths for _, _, lengths in tiles])
    own = np.concatenate([np.abs(units[0]).argmax(axis=1) for _, units, _ in tiles])
    order = np.lexsort((norms, own))
    # Points of length 0 are one point, for which the earliest stands.
    order = order[np.isin(order, np.flatnonzero(norms == 0)[1:], invert=True)]
    ends = np.flatnonzero(np.diff(own[order], append=-1)) + 1
    least, most = GROUP
    starts = [0]
    for start, stop in pairwise([0, *ends.tolist()]):
        if stop - starts[-1] > least:
            pieces = -(-(stop - start) // most)
            starts += [start + (stop - start) * i // pieces for i in range(pieces)]
    starts = [*dict.fromkeys(starts), len(order)]
    units, norms = _taken(tiles, order)
    high, low = (f.reduceat(units[0], starts[:-1]) for f in (np.maximum, np.minimum))
    box = np.hstack([high, low])
    return Groups(order, starts, units, norms, box, _positive(units[1:]))


def _positive(units: Units) -> bool:
    return all(part.min(initial=0) >= 0 for part in units)
