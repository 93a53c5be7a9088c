"""What was said, as sources by dataset: labels become classes, lists of ids become masks."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np

from mmselect.arrays import Array
from mmselect.errors import SchemaError, SelectionError, UsageError, few, located
from mmselect.lists import read_list, unknown
from mmselect.option import refuse
from mmselect.packing.asking import Packing
from mmselect.packing.fitting import classes
from mmselect.packing.joining import Names, ids_in, ids_of_pool, names_in, rows_of
from mmselect.packing.kinds import keys_of, open_source, split
from mmselect.packing.source import Files, Source, in_memory
from mmselect.pool.conversion import as_array
from mmselect.pool.ids import Ids, as_stored
from mmselect.pool.parts import ArrayPart
from mmselect.pool.reading import Pool
from mmselect.pool.schema import NAME, SCHEMA, match, per_sample

LISTS = (".txt", ".csv", ".tsv", ".json", ".jsonl", ".ndjson")
"""Extensions of files that may be a list of ids."""

WEIGHT = "/classifier/weight"


@dataclass
class Gathered:
    """Sources by dataset.

    Attributes
    ----------
    table : Path, optional
        A file whose columns may be named alone.
    base : Pool, optional
        What gives all else.
    """

    files: Files
    table: Path | None = None
    base: Pool | None = None
    sources: dict[str, Source] = field(default_factory=dict)
    notices: list[str] = field(default_factory=list)

    def open(self, path: str, said: Any) -> Source:
        """Open a source, be it text or an array."""
        if isinstance(said, str | os.PathLike):
            return open_source(said, self.files, self.table)
        values = as_array(path, said)
        return in_memory(path, as_stored(values, path) if values.dtype.kind in "OSU" else values)

    def size(self, axis: str) -> int | None:
        """Find the size of an axis among what is known."""
        for path, source in self.sources.items():
            place = match(path)
            shape = source.column.shape
            if place is not None and axis in place.axes and len(shape) == len(place.axes):
                return shape[place.axes.index(axis)]
        return None if self.base is None else self.base.sizes.get(axis)


def gather(ask: Packing, table: Path | None, base: Pool | None, files: Files) -> Gathered:
    """Open everything that was said.

    Raises
    ------
    MmselectError
        Of the kind that fits, for what cannot be read or is no dataset.
    """
    found = Gathered(files, table, base)
    for dataset in SCHEMA:
        said = getattr(ask, dataset.argument)
        if said is None or dataset.argument in SPECIAL:
            continue
        for name, each in said.items() if dataset.named else [(None, said)]:
            path = dataset.group if name is None else f"{dataset.group}/{name}"
            if match(path) is None and dataset.group != WEIGHT:
                raise refuse(dataset.argument, f"names of {NAME}", name)
            found.sources[path] = found.open(path, each)
    for name, take in SPECIAL.items():
        if (said := getattr(ask, name)) is not None:
            take(found, said)
    _split_weights(found)
    return found


def _labels(found: Gathered, said: Any) -> None:
    """Turn labels into class indices, and names into ``/class_names``."""
    source = found.open("/label", said)
    names = found.sources.get("/class_names")
    known = _texts(names.column[:]) if names else []
    if found.base is not None and not known and "/class_names" in found.base.constants:
        known = _texts(found.base.constants["/class_names"])
    where = located(place=source.place, file=str(source.path), dataset=source.key or "/label")
    with where:
        codes, classed = classes(source.column, known)
        if source.column.dtype.kind in "OSU" and not known:
            _check_classes(found, classed)
            names_of = np.array(classed, object)
            found.sources["/class_names"] = in_memory("/class_names", names_of, "the labels")
    found.sources["/label"] = _with_values(source, codes)


def _check_classes(found: Gathered, names: list[str]) -> None:
    c = found.size("c")
    if c is not None and c != len(names):
        message = (
            f"expected {c:,} class names, one per logit, found {len(names):,} ({few(names)}); "
            "give all of them, in the order of the logits, with --class-names"
        )
        raise SchemaError(message)
    order = "; logits must be in this order, or give --class-names" if c else ""
    found.notices.append(f"labels: {len(names):,} classes, sorted: {few(names)}{order}")


def _texts(values: Array) -> list[str]:
    return [name.decode("utf-8", "replace") for name in as_stored(values).tolist()]


def _with_values(source: Source, values: Array) -> Source:
    """Put other values in the place of a source's own."""
    part = ArrayPart(str(source.path), source.key, values.shape, values.dtype, values)
    return replace(source, parts=(part,), in_order=False, pieces=(), stored=None, absent=None)


