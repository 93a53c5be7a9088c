"""Which rows are most similar to a few others, without holding the features in memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np

from mmselect.arrays import Array, Floats, Index, Rows, Singles
from mmselect.core.features import centred_norms, inverse, row_norms
from mmselect.engine import SERIAL, Engine, compute_rows, map_rows
from mmselect.errors import located
from mmselect.tasks import gather


@dataclass(frozen=True)
class CosineSpace:
    """Rows in which a similarity is s_ij, the mean over the modalities of centred rows' cosines.

    Attributes
    ----------
    names : tuple of str
        Modalities, as errors name them.
    sources : tuple of (n, d_m) Rows
        Features of each modality, and after them the masks (n,) of who has it, where there are any.
    means : tuple of (d_m,) ndarray
        What is taken off each modality.
    masked : tuple of int
        Modalities that have a mask, by position, in the order of the masks.
    """

    names: tuple[str, ...]
    sources: tuple[Rows, ...]
    means: tuple[Floats, ...]
    masked: tuple[int, ...]

    @property
    def width(self) -> int:
        """Numbers in a joined row."""
        return sum(len(mean) for mean in self.means)

    def unit(self, rows: Index, blocks: Sequence[Array]) -> tuple[Singles, Singles]:
        """Join what was read of some rows: unit rows (b, Σ d_m), and who has what (b, m)."""
        has = _has(len(rows), len(self.names), self.masked, blocks)
        parts = []
        for m, (name, mean) in enumerate(zip(self.names, self.means, strict=True)):
            with located(dataset=name, rows=rows):
                block = np.where(has[:, m : m + 1] > 0, blocks[m], 0).astype(np.float64)
                norms = row_norms(block)
                block -= mean
                scale = inverse(centred_norms(block, norms, blocks[m].dtype)) * has[:, m]
            parts.append((block * scale[:, None]).astype(np.float32))
        return np.concatenate(parts, axis=1), has

    def take(self, rows: Index) -> tuple[Singles, Singles]:
        """Read some rows, in any order, as :meth:`unit` gives them."""
        return self.unit(rows, gather(self.sources, rows))


def _has(n: int, m: int, masked: Sequence[int], blocks: Sequence[Array]) -> Singles:
    has = np.ones((n, m), np.float32)
    for column, mask in zip(masked, blocks[m:], strict=True):
        has[:, column] = mask
    return has


def cosine_space(
    features: Mapping[str, Rows],
    rows: Index,
    *,
    present: Mapping[str, Rows] | None = None,
    engine: Engine = SERIAL,
) -> CosineSpace:
    """Find the mean of each modality over some rows, block by block.

    Parameters
    ----------
    features : mapping of str to (n, d_m) Rows
    rows : (r,) ndarray of int
        Rows that the means are taken over, increasing.
    present : mapping of str to (n,) Rows, optional
        Who has a modality, by the same names; a modality without a mask is there for all. What is
        absent is never looked at.
    engine : Engine

    Returns
    -------
    CosineSpace

    Examples
    --------
    >>> space = cosine_space({"a": np.array([[1.0], [3.0], [8.0]])}, np.array([0, 1]))
    >>> space.means[0].tolist(), space.take(np.array([2, 0]))[0].tolist()
    ([2.0], [[1.0], [-1.0]])
    """
    names, present = tuple(features), present or {}
    masked = tuple(m for m, name in enumerate(names) if name in present)
    sources = (*features.values(), *(present[names[m]] for m in masked))
    widths = [source.shape[1] for source in features.values()]
    sums = partial(_sums, len(names), masked)
    found = list(map_rows(sums, sources, rows, step=compute_rows(max(widths)), engine=engine))
    means = tuple(
        np.sum([block[m][0] for block in found], axis=0) / max(sum(b[m][1] for b in found), 1)
        for m in range(len(names))
    )
    return CosineSpace(names, sources, means, masked)


def _sums(
    m: int, masked: Sequence[int], rows: Index, blocks: list[Array]
) -> list[tuple[Floats, float]]:
    has = _has(len(rows), m, masked, blocks)
    return [
        (
            np.where(has[:, i : i + 1] > 0, blocks[i], 0).sum(axis=0, dtype=np.float64),
            float(has[:, i].sum()),
        )
        for i in range(m)
    ]


class Compared(NamedTuple):
    """What :func:`compare` returns.

    Attributes
    ----------
    point : (r,) ndarray of int
        Position, among the points, of the one most similar to each row.
    row : (p,) ndarray of int
        Position, among the rows, of the one most similar to each point.
    similarity : (p,) ndarray of float64
        Of each point to that row.
    """

    point: Index
    row: Index
    similarity: Floats


def compare(space: CosineSpace, rows: Index, points: Index, *, engine: Engine = SERIAL) -> Compared:
    """Find the nearest of some points for each of many rows, and the nearest row for each point.

    Similar is who has a large mean of the modalities' cosines, over the modalities that both have;
    0 where they share none. Ties go to the lower position.

    Parameters
    ----------
    space : CosineSpace
    rows : (r,) ndarray of int
        At least one; read block by block.
    points : (p,) ndarray of int
        At least one; held in memory.
    engine : Engine

    Returns
    -------
    Compared

    Raises
    ------
    DataError
        If a row holds nan or an infinity in a modality that it has, or is too large.

    Examples
    --------
    >>> x = np.array([[1.0, 0.1], [-1.0, 0.0], [0.9, 0.0], [0.0, -1.0]])
    >>> found = compare(cosine_space({"a": x}, np.arange(4)), np.array([2, 3]), np.array([0, 1]))
    >>> found.point.tolist(), found.row.tolist()
    ([0, 1], [0, 1])
    """
    at, has = space.take(points)
    block = partial(_compare_block, space, at, has)
    step = compute_rows(max(space.width, len(points)))
    nearest, row = [], np.zeros(len(points), np.intp)
    similarity = np.full(len(points), -np.inf)
    done = 0
    for point, best, where in map_rows(block, space.sources, rows, step=step, engine=engine):
        nearest.append(point)
        better = best > similarity
        row[better], similarity[better] = where[better] + done, best[better]
        done += len(point)
    return Compared(np.concatenate(nearest), row, similarity)


def _compare_block(
    space: CosineSpace, at: Singles, at_has: Singles, rows: Index, blocks: list[Array]
) -> tuple[Index, Floats, Index]:
    x, has = space.unit(rows, blocks)
    similar = (x @ at.T) / np.maximum(has @ at_has.T, 1)
    best = similar.argmax(axis=0)
    return (
        similar.argmax(axis=1),
        similar[best, np.arange(len(at))].astype(np.float64),
        best,
    )
