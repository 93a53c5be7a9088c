"""Strategies for the first batch, when nothing is labeled: they need features, nothing else.

ActiveFT: Xie et al., CVPR 2023. MMCSAL: Shen et al., ACM MM Asia 2024. Core-set: Sener and
Savarese, ICLR 2018. Facility location: Nemhauser, Wolsey and Fisher, 1978; lazily, Minoux, 1978.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmselect.core.coverage.facility import facility
from mmselect.core.coverage.kcenter import kcenter
from mmselect.core.coverage.kmeans import kmeans
from mmselect.core.coverage.matching import Coverage
from mmselect.core.parametric.parametric import STEPS, parametric
from mmselect.core.sampling.d2 import nearest_picks
from mmselect.core.sampling.points import feature_points
from mmselect.core.scores.alignment import matched_cosine
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
    need,
)

FEATURES = "/features"


def _known(batch: Batch) -> tuple[dict[str, NDArray[Any]], NDArray[np.intp], NDArray[np.intp]]:
    """Features of candidates and labeled rows in pool order; the row numbers; the labeled ones."""
    rows = np.union1d(batch.candidates, batch.labeled)
    features = {path: batch.columns[path][rows] for path in batch.group(FEATURES)}
    return features, rows, np.searchsorted(rows, batch.labeled)


def _covered(batch: Batch, found: Coverage, rows: NDArray[np.intp], unit: bool) -> Picks:
    positions = np.searchsorted(batch.candidates, rows[found.picks])
    form = {} if found.form == "exact" else {"form": found.form}
    warnings = _zero_rows(found.zero_rows)
    if form:
        warnings += (f"computed in the form {found.form!r}, not exactly",)
    return Picks(positions, found.gains, warnings, form, _nearest(batch, positions, unit))


def _nearest(batch: Batch, positions: NDArray[np.intp], unit: bool) -> Callable[[], Nearest]:
    """Make what finds each candidate's nearest pick: Euclidean on the concatenated features."""

    def nearest() -> Nearest:
        features = {path: batch.rows(path) for path in batch.group(FEATURES)}
        if unit:
            features = {path: _unit(z) for path, z in features.items()}
        points = feature_points(features)
        found = nearest_picks(points, positions, engine=batch.engine, progress=batch.progress)
        return Nearest(*found)

    return nearest


def _unit(z: NDArray[Any]) -> NDArray[np.float32]:
    wide = z.astype(np.float64)
    norms = np.linalg.norm(wide, axis=1, keepdims=True)
    unit: NDArray[np.float64] = np.divide(wide, norms, out=np.zeros_like(wide), where=norms > 0)
    return unit.astype(np.float32)


def _zero_rows(zero_rows: Mapping[str, int]) -> tuple[str, ...]:
    return tuple(
        f"{path}: {count:,} rows are all zero, so they are similar to nothing"
        for path, count in zero_rows.items()
        if count
    )


def coreset(batch: Batch, k: int, _rng: np.random.Generator) -> Picks:
    """Traverse farthest-first from what is labeled."""
    features, rows, labeled = _known(batch)
    unit = batch.parameters["unit"]
    with located(rows=rows):
        found = kcenter(
            features,
            k,
            labeled=labeled,
            unit=unit,
            threads=batch.engine.threads,
            progress=batch.progress,
        )
    return _covered(batch, found, rows, unit=unit)


def cover(batch: Batch, k: int, _rng: np.random.Generator) -> Picks:
    """Cover the unlabeled samples, greedily."""
    features, rows, labeled = _known(batch)
    with located(rows=rows):
        found = facility(
            features,
            k,
            labeled=labeled,
            center=batch.parameters["center"],
            form=batch.parameters["form"],
            neighbours=batch.parameters["neighbours"],
            threads=batch.engine.threads,
            progress=batch.progress,
        )
    return _covered(batch, found, rows, unit=True)


def cluster(batch: Batch, k: int, rng: np.random.Generator) -> Picks:
    """Take the sample nearest to each of k centres."""
    features = {path: batch.rows(path) for path in batch.group(FEATURES)}
    unit, iterations = batch.parameters["unit"], batch.parameters["iterations"]
    with located(rows=batch.candidates):
        threads = batch.engine.threads
        found = kmeans(features, k, rng, unit=unit, iterations=iterations, threads=threads)
    return _covered(batch, found, batch.candidates, unit=unit)


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
                threads=batch.engine.threads,
                progress=batch.progress,
            )
        details = {
            "picks_not_initial": found.changed,
            "parameters_without_samples": found.ownerless,
            "loss": [asdict(terms) for terms in found.history],
        }
        warnings = (*found.warnings, *_zero_rows(found.zero_rows))
        positions = np.asarray(found.picks, np.intp)
        nearest = _nearest(batch, positions, unit=True)
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
    Parameter("tau", 0.07, "temperature", minimum=1e-6),
    Parameter("diversity", 1.0, "weight of the diversity term (lambda_div)", minimum=0),
    Parameter(
        "loss", "paper", "as the paper of ActiveFT writes it, or its code", ("paper", "code")
    ),
    Parameter(
        "solver", "adam", "Adam as published, or L-BFGS: the same loss, sooner", tuple(STEPS)
    ),
    Parameter("steps", 0, "steps; 0: 300 for adam, up to 40 for lbfgs", minimum=0),
    Parameter("rate", 0.01, "Adam's first learning rate", minimum=1e-12),
    Parameter("init", "uniform", "how the initial samples are drawn", ("uniform", "kmeans++")),
)
ALIGN = (
    Parameter("alignment", 1.0, "weight of the alignment term (lambda_align)", minimum=0),
    Parameter("align_over_tau", True, "divide the alignment term by tau, like the others"),
)


def footprint(request: Any, k: int) -> int:
    """Estimate what these methods keep: features in float32, and blocks of k² numbers."""
    columns = request.pool.columns
    width = sum(c.shape[1] for p, c in columns.items() if p in request.reads)
    return int(6 * len(request.candidates) * width + 8 * k * width + 300_000_000)


STRATEGIES = (
    Strategy(
        name="facility",
        kind="batch",
        summary="facility location: picks that every unlabeled sample is close to",
        function=cover,
        needs=(need(FEATURES),),
        parameters=(
            Parameter("center", True, "remove each modality's mean over the pool first"),
            Parameter(
                "form", "auto", "exact up to 50,000 rows, sparse above", ("auto", "exact", "sparse")
            ),
            Parameter("neighbours", 64, "candidates known of each sample when sparse", minimum=1),
        ),
        reference="Nemhauser, Wolsey and Fisher, Mathematical Programming 1978",
        footprint=footprint,
        distance=True,
    ),
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
        distance=True,
    ),
    Strategy(
        name="kmeans",
        kind="batch",
        summary="the sample nearest to each of k cluster centres",
        function=cluster,
        needs=(need(FEATURES),),
        parameters=(UNIT, Parameter("iterations", 20, "Lloyd iterations", minimum=1)),
        reference="Lloyd 1982, with faiss",
        footprint=footprint,
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
        footprint=footprint,
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
