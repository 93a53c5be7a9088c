"""What is in the files of a pool: found, matched against the schema, and held against each other.

:func:`survey` reads names, shapes and types only, and collects everything that is wrong, so that
``check`` can list it all and :func:`mmselect.pool.reading.open_pool` can raise the first.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import h5py

from mmselect.errors import FormatError, MmselectError, SchemaError
from mmselect.files import reason
from mmselect.pool.schema import FORMAT, SCHEMA, VERSION, Place, match, type_problem

_GROUPS = {dataset.group for dataset in SCHEMA if "{" in dataset.path} | {"/classifier"}


@dataclass
class Shard:
    """One file: its datasets by path, those that the schema does not know, and its rows."""

    file: str
    handle: h5py.File
    datasets: dict[str, h5py.Dataset] = field(default_factory=dict)
    unknown: list[str] = field(default_factory=list)
    rows: int = 0


@dataclass
class Layout:
    """All files of a pool, the size of each axis, and what is wrong with them."""

    shards: list[Shard] = field(default_factory=list)
    sizes: dict[str, int] = field(default_factory=dict)
    problems: list[MmselectError] = field(default_factory=list)
    open_files: list[BinaryIO] = field(default_factory=list)

    def close(self) -> None:
        """Close every file."""
        for shard in self.shards:
            shard.handle.close()
        for file in self.open_files:
            file.close()


def survey(paths: Iterable[Path]) -> Layout:
    """Open the files, find their datasets, and hold them against the schema and each other."""
    layout, seen = Layout(), set()
    for path in paths:
        if os.path.realpath(path) in seen:
            message = "expected every shard once, found it twice"
            layout.problems.append(SchemaError(message, file=str(path)))
            continue
        seen.add(os.path.realpath(path))
        try:
            shard = Shard(str(path), open_file(path))
        except FormatError as error:
            layout.problems.append(error)
            continue
        layout.shards.append(shard)
        layout.problems += _version_problems(shard)
        layout.problems += _find(shard, shard.handle, "")
        layout.problems += _size_problems(shard, layout.sizes)
    layout.problems += _shard_problems(layout.shards)
    layout.sizes["n"] = sum(shard.rows for shard in layout.shards)
    return layout


def open_file(path: Path) -> h5py.File:
    """Open an HDF5 file for reading.

    Raises
    ------
    FormatError
        If it does not exist, cannot be read, is not HDF5, or is truncated.
    """
    where = str(path)
    try:
        with path.open("rb") as handle:
            size = handle.seek(0, 2)
    except OSError as error:
        raise FormatError(f"cannot be read: {reason(error)}", file=where) from None
    if size == 0:
        raise FormatError("expected an HDF5 file, found an empty file", file=where)
    try:
        return h5py.File(path, "r")
    except OSError as error:
        raise FormatError(_open_problem(path, size, str(error)), file=where) from None


def _open_problem(path: Path, size: int, detail: str) -> str:
    if stored := re.search(r"stored_eof\s*=\s*(\d+)", detail):
        return f"truncated: expected {int(stored[1]):,} bytes, found {size:,}"
    if not h5py.is_hdf5(path):
        return "expected an HDF5 file, found something else"
    return f"HDF5 cannot open it: {detail}"


def _version_problems(shard: Shard) -> Iterator[MmselectError]:
    name, version = (_text(shard.handle.attrs.get(key)) for key in ("format", "format_version"))
    if name != FORMAT:
        found = "none" if name is None else repr(name)
        yield FormatError(f"expected attribute format = {FORMAT!r}, found {found}", file=shard.file)
    elif version is None:
        message = f"expected attribute format_version = {VERSION!r}, found none"
        yield FormatError(message, file=shard.file)
    elif version.split(".")[0] != VERSION.split(".")[0]:
        message = f"expected format version {VERSION.split('.')[0]}.x, found {version}"
        yield FormatError(message, file=shard.file)


def _text(value: Any) -> str | None:
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return None if value is None else str(value)


def _find(shard: Shard, group: h5py.Group, prefix: str) -> Iterator[MmselectError]:
    """Sort what stands in a group into known datasets, unknown names and problems."""
    for name in sorted(group):
        path = f"{prefix}/{name}"
        problem = _source_problem(shard, group, name)
        if problem is None and path in _GROUPS and isinstance(group[name], h5py.Group):
            yield from _find(shard, group[name], path)
        elif problem := problem or _keep(shard, path, group[name]):
            yield SchemaError(problem, file=shard.file, dataset=path)


def _keep(shard: Shard, path: str, found: h5py.Dataset | h5py.Group) -> str | None:
    """Keep a dataset under its path, or as unknown; or say why it cannot be what its name says."""
    place = match(path)
    if place is None and path not in _GROUPS:
        shard.unknown.append(path)
        return None
    if place is None or isinstance(found, h5py.Group):
        expected, other = ("dataset", "group") if place else ("group", "dataset")
        return f"expected a {expected}, found a {other}"
    if problem := _dataset_problem(place, found):
        return problem
    shard.datasets[path] = found
    return None


def _dataset_problem(place: Place, found: h5py.Dataset) -> str | None:
    shape, axes = found.shape, place.dataset.axes
    if shape is None or len(shape) != len(axes):
        return f"expected axes ({', '.join(axes)}), found shape {shape}"
    if 0 in shape[1:] or (0 in shape and not place.dataset.per_sample):
        return f"expected axes ({', '.join(axes)}) of at least 1, found shape {shape}"
    if found.dtype.kind == "O" and h5py.check_string_dtype(found.dtype) is None:
        return f"expected {place.dataset.kind}, found {found.dtype.metadata or found.dtype}"
    return type_problem(place.dataset, found.dtype)


def _source_problem(shard: Shard, group: h5py.Group, name: str) -> str | None:
    """Say which source of a link or a virtual dataset is missing or lies elsewhere."""
    folder = Path(shard.file).resolve().parent
    link = group.get(name, getlink=True)
    if isinstance(link, h5py.ExternalLink):
        problem = _file_problem(folder, link.filename, link.path)
        if problem:
            return f"external link to {problem}"
    found = group.get(name)
    if found is None:
        return f"link to {getattr(link, 'path', name)!r}, which does not exist"
    if isinstance(found, h5py.Dataset):
        own = Path(found.file.filename)
        for kind, filename, path in _sources(found):
            problem = _file_problem(folder, filename, path, own)
            if problem:
                return f"{kind} source {problem}"
    return None


def _sources(found: h5py.Dataset) -> Iterator[tuple[str, str, str | None]]:
    if found.is_virtual:
        for source in found.virtual_sources():
            yield "virtual dataset's", source.file_name, source.dset_name
    for filename, *_ in found.external or ():
        yield "external storage's", filename, None


def _file_problem(
    folder: Path, filename: str, path: str | None, own: Path | None = None
) -> str | None:
    """Check that a source exists and lies beside the pool; `path` is its dataset, if it has one."""
    source = own if own and filename == "." else folder / filename
    if not source.resolve().is_relative_to(folder):
        return f"{filename!r}, which is not beside the pool"
    if not source.is_file():
        return f"{filename!r}, which does not exist"
    if path is not None:
        try:
            with h5py.File(source, "r") as handle:
                if path not in handle:
                    return f"{filename!r}, which has no {path!r}"
        except OSError:
            return f"{filename!r}, which HDF5 cannot open"
    return None


def _size_problems(shard: Shard, sizes: dict[str, int]) -> Iterator[MmselectError]:
    """Unify the sizes of axes with equal names: n within a file, the others within the pool."""
    seen: dict[str, str] = {}
    own: dict[str, int] = {}
    for path, dataset in in_schema_order(shard.datasets):
        place = match(path)
        assert place is not None  # only matched datasets are kept
        for axis, size in zip(place.axes, dataset.shape, strict=True):
            expected = own.get(axis) if axis in own or axis == "n" else sizes.get(axis)
            if expected is None or expected == size:
                own.setdefault(axis, size)
                seen.setdefault(axis, path)
                continue
            source = f"as in {seen[axis]}" if axis in seen else "as in the first file"
            message = f"expected {expected:,} {_counted(axis)}, {source}, found {size:,}"
            yield SchemaError(message, file=shard.file, dataset=path)
    if "n" not in own:
        yield SchemaError("expected at least one dataset with a row per sample", file=shard.file)
    shard.rows = own.pop("n", 0)
    for axis, size in own.items():
        sizes.setdefault(axis, size)


def _counted(axis: str) -> str:
    names = {"n": "rows", "c": "classes", "t": "passes"}
    return names.get(axis, f"dimensions ({axis})")


def in_schema_order(datasets: dict[str, h5py.Dataset]) -> list[tuple[str, h5py.Dataset]]:
    """Datasets in the order of the format's table, then by name."""
    order = {dataset.group: i for i, dataset in enumerate(SCHEMA)}

    def key(item: tuple[str, h5py.Dataset]) -> tuple[int, str]:
        place = match(item[0])
        assert place is not None  # only matched datasets are kept
        return order[place.dataset.group], item[0]

    return sorted(datasets.items(), key=key)


def _shard_problems(shards: list[Shard]) -> Iterator[MmselectError]:
    """Every shard has the same datasets, and the same classifier and class names."""
    for shard in shards[1:]:
        first = shards[0]
        for path in sorted(first.datasets.keys() ^ shard.datasets.keys()):
            has, lacks = (first, shard) if path in first.datasets else (shard, first)
            message = f"missing in this shard, but {has.file} has it"
            yield SchemaError(message, file=lacks.file, dataset=path)
        for path in sorted(first.datasets.keys() & shard.datasets.keys()):
            yield from _difference(path, first, shard)


def _difference(path: str, first: Shard, shard: Shard) -> Iterator[MmselectError]:
    place, a, b = match(path), first.datasets[path], shard.datasets[path]
    assert place is not None  # only matched datasets are kept
    if a.size and b.size and (a.dtype.kind in "OSU") != (b.dtype.kind in "OSU"):
        message = f"text in one shard, numbers in another ({first.file})"
        yield SchemaError(message, file=shard.file, dataset=path)
    elif not place.dataset.per_sample and a.shape == b.shape and (a[()] != b[()]).any():
        yield SchemaError(f"differs from {first.file}", file=shard.file, dataset=path)
