"""Facility location whose clients count by what the model doubts: cover, from first label to last.

Nemhauser, Wolsey and Fisher, 1978; ``docs/methods.md``.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np

from mmselect.arrays import Floats
from mmselect.core.coverage.facility import facility
from mmselect.core.coverage.sparse import NEIGHBOURS
from mmselect.core.presence import Present
from mmselect.core.scores.confidence import least_confidence
from mmselect.core.scores.doubt import Doubt, doubt_weights, least_confidences
from mmselect.strategies.covering import FEATURES, cover_by, facility_footprint
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
from mmselect.strategies.uncertainty import MULTILABEL, reading

FUSED, HEADS = "/multimodal_logits", "/unimodal_logits"
PREFIX = "doubt."


def pick(batch: Batch, k: int, _rng: np.random.Generator) -> Picks:
    """Cover the unlabeled samples greedily, those in doubt first."""
    given = batch.parameters
    doubt, notes = doubt_of(batch)
    how = {name: given[name] for name in ("center", "form", "neighbours")}
    weighed = partial(facility, weights=doubt.weights if doubt.used else None, **how)
    found = cover_by(weighed, batch, k, unit=True, stream=True)
    details = {**found.details, "doubt": list(doubt.used)}
    return Picks(found.positions, found.scores, notes + found.warnings, details, found.nearest)


def doubt_of(batch: Batch) -> tuple[Doubt, tuple[str, ...]]:
    """Weights of the candidates from the logits that were asked for, and what to say of them."""
    fused, heads = batch.group(FUSED), batch.group(HEADS)
    asked = [*fused, *heads]
    plain = Doubt(np.ones(len(batch.candidates)), ())
    if not asked:
        return plain, ()
    if not len(batch.labeled):
        return plain, ("doubt: none, since nothing is labeled",)
    sources = {path: batch.columns[path] for path in asked}
    present = batch.present(HEADS, batch.candidates)
    how: dict[str, Any] = {"activation": reading(batch.parameters), "engine": batch.engine}
    found = _weights(least_confidences(sources, batch.candidates, **how), batch.parameters, present)
    if not found.used:
        return plain, ("doubt: none, since the heads are sure of every sample",)
    return found, (f"doubt: samples count by how unsure these heads are: {', '.join(found.used)}",)


def doubt(arrays: Arrays, parameters: Parameters) -> Columns:
    """Doubt of each head; the score follows when all samples are known."""
    parts, masks = {}, masks_in(arrays, HEADS)
    for path in [*datasets_of(FUSED, set(arrays)), *datasets_of(HEADS, set(arrays))]:
        u = least_confidence(arrays[path], activation=reading(parameters), name=path)
        parts[f"{PREFIX}{_name(path)}"] = np.where(masks[path], u, np.nan) if path in masks else u
    return {"score": np.zeros(len(next(iter(parts.values())))), **parts}


def complete(columns: Columns, parameters: Parameters) -> Columns:
    """Put the weights, which need the means of all samples, in the column of the score."""
    parts = {n.removeprefix(PREFIX): u for n, u in columns.items() if n.startswith(PREFIX)}
    masks = {name: ~np.isnan(u) for name, u in parts.items() if np.isnan(u).any()}
    return {**columns, "score": _weights(parts, parameters, masks).weights}


def conditions(paths: set[str], _sizes: Mapping[str, int], parameters: Parameters) -> list[str]:
    """Say which logits a pool lacks for the doubt that was asked for."""
    asked = parameters["doubt"].split("+")
    needed = {"fused": FUSED, "heads": HEADS}
    return [path for part, path in needed.items() if part in asked and not datasets_of(path, paths)]


def some_logits(paths: set[str], sizes: Mapping[str, int], parameters: Parameters) -> list[str]:
    """Say what a pool lacks where doubt is all there is to see."""
    there = datasets_of(FUSED, paths) or datasets_of(HEADS, paths)
    return conditions(paths, sizes, parameters) if there else [f"{FUSED} or {HEADS}"]


def _name(path: str) -> str:
    return "fused" if path == FUSED else path.removeprefix(f"{HEADS}/")


def _weights(u: Mapping[str, Floats], parameters: Parameters, present: Present) -> Doubt:
    heads = {_name(path): part for path, part in u.items()}
    masks = {_name(path): mask for path, mask in present.items()}
    fused = {name: heads.pop(name) for name in ("fused",) if name in heads}
    return doubt_weights(fused, heads, present=masks, sharpen=parameters["sharpen"])


_CHOICES = ("auto", "fused", "heads", "fused+heads")
_MEANING = "whose doubt weighs a sample; auto: of all heads that the pool has"
_LOGITS = (
    need(FUSED, unless=("doubt", "none", "heads"), optional=True),
    need(HEADS, unless=("doubt", "none", "fused"), optional=True),
)
SHARPEN = Parameter(
    "sharpen", False, "take its 10 % quantile off each head's doubt, for heads that are never sure"
)

STRATEGIES = (
    Strategy(
        name="facility",
        kind="batch",
        constrained=True,
        dealt=True,
        summary="facility location: picks close to every unlabeled sample, the doubtful ones first",
        function=pick,
        needs=(need(FEATURES), *_LOGITS),
        parameters=(
            Parameter("doubt", "auto", _MEANING, ("none", *_CHOICES)),
            SHARPEN,
            MULTILABEL,
            Parameter("center", True, "remove each modality's mean over the pool first"),
            limited("form", "auto", "exact up to 50,000 rows, sparse above"),
            limited("neighbours", NEIGHBOURS, "candidates known of each sample when sparse"),
        ),
        conditions=conditions,
        reference="Nemhauser, Wolsey and Fisher, Mathematical Programming 1978",
        footprint=facility_footprint,
        distance=True,
    ),
    Strategy(
        name="doubt",
        kind="score",
        summary="what a sample counts in facility: how unsure the heads are, relative to the mean",
        function=doubt,
        needs=_LOGITS,
        parameters=(Parameter("doubt", "auto", _MEANING, _CHOICES), SHARPEN, MULTILABEL),
        conditions=some_logits,
        complete=complete,
        reference="docs/methods.md",
    ),
)
