"""What is in the files of a pool: found, matched against the schema, and held against each other.

:func:`survey` reads names, shapes and types only, and collects everything that is wrong, so that
``check`` can list it all and :func:`mmselect.pool.reading.open_pool` can raise the first.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
from h5py import h5d, h5g

from mmselect.errors import FormatError, MmselectError, SchemaError, located
from mmselect.pool.foreign import how_to_pack
from mmselect.pool.hdf5 import hdf5
from mmselect.pool.parts import Part
from mmselect.pool.schema import (
    FORMAT,
    SCHEMA,
    VERSION,
    Axes,
    in_schema_order,
    match,
    per_sample,
    place_of,
    shape_problem,
    type_problem,
)
from mmselect.pool.source import Folder, Source
from mmselect.pool.texts import attribute

_GROUPS = {dataset.group for dataset in SCHEMA if dataset.named} | {"/classifier"}


@dataclass
class Shard:
    """One file: its datasets by path, those that the schema does not know, and its rows."""

    file: str
    source: Source
    folder: Folder
    parts: dict[str, Part] = field(default_factory=dict)
    unknown: list[str] = field(default_factory=list)
    rows: int = 0


@dataclass
class Layout:
    """All files of a pool, the size of each axis, and what is wrong with them."""

    shards: list[Shard] = field(default_factory=list)
    sizes: dict[str, int] = field(default_factory=dict)
    problems: list[MmselectError] = field(default_factory=list)

    def close(self) -> None:
        """Close every file."""
        for shard in self.shards:
            shard.folder.close()

    def check(self) -> None:
        """Refuse files that were changed since they were opened.

        Raises
        ------
        FormatError
        """
        for shard in self.shards:
            for source in shard.folder.sources.values():
                source.check()


def survey(paths: Iterable[Path]) -> Layout:
    """Open the files, find their datasets, and hold them against the schema and each other."""
    layout, axes, seen = Layout(), Axes(), set()
    with ExitStack() as opened:  # an interrupt leaves no file open
        for path in paths:
            if os.path.realpath(path) in seen:
                message = "expected every shard once, found it twice"
                layout.problems.append(SchemaError(message, file=str(path)))
                continue
            seen.add(os.path.realpath(path))
            folder = Folder(path)
            opened.callback(folder.close)
            try:
                shard = Shard(str(path), folder.open(path), folder)
            except FormatError as error:
                folder.close()
                layout.problems.append(error)
                continue
            layout.shards.append(shard)
            layout.problems += _version_problems(shard)
            shard.source.medium.seen = None
            layout.problems += _find(shard, shard.source, "/", "")
            layout.problems += _size_problems(shard, axes)
        opened.pop_all()
    layout.problems += _shard_problems(layout.shards)
    layout.sizes = {**axes.sizes, "n": sum(shard.rows for shard in layout.shards)}
    return layout


def _version_problems(shard: Shard) -> Iterator[MmselectError]:
    try:
        name, version = (attribute(shard.source, key) for key in ("format", "format_version"))
    except FormatError as error:
        yield error
        return
    if name != FORMAT:
        found = "none" if name is None else f"{name!r:.60}"
        way = how_to_pack(Path(shard.file)) if name is None else ""
        message = f"expected attribute format = {FORMAT!r}, found {found}{way}"
        yield FormatError(message, file=shard.file)
    elif version is None:
        message = f"expected attribute format_version = {VERSION!r}, found none"
        yield FormatError(message, file=shard.file)
    elif version.split(".")[0] != VERSION.split(".")[0]:
        message = f"expected format version {VERSION.split('.')[0]}.x, found {version:.60}"
        yield FormatError(message, file=shard.file)


def _find(shard: Shard, source: Source, group: Any, prefix: str) -> Iterator[MmselectError]:
    """Sort what stands in a group into known datasets, unknown names and problems."""
    try:
        with hdf5(shard.file, prefix or None):
            start = h5g.open(source.handle.id, b"/") if group == "/" else group
            names = sorted(name.decode("utf-8", "surrogateescape") for name in start)
    except FormatError as error:
        yield error
        return
    for name in names:
        path = f"{prefix}/{name}"
        if match(path) is None and path not in _GROUPS:
            shard.unknown.append(path)
            continue
        try:
            with hdf5(shard.file, path), located(file=shard.file, dataset=path):
                where, found = shard.folder.follow(source, start, name)
                if path not in _GROUPS:
                    shard.parts[path] = _part(shard, (where, found), path)
                elif not isinstance(found, h5g.GroupID):
                    raise SchemaError("expected a group, found a dataset")
        except (FormatError, SchemaError) as error:
            yield error
            continue
        if path in _GROUPS:
            yield from _find(shard, where, found, path)


def _part(shard: Shard, place: tuple[Source, Any], path: str) -> Part:
    """Make what reads a dataset, if its shape and type are what the schema says.

    Raises
    ------
    SchemaError
    """
    wanted, found = place_of(path).dataset, place[1]
    if not isinstance(found, h5d.DatasetID):
        other = "a group" if isinstance(found, h5g.GroupID) else "a named type"
        raise SchemaError(f"expected a dataset, found {other}")
    part = shard.folder.part(place, path)
    problem = shape_problem(wanted, part.shape)
    if part.dtype.kind == "O" and h5py.check_string_dtype(part.dtype) is None:
        problem = problem or f"expected {wanted.kind}, found {part.dtype.metadata or part.dtype}"
    if problem := problem or type_problem(wanted, part.dtype):
        raise SchemaError(problem)
    return part


def _size_problems(shard: Shard, axes: Axes) -> Iterator[MmselectError]:
    """Unify the sizes of axes with equal names: n within a file, the others within the pool."""
    for path in in_schema_order(shard.parts):
        for problem in axes.problems(path, shard.parts[path].shape):
            yield SchemaError(problem, file=shard.file, dataset=path)
    if "n" not in axes.sizes:
        yield SchemaError("expected at least one dataset with a row per sample", file=shard.file)
    shard.rows = axes.restart("the first file")


def _shard_problems(shards: list[Shard]) -> Iterator[MmselectError]:
    """Every shard has the same datasets, and the same classifier and class names."""
    for shard in shards[1:]:
        first = shards[0]
        for path in sorted(first.parts.keys() ^ shard.parts.keys()):
            has, lacks = (first, shard) if path in first.parts else (shard, first)
            message = f"missing in this shard, but {has.file} has it"
            yield SchemaError(message, file=lacks.file, dataset=path)
        for path in sorted(first.parts.keys() & shard.parts.keys()):
            yield from _difference(path, first, shard)


def _difference(path: str, first: Shard, shard: Shard) -> Iterator[MmselectError]:
    a, b = first.parts[path], shard.parts[path]
    if len(a) and len(b) and (a.dtype.kind in "OSU") != (b.dtype.kind in "OSU"):
        message = f"text in one shard, numbers in another ({first.file})"
        yield SchemaError(message, file=shard.file, dataset=path)
    elif not per_sample(path) and a.shape == b.shape:
        try:
            same = (a.read(0, len(a)) == b.read(0, len(b))).all()
        except FormatError as error:
            yield error
            return
        if not same:
            yield SchemaError(f"differs from {first.file}", file=shard.file, dataset=path)
