"""Spread any score over the features, so that the picks are not all alike.

``d2`` draws row i with probability proportional to ``score_i^4 · D_i²``, D_i its distance to the
nearest pick in the concatenated features (ours; ``docs/methods.md``). ``facility`` is facility
location in which each candidate counts by its score. Where a score is negative, as it may be for
``deepfool`` and ``alignment``, all are shifted so that the least is 0.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np

from mmselect.arrays import Floats
from mmselect.core.constraints.highest import shifted
from mmselect.core.coverage.facility import facility
from mmselect.core.sampling.points import feature_points
from mmselect.strategies.covering import FEATURES, cover_by
from mmselect.strategies.gradients import sample
from mmselect.strategies.record import Batch, Picks

POWER = 4
"""Power of the score as a weight in D² sampling: at 1, features outweigh most scores."""


def spread(batch: Batch, scores: Floats, k: int, rng: np.random.Generator, how: str) -> Picks:
    """Pick candidates that score high and differ.

    Parameters
    ----------
    batch : Batch
        Its columns hold the features.
    scores : (n,) ndarray of float64
        Of the candidates, larger = label first, of any sign.
    k : int
    rng : numpy.random.Generator
        Used by ``d2``.
    how : {"d2", "facility"}

    Returns
    -------
    Picks
        Their scores are what each pick added: ``w D²``, or the gain in cover.
    """
    return SPREADS[how](batch, shifted(scores), k, rng)


def _by_d2(batch: Batch, scores: Floats, k: int, rng: np.random.Generator) -> Picks:
    features = {path: batch.columns[path] for path in batch.group(FEATURES)}
    points = feature_points(features, batch.candidates, batch.present(), batch.engine)
    weights = (scores / (scores.max(initial=0.0) or 1.0)) ** POWER
    return sample(points, batch, k, rng, weights)


def _by_facility(batch: Batch, scores: Floats, k: int, _rng: np.random.Generator) -> Picks:
    return cover_by(partial(facility, weights=scores), batch, k, unit=True, stream=True)


SPREADS: dict[str, Callable[[Batch, Floats, int, np.random.Generator], Picks]] = {
    "d2": _by_d2,
    "facility": _by_facility,
}
"""How scores can be spread, by name."""
