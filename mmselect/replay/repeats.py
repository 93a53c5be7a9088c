"""Whether a trainer repeats itself: what differs between two trainings on the same samples."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np

from mmselect.ask import Replaying
from mmselect.replay.data import Data
from mmselect.replay.rounds import begin, truth_of
from mmselect.replay.trainer import Labeled, Trainers


class Repeats(NamedTuple):
    """Two trainings on the same samples with the same seed.

    Attributes
    ----------
    first, second : float
        Accuracy of each.
    same : bool
        Whether all numbers are the same, to the last bit.
    differing : float
        Share of the test samples for which the fused heads say different classes.
    spread : float
        Root of the summed squares of the samples' differences in being right, over their number:
        how far two accuracies lie apart by chance if each of those samples is right in one
        training or the other by the toss of a coin. The accuracies themselves may be equal.
    """

    first: float
    second: float
    same: bool
    differing: float
    spread: float

    @property
    def floor(self) -> float:
        """What repeats differ by: a smaller difference between strategies is the trainer's own."""
        return max(abs(self.first - self.second), self.spread)

    def said(self) -> str:
        """Say it in words.

        Examples
        --------
        >>> Repeats(0.61, 0.61, True, 0.0, 0.0).said()
        'the trainer repeats itself: two trainings of round 0 gave the same numbers'
        >>> print(Repeats(0.61, 0.62, False, 0.043, 0.009).said())
        the trainer does not repeat itself: accuracy 61.0 and 62.0 % in two trainings of round 0,
        4.3 % of the test samples classified otherwise; differences below 1.0 points do not count
        """
        if self.same:
            return "the trainer repeats itself: two trainings of round 0 gave the same numbers"
        return (
            f"the trainer does not repeat itself: accuracy {100 * self.first:.1f} and "
            f"{100 * self.second:.1f} % in two trainings of round 0, {100 * self.differing:.1f} % "
            f"of the test samples classified otherwise; differences below {100 * self.floor:.1f} "
            "points do not count"
        )


def train_twice(data: Data, ask: Replaying, once: Trainers, again: Trainers) -> Repeats:
    """Train round 0 of the first seed twice."""
    one = replace(ask, start=ask.start[:1], budget=ask.budget[:1])
    start = begin(data, one, ask.seed, once)
    trainers = [of(data, start.train, start.test, ask.seed) for of in (once, again)]
    labeled = Labeled(start.labeled, data.targets(start.train[start.labeled]), 0)
    models = [start.model, trainers[1].fit(labeled, None)]
    told = [t.tested(model) for t, model in zip(trainers, models, strict=True)]
    labels, shares, _ = truth_of(data, start)
    guess = [o.fused.argmax(axis=1) for o in told]
    right = [
        (g == labels if shares is None else shares[np.arange(len(g)), g]).astype(np.float64)
        for g in guess
    ]
    arrays = [t.seen(model).arrays for t, model in zip(trainers, models, strict=True)]
    same = arrays[0].keys() == arrays[1].keys() and all(
        np.array_equal(a, b, equal_nan=a.dtype.kind == "f")
        for a, b in zip(arrays[0].values(), arrays[1].values(), strict=True)
    )
    same &= np.array_equal(told[0].fused, told[1].fused)
    differing = float((guess[0] != guess[1]).mean())
    spread = float(np.linalg.norm(right[0] - right[1])) / len(labels)
    first, second = (float(r.mean()) for r in right)
    return Repeats(first, second, bool(same), differing, spread)
