"""Which samples have which modality: ``/present`` laid over every dataset of a modality.

A row of a sample that lacks the modality is read as zeros, whatever stands there, so nothing that
reads a pool can see it; what zeros are not enough for, it learns from the masks.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mmselect.arrays import Index
from mmselect.errors import DataError, SchemaError, located
from mmselect.pool.schema import modalities_in, modalities_of, names_in, place_of
from mmselect.pool.values import check_values

if TYPE_CHECKING:
    from mmselect.pool.column import Column
    from mmselect.pool.reading import Pool

PRESENT = "/present"

Mask = NDArray[np.bool_]


def lay_masks(pool: Pool) -> None:
    """Read the masks of a pool, check them, and lay them over its columns.

    A modality that no sample has is taken out of the pool, with all its datasets.

    Raises
    ------
    DataError
        If a mask holds other numbers than 0 and 1, or a sample has no modality.
    """
    known = modalities_in(pool.paths)
    masks = {name: _mask(pool.columns[f"{PRESENT}/{name}"], pool.sizes) for name in pool.masked}
    for name in sorted(masks.keys() - known):
        pool.notices.append(f"{PRESENT}/{name}: nothing else is of this modality, so it is ignored")
    if bare := bare_rows(masks, known).tolist():
        raise DataError(NOTHING, dataset=PRESENT, rows=bare)
    nowhere = {name for name, mask in masks.items() if name in known and pool.n and not mask.any()}
    for name in sorted(nowhere):
        pool.notices.append(f"modality {name}: no sample has it, so it is left out")
    for path in [path for path in pool.paths if nowhere & {*modalities_of(path)}]:
        pool.columns.pop(path, None)
        pool.constants.pop(path, None)
    for name in masks.keys() - (set(known) - nowhere):
        del pool.columns[f"{PRESENT}/{name}"]
    pool.present = {n: m for n, m in masks.items() if n not in nowhere and not m.all()}
    for path, column in [*pool.columns.items()]:
        if (there := mask_over(path, pool.present)) is not None:
            pool.columns[path] = replace(column, present=there)


NOTHING = "expected at least one modality of every sample, found none"


def _mask(column: Column, sizes: dict[str, int]) -> Mask:
    block = column[:]
    with located(dataset=column.path):
        check_values(place_of(column.path), block, sizes)
    return block.astype(bool)


def bare_rows(masks: Mapping[str, Mask], modalities: Collection[str]) -> Index:
    """Rows that have none of the modalities; those without a mask are there for all.

    Examples
    --------
    >>> masks = {"a": np.array([True, False]), "b": np.array([False, False])}
    >>> bare_rows(masks, ["a", "b"]), bare_rows(masks, ["a", "b", "c"]).tolist()
    (array([1]), [])
    """
    if not modalities or not masks.keys() >= {*modalities}:
        return np.empty(0, np.intp)
    return np.flatnonzero(~np.logical_or.reduce([masks[name] for name in modalities]))


def mask_over(path: str, present: Mapping[str, Mask]) -> Mask | None:
    """Rows of a dataset that mean something: of a coalition those that have all of it; None: all.

    Examples
    --------
    >>> mask_over("/coalition_logits/a+b", {"a": np.array([True, False])})
    array([ True, False])
    >>> mask_over("/features/b", {"a": np.array([True, False])}) is None
    True
    """
    masks = [present[name] for name in modalities_of(path) if name in present]
    return np.logical_and.reduce(masks) if masks else None


def blank(block: NDArray[Any], present: Mask | None) -> NDArray[Any]:
    """Set rows of a block that mean nothing to zero, in place.

    Examples
    --------
    >>> blank(np.array([[1.0], [np.nan]]), np.array([True, False])).tolist()
    [[1.0], [0.0]]
    """
    if present is not None and not present.all():
        block[~present] = 0
    return block


def check_present(arrays: Mapping[str, NDArray[Any]], others: Collection[str] = ()) -> None:
    """Hold the masks among some arrays by dataset path against the other datasets.

    `others` are datasets of the same pool that are not among the arrays.

    Raises
    ------
    SchemaError
        If a mask is of a modality that no other dataset is of.
    DataError
        If a sample has no modality.
    """
    masks = {name: arrays[f"{PRESENT}/{name}"].astype(bool) for name in names_in(PRESENT, arrays)}
    known = modalities_in([*arrays, *others])
    for problem in presence_problems([*arrays, *others]):
        raise problem
    if bare := bare_rows(masks, known).tolist():
        raise DataError(NOTHING, dataset=PRESENT, rows=bare)


def presence_problems(paths: Collection[str]) -> list[SchemaError]:
    """Find masks of modalities that no other dataset is of.

    Examples
    --------
    >>> [str(problem) for problem in presence_problems(["/features/a", "/present/b"])]
    ['/present/b: expected a modality that another dataset is of (a), found b']
    """
    known = modalities_in(paths)
    expected = f"expected a modality that another dataset is of ({', '.join(known) or 'none is'})"
    return [
        SchemaError(f"{expected}, found {name}", dataset=f"{PRESENT}/{name}")
        for name in names_in(PRESENT, paths)
        if name not in known
    ]
