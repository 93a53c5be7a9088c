"""Where a dataset of a new pool may point, in place of a copy: beside the pool, or below."""

from __future__ import annotations

import os
from pathlib import Path

import h5py

from mmselect.errors import OutputError
from mmselect.packing.source import Source
from mmselect.pool.hdf5 import hdf5
from mmselect.pool.layout import Shard
from mmselect.pool.linked import Link
from mmselect.pool.reading import Pool
from mmselect.pool.schema import per_sample


def relative(file: Path, target: Path) -> str:
    """Name a file as a pool names it: from its own folder.

    Raises
    ------
    OutputError
        If the file is neither beside the pool nor below.
    """
    folder = Path(os.path.realpath(target)).parent
    real = Path(os.path.realpath(file))
    if not real.is_relative_to(folder):
        message = (
            f"cannot link to {file}, which is neither beside the new pool nor below its folder; "
            f"write the pool to a folder above it, or copy"
        )
        raise OutputError(message, file=str(target))
    return str(real.relative_to(folder))


def link_to(source: Source, target: Path) -> Link | None:
    """Point at a source; None for what HDF5 cannot point at, such as text files.

    Raises
    ------
    OutputError
        If it is not where a pool may point.
    """
    column = source.column
    if source.stored is not None:
        file, path = source.stored
        return Link(column.shape, column.dtype, file=relative(file, target), path=path)
    if source.pieces:
        pieces = tuple((relative(file, target), place, size) for file, place, size in source.pieces)
        return Link(column.shape, column.dtype, pieces=pieces)
    return None


def links_of(pool: Pool, paths: list[str], target: Path) -> dict[str, Link]:
    """Point at datasets of another pool: where its own links end, so that rounds make no chain.

    Raises
    ------
    OutputError
        If the pool, or a file that it points at, is not where a pool may point.
    """
    shards, links = pool.layout.shards, dict[str, Link]()
    for path in paths:
        values = pool.columns[path] if per_sample(path) else pool.constants[path]
        if not per_sample(path) or len(shards) == 1:
            links[path] = Link(values.shape, values.dtype, *_end(shards[0], path, target))
        else:
            ends = [(*_end(shard, path, target), shard.rows) for shard in shards if shard.rows]
            links[path] = Link(values.shape, values.dtype, shards=tuple(ends))
    return links


def _end(shard: Shard, path: str, target: Path) -> tuple[str, str]:
    """File and dataset at which a link of a shard ends, or its own dataset."""
    with hdf5(shard.file, path):
        group = h5py.h5g.open(shard.source.handle.id, b"/")
        source, found = shard.folder.follow(shard.source, group, path.strip("/"))
        name = h5py.h5i.get_name(found)
    inside = path if name is None else name.decode("utf-8", "surrogateescape")
    return relative(source.path, target), inside
