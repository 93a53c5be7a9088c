"""Look for everything that is wrong with a pool: names, shapes, types, and then every number.

Each dataset is read on its own, in blocks, so that one broken dataset hides nothing in the others.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from math import prod
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from mmselect.arrays import Array, Index
from mmselect.core.scores.coalitions import coalition_name, coalition_names
from mmselect.engine import DEFAULT_MEMORY, Engine, compute_rows, map_rows
from mmselect.errors import DataError, MmselectError, SchemaError, few, printable
from mmselect.pool.ids import Ids, as_stored
from mmselect.pool.layout import Layout, survey
from mmselect.pool.parts import Part
from mmselect.pool.reading import Column, PoolPath
from mmselect.pool.schema import NAME, Place, in_schema_order, names_in, place_of
from mmselect.pool.values import bad_rows


class Findings(NamedTuple):
    """What :func:`check` found: `problems` make the pool unusable in part, `warnings` do not."""

    problems: list[MmselectError]
    warnings: list[str]


def check(paths: Sequence[PoolPath], memory: int = DEFAULT_MEMORY) -> Findings:
    """Read a pool from end to end and list what is wrong.

    Parameters
    ----------
    paths : sequence of paths
        Shards of one pool.
    memory : int
        Bytes to read at a time.

    Returns
    -------
    Findings

    Examples
    --------
    >>> from mmselect.demo import EMOJI
    >>> check([EMOJI]).problems
    []
    """
    layout, engine = survey(Path(path) for path in paths), Engine(memory=memory)
    try:
        problems = [*layout.problems, *_name_problems(layout), *_ids(layout)]
        warnings = list(_lone_heads(layout))
        for shard in layout.shards:
            for path in in_schema_order(shard.parts):
                found = _numbers(shard.parts[path], layout.sizes, engine)
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
    """Find names that do not fit together: modalities, classifier and coalitions.

    Examples
    --------
    >>> [str(problem) for problem in name_problems(["/features/a", "/classifier/weight/b"])]
    ['/classifier/weight: expected modalities of /features (a), found b',
     '/classifier/weight/a: missing, though other modalities have weights']
    """
    paths = list(paths)
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


Seen: TypeAlias = tuple[dict[str, list[int]], int, bool]
"""Bad rows by what is wrong, how many are all zero, and whether they look like probabilities."""


def _seen(place: Place, sizes: dict[str, int], rows: Index, blocks: list[Array]) -> Seen:
    """Look at some rows of a dataset."""
    (block,), dataset = blocks, place.dataset
    bad = {kind: rows[at].tolist() for kind, at in bad_rows(place, block, sizes).items()}
    zero = (block.reshape(len(block), -1) == 0).all(axis=1) if dataset.kind == "float" else ()
    sums_to_one = dataset.is_logits and block.shape[-1] > 1 and like_probabilities(block)
    return bad, int(np.sum(zero)), sums_to_one


def _numbers(part: Part, sizes: dict[str, int], engine: Engine) -> Findings:
    """Look at every number of one dataset in one file."""
    place, found, bad = place_of(part.path), Findings([], []), dict[str, list[int]]()
    column = Column(part.path, (part,), part.shape, part.dtype)
    blocks = map_rows(
        partial(_seen, place, sizes),
        [column],
        np.arange(len(part)),
        step=compute_rows(prod(part.shape[1:])),
        engine=engine,
    )
    zero_rows, sums_to_one = 0, True
    try:
        for wrong, zero, like in blocks:
            for kind, rows in wrong.items():
                bad.setdefault(kind, []).extend(rows)
            zero_rows, sums_to_one = zero_rows + zero, sums_to_one and like
    except MmselectError as error:
        found.problems.append(error)
        return found
    for kind, numbers in bad.items():
        found.problems.append(DataError(kind, file=part.file, dataset=part.path, rows=numbers))
    where = printable(f"{part.file}: {part.path}")
    if sums_to_one and len(part):
        found.warnings.append(f"{where}: every row sums to 1: probabilities, not logits?")
    if zero_rows and place.dataset.group == "/features":
        found.warnings.append(f"{where}: {zero_rows:,} rows are all zero")
    if part.compressed and place.dataset.kind == "float":
        found.warnings.append(f"{where}: compressed; contiguous storage reads some 20 times faster")
    return found


def like_probabilities(block: NDArray[Any]) -> bool:
    """Whether every row of logits lies in [0, 1] and sums to 1, up to float16's rounding."""
    with np.errstate(invalid="ignore"):  # what a damaged file holds may be no number at all
        rows = block.astype(np.float64)
    return bool((rows >= 0).all() and np.allclose(rows.sum(axis=-1), 1, atol=0.02))
