"""Whether a trainer repeats itself: what differs between two trainings on the same samples."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np

from mmselect.ask import Replaying
from mmselect.replay.data import Data
from mmselect.replay.measures import measure
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
    """

    first: float
    second: float
    same: bool
    differing: float

    @property
    def floor(self) -> float:
        """What the two differ by: a smaller difference between strategies is the trainer's own."""
        return abs(self.first - self.second)

    def said(self) -> str:
        """Say it in words.

        Examples
        --------
        >>> Repeats(0.61, 0.61, True, 0.0).said()
        'the trainer repeats itself: two trainings of round 0 gave the same numbers'
        >>> print(Repeats(0.61, 0.62, False, 0.043).said())
        the trainer does not repeat itself: accuracy 61.0 and 62.0 % in two trainings of round 0,
        4.3 % of the test samples classified otherwise; smaller differences than 1.0 points say
        nothing
        """
        if self.same:
            return "the trainer repeats itself: two trainings of round 0 gave the same numbers"
        return (
            f"the trainer does not repeat itself: accuracy {100 * self.first:.1f} and "
            f"{100 * self.second:.1f} % in two trainings of round 0, {100 * self.differing:.1f} % "
            "of the test samples classified otherwise; smaller differences than "
            f"{100 * self.floor:.1f} points say nothing"
        )


def train_twice(data: Data, ask: Replaying, once: Trainers, again: Trainers) -> Repeats:
    """Train round 0 of the first seed twice."""
    one = replace(ask, start=ask.start[:1], budget=ask.budget[:1])
    start = begin(data, one, ask.seed, once)
    trainers = [of(data, start.train, start.test, ask.seed) for of in (once, again)]
    labeled = Labeled(start.labeled, data.targets(start.train[start.labeled]), 0)
    models = [start.model, trainers[1].fit(labeled, None)]
    told = [t.tested(model) for t, model in zip(trainers, models, strict=True)]
    first, second = (float(measure(o, *truth_of(data, start))["accuracy"] or 0) for o in told)
    guess = [o.fused.argmax(axis=1) for o in told]
    arrays = [t.seen(model).arrays for t, model in zip(trainers, models, strict=True)]
    same = arrays[0].keys() == arrays[1].keys() and all(
        np.array_equal(a, b, equal_nan=a.dtype.kind == "f")
        for a, b in zip(arrays[0].values(), arrays[1].values(), strict=True)
    )
    same &= np.array_equal(told[0].fused, told[1].fused)
    return Repeats(first, second, bool(same), float((guess[0] != guess[1]).mean()))
