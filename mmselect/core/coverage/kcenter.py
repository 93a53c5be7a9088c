"""K-center greedy, or farthest-first traversal: the core-set of Sener and Savarese (2018)."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from mmselect.core.constraints.allowed import Allowed
from mmselect.core.coverage.matching import Coverage
from mmselect.core.coverage.traversal import Traversal
from mmselect.core.features import Features, checked
from mmselect.core.joined import joined
from mmselect.core.presence import Present
from mmselect.engine import SERIAL, Engine, Progress, blas_threads
from mmselect.tasks import keep_freed_memory

COMMON = 32
"""Powers of two, up or down, up to which float32 holds products of lengths, and their errors."""


def length_unit(longest: float) -> float:
    """Power of two to measure lengths in, so that their products neither over- nor underflow.

    Examples
    --------
    >>> length_unit(3.0), length_unit(2.0**-90) == 2.0**-89
    (1.0, True)
    """
    exponent = int(np.frexp(longest)[1])
    return 1.0 if abs(exponent) <= COMMON else 2.0**exponent


def kcenter(
    features: Features,
    k: int,
    *,
    labeled: ArrayLike | None = None,
    present: Present | None = None,
    unit: bool = False,
    allowed: Allowed | None = None,
    engine: Engine = SERIAL,
    progress: Progress | None = None,
) -> Coverage:
    """Pick, k times, the sample farthest from everything labeled or picked so far.

    ``argmax_i min_{j ∈ labeled ∪ picked} ‖x_i - x_j‖``, Euclidean on the concatenated features
    (Sener and Savarese, 2018, Algorithm 1; Gonzalez, 1985). With nothing labeled, the first pick
    is the sample farthest from the mean. Ties go to the lower row.

    Distances to the nearest pick only fall, so stale ones are upper bounds: only rows at the top
    are brought up to date, and the plain greedy runs among them. Near-ties, closer together than
    float32 products can tell, are decided by float64 distances, so the order is that of the
    definition.

    Parameters
    ----------
    features : mapping or sequence of arrays, each (n, d_m)
        float16, float32 or float64; widths may differ.
    k : int
        Budget: at most the number of rows that are not labeled.
    labeled : sequence of int, optional
        Rows that are labeled already: never picked, and the traversal starts from them.
    present : mapping of str to (n,) ndarray of bool, optional
        Which rows have a modality; in the others its mean over those that have it stands for it.
    unit : bool
        Normalise each row of each modality first.
    allowed : Allowed, optional
        Which unlabeled rows may be picked next, by position among them; told of every pick. It
        ends the selection, in place of `k`; with costs, distances per cost are compared.
    engine : Engine
    progress : callable, optional
        Called with the number of picks made and `k`.

    Returns
    -------
    Coverage
        The gain of a pick is its distance to the nearest labeled or picked row before it (for a
        first pick with nothing labeled: to the mean). `work`: products of a row and a center
        (``compared``), distances of single pairs in float32 (``measured``) and in float64
        (``decided``).

    Raises
    ------
    SchemaError, DataError, BudgetError, SelectionError
        See :func:`mmselect.core.features.checked` and :func:`mmselect.core.joined.joined`.

    Examples
    --------
    >>> kcenter([np.array([[0.0], [1.0], [4.0], [10.0]])], 3, labeled=[0]).picks
    array([3, 2, 1])
    """
    given = checked(features, k, labeled, present)
    keep_freed_memory()
    with blas_threads(), engine.keeping_threads() as engine:
        # Distances do not depend on the origin; near the mean, products round less.
        how: dict[str, Any] = {"unit": unit, "center": True, "present": given.present}
        points = joined(given.features, **how, engine=engine)
        length = length_unit(points.longest)
        points = points if length == 1 else points.over(length)
        size = k if allowed is None else allowed.most
        traversal = Traversal(points, given.labeled, size, engine, allowed)
        traversal.run(progress)
        gains = length * np.sqrt(traversal.squared())
    return Coverage(traversal.picks, gains, "exact", points.zero_rows, traversal.work)
