"""Systems that train small networks, for which they need torch (``docs/systems.md``)."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from mmselect.arrays import Array, Floats, Index, check_labels
from mmselect.core.constraints.allowed import Allowed
from mmselect.core.constraints.highest import top
from mmselect.core.scores.bernoulli import sigmoid
from mmselect.core.scores.sraal import sraal_indicator
from mmselect.engine import compute_rows, join_rows, map_rows
from mmselect.errors import located
from mmselect.networks.inputs import Inputs, inputs_of
from mmselect.strategies.covering import holding
from mmselect.strategies.gradients import FEATURES, FUSED
from mmselect.strategies.record import Batch, Picks, Strategy, limited, need
from mmselect.strategies.systems import LABEL, feature_columns, require_labeled


def hide_and_seek(batch: Batch, k: int, rng: np.random.Generator) -> Picks:
    """Pick what a discriminator takes for unlabeled most surely (VAAL)."""
    from mmselect.networks.adversarial import vaal

    require_labeled(batch, "vaal", "which it learns to tell from the others")
    found = vaal(_inputs(batch), rng, **batch.parameters, progress=batch.progress)
    return _least_familiar(found, k, batch.allowed)


def relabel_and_seek(batch: Batch, k: int, rng: np.random.Generator) -> Picks:
    """Pick what a discriminator takes for unlabeled, the uncertain counting as such (SRAAL)."""
    from mmselect.networks.adversarial import sraal

    require_labeled(batch, "sraal", "which it learns to tell from the others")
    assert batch.labels is not None  # it needs /label
    with located(dataset=LABEL):
        check_labels(batch.labels, batch.labeled, batch.columns[FUSED].shape[1])
    unsure = indicators(batch)
    how = {**batch.parameters, "progress": batch.progress}
    with located(dataset=LABEL):  # errors about features name those
        found = sraal(_inputs(batch), batch.labels, unsure, rng, **how)
    return _least_familiar(found, k, batch.allowed)


def predict_loss(batch: Batch, k: int, rng: np.random.Generator) -> Picks:
    """Pick what a network that has seen losses expects to have the largest one."""
    from mmselect.networks.learning_loss import learning_loss

    require_labeled(batch, "learning-loss", "whose losses it learns")
    assert batch.labels is not None  # it needs /label
    how = {**batch.parameters, "progress": batch.progress}
    with located(dataset=LABEL):  # errors about features name those
        found = learning_loss(_inputs(batch), batch.labels, rng, **how)
    best = top(found.predicted, k, batch.allowed)
    return Picks(best, found.predicted[best], details=_details(found.losses))


def _inputs(batch: Batch) -> Inputs:
    """Features of the labeled rows and of the candidates, as networks see them."""
    return inputs_of(
        feature_columns(batch),
        labeled=batch.labeled,
        candidates=batch.candidates,
        present=batch.present(),
        engine=batch.engine,
    )


def indicators(batch: Batch) -> Floats:
    """SRAAL's indicator of each candidate, read block by block."""

    def block(rows: Index, blocks: list[Array]) -> tuple[Floats]:
        with located(dataset=FUSED, rows=rows):
            return (sraal_indicator(blocks[0]),)

    logits, rows = batch.columns[FUSED], batch.candidates
    step = compute_rows(logits.shape[1])
    parts = map_rows(block, [logits], rows, step=step, engine=batch.engine)
    return join_rows(parts, len(rows))[0]


def _least_familiar(found: Any, k: int, allowed: Allowed | None) -> Picks:
    """Rank by −D(μ); the logit keeps the order where D is 0 or 1 in float64."""
    best = top(-found.logits, k, allowed)
    scores = -sigmoid(found.logits[best])
    return Picks(best, scores, details=_details(found.losses))


def _details(losses: list[Any]) -> dict[str, Any]:
    """Say how the training went."""
    return {"steps": len(losses), "loss": [losses[0], losses[-1]]}


trained = partial(
    Strategy,
    kind="batch",
    needs=(need(FEATURES),),
    footprint=holding(6, 330e6),  # torch, the networks and their optimisers
    joins=True,
    extra="torch",
    constrained=True,
)
STEPS = limited("steps", 1000, "most steps of training; 0: no bound")
ALL_ROWS = limited("epochs", 100, "passes over all samples, as long as steps allows")

STRATEGIES = (
    trained(
        name="learning-loss",
        footprint=holding(6, 500e6),
        summary="samples whose loss, as a network learns it from the labeled ones, is largest",
        function=predict_loss,
        needs=(need(FEATURES), need(LABEL)),
        parameters=(
            limited("epochs", 200, "passes over the labeled samples, as long as steps allows"),
            STEPS,
        ),
        reference="Yoo and Kweon, Learning Loss for Active Learning, CVPR 2019",
    ),
    trained(
        name="vaal",
        summary="an autoencoder hides what is labeled, a discriminator seeks: what it finds",
        function=hide_and_seek,
        parameters=(ALL_ROWS, STEPS),
        reference="Sinha, Ebrahimi and Darrell, Variational Adversarial Active Learning, ICCV 2019",
    ),
    trained(
        name="sraal",
        summary="vaal whose codes know the classes, and where certain samples count as labeled",
        function=relabel_and_seek,
        needs=(need(FEATURES), need(FUSED), need(LABEL)),
        parameters=(ALL_ROWS, STEPS),
        reference="Zhang et al., State-Relabeling Adversarial Active Learning, CVPR 2020",
    ),
)
