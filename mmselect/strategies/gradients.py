"""BADGE and BMMAL: D² sampling over gradient embeddings, and what BMMAL sees in each sample.

Ash et al., *Deep Batch Active Learning by Diverse, Uncertain Gradient Lower Bounds*, ICLR 2020.
Shen et al., *Towards Balanced Active Learning for Multimodal Classification*, ACM MM 2023.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmselect.arrays import Floats, Index, Rows
from mmselect.core.sampling.d2 import d2_sample, nearest_picks
from mmselect.core.sampling.gradients import GradientPoints, norm_parts
from mmselect.core.sampling.points import squared_norms
from mmselect.core.scores.coalitions import (
    coalition_name,
    coalition_names,
    exported_shapley,
    linear_shapley,
)
from mmselect.core.scores.linear import LinearLogits
from mmselect.core.scores.shapley import balance_weights, contributions, dominance_degree
from mmselect.engine import SERIAL, Engine
from mmselect.errors import NeedsError, located
from mmselect.pool.schema import names_in
from mmselect.strategies.record import (
    Arrays,
    Batch,
    Columns,
    Nearest,
    Parameter,
    Parameters,
    Picks,
    Strategy,
    need,
)

FEATURES, CLASSIFIER = "/features", "/classifier"
WEIGHT, BIAS = f"{CLASSIFIER}/weight", f"{CLASSIFIER}/bias"
FUSED, COALITIONS = "/multimodal_logits", "/coalition_logits"

MULTILABEL = Parameter(
    "multilabel", False, "sigmoid in place of softmax; pseudo-labels are all classes above 1/2"
)


def in_group(sources: Mapping[str, Any], group: str) -> dict[str, Any]:
    """Datasets of a group, sorted by name, under their names in the group."""
    return {name: sources[f"{group}/{name}"] for name in names_in(group, sources)}


def fused_logits(sources: Mapping[str, Any]) -> Rows:
    """Find the fused head's logits: exported, or those of the coalition of all, or W z + b."""
    everyone = coalition_name(in_group(sources, FEATURES))
    for path in (FUSED, f"{COALITIONS}/{everyone}"):
        if path in sources:
            logits: Rows = sources[path]
            return logits
    return LinearLogits(in_group(sources, FEATURES), _weights(sources), sources.get(BIAS))


def shapley(
    sources: Mapping[str, Any], rows: Index | None = None, engine: Engine = SERIAL
) -> tuple[Floats, Index]:
    """Shapley values and pseudo-classes, from the linear head or from coalition logits."""
    features = in_group(sources, FEATURES)
    if in_group(sources, WEIGHT):
        by_path = {f"{FEATURES}/{name}": z for name, z in features.items()}
        weights = {f"{FEATURES}/{name}": w for name, w in _weights(sources).items()}
        return linear_shapley(by_path, weights, sources.get(BIAS), rows=rows, engine=engine)
    coalitions = in_group(sources, COALITIONS)
    if FUSED in sources:
        coalitions.setdefault(coalition_name(features), sources[FUSED])
    with located(dataset=COALITIONS):
        return exported_shapley(coalitions, list(features), rows=rows, engine=engine)


def conditions(paths: set[str], _sizes: Mapping[str, int], _parameters: Parameters) -> list[str]:
    """Say which block of the head, or which coalition, a pool lacks."""
    names, weights = set(names_in(FEATURES, paths)), set(names_in(WEIGHT, paths))
    if weights:
        lacking = [f"{WEIGHT}/{name}" for name in sorted(names - weights)]
        return lacking + [f"{FEATURES}/{name}" for name in sorted(weights - names)]
    there = set(names_in(COALITIONS, paths))
    if not there:
        return []
    if FUSED in paths:
        there.add(coalition_name(names))
    return [f"{COALITIONS}/{name}" for name in coalition_names(sorted(names)) if name not in there]


def _weights(sources: Mapping[str, Any]) -> dict[str, Any]:
    weights, features = in_group(sources, WEIGHT), in_group(sources, FEATURES)
    if missing := sorted(features.keys() ^ weights.keys()):
        group = WEIGHT if missing[0] in features else FEATURES
        raise NeedsError(
            f"expected the modalities of {FEATURES} and {WEIGHT} to be the same, "
            f"found no {group}/{missing[0]}"
        )
    return weights


def contribution(arrays: Arrays, parameters: Parameters) -> Columns:
    """Describe each sample as BMMAL sees it; the score is the dominance degree."""
    names = list(in_group(arrays, FEATURES))
    phi, pseudo = shapley(arrays)
    share = contributions(phi)
    weights = balance_weights(share)
    rho = dominance_degree(share)
    with located(dataset=FUSED):
        norms = squared_norms(_points(arrays, weights, parameters))
    return {
        "score": rho,
        "pseudo_class": pseudo,
        **{f"shapley.{name}": phi[:, m] for m, name in enumerate(names)},
        **{f"contribution.{name}": share[:, m] for m, name in enumerate(names)},
        **{f"weight.{name}": weights[:, m] for m, name in enumerate(names)},
        "dominance": rho,
        "gradient_norm": np.sqrt(norms),
    }


