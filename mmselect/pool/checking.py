"""Look for everything that is wrong with a pool: names, shapes, types, and then every number.

Each dataset is read on its own, in blocks, so that one broken dataset hides nothing in the others.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
from numpy.typing import NDArray

from mmselect.core.scores.coalitions import coalition_name, coalition_names
from mmselect.engine import DEFAULT_MEMORY, ranges
from mmselect.errors import DataError, MmselectError, SchemaError, few
from mmselect.pool.ids import Ids, as_stored
from mmselect.pool.layout import Layout, Shard, in_schema_order, survey
from mmselect.pool.reading import Part, PoolPath, filters
from mmselect.pool.schema import NAME, Place, match, names_in


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
    layout = survey(Path(path) for path in paths)
    try:
        problems = [*layout.problems, *name_problems(layout), *_ids(layout)]
        warnings = list(_lone_heads(layout))
        for shard in layout.shards:
            for path, dataset in in_schema_order(shard.datasets):
                found = _numbers(shard, path, dataset, layout, memory)
                problems += found.problems
                warnings += found.warnings
        return Findings(problems, warnings)
    finally:
        layout.close()


def name_problems(layout: Layout) -> Iterator[MmselectError]:
    """Names that the format does not know, and sets of names that do not fit together."""
    rejected = {error.dataset for error in layout.problems}
    for shard in layout.shards:
        for path in shard.unknown:
            message = f"not in the format, so nothing reads it ({_hint(path)})"
            yield SchemaError(message, file=shard.file, dataset=path)
        known = _in_group(shard, "/features")
        if not known or any(path and path.startswith("/features/") for path in rejected):
            continue
        weights, coalitions = (
            _in_group(shard, g) for g in ("/classifier/weight", "/coalition_logits")
        )
        parts = {part for name in coalitions - {"none"} for part in name.split("+")}
        for group, names in (("/classifier/weight", weights), ("/coalition_logits", parts)):
            for name in sorted(names - known):
                expected = f"expected modalities of /features ({few(sorted(known))})"
                yield SchemaError(f"{expected}, found {name}", file=shard.file, dataset=group)
        for name in sorted(known - weights) if weights else ():
            message = "missing, though other modalities have weights"
            yield SchemaError(message, file=shard.file, dataset=f"/classifier/weight/{name}")
        if coalitions and not parts - known:
            yield from _missing_coalitions(shard, sorted(known), coalitions)


def _in_group(shard: Shard, group: str) -> set[str]:
    return set(names_in(group, shard.datasets))


def _hint(path: str) -> str:
    group, _, name = path.rpartition("/")
    if group == "/coalition_logits" and "+" in name:
        return f"names are sorted and joined by +: {'+'.join(sorted(set(name.split('+'))))}"
    return f"names match {NAME}" if group else "misspelled?"


def _missing_coalitions(
    shard: Shard, known: list[str], coalitions: set[str]
) -> Iterator[MmselectError]:
    """Name the coalitions that are not there; the fused logits stand for that of all."""
    fused = {coalition_name(known)} if "/multimodal_logits" in shard.datasets else set()
    if missing := [name for name in coalition_names(known) if name not in coalitions | fused]:
        message = f"expected every coalition, found none for {few(missing)}"
        yield SchemaError(message, file=shard.file, dataset="/coalition_logits")


def _lone_heads(layout: Layout) -> Iterator[str]:
    """Heads of modalities that have no features: legal, but often misspelled."""
    for shard in layout.shards:
        known = _in_group(shard, "/features")
        for name in sorted(_in_group(shard, "/unimodal_logits") - known) if known else ():
            yield f"{shard.file}: /unimodal_logits/{name}: there is no /features/{name}"


def _ids(layout: Layout) -> Iterator[MmselectError]:
    """Ids that repeat, within a shard or between shards, or that cannot be printed on a line."""
    stored = [(s, as_stored(s.datasets["/id"][:])) for s in layout.shards if "/id" in s.datasets]
    if not stored or len({values.dtype.kind for _, values in stored}) > 1:
        return
    ids = Ids(np.concatenate([values for _, values in stored]))
    first = 0
    repeated, unprintable = ids.duplicates(), ids.unprintable()
    for shard, values in stored:
        here = range(first, first + len(values))
        for rows, what in (
            (repeated, "expected unique ids, found {!r} again"),
            (unprintable, "expected UTF-8 text without line breaks, not empty, found {!r}"),
        ):
            if own := [row for row in rows if row in here]:
                value = ids.values[own[0]]
                shown = value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
                local = [row - first for row in own]
                yield DataError(what.format(shown), file=shard.file, dataset="/id", rows=local)
        first += len(values)


def _numbers(
    shard: Shard, path: str, dataset: h5py.Dataset, layout: Layout, memory: int
) -> Findings:
    """Look at every number of one dataset in one file."""
    place = match(path)
    assert place is not None  # only matched datasets are kept
    found = Findings([], [])
    bad: dict[str, list[int]] = {}
    sums_to_one, zero_rows = place.dataset.is_logits and dataset.shape[-1] > 1, 0
    row = Part(dataset).row_bytes
    for start, stop in ranges(0, len(dataset), max(memory // max(4 * row, 1), 1)):
        block = dataset[start:stop]
        for kind, rows in bad_rows(place, block, layout.sizes).items():
            bad.setdefault(kind, []).extend((rows + start).tolist())
        if place.dataset.kind == "float":
            flat = block.reshape(len(block), -1)
            zero_rows += int((~flat.any(axis=1)).sum())
        sums_to_one = sums_to_one and like_probabilities(block)
    for kind, numbers in bad.items():
        found.problems.append(DataError(kind, file=shard.file, dataset=path, rows=numbers))
    where = f"{shard.file}: {path}"
    if sums_to_one and len(dataset):
        found.warnings.append(f"{where}: every row sums to 1: probabilities, not logits?")
    if zero_rows and place.dataset.group == "/features":
        found.warnings.append(f"{where}: {zero_rows:,} rows are all zero")
    if filters(dataset) and place.dataset.kind == "float":
        found.warnings.append(f"{where}: compressed; contiguous storage reads some 20 times faster")
    return found


def bad_rows(
    place: Place, block: NDArray[Any], sizes: dict[str, int]
) -> dict[str, NDArray[np.intp]]:
    """Rows of a block that no strategy can use, by what is wrong with them."""
    wrong: dict[str, NDArray[np.bool_]] = {}
    if place.dataset.kind == "float":
        flat = block.reshape(len(block), -1)
        wrong["expected finite numbers, found nan"] = np.isnan(flat).any(axis=1)
        if place.dataset.is_logits:
            wrong["expected finite logits, found +inf"] = (flat == np.inf).any(axis=1)
            masked = (block == -np.inf).all(axis=-1).reshape(len(block), -1).any(axis=1)
            wrong["expected a finite logit, found -inf in every class"] = masked
        else:
            wrong["expected finite numbers, found inf"] = np.isinf(flat).any(axis=1)
    elif place.dataset.path == "/label":
        c = sizes.get("c", np.iinfo(np.int64).max)
        classes = f"a class from 0 to {c - 1}" if "c" in sizes else "a class"
        expected = f"expected -1 (unknown) or {classes}"
        wrong[f"{expected}, found another number"] = (block < -1) | (block >= c)
    elif place.dataset.kind == "boolean" and block.dtype.kind in "iu":
        wrong["expected 0 or 1, found another number"] = (block < 0) | (block > 1)
    return {kind: np.flatnonzero(mask) for kind, mask in wrong.items() if mask.any()}


def like_probabilities(block: NDArray[Any]) -> bool:
    """Whether every row of logits lies in [0, 1] and sums to 1, up to float16's rounding."""
    rows = block.astype(np.float64)
    return bool((rows >= 0).all() and np.allclose(rows.sum(axis=-1), 1, atol=0.02))
