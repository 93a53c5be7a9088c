"""What a command that trains wrote: a pool file, joined by id and checked, as arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmselect.core.scores.coalitions import coalition_name, coalition_names
from mmselect.core.scores.shapley import MOST_MODALITIES
from mmselect.core.scores.softmax import probability
from mmselect.errors import DataError, NeedsError, SchemaError, few, located
from mmselect.pool.presence import PRESENT, Mask, blank, mask_over
from mmselect.pool.reading import Pool, open_pool
from mmselect.pool.schema import names_in, per_sample, place_of
from mmselect.pool.values import check_values
from mmselect.replay.linear import coalition_values
from mmselect.replay.trainer import Index, Outputs, Values

FUSED, ALONE, COALITION = "/multimodal_logits", "/unimodal_logits", "/coalition_logits"
FEATURES, WEIGHT, BIAS = "/features", "/classifier/weight", "/classifier/bias"
OURS = ("/id", "/label", "/label_share", "/labeled", "/class_names")
"""Datasets that a replay knows better: what they hold there does not count."""

Arrays = dict[str, NDArray[Any]]


def read_exported(
    path: Path, ids: Sequence[str], classes: int, present: Mapping[str, Mask]
) -> Arrays:
    """Read the pool file that a command wrote.

    Parameters
    ----------
    path : path
    ids : sequence of str
        Samples, in the order in which they are wanted; others in the file do not count.
    classes : int
    present : mapping of modality to (n,) boolean array
        Which of those samples have it: rows of others hold zeros, whatever was written.

    Returns
    -------
    dict of dataset path to array
        Numbers of those samples, and the classifier; no labels.

    Raises
    ------
    MmselectError
        If it is no pool, lacks ids or the fused head's logits, has another number of classes, or
        holds numbers that cannot be used.
    """
    with open_pool(path) as pool, located(file=str(path)):
        if "/id" not in pool.columns:
            raise NeedsError("expected an id of every sample, by which rows are joined, found none")
        if FUSED not in pool.columns:
            raise NeedsError("expected the logits of the fused head, found none", dataset=FUSED)
        if (c := pool.sizes["c"]) != classes:
            message = f"expected {classes} classes, as the labels of the replay have, found {c}"
            raise SchemaError(message, dataset=FUSED)
        rows, missing = pool.ids.find(ids)
        if missing:
            lacking = f"{len(missing):,} of {len(ids):,} are missing: {few(missing)}"
            raise DataError(f"expected every id of {{pool}}, {lacking}", dataset="/id")
        wanted = [p for p in sorted(pool.paths) if p not in OURS and not _is_text(pool, p)]
        found = {
            p: _numbers(pool, p, rows, mask_over(p, present))
            if per_sample(p)
            else _constant(pool, p)
            for p in wanted
        }
    return found | {f"{PRESENT}/{m}": mask for m, mask in present.items()}


def _is_text(pool: Pool, path: str) -> bool:
    column = pool.columns.get(path)
    return column is not None and column.dtype.kind not in "iufb"


def _numbers(pool: Pool, path: str, rows: Index, present: Mask | None) -> NDArray[Any]:
    """Read rows of a dataset; what no strategy could use is refused."""
    block = blank(np.asarray(pool.columns[path][:])[rows], present)
    with pool.located(rows), located(dataset=path):
        check_values(place_of(path), block, pool.sizes)
    return block


def _constant(pool: Pool, path: str) -> NDArray[Any]:
    values = pool.constants[path]
    if not np.isfinite(values).all():
        raise DataError("expected finite numbers, found others", dataset=path)
    return values


def outputs_of(arrays: Mapping[str, NDArray[Any]], rows: Index, seen: NDArray[np.bool_]) -> Outputs:
    """Say what an export says about some samples.

    Contributions are those of a linear fused head, where classifier and features are there, or
    follow from the logits of all coalitions.

    Parameters
    ----------
    arrays : mapping of dataset path to array
    rows : (r,) integer array
    seen : (c,) boolean array
        Classes that have a labeled sample.
    """
    alone = {m: as_logits(arrays[f"{ALONE}/{m}"], rows) for m in names_in(ALONE, arrays)}
    names, values = _values(arrays, rows)
    return Outputs(as_logits(arrays[FUSED], rows), alone, names, values, seen)


def as_logits(values: NDArray[Any], rows: Index) -> NDArray[np.float32]:
    """Take rows of logits, in single precision."""
    return values[rows].astype(np.float32)


def _values(
    arrays: Mapping[str, NDArray[Any]], rows: Index
) -> tuple[tuple[str, ...], Values | None]:
    """Modalities, and what gives the values of their coalitions; none where too little is known."""
    heads, features = names_in(WEIGHT, arrays), names_in(FEATURES, arrays)
    if heads and heads == features:
        bias = arrays.get(BIAS, np.zeros(len(arrays[f"{WEIGHT}/{heads[0]}"])))

        def linear(some: Index, labels: NDArray[np.int64]) -> NDArray[np.float64]:
            each = ((arrays[f"{FEATURES}/{m}"], arrays[f"{WEIGHT}/{m}"]) for m in heads)
            partial = [z[rows[some]].astype(np.float64) @ w.T for z, w in each]
            return coalition_values(partial, bias, labels)

        return tuple(heads), linear
    coalitions = {m: arrays[f"{COALITION}/{m}"] for m in names_in(COALITION, arrays)}
    names = sorted({m for name in coalitions if name != "none" for m in name.split("+")})
    if not 1 <= len(names) <= MOST_MODALITIES:
        return (), None
    coalitions.setdefault(coalition_name(names), arrays[FUSED])
    order = coalition_names(names)
    if not coalitions.keys() >= {*order}:
        return (), None

    def exported(some: Index, labels: NDArray[np.int64]) -> NDArray[np.float64]:
        each = [probability(as_logits(coalitions[name], rows[some]), labels) for name in order]
        # of a coalition counts what the sample has of it
        held = np.zeros((len(some), 1), np.int64)
        for i, mask in enumerate(arrays.get(f"{PRESENT}/{m}") for m in names):
            held |= 1 << i if mask is None else mask[rows[some], None].astype(np.int64) << i
        return np.take_along_axis(np.stack(each, axis=1), np.arange(len(order)) & held, axis=1)

    return tuple(names), exported
