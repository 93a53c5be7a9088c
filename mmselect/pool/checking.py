"""Look for everything that is wrong with a pool: names, shapes, types, and then every number.

Each dataset is read on its own, in blocks, so that one broken dataset hides nothing in the others.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from math import prod
from pathlib import Path
from typing import NamedTuple, TypeAlias

import numpy as np

from mmselect.arrays import Array, Index
from mmselect.core.scores.coalitions import coalition_name, coalition_names
from mmselect.engine import Engine, compute_rows, map_rows
from mmselect.errors import DataError, MmselectError, SchemaError, few, printable
from mmselect.pool.column import Column, Origin, origin_of
from mmselect.pool.ids import Ids, as_stored
from mmselect.pool.layout import Layout, Shard, survey
from mmselect.pool.parts import Part
from mmselect.pool.presence import (
    NOTHING,
    PRESENT,
    Mask,
    bare_rows,
    mask_over,
    presence_problems,
)
from mmselect.pool.reading import PoolPath
from mmselect.pool.schema import (
    NAME,
    Place,
    in_schema_order,
    modalities_in,
    names_in,
    per_sample,
    place_of,
)
from mmselect.pool.values import (
    NEVER_WRITTEN,
    PROBABLE,
    bad_rows,
    empty_notice,
    empty_rows,
    probability_rows,
)


class Findings(NamedTuple):
    """What :func:`check` found: `problems` make the pool unusable in part, `warnings` do not."""

    problems: list[MmselectError]
    warnings: list[str]


def check(paths: Sequence[PoolPath], engine: Engine | None = None) -> Findings:
    """Read a pool from end to end and list what is wrong.

    Parameters
    ----------
    paths : sequence of paths
        Shards of one pool.
    engine : Engine, optional
        Who does the work; default: all threads. No finding depends on it.

    Returns
    -------
    Findings

    Examples
    --------
    >>> from mmselect.demo import EMOJI
    >>> check([EMOJI]).problems
    []
    """
    layout, engine = survey(Path(path) for path in paths), engine or Engine()
    try:
        problems = [*layout.problems, *_name_problems(layout), *_ids(layout)]
        warnings = list(_lone_heads(layout))
        for shard in layout.shards:
            masks, origin = _masks(shard), origin_of([shard.file])
            if bare := bare_rows(masks, modalities_in(shard.parts)).tolist():
                problems.append(DataError(NOTHING, file=shard.file, dataset=PRESENT, rows=bare))
            for path in in_schema_order(shard.parts):
                part, there = shard.parts[path], mask_over(path, masks)
                there = there if len(part) == shard.rows and per_sample(path) else None
                found = _numbers(part, layout.sizes, engine, there, origin)
                problems += found.problems
                warnings += found.warnings
        return Findings(problems, warnings)
    finally:
        layout.close()


def _name_problems(layout: Layout) -> Iterator[MmselectError]:
    """Names that the format does not know, and sets of names that do not fit together."""
    rejected = {error.dataset or "" for error in layout.problems}
    for shard in layout.shards:
        for path in shard.unknown:
            message = f"not in the format, so nothing reads it ({_hint(path)})"
            yield SchemaError(message, file=shard.file, dataset=path)
        if not any(path.startswith("/features/") for path in rejected):
            for problem in name_problems(shard.parts):
                problem.file = shard.file
                yield problem


def name_problems(paths: Iterable[str]) -> Iterator[SchemaError]:
    """Find names that do not fit together: modalities, classifier, coalitions and masks.

    Examples
    --------
    >>> [str(problem) for problem in name_problems(["/features/a", "/classifier/weight/b"])]
    ['/classifier/weight: expected modalities of /features (a), found b',
     '/classifier/weight/a: missing, though other modalities have weights']
    """
    paths = list(paths)
    yield from presence_problems(paths)
    groups = ("/features", "/classifier/weight", "/coalition_logits")
    known, weights, coalitions = ({*names_in(group, paths)} for group in groups)
    if not known:
        return
    parts = {part for name in coalitions - {"none"} for part in name.split("+")}
    for group, names in (("/classifier/weight", weights), ("/coalition_logits", parts)):
        for name in sorted(names - known):
            expected = f"expected modalities of /features ({few(sorted(known))})"
            yield SchemaError(f"{expected}, found {name}", dataset=group)
    for name in sorted(known - weights) if weights else ():
        message = "missing, though other modalities have weights"
        yield SchemaError(message, dataset=f"/classifier/weight/{name}")
    if coalitions and not parts - known:
        # the fused logits stand for the coalition of all
        there = coalitions | ({coalition_name(known)} if "/multimodal_logits" in paths else set())
        if missing := [name for name in coalition_names(sorted(known)) if name not in there]:
            message = f"expected every coalition, found none for {few(missing)}"
            yield SchemaError(message, dataset="/coalition_logits")


def _hint(path: str) -> str:
    group, _, name = path.rpartition("/")
    if group == "/coalition_logits" and "+" in name:
        return f"names are sorted and joined by +: {'+'.join(sorted(set(name.split('+'))))}"
    return f"names match {NAME}" if group else "misspelled?"


def _lone_heads(layout: Layout) -> Iterator[str]:
    """Heads of modalities that have no features: legal, but often misspelled."""
    for shard in layout.shards:
        known, heads = (names_in(g, shard.parts) for g in ("/features", "/unimodal_logits"))
        for name in sorted({*heads} - {*known}) if known else ():
            yield f"{shard.file}: /unimodal_logits/{name}: there is no /features/{name}"


def _ids(layout: Layout) -> Iterator[MmselectError]:
    """Ids that repeat, within a shard or between shards, or that cannot be printed on a line."""
    shards = [shard for shard in layout.shards if "/id" in shard.parts]
    parts = [shard.parts["/id"] for shard in shards]
    if len({part.dtype.kind in "iu" for part in parts}) != 1:
        return
    try:
        stored = [as_stored(part.read(0, len(part)), "/id") for part in parts]
    except MmselectError as error:
        yield error
        return
    ids, first = Ids(np.concatenate(stored)), 0
    faults = ids.faults()
    for shard, values in zip(shards, stored, strict=True):
        for what, rows in faults.items():
            if own := [row for row in rows if first <= row < first + len(values)]:
                local = [row - first for row in own]
                message = what.format(ids.shown(own[0]))
                yield DataError(message, file=shard.file, dataset="/id", rows=local)
        first += len(values)


Seen: TypeAlias = tuple[dict[str, list[int]], int, int]
"""Bad rows by what is wrong, how many are empty, and how many look like probabilities."""


def _masks(shard: Shard) -> dict[str, Mask]:
    """Which samples have which modality; a mask that cannot be read is told as such elsewhere."""
    masks = {}
    for name in names_in(PRESENT, shard.parts):
        part = shard.parts[f"{PRESENT}/{name}"]
        with contextlib.suppress(MmselectError):
            masks[name] = part.read(0, len(part)) != 0
    return {name: mask for name, mask in masks.items() if len(mask) == shard.rows}


def _seen(
    place: Place,
    sizes: dict[str, int],
    there: Mask | None,
    rows: Index,
    blocks: list[Array],
) -> Seen:
    """Look at some rows of a dataset, those of `there` if it is given."""
    (block,), dataset = blocks, place.dataset
    if there is not None:
        block, rows = block[there[rows]], rows[there[rows]]
    if not len(rows):
        return {}, 0, 0
    bad = {kind: rows[at].tolist() for kind, at in bad_rows(place, block, sizes).items()}
    counts = dataset.kind == "float" and dataset.per_sample
    empty = int(empty_rows(place, block).sum()) if counts else 0
    return bad, empty, probability_rows(block) if dataset.is_logits else 0


def _numbers(
    part: Part, sizes: dict[str, int], engine: Engine, there: Mask | None, origin: Origin
) -> Findings:
    """Look at every number of one dataset in one file, but those of an absent modality."""
    place, found, bad = place_of(part.path), Findings([], []), dict[str, list[int]]()
    column = Column(part.path, (part,), part.shape, part.dtype, origin=origin)
    blocks = map_rows(
        partial(_seen, place, sizes, there),
        [column],
        np.arange(len(part)),
        step=compute_rows(prod(part.shape[1:])),
        engine=engine,
    )
    empty, ones, n = 0, 0, len(part) if there is None else int(there.sum())
    try:
        for wrong, nothing, like in blocks:
            for kind, rows in wrong.items():
                bad.setdefault(kind, []).extend(rows)
            empty, ones = empty + nothing, ones + like
    except MmselectError as error:
        found.problems.append(error)
        return found
    for kind, numbers in bad.items():
        found.problems.append(DataError(kind, file=part.file, dataset=part.path, rows=numbers))
    where = printable(f"{part.file}: {part.path}")
    if n and place.dataset.is_logits and ones >= PROBABLE * n:
        every = "every row sums" if ones == n else f"{ones:,} of {n:,} rows sum"
        found.warnings.append(f"{where}: {every} to 1: probabilities, not logits?")
    if said := empty_notice(place, prod(part.shape[1:]), empty, n):
        found.warnings.append(f"{where}: {said}")
    missing = part.unwritten()
    if (missing := missing if there is None else missing[there[missing]]).size:
        named = f"rows {few(missing.tolist())}"
        found.warnings.append(f"{where}: {named}: {NEVER_WRITTEN.format(len(missing))}")
    if part.compressed and place.dataset.kind == "float":
        found.warnings.append(f"{where}: compressed; contiguous storage reads some 20 times faster")
    return found