def _labeled(found: Gathered, said: Any) -> None:
    """Take a mask, or a list of ids."""
    if isinstance(said, str | os.PathLike):
        text = os.fspath(said)
        column = found.table is not None and text in keys_of(found.table)
        path, key = (None, "") if column else split(text)
        if path is not None and not key and path.suffix.lower() in LISTS:
            samples = _samples(found)
            listed = read_list(str(path)).ids(lambda name: bool(rows_of([name], samples())[0]))
            found.sources["/labeled"] = _mask(samples, listed, str(path))
            return
    source = found.open("/labeled", said)
    if source.column.dtype.kind in "OSU":
        listed = _texts(source.column[:])
        source = _mask(_samples(found), listed, source.name)
    found.sources["/labeled"] = source


Samples = Callable[[], Iterator[Names]]
"""Starts to read the samples' ids, block by block."""


def _mask(samples: Samples, listed: list[str], name: str) -> Source:
    rows, missing = rows_of(listed, samples())
    if missing:
        near: dict[str, str] = {}
        for block in samples():
            near |= Ids(np.array(block, object)).near(missing)
        raise SelectionError(unknown(name, listed, missing, near))
    mask = np.zeros(sum(map(len, samples())), bool)
    mask[rows] = True
    return in_memory("/labeled", mask)


def _samples(found: Gathered) -> Samples:
    """Ids of the samples, as far as they are known before sources are joined."""
    own = None if found.base is None else ids_of_pool(found.base)
    if (ids := found.sources.get("/id")) is not None:
        own = ids_in(ids)
    if own is not None:
        return partial(names_in, own)
    n = next((len(s.column) for path, s in found.sources.items() if _has_rows(path)), None)
    n = found.base.n if n is None and found.base is not None else n
    if n is None:
        raise UsageError("labeled: a list of ids needs samples; give --id")
    return partial(names_in, in_memory("/id", np.arange(n)))


def _has_rows(path: str) -> bool:
    return match(path) is not None and per_sample(path)


def _metadata(found: Gathered, said: tuple[tuple[str | None, Any], ...]) -> None:
    """Take columns, each under its own name where none is said; all of a table at once."""
    for name, each in said:
        whole = _whole_table(found, each) if name is None else []
        for key in whole:
            _add_column(found, None, f"{each}:{key}", skip_lists=True)
        if not whole:
            _add_column(found, name, each)


def _whole_table(found: Gathered, said: Any) -> list[str]:
    """List the columns of a table that was given without a key, but for those in use."""
    if not isinstance(said, str | os.PathLike):
        return []
    text = os.fspath(said)
    if found.table is not None and text in keys_of(found.table):
        return []
    path, key = split(text)
    names = [] if path is None or key else keys_of(path)
    if path is not None and path.suffix.lower() in (".h5ad", ".h5mu"):
        names = [name for name in names if name.startswith("obs/")]
    used = {source.key for source in found.sources.values() if source.path == path}
    return [name for name in names if name not in used] if len(names) > 1 else []


def _add_column(found: Gathered, name: str | None, said: Any, skip_lists: bool = False) -> None:
    source = found.open("/metadata/x", said)
    if skip_lists and len(source.column.shape) > 1:
        found.notices.append(f"{source.name}: left out of the metadata, for it holds lists")
        return
    own = name or source.key.rpartition("/")[2] or source.path.stem
    legal = re.sub(r"[^A-Za-z0-9_.-]+", "_", own)
    if legal != own and name is not None:
        raise refuse("metadata", f"names of {NAME}", name)
    if legal != own:
        found.notices.append(f"metadata: {own!r} is stored as {legal}")
    if (path := f"/metadata/{legal}") in found.sources:
        raise UsageError(f"metadata: expected {legal} once, found it twice")
    found.sources[path] = source


def _split_weights(found: Gathered) -> None:
    """Cut a weight of several modalities, whose features it takes side by side."""
    for path in [path for path in found.sources if path.startswith(f"{WEIGHT}/") and "+" in path]:
        source = found.sources.pop(path)
        names = path.rpartition("/")[2].split("+")
        widths = [found.size(f"d of {name}") for name in names]
        known = [width for width in widths if width is not None]
        with located(file=str(source.path), dataset=source.key or path):
            if len(known) < len(names):
                lacking = [n for n, w in zip(names, widths, strict=True) if w is None]
                raise SchemaError(f"cannot be cut without the features of {few(lacking)}")
            shape = source.column.shape
            if len(shape) != 2 or shape[1] != sum(known):
                wanted = " + ".join(map(str, known))
                raise SchemaError(f"expected {wanted} = {sum(known)} columns, found shape {shape}")
        values = source.column[:]
        ends = list(accumulate(known))
        for name, start, end in zip(names, [0, *ends], ends, strict=False):
            found.sources[f"{WEIGHT}/{name}"] = _with_values(source, values[:, start:end])


SPECIAL: Mapping[str, Callable[[Gathered, Any], None]] = {
    "labels": _labels,
    "labeled": _labeled,
    "metadata": _metadata,
}
"""What is more than one array each; taken last, when all else is known."""
