"""The other systems that the papers compare with (``docs/systems.md``)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from mmselect.arrays import Index
from mmselect.core.coverage.alfamix import alfamix
from mmselect.core.coverage.gcnal import EPOCHS, gcnal
from mmselect.core.coverage.typiclust import CLUSTERS, typiclust
from mmselect.core.scores.deepfool import class_distances, deepfool
from mmselect.core.scores.sraal import sraal_indicator
from mmselect.errors import NeedsError, located
from mmselect.strategies.coldstart import UNIT
from mmselect.strategies.covering import holding, mixing_footprint
from mmselect.strategies.gradients import (
    CLASSIFIER,
    FEATURES,
    FUSED,
    WEIGHT,
    model_of,
    unpaired,
)
from mmselect.strategies.record import (
    Arrays,
    Batch,
    Columns,
    Parameters,
    Picks,
    Strategy,
    datasets_of,
    limited,
    need,
)

LABEL = "/label"
DISTANCES = "distances"
"""Where the distances between the rows of W stand among the constants of ``deepfool``."""

ITERATIONS = limited("iterations", 20, "Lloyd iterations of k-means")


def head_distances(constants: Arrays) -> Arrays:
    """Distances between the classes' rows of the linear head."""
    with located(dataset=WEIGHT):
        blocks = [constants[path] for path in datasets_of(WEIGHT, set(constants))]
        return {DISTANCES: class_distances(np.concatenate(blocks, axis=1))}


def boundary(arrays: Arrays, _parameters: Parameters) -> Columns:
    """Rank by the distance to the nearest other class of the linear head, nearest first."""
    with located(dataset=FUSED):
        return {"score": 0.0 - deepfool(arrays[FUSED], arrays[DISTANCES])}


def variance(arrays: Arrays, _parameters: Parameters) -> Columns:
    """Rank by SRAAL's uncertainty indicator."""
    with located(dataset=FUSED):
        return {"score": sraal_indicator(arrays[FUSED])}


def mix(batch: Batch, k: int, rng: np.random.Generator) -> Picks:
    """Pick among the samples whose prediction a mix of features changes."""
    require_labeled(batch, "alfa-mix", "whose means it mixes with")
    assert batch.labels is not None  # it needs /label
    model = model_of({**batch.columns, **batch.constants})
    with located(dataset=LABEL):  # errors about features or head name those
        head = (model.head, model.bias, batch.labels)
        found = alfamix(model.features, *head, k, rng, **told(batch, "allowed"))
    scores = np.where(np.isfinite(found.thresholds), -found.thresholds, np.nan)
    details = {"epsilon": found.epsilon, "changed": found.near}
    return _picks(batch, found.picks, scores, details)


def graph(batch: Batch, k: int, rng: np.random.Generator) -> Picks:
    """Pick by a graph network that tells labeled from unlabeled samples."""
    require_labeled(batch, "gcnal", "which it learns to tell from the others")
    found = gcnal(feature_columns(batch), k, rng, **told(batch, "allowed", "progress"))
    details = {"loss": [found.losses[0], found.losses[-1]]}
    return _picks(batch, found.picks, found.gains, details)


def typical(batch: Batch, k: int, rng: np.random.Generator) -> Picks:
    """Pick typical samples of clusters with few labels."""
    found = typiclust(feature_columns(batch), k, rng, **told(batch, "allowed", "progress"))
    return _picks(batch, found.picks, found.typicality)


def told(batch: Batch, *more: str) -> dict[str, Any]:
    """Collect what all of them are told: rows, who has what, parameters, who works; and more."""
    names = ("labeled", "candidates", "engine", *more)
    return {
        **batch.parameters,
        **{name: getattr(batch, name) for name in names},
        "present": batch.present(),
    }


def feature_columns(batch: Batch) -> dict[str, Any]:
    """Features of the whole pool, on disk."""
    return {path: batch.columns[path] for path in batch.group(FEATURES)}


def require_labeled(batch: Batch, name: str, purpose: str) -> None:
    """Accept a pool in which something is labeled.

    Raises
    ------
    NeedsError
        If nothing is.
    """
    if not len(batch.labeled):
        raise NeedsError(
            f"strategy {name} needs labeled samples, {purpose}; found none in /labeled or --labeled"
        )


def _picks(
    batch: Batch,
    rows: Index,
    scores: Any,
    details: Mapping[str, Any] | None = None,
) -> Picks:
    """Name picks by position."""
    positions = np.searchsorted(batch.candidates, rows)
    return Picks(positions, scores, details=dict(details or {}))


def whole_head(paths: set[str], _sizes: Mapping[str, int], _parameters: Parameters) -> list[str]:
    """Say which part of a linear head over all features is missing."""
    return unpaired(paths)


STRATEGIES = (
    Strategy(
        name="deepfool",
        kind="score",
        summary="distance to the linear head's decision boundary, nearest first",
        function=boundary,
        prepare=head_distances,
        needs=(need(FUSED), need(WEIGHT)),
        reference="Moosavi-Dezfooli, Fawzi and Frossard, DeepFool, CVPR 2016; as a query Ducoffe "
        "and Precioso, 2018",
    ),
    Strategy(
        name="sraal-indicator",
        kind="score",
        summary="SRAAL's uncertainty: how far the variance of the probabilities is from the least",
        function=variance,
        needs=(need(FUSED),),
        reference="Zhang et al., State-Relabeling Adversarial Active Learning, CVPR 2020",
    ),
    Strategy(
        name="alfa-mix",
        kind="batch",
        constrained=True,
        summary="samples whose prediction changes when mixed with labeled ones, spread by k-means",
        function=mix,
        needs=(need(FEATURES), need(CLASSIFIER), need(LABEL)),
        conditions=whole_head,
        parameters=(
            limited("cap", 0.2, "by how much the mixing step grows"),
            ITERATIONS,
        ),
        reference="Parvaneh et al., Active Learning by Feature Mixing, CVPR 2022",
        footprint=mixing_footprint,
        joins=True,
    ),
    Strategy(
        name="gcnal",
        kind="batch",
        constrained=True,
        summary="a graph network tells labeled from unlabeled: where it is unsure, or k-center",
        function=graph,
        needs=(need(FEATURES),),
        parameters=(
            limited("variant", "uncertain", "scores next to 0.1, or k-center on the hidden layer"),
            limited("epochs", EPOCHS, "steps of training, each over all samples"),
        ),
        reference="Caramalau, Bhattarai and Kim, Sequential Graph Convolutional Network for Active "
        "Learning, CVPR 2021",
        footprint=holding(8, 20e6, per_sample=1050),
        joins=True,
    ),
    Strategy(
        name="typiclust",
        kind="batch",
        constrained=True,
        summary="the most typical sample of each cluster, those with the fewest labels first",
        function=typical,
        needs=(need(FEATURES),),
        parameters=(
            UNIT,
            limited("clusters", CLUSTERS, "most clusters"),
            ITERATIONS,
        ),
        reference="Hacohen, Dekel and Weinshall, Active Learning on a Budget, ICML 2022",
        footprint=holding(7, 75e6),
        joins=True,
    ),
)
