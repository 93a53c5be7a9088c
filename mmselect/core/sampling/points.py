"""Points in a space where distances are cheap: outer products of factors, or plain features.

The D² sampler knows points by their sources (what to read), their factors and their norms. Nothing
is held for the whole pool: all is computed from the rows that are asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol, TypeAlias

import numpy as np

from mmselect.arrays import (
    Array,
    Floats,
    Index,
    Rows,
    Singles,
    check_finite,
    check_rows,
    native,
    same_length,
)
from mmselect.core.presence import Present
from mmselect.core.side_by_side import Usual, fill_blocks, usual_blocks
from mmselect.engine import SERIAL, Engine, compute_rows, join_rows, map_rows
from mmselect.errors import ParameterError
from mmselect.tasks import gather

CENTRE_ROWS = 1024
"""Rows whose median is the origin of plain features: any is correct, a central one bounds best."""

THREADED_NUMBERS = 1 << 26
"""Numbers read below which threads take longer to start and to wait than they save."""

Norms: TypeAlias = Callable[[Index, Sequence[Array]], tuple[Floats, Floats]]


class Points(Protocol):
    """Rows of which the D² sampler can take distances: outer products of one or more factors."""

    @property
    def sources(self) -> tuple[Rows, ...]:
        """What must be read to know a row."""

    @property
    def widths(self) -> tuple[int, ...]:
        """Columns of each factor."""

    def __len__(self) -> int:
        """Count the samples of the pool."""

    def detached(self) -> Points:
        """Return the same arithmetic without the samples, which can be sent anywhere."""

    def factors(self, rows: Index, arrays: Sequence[Array]) -> tuple[Singles, ...]:
        """Factors of `rows`, (b, width) each, from the rows of the sources."""

    def squared_norms(self, rows: Index, arrays: Sequence[Array]) -> tuple[Floats, Floats]:
        """‖g‖² of `rows`, (b,) each: about the points' own origin, and about zero."""

    def measured(self, rows: Index, arrays: Sequence[Array]) -> tuple[tuple[Singles, ...], Floats]:
        """Factors of `rows`, and ‖g‖ about the points' own origin."""
        return self.factors(rows, arrays), np.sqrt(self.squared_norms(rows, arrays)[0])

    @property
    def outer(self) -> Points:
        """Points that are at least as long as these, and cheaper to measure."""
        return self

    def settled(self, rows: Index, engine: Engine) -> Points:  # noqa: ARG002
        """Return points equal to these in `rows`, whose factors need nothing but the sources."""
        return self


@dataclass(frozen=True)
class FeaturePoints(Points):
    """Concatenated features as points with one factor, about an origin near their centre.

    Distances do not depend on the origin; their numerical error, and how tight norms bound them,
    do. Build it with :func:`feature_points`.
    """

    features: Mapping[str, Rows]
    origin: Singles = field(repr=False)
    means: tuple[Usual, ...] = ()

    def __len__(self) -> int:
        return same_length(list(self.features.values()))

    def detached(self) -> FeaturePoints:
        """Return the same arithmetic without the samples."""
        return replace(self, features={name: emptied(z) for name, z in self.features.items()})

    @property
    def sources(self) -> tuple[Rows, ...]:
        """The features of each modality."""
        return tuple(self.features.values())

    @property
    def widths(self) -> tuple[int, ...]:
        """Σd."""
        return (len(self.origin),)

    def factors(self, rows: Index, arrays: Sequence[Array]) -> tuple[Singles, ...]:
        """Features less the origin, (b, Σd) in float32."""
        joined = self._joined(rows, arrays)
        return ((joined - self.origin).astype(np.float32, copy=False),)

    def squared_norms(self, rows: Index, arrays: Sequence[Array]) -> tuple[Floats, Floats]:
        """‖x − origin‖² and ‖x‖²."""
        wide = self._joined(rows, arrays).astype(np.float64, copy=False)
        centred = wide - self.origin
        return np.vecdot(centred, centred), np.vecdot(wide, wide)

    def measured(self, rows: Index, arrays: Sequence[Array]) -> tuple[tuple[Singles, ...], Floats]:
        """Both, joined once."""
        joined = self._joined(rows, arrays)
        centred = joined.astype(np.float64, copy=False) - self.origin
        factor = (joined - self.origin).astype(np.float32, copy=False)
        return (factor,), np.sqrt(np.vecdot(centred, centred))

    def _joined(self, rows: Index, arrays: Sequence[Array]) -> Array:
        for name, z in zip(self.features, arrays, strict=True):
            check_finite(np.abs(z).max(axis=1, initial=0), rows, name)
        joined = np.concatenate([native(z) for z in arrays], axis=1)
        fill_blocks(joined, rows, self.means)
        return joined


