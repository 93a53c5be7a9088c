"""BADGE and BMMAL: D² sampling over gradient embeddings, and what BMMAL sees in each sample.

Ash et al., *Deep Batch Active Learning by Diverse, Uncertain Gradient Lower Bounds*, ICLR 2020.
Shen et al., *Towards Balanced Active Learning for Multimodal Classification*, ACM MM 2023.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from mmselect.arrays import Array, Floats, Index, Rows
from mmselect.core.presence import Mask, matrix_of
from mmselect.core.sampling.balanced import BalancedPoints, known_points
from mmselect.core.sampling.d2 import BATCH, d2_sample
from mmselect.core.sampling.gradients import GradientPoints, norm_parts
from mmselect.core.sampling.nearest import nearest_picks
from mmselect.core.sampling.points import Points, squared_norms
from mmselect.core.scores.coalitions import (
    coalition_name,
    coalition_names,
    exported_shapley,
    linear_shapley,
)
from mmselect.core.scores.linear import LinearLogits
from mmselect.core.scores.shapley import balance_weights, contributions, dominance_degree
from mmselect.engine import SERIAL, Engine
from mmselect.errors import located
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
    masks_in,
    need,
)

FEATURES, CLASSIFIER = "/features", "/classifier"
WEIGHT, BIAS = f"{CLASSIFIER}/weight", f"{CLASSIFIER}/bias"
FUSED, COALITIONS = "/multimodal_logits", "/coalition_logits"

MULTILABEL = Parameter(
    "multilabel", False, "sigmoid in place of softmax; pseudo-labels are all classes above 1/2"
)


@dataclass(frozen=True)
class Model:
    """What gradients and contributions are taken from: a pool's features and its fused head.

    Attributes
    ----------
    names : list of str
        Modalities, sorted.
    features : dict of path to (n, d) Rows
    head : dict of path of features to (c, d) ndarray
        Weights of a linear head; empty where there is none.
    bias : (c,) ndarray, optional
    present : dict of path of features to (n,) ndarray of bool
        Which samples have the modality, for those that some lack.
    coalitions : dict of coalition to (n, c) Rows
        Exported logits, those of all modalities under their name too.
    logits : (n, c) Rows
        The fused head's: exported, or W z + b.
    """

    names: list[str]
    features: dict[str, Rows]
    head: dict[str, Array]
    bias: Array | None
    coalitions: dict[str, Rows]
    logits: Rows
    present: dict[str, Mask]

    def has(self, rows: Index | None = None) -> Mask | None:
        """Which modalities some samples have, (r, m); None: all have all."""
        every = np.arange(self.logits.shape[0]) if rows is None else rows
        return matrix_of(self.present, list(self.features), every)

    def shapley(self, rows: Index | None = None, engine: Engine = SERIAL) -> tuple[Floats, Index]:
        """Shapley values and pseudo-classes, from the linear head or from coalition logits."""
        if self.head:
            return linear_shapley(self.features, self.head, self.bias, rows=rows, engine=engine)
        with located(dataset=COALITIONS):
            present = {path.removeprefix(f"{FEATURES}/"): m for path, m in self.present.items()}
            how: dict[str, Any] = {"present": present, "rows": rows, "engine": engine}
            return exported_shapley(self.coalitions, self.names, **how)

    def points(self, weights: Floats | None, parameters: Parameters) -> GradientPoints:
        """Gradient embeddings; `weights` (n, m) rescale them (BMMAL)."""
        return GradientPoints(self.logits, self.features, weights, parameters["multilabel"])


def model_of(sources: Mapping[str, Any]) -> Model:
    """Find the features and the fused head among a pool's datasets, or blocks of them."""
    names = names_in(FEATURES, sources)
    features = {f"{FEATURES}/{name}": sources[f"{FEATURES}/{name}"] for name in names}
    weighted = names_in(WEIGHT, sources)
    head = {f"{FEATURES}/{name}": sources[f"{WEIGHT}/{name}"] for name in weighted}
    exported = names_in(COALITIONS, sources)
    coalitions = {name: sources[f"{COALITIONS}/{name}"] for name in exported}
    bias, everyone = sources.get(BIAS), coalition_name(names)
    if FUSED in sources:
        logits = sources[FUSED]
        coalitions.setdefault(everyone, logits)
    elif everyone in coalitions:
        logits = coalitions[everyone]
    else:
        logits = LinearLogits(features, head, bias)
    present = masks_in(sources, FEATURES)
    return Model(names, features, head, bias, coalitions, logits, present)


