"""Strategies for the first batch, when nothing is labeled: they need features, nothing else.

ActiveFT: Xie et al., CVPR 2023. MMCSAL: Shen et al., ACM MM Asia 2024. Core-set: Sener and
Savarese, ICLR 2018. Facility location has its own file.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from functools import partial

import numpy as np

from mmselect.core.coverage.kcenter import kcenter
from mmselect.core.coverage.kmeans import kmeans
from mmselect.core.parametric.parametric import parametric
from mmselect.core.scores.alignment import matched_cosine
from mmselect.errors import located
from mmselect.pool.schema import names_in
from mmselect.strategies.covering import (
    FEATURES,
    centres_footprint,
    cover_by,
    covered,
    features_of,
    nearest_in_features,
    traversal_footprint,
)
from mmselect.strategies.record import (
    Arrays,
    Batch,
    Columns,
    Parameter,
    Parameters,
    Picks,
    Strategy,
    datasets_of,
    limited,
    masks_in,
    need,
)


def coreset(batch: Batch, k: int, _rng: np.random.Generator) -> Picks:
    """Traverse farthest-first from what is labeled."""
    unit = batch.parameters["unit"]
    return cover_by(partial(kcenter, unit=unit), batch, k, unit=unit)


def cluster(batch: Batch, k: int, rng: np.random.Generator) -> Picks:
    """Take the sample nearest to each of k centres."""
    with located(rows=batch.candidates):
        how = {**batch.parameters, "allowed": batch.allowed, "engine": batch.engine}
        features, how["present"] = features_of(batch)
        found = kmeans(features, k, rng, **how)
    return covered(batch, found, batch.candidates, unit=batch.parameters["unit"])


def optimise(batch: Batch, k: int, rng: np.random.Generator) -> Picks:
    """Take the samples nearest to optimised parameters; ActiveFT has no alignment term."""
    how = {"alignment": 0.0, **batch.parameters, "allowed": batch.allowed}
    how |= {"steps": how["steps"] or None, "engine": batch.engine, "progress": batch.progress}
    with located(rows=batch.candidates):
        features, how["present"] = features_of(batch)
        found = parametric(features, k, rng, **how)
    details = {
        "picks_not_initial": found.changed,
        "parameters_without_samples": found.ownerless,
        "loss": [asdict(terms) for terms in found.history],
    }
    nearest = nearest_in_features(batch, found.picks, unit=True)
    return Picks(found.picks, found.similarity, found.warnings, details, nearest)


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
    features = {path: arrays[path] for path in datasets_of(FEATURES, set(arrays))}
    return {"score": matched_cosine(features, present=masks_in(arrays, FEATURES))}


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
over_features = partial(
    Strategy,
    kind="batch",
    needs=(need(FEATURES),),
    footprint=centres_footprint,
    distance=True,
    constrained=True,
    dealt=True,
)

STRATEGIES = (
    over_features(
        name="mmcsal",
        summary="parametric selection with diversity and cross-modal alignment",
        function=optimise,
        parameters=(*ALIGN, *OPTIMISE),
        conditions=one_space,
        reference="Shen et al., Enhancing Modality Representation and Alignment for Multimodal "
        "Cold-start Active Learning, ACM MM Asia 2024",
    ),
    over_features(
        name="activeft",
        summary="parametric selection: close to the pool's distribution, and diverse",
        function=optimise,
        parameters=OPTIMISE,
        reference="Xie et al., Active Finetuning, CVPR 2023",
    ),
    over_features(
        name="kmeans",
        summary="the sample nearest to each of k cluster centres",
        function=cluster,
        parameters=(
            UNIT,
            limited("init", "kmeans++", "how the first centres are drawn"),
            limited("iterations", 20, "Lloyd iterations"),
        ),
        reference="Lloyd 1982",
    ),
    over_features(
        name="coreset",
        summary="k-center greedy: farthest first from what is labeled or picked",
        function=coreset,
        parameters=(UNIT,),
        reference="Sener and Savarese, Active Learning for Convolutional Neural Networks: A "
        "Core-Set Approach, ICLR 2018",
        footprint=traversal_footprint,
    ),
    Strategy(
        name="alignment",
        kind="score",
        needs=(need(FEATURES),),
        summary="mean cosine of a sample's own modalities",
        function=alignment,
        conditions=one_space,
        reference="Shen et al., ACM MM Asia 2024",
    ),
)
