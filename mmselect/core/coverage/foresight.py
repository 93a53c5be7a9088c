"""How many pairs of samples facility location will hold, judged by some samples."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from mmselect.arrays import Index, Singles
from mmselect.core.coverage.ahead import STEPS
from mmselect.core.coverage.exact import most_pairs
from mmselect.core.coverage.similarity import labeled_cover
from mmselect.core.features import Features, checked
from mmselect.core.presence import Present, similarities
from mmselect.core.unit_rows import unit_rows
from mmselect.engine import SERIAL


class Foresight(NamedTuple):
    """What is expected: pairs that are held in the end, and whether picks are drafted before."""

    pairs: float
    drafted: bool


def foresee(
    features: Features,
    k: int,
    labeled: Index,
    clients: int,
    *,
    present: Present | None = None,
    center: bool = True,
) -> Foresight:
    """Pick greedily among some samples until few enough pairs are left in which a client improves.

    Parameters
    ----------
    features : mapping or sequence of arrays, each (s, d_m)
        Of some samples.
    k : int
        Picks of all. Some samples are covered sooner or later than all, so no pairs are expected
        only where twice as many picks do not leave few.
    labeled : (l,) ndarray of int
        Which of these samples are labeled.
    clients : int
        Samples in all that are not.
    present, center
        As for :func:`~mmselect.core.coverage.facility.facility`.

    Examples
    --------
    >>> x = np.repeat(np.eye(2), 8, axis=0)
    >>> foresee([x], 3, np.array([0, 8]), 20_000, center=False)
    Foresight(pairs=20000.0, drafted=False)
    >>> foresee([x], 3, np.array([0]), 20_000, center=False)
    Foresight(pairs=10800000.0, drafted=True)
    """
    near, best = _compared(features, labeled, present, center)
    most = most_pairs(clients)
    for step in range(min(2 * k, STEPS)):
        over = np.maximum(near - best[:, None], 0)
        share = int(np.count_nonzero(over > 1e-6)) / max(near.size - len(near), 1)
        if (pairs := clients * (1 + share * (clients - 1))) < most:
            return Foresight(most if step else pairs, bool(step))
        best = np.maximum(best, near[:, over.sum(axis=0).argmax()])
    return Foresight(0.0 if 2 * k < STEPS else most, True)


def nearer_than_labeled(
    features: Features, labeled: Index, *, present: Present | None = None, center: bool = True
) -> Index:
    """Other unlabeled samples that are more similar to each than any labeled one is.

    Among samples that are taken evenly it is about as many as among all, as long as the labeled
    ones are the same share of them.

    Parameters
    ----------
    features, labeled, present, center
        As for :func:`foresee`.

    Returns
    -------
    (c,) ndarray of int
        For each sample that is not labeled.

    Examples
    --------
    >>> x = np.array([[1.0, 0.0], [0.8, 0.6], [0.6, 0.8], [0.0, 1.0]])
    >>> nearer_than_labeled([x], np.array([0]), center=False).tolist()
    [1, 2, 2]
    """
    near, best = _compared(features, labeled, present, center)
    return np.asarray((near > best[:, None]).sum(axis=1))


def _compared(
    features: Features, labeled: Index, present: Present | None, center: bool
) -> tuple[Singles, Singles]:
    """Similarities of samples to each other, themselves apart, and what labeled ones give each."""
    given = checked(features, 1, labeled, present)
    every = unit_rows(given.features, center=center, present=given.present)
    rows = every.chosen(given.candidates).whole()
    near = similarities(rows, slice(None), slice(None), given.pairs(given.candidates))
    np.fill_diagonal(near, -np.inf)
    return near, labeled_cover(every, given, SERIAL).astype(np.float32)