def shapley(
    sources: Mapping[str, Any], rows: Index | None = None, engine: Engine = SERIAL
) -> tuple[Floats, Index]:
    """Shapley values and pseudo-classes of a pool's rows."""
    return model_of(sources).shapley(rows, engine)


def logits_path(paths: Collection[str]) -> str:
    """Find the dataset of the fused head's logits, or the head that they are computed by.

    Examples
    --------
    >>> logits_path({"/features/a", "/coalition_logits/a"}), logits_path({"/features/a"})
    ('/coalition_logits/a', '/classifier')
    """
    everyone = f"{COALITIONS}/{coalition_name(names_in(FEATURES, paths))}"
    return next((path for path in (FUSED, everyone) if path in paths), CLASSIFIER)


def lacks_logits(paths: set[str], _sizes: Mapping[str, int], _parameters: Parameters) -> list[str]:
    """Say what a pool lacks for the fused head's logits, where they are not exported."""
    everyone = f"{COALITIONS}/{coalition_name(names_in(FEATURES, paths))}"
    if FUSED in paths or everyone in paths:
        return []
    return unpaired(paths) if names_in(WEIGHT, paths) else [everyone]


def lacks_coalitions(
    paths: set[str], _sizes: Mapping[str, int], _parameters: Parameters
) -> list[str]:
    """Say which block of the head, or which coalition, a pool lacks."""
    names, there = names_in(FEATURES, paths), set(names_in(COALITIONS, paths))
    if names_in(WEIGHT, paths) or (BIAS in paths and not there):
        return unpaired(paths)
    if not there:
        return []
    if FUSED in paths:
        there.add(coalition_name(names))
    return [f"{COALITIONS}/{name}" for name in coalition_names(names) if name not in there]


def unpaired(paths: set[str]) -> list[str]:
    """Blocks of a linear head without features, and features without a block."""
    names, weights = set(names_in(FEATURES, paths)), set(names_in(WEIGHT, paths))
    lacking = [f"{WEIGHT}/{name}" for name in sorted(names - weights)]
    return lacking + [f"{FEATURES}/{name}" for name in sorted(weights - names)]


def contribution(arrays: Arrays, parameters: Parameters) -> Columns:
    """Describe each sample as BMMAL sees it; the score is the dominance degree."""
    model = model_of(arrays)
    with located(dataset=logits_path(arrays)):
        phi, pseudo = model.shapley()
    has = model.has()
    share = contributions(phi, has)
    weights = balance_weights(share, has)
    rho = dominance_degree(share, has)
    with located(dataset=logits_path(arrays)):
        norms = squared_norms(model.points(weights, parameters))
    columns = {"score": rho, "pseudo_class": pseudo}
    for title, values in (("shapley", phi), ("contribution", share), ("weight", weights)):
        shown = values if has is None else np.where(has, values, np.nan)
        columns |= {f"{title}.{name}": shown[:, m] for m, name in enumerate(model.names)}
    return {**columns, "dominance": rho, "gradient_norm": np.sqrt(norms)}


def points_of(batch: Batch, balanced: bool) -> Points:
    """Gradient embeddings of the pool; `balanced` rescales the candidates' (BMMAL)."""
    model = model_of({**batch.columns, **batch.constants})
    plain = model.points(None, batch.parameters)
    if not balanced:
        return plain
    if model.head:
        head = LinearLogits(model.features, model.head, model.bias)
        return BalancedPoints(plain, head, model.has())
    phi, _ = model.shapley(batch.candidates, batch.engine)
    return known_points(plain, batch.candidates, phi, model.has(batch.candidates))


