"""Lloyd's iterations over rows that may lie on disk, with far fewer products than the plain form.

The nearest centre has the largest ``⟨x, c⟩ − ‖c‖²/2``: a product of two rows, if each sample has 1
twice and each centre ``−‖c‖²/2`` and what float32 leaves of it in two columns besides. So who owns
which sample is kept up to date as the parametric selection does it
(:mod:`mmselect.core.parametric.assignment`), and near ties are decided in float64: clusters may lie
far apart.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from mmselect.arrays import Floats, Index, Rows, Singles
from mmselect.core.parametric.assignment import Assignment
from mmselect.engine import SERIAL, Engine, compute_rows, ranges


def lloyd(
    x: Rows, start: Singles, iterations: int, engine: Engine = SERIAL
) -> tuple[Singles, Index]:
    """Centres of Lloyd's iterations, and how many rows each owns.

    They end early where no row changes its owner. A centre that owns no row is moved to the row
    farthest from its own centre, as often as that happens. The same bits for any engine.

    Parameters
    ----------
    x : float32 Rows, shape (n, d)
        The last two columns are 1. Best of a typical length near 1: that is what is rounded about.
    start : float32 array, shape (k, d)
        Rows of x, with k ≤ n.
    iterations : int
    engine : Engine

    Returns
    -------
    centres : float32 array, shape (k, d)
        0 in the last two columns.
    sizes : (k,) ndarray of int
        Rows that were nearest to each centre, before the last ones that had none were moved.

    Examples
    --------
    >>> x = np.array([[0.0, 1, 1], [0.2, 1, 1], [0.9, 1, 1]], np.float32)
    >>> centres, sizes = lloyd(x, x[[0, 1]], 20)
    >>> centres.round(2).tolist(), sizes.tolist()
    ([[0.10000000149011612, 0.0, 0.0], [0.8999999761581421, 0.0, 0.0]], [2, 1])
    """
    assignment = Assignment(x, engine)
    theta = _lifted(start)
    owner: Any = -1
    with engine.phase("clustering") as report:
        for done in range(iterations + 1):
            before, owner = owner, assignment.update(theta).copy()
            sizes = np.bincount(owner, minlength=len(theta))
            ended = done == iterations or np.array_equal(before, owner)
            report(iterations if ended else done, iterations)
            if ended:
                break
            theta = _lifted(assignment.sums / np.maximum(sizes, 1)[:, None])
            _move_empty(assignment, theta, sizes)
        _move_empty(assignment, theta, sizes)
    theta[:, -2:] = 0
    return theta, sizes


def _lifted(centres: Floats | Singles) -> Singles:
    theta = centres.astype(np.float32)
    theta[:, -2:] = 0
    shift = -0.5 * np.einsum("ij,ij->i", theta, theta, dtype=np.float64)
    theta[:, -2] = shift
    theta[:, -1] = shift - theta[:, -2]
    return theta


def _move_empty(assignment: Assignment, theta: Singles, sizes: Index) -> None:
    """Move centres without rows to the rows farthest from their own, in place."""
    empty = np.flatnonzero(sizes == 0)
    if not len(empty):
        return
    x, owner = assignment.x, assignment.owner

    def closeness(part: tuple[int, int]) -> Floats:
        rows = slice(*part)
        near: Floats = np.vecdot(x[rows], theta[owner[rows]]).astype(np.float64)
        return near

    blocks = ranges(0, x.shape[0], compute_rows(x.shape[1]))
    near = np.concatenate(list(assignment.engine.map(closeness, blocks)))
    distance = np.square(assignment.norms) - 2 * near
    farthest = np.argsort(-distance, kind="stable")[: len(empty)]
    theta[empty] = _lifted(x[np.sort(farthest)])