def feature_points(
    features: Mapping[str, Rows],
    rows: Index | None = None,
    present: Present | None = None,
    engine: Engine = SERIAL,
) -> FeaturePoints:
    """Make points of plain features, with the median of some of `rows` as their origin.

    Parameters
    ----------
    features : mapping of str to (n, d) Rows
        Features of each modality, concatenated in this order.
    rows : (r,) ndarray of int, optional
        Candidate rows, increasing; only they are read. None is all.
    present : mapping of str to (n,) ndarray of bool, optional
        Which rows have a modality. In the others the mean over those of `rows` that have it stands
        for it; what is read there has to be finite.
    engine : Engine, optional

    Returns
    -------
    FeaturePoints

    Raises
    ------
    ParameterError
        If there are no features, or they have different lengths.
    DataError
        If a value is nan or infinite.

    Examples
    --------
    >>> feature_points({"x": np.array([[1.0], [3.0]])}).origin
    array([2.], dtype=float32)
    """
    if not features:
        raise ParameterError("features: expected at least one modality, found none")
    n = same_length(list(features.values()))
    rows = check_rows(rows, n)
    width = sum(z.shape[1] for z in features.values())
    means = tuple(usual_blocks(features, rows, present or {}, engine=engine))
    points = FeaturePoints(features, np.zeros(width, np.float32), means)
    if not len(rows):
        return points
    some = rows[np.unique(np.linspace(0, len(rows) - 1, CENTRE_ROWS).astype(np.intp))]
    (joined,) = points.factors(some, gather(points.sources, some))
    # The median: an outlier would draw the mean away from the others and cost them precision.
    return FeaturePoints(features, np.median(joined, axis=0), means)


def factors(points: Points, rows: Index | None = None) -> tuple[Singles, ...]:
    """Factors of some rows, in memory.

    Parameters
    ----------
    points : Points
        Such as :class:`GradientPoints`.
    rows : (b,) ndarray of int, optional
        Rows in any order; None is all.

    Returns
    -------
    tuple of (b, width) ndarray of float32
        For gradients (a, h).

    Raises
    ------
    DataError
        If a value of these rows cannot be used.

    Examples
    --------
    >>> from mmselect.core.sampling.gradients import GradientPoints
    >>> points = GradientPoints(np.zeros((3, 2)), {"image": np.eye(3)})
    >>> [f.shape for f in factors(points, np.array([2, 0]))]
    [(2, 2), (2, 3)]
    """
    rows = np.arange(len(points), dtype=np.intp) if rows is None else rows
    return points.factors(rows, gather(points.sources, rows))


def squared_norms(points: Points, rows: Index | None = None, *, engine: Engine = SERIAL) -> Floats:
    """‖g‖² of candidate rows, streamed.

    Parameters
    ----------
    points : Points
        Such as :class:`GradientPoints`.
    rows : (r,) ndarray of int, optional
        Candidate rows, increasing; None is all.
    engine : Engine, optional
        Who does the work.

    Returns
    -------
    (r,) ndarray of float64

    Raises
    ------
    DataError
        If a value of these rows cannot be used.

    Examples
    --------
    >>> from mmselect.core.sampling.gradients import GradientPoints
    >>> squared_norms(GradientPoints(np.zeros((1, 2)), {"image": np.array([[3.0, 4.0]])}))
    array([12.5])
    """
    rows = check_rows(rows, len(points))
    return norms_of(points, points.detached().squared_norms, rows, engine)[1]


def norms_of(points: Points, norms: Norms, rows: Index, engine: Engine) -> tuple[Floats, Floats]:
    """Both results of `norms`, a method of detached points, over `rows` of the points."""
    # Some compute blocks per task: norms take so little time that handing over would show.
    step = 8 * compute_rows(max(points.widths))
    if engine.mapper is None and len(rows) * sum(points.widths) < THREADED_NUMBERS:
        engine = replace(engine, threads=1)
    blocks = map_rows(norms, points.sources, rows, step=step, engine=engine, what="computing norms")
    first, second = join_rows(blocks, len(rows))
    return first, second


def emptied(source: Rows) -> Array:
    """Make an array of no rows with the width and the type of a source."""
    return np.empty((0, *source.shape[1:]), source.dtype)