def points_of(batch: Batch, balanced: bool) -> GradientPoints:
    """Gradient embeddings of the pool; `balanced` rescales the candidates' (BMMAL)."""
    sources = {**batch.columns, **batch.constants}
    if not balanced:
        return _points(sources, None, batch.parameters)
    phi, _ = shapley(sources, batch.candidates, batch.engine)
    weights = np.ones((fused_logits(sources).shape[0], phi.shape[1]))
    weights[batch.candidates] = balance_weights(contributions(phi))
    return _points(sources, weights, batch.parameters)


def _points(
    sources: Mapping[str, Any], weights: NDArray[np.float64] | None, parameters: Parameters
) -> GradientPoints:
    features = {f"{FEATURES}/{name}": z for name, z in in_group(sources, FEATURES).items()}
    multilabel = bool(parameters["multilabel"])
    return GradientPoints(fused_logits(sources), features, weights, multilabel)


def gradient_norms(
    sources: Mapping[str, Any], rows: Index, share: Floats, engine: Engine
) -> tuple[Floats, Floats]:
    """‖g‖ of each row, as it is (BADGE) and rescaled by the balance weights (BMMAL)."""
    points = _points(sources, None, {"multilabel": False})
    residual, features = norm_parts(points, rows, engine=engine)
    balanced = np.vecdot(features, np.square(balance_weights(share)))
    return np.sqrt(residual * features.sum(axis=1)), np.sqrt(residual * balanced)


def badge(batch: Batch, k: int, rng: np.random.Generator) -> Picks:
    """Sample by D² over the gradient embeddings."""
    return sample(points_of(batch, balanced=False), batch, k, rng)


def bmmal(batch: Batch, k: int, rng: np.random.Generator) -> Picks:
    """Sample by D² over the gradient embeddings, rescaled by how modalities contribute."""
    return sample(points_of(batch, balanced=True), batch, k, rng)


def sample(
    points: Any,
    batch: Batch,
    k: int,
    rng: np.random.Generator,
    weights: NDArray[np.float64] | None = None,
) -> Picks:
    """Run (weighted) D² sampling over the candidates' points."""
    how: dict[str, Any] = {
        "candidates": batch.candidates,
        "engine": batch.engine,
        "progress": batch.progress,
    }
    with located(dataset=FUSED):
        found = d2_sample(points, k, rng, weights=weights, **how)

    def nearest() -> Nearest:
        return Nearest(*nearest_picks(points, found.indices, **how))

    positions = np.searchsorted(batch.candidates, found.indices)
    return Picks(positions, found.gains, found.warnings, nearest=nearest)


def footprint(request: Any, k: int) -> int:
    """Estimate what the sampler keeps: the picks' factors, and some numbers per candidate."""
    columns = request.pool.columns
    widths = [c.shape[1] for p, c in columns.items() if p in request.reads and len(c.shape) == 2]
    return int(4 * k * sum(widths) + 100 * len(request.candidates))


_HEAD = need(CLASSIFIER, COALITIONS)
_LOGITS = need(FUSED, CLASSIFIER, COALITIONS)
_PAPER = "Shen et al., Towards Balanced Active Learning for Multimodal Classification, ACM MM 2023"

STRATEGIES = (
    Strategy(
        name="contribution",
        kind="score",
        summary="Shapley contribution of each modality to the prediction; ranks by dominance",
        function=contribution,
        needs=(need(FEATURES), _HEAD, _LOGITS),
        conditions=conditions,
        parameters=(MULTILABEL,),
        reference=_PAPER,
    ),
    Strategy(
        name="badge",
        kind="batch",
        summary="D² sampling over gradient embeddings: unsure and different",
        function=badge,
        needs=(need(FEATURES), _LOGITS),
        parameters=(MULTILABEL,),
        reference="Ash et al., Deep Batch Active Learning by Diverse, Uncertain Gradient Lower "
        "Bounds, ICLR 2020",
        footprint=footprint,
        distance=True,
    ),
    Strategy(
        name="bmmal",
        kind="batch",
        summary="BADGE with gradients rescaled so that no modality dominates",
        function=bmmal,
        needs=(need(FEATURES), _HEAD, _LOGITS),
        conditions=conditions,
        parameters=(MULTILABEL,),
        reference=_PAPER,
        footprint=footprint,
        distance=True,
    ),
)
