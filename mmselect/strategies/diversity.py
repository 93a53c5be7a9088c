"""The diversified form of a score: weighted D² sampling over the features.

Row i is drawn with probability proportional to ``score_i^4 · D_i²``, D_i its distance to the
nearest pick in the concatenated features (ours; ``docs/methods.md``).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mmselect.core.sampling.points import feature_points
from mmselect.strategies.gradients import sample
from mmselect.strategies.record import Batch, Picks

POWER = 4.0
"""Power of the score as a weight in D² sampling."""


def spread(
    batch: Batch, scores: NDArray[np.float64], k: int, rng: np.random.Generator, how: str
) -> Picks:
    """Sample candidates that score high and differ."""
    if how != "d2":
        raise NotImplementedError(how)
    features = {path: batch.columns[path] for path in batch.group("/features")}
    points = feature_points(features, batch.candidates)
    return sample(points, batch, k, rng, weights(scores, POWER))


def weights(scores: NDArray[np.float64], power: float) -> NDArray[np.float64]:
    """Scores to a power, relative to the largest; a score below 0 counts as 0.

    Examples
    --------
    >>> weights(np.array([1.0, 2.0, -1.0]), 2).tolist()
    [0.25, 1.0, 0.0]
    """
    positive = np.maximum(scores, 0.0)
    relative: NDArray[np.float64] = (positive / (positive.max(initial=0) or 1.0)) ** power
    return relative