def gradient_norms(
    model: Model, rows: Index, weights: Floats, engine: Engine
) -> tuple[Floats, Floats]:
    """‖g‖ of each row, as it is (BADGE) and rescaled by the balance weights (BMMAL)."""
    points = model.points(None, {"multilabel": False})
    residual, features = norm_parts(points, rows, engine=engine)
    balanced = np.vecdot(features, np.square(weights))
    return np.sqrt(residual * features.sum(axis=1)), np.sqrt(residual * balanced)


def badge(batch: Batch, k: int, rng: np.random.Generator) -> Picks:
    """Sample by D² over the gradient embeddings."""
    return sample(points_of(batch, balanced=False), batch, k, rng)


def bmmal(batch: Batch, k: int, rng: np.random.Generator) -> Picks:
    """Sample by D² over the gradient embeddings, rescaled by how modalities contribute."""
    return sample(points_of(batch, balanced=True), batch, k, rng)


def sample(
    points: Points,
    batch: Batch,
    k: int,
    rng: np.random.Generator,
    weights: Floats | None = None,
) -> Picks:
    """Run (weighted) D² sampling over the candidates' points."""
    how: dict[str, Any] = {"candidates": batch.candidates, "engine": batch.engine}
    more: dict[str, Any] = {"weights": weights, "allowed": batch.allowed}
    with located(dataset=logits_path(batch.columns)):
        found = d2_sample(points, k, rng, progress=batch.progress, **how, **more)

    def nearest() -> Nearest:
        return Nearest(*nearest_picks(points, found.indices, **how))

    positions = np.searchsorted(batch.candidates, found.indices)
    return Picks(positions, found.gains, found.warnings, nearest=nearest)


def footprint(request: Any, k: int) -> int:
    """Estimate what the sampler keeps: factors of picks and draws, some numbers per candidate."""
    columns = request.pool.columns
    widths = [c.shape[1] for p, c in columns.items() if p in request.reads and len(c.shape) == 2]
    drawn = min(BATCH[-1], len(request.candidates))
    return int(4 * (k + drawn) * sum(widths) + 45 * len(request.candidates))


_HEAD = need(CLASSIFIER, COALITIONS)
_LOGITS = need(FUSED, CLASSIFIER, COALITIONS)
_PAPER = "Shen et al., Towards Balanced Active Learning for Multimodal Classification, ACM MM 2023"
sampled = partial(
    Strategy,
    kind="batch",
    parameters=(MULTILABEL,),
    footprint=footprint,
    distance=True,
    constrained=True,
    dealt=True,
)

STRATEGIES = (
    Strategy(
        name="contribution",
        kind="score",
        summary="Shapley contribution of each modality to the prediction; ranks by dominance",
        function=contribution,
        needs=(need(FEATURES), _HEAD, _LOGITS),
        conditions=lacks_coalitions,
        parameters=(MULTILABEL,),
        reference=_PAPER,
    ),
    sampled(
        name="badge",
        summary="D² sampling over gradient embeddings: unsure and different",
        function=badge,
        needs=(need(FEATURES), _LOGITS),
        conditions=lacks_logits,
        reference="Ash et al., Deep Batch Active Learning by Diverse, Uncertain Gradient Lower "
        "Bounds, ICLR 2020",
        compares=(FEATURES, FUSED, COALITIONS),
    ),
    sampled(
        name="bmmal",
        summary="BADGE with gradients rescaled so that no modality dominates",
        function=bmmal,
        needs=(need(FEATURES), _HEAD, _LOGITS),
        conditions=lacks_coalitions,
        reference=_PAPER,
        compares=(FEATURES, FUSED, COALITIONS),
    ),
)
