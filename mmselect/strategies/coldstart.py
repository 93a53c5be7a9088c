"""Strategies for the first batch, when nothing is labeled: they need features, nothing else.

ActiveFT: Xie et al., CVPR 2023. MMCSAL: Shen et al., ACM MM Asia 2024. Core-set: Sener and
Savarese, ICLR 2018. Facility location has its own file.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict

import numpy as np

from mmselect.core.coverage.kcenter import kcenter
from mmselect.core.coverage.kmeans import kmeans
from mmselect.core.parametric.parametric import parametric
from mmselect.core.scores.alignment import matched_cosine
from mmselect.errors import located
from mmselect.pool.schema import names_in
from mmselect.strategies.covering import (
    FEATURES,
    coreset_footprint,
    covered,
    footprint,
    known,
    nearest_in_features,
    zero_row_warnings,
)
from mmselect.strategies.record import (
    Arrays,
    Batch,
    Columns,
    Parameter,
    Parameters,
    Picks,
    Strategy,
    limited,
    need,
)


def coreset(batch: Batch, k: int, _rng: np.random.Generator) -> Picks:
    """Traverse farthest-first from what is labeled."""
    features, rows, labeled = known(batch)
    unit = batch.parameters["unit"]
    with located(rows=rows):
        found = kcenter(
            features,
            k,
            labeled=labeled,
            unit=unit,
            engine=batch.engine,
            progress=batch.progress,
        )
    return covered(batch, found, rows, unit=unit)


def cluster(batch: Batch, k: int, rng: np.random.Generator) -> Picks:
    """Take the sample nearest to each of k centres."""
    features = {path: batch.rows(path) for path in batch.group(FEATURES)}
    unit, init, iterations = (batch.parameters[p] for p in ("unit", "init", "iterations"))
    with located(rows=batch.candidates):
        found = kmeans(
            features, k, rng, unit=unit, init=init, iterations=iterations, engine=batch.engine
        )
    return covered(batch, found, batch.candidates, unit=unit)


def _parametric(aligns: bool) -> Callable[[Batch, int, np.random.Generator], Picks]:
    """Make the strategy, with or without the cross-modal alignment term."""

    def select(batch: Batch, k: int, rng: np.random.Generator) -> Picks:
        given = batch.parameters
        features = {path: batch.rows(path) for path in batch.group(FEATURES)}
        with located(rows=batch.candidates):
            found = parametric(
                features,
                k,
                rng,
                tau=given["tau"],
                diversity=given["diversity"],
                alignment=given["alignment"] if aligns else 0.0,
                align_over_tau=given["align_over_tau"] if aligns else True,
                loss=given["loss"],
                solver=given["solver"],
                steps=given["steps"] or None,
                rate=given["rate"],
                init=given["init"],
                engine=batch.engine,
                progress=batch.progress,
            )
        details = {
            "picks_not_initial": found.changed,
            "parameters_without_samples": found.ownerless,
            "loss": [asdict(terms) for terms in found.history],
        }
        warnings = (*found.warnings, *zero_row_warnings(found.zero_rows))
        positions = np.asarray(found.picks, np.intp)
        nearest = nearest_in_features(batch, positions, unit=True)
        return Picks(positions, found.similarity, warnings, details, nearest)

    return select


def one_space(paths: set[str], sizes: Mapping[str, int], parameters: Parameters) -> list[str]:
    """Say what a pool lacks for comparing modalities with each other."""
    if parameters.get("alignment") == 0:
        return []
    widths = {name: sizes[f"d of {name}"] for name in names_in(FEATURES, paths)}
    if len(widths) > 1 and len(set(widths.values())) == 1:
        return []
    found = ", ".join(f"{name} {width}" for name, width in widths.items())
    if len(widths) < 2:
        return [f"two or more modalities in {FEATURES} (found {found})"]
    way_out = "mmselect align makes them" + ", or -p alignment=0" * ("alignment" in parameters)
    return [f"modalities of one width in {FEATURES} (found {found}; {way_out})"]


def alignment(arrays: Arrays, _parameters: Parameters) -> Columns:
    """Mean cosine of each sample's own modalities."""
    return {"score": matched_cosine(dict(arrays))}


UNIT = Parameter("unit", False, "normalise each row of each modality first")
OPTIMISE = (
    limited("tau", 0.07, "temperature"),
    limited("diversity", 1.0, "weight of the diversity term (lambda_div)"),
    limited("loss", "paper", "as the paper of ActiveFT writes it, or its code"),
    limited("solver", "adam", "Adam as published, or L-BFGS: the same loss, sooner"),
    limited("steps", 0, "steps; 0: 300 for adam, up to 40 for lbfgs"),
    limited("rate", 0.01, "Adam's first learning rate"),
    limited("init", "uniform", "how the initial samples are drawn"),
)
ALIGN = (
    limited("alignment", 1.0, "weight of the alignment term (lambda_align)"),
    Parameter("align_over_tau", True, "divide the alignment term by tau, like the others"),
)


STRATEGIES = (
    Strategy(
        name="mmcsal",
        kind="batch",
        summary="parametric selection with diversity and cross-modal alignment",
        function=_parametric(aligns=True),
        needs=(need(FEATURES),),
        parameters=(*ALIGN, *OPTIMISE),
        conditions=one_space,
        reference="Shen et al., Enhancing Modality Representation and Alignment for Multimodal "
        "Cold-start Active Learning, ACM MM Asia 2024",
        footprint=footprint,
        joins=True,
        distance=True,
    ),
    Strategy(
        name="activeft",
        kind="batch",
        summary="parametric selection: close to the pool's distribution, and diverse",
        function=_parametric(aligns=False),
        needs=(need(FEATURES),),
        parameters=OPTIMISE,
        reference="Xie et al., Active Finetuning, CVPR 2023",
        footprint=footprint,
        joins=True,
        distance=True,
    ),
    Strategy(
        name="kmeans",
        kind="batch",
        summary="the sample nearest to each of k cluster centres",
        function=cluster,
        needs=(need(FEATURES),),
        parameters=(
            UNIT,
            limited("init", "kmeans++", "how the first centres are drawn"),
            limited("iterations", 20, "Lloyd iterations"),
        ),
        reference="Lloyd 1982, with faiss",
        footprint=footprint,
        joins=True,
        distance=True,
    ),
    Strategy(
        name="coreset",
        kind="batch",
        summary="k-center greedy: farthest first from what is labeled or picked",
        function=coreset,
        needs=(need(FEATURES),),
        parameters=(UNIT,),
        reference="Sener and Savarese, Active Learning for Convolutional Neural Networks: A "
        "Core-Set Approach, ICLR 2018",
        footprint=coreset_footprint,
        joins=True,
        distance=True,
    ),
    Strategy(
        name="alignment",
        kind="score",
        summary="mean cosine of a sample's own modalities",
        function=alignment,
        needs=(need(FEATURES),),
        conditions=one_space,
        reference="Shen et al., ACM MM Asia 2024",
    ),
)
