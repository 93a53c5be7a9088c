"""What the heads say of samples: their likeliest classes, and which modality says it."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from mmselect.arrays import Floats, Index, Rows
from mmselect.core.scores.bernoulli import sigmoid
from mmselect.core.scores.shapley import contributions
from mmselect.core.scores.softmax import Activation, strips
from mmselect.engine import Engine, compute_rows
from mmselect.errors import located
from mmselect.pool.reading import Pool
from mmselect.request import lacking
from mmselect.strategies import registry
from mmselect.tasks import gather

FUSED, HEADS, FEATURES = "/multimodal_logits", "/unimodal_logits", "/features"
LIKELIEST = 3
"""Classes of the fused head that are shown."""


class Prediction(NamedTuple):
    """Likeliest classes of one head.

    Attributes
    ----------
    classes : (r, j) integer array
        Likeliest first.
    probability : (r, j) float64 array
    """

    classes: Index
    probability: Floats


def heads_of(pool: Pool) -> dict[str, Rows]:
    """Logits by head: the fused one, exported or computed from the classifier, and each modality's.

    The fused head is called by its path, the others by their modality.
    """
    from mmselect.strategies.gradients import lacks_logits, model_of

    heads: dict[str, Rows] = {}
    features = bool(pool.names(FEATURES))
    if FUSED in pool.paths or (features and not lacks_logits(pool.paths, {}, {})):
        heads[FUSED] = model_of({**pool.columns, **pool.constants}).logits
    return heads | {name: pool.columns[f"{HEADS}/{name}"] for name in pool.names(HEADS)}


def predict(logits: Rows, rows: Index, activation: Activation, name: str) -> Prediction:
    """Likeliest classes of a few rows and their probabilities.

    Examples
    --------
    >>> logits = np.log([[0.2, 0.7, 0.1], [0.5, 0.25, 0.25]])
    >>> found = predict(logits, np.array([1, 0]), "softmax", "fused")
    >>> found.classes[:, 0].tolist(), found.probability[:, 0].round(6).tolist()
    ([0, 1], [0.5, 0.7])
    >>> predict(np.array([[0.0, -9e9]]), np.array([0]), "sigmoid", "fused").probability.tolist()
    [[0.5, 0.0]]
    """
    shown, by_class = min(LIKELIEST, logits.shape[1]), activation == "sigmoid"
    classes = np.empty((len(rows), shown), np.intp)
    probability = np.empty((len(rows), shown))
    step = compute_rows(logits.shape[1])
    for start in range(0, len(rows), step):
        part = rows[start : start + step]
        block = gather([logits], part)[0]
        with located(rows=part):  # the likeliest are the same for classes that stand by themselves
            for strip in strips({name: block}, "softmax" if by_class else activation):
                e = strip.e[0].astype(np.float64)
                best = np.argsort(-e, axis=1, kind="stable")[:, :shown]
                share = np.take_along_axis(e, best, 1) / (1 + strip.heads[0].rest)[:, None]
                if by_class:
                    x = np.take_along_axis(block[strip.rows], best, 1).astype(np.float64)
                    share = sigmoid(x)
                to = slice(start + strip.rows.start, start + strip.rows.start + len(e))
                classes[to], probability[to] = best, share
    return Prediction(classes, probability)


def dominating(pool: Pool, rows: Index, engine: Engine) -> Index | None:
    """Which modality contributes most to each prediction, by position among the pool's modalities.

    None where the pool has not what Shapley values take, or one modality only.
    """
    if len(pool.names(FEATURES)) < 2 or lacking(registry.BUILT_IN["bmmal"], pool):
        return None
    from mmselect.strategies.gradients import model_of

    model = model_of({**pool.columns, **pool.constants})
    phi, _ = model.shapley(rows, engine)
    return np.asarray(contributions(phi, model.has(rows)).argmax(axis=1))
