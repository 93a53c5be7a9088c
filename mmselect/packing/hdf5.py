"""HDF5 files: any dataset of one, and what anndata and mudata write, read with h5py alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from h5py import h5d, h5g
from numpy.typing import NDArray

from mmselect.errors import DataError, InputError, SchemaError, located
from mmselect.packing.source import Converted, Files, InOrder, Source, choose
from mmselect.pool.hdf5 import hdf5
from mmselect.pool.parts import ArrayPart, Part
from mmselect.pool.source import Folder
from mmselect.pool.source import Source as File

BLOCK = 1 << 22
"""Numbers that are made of a sparse matrix at a time."""

Place = tuple[File, Any]


def folder_of(path: Path, files: Files) -> tuple[Folder, File]:
    """Open an HDF5 file as a pool's files are: no link is followed out of its folder."""
    if path not in files.shared:
        folder = Folder(path)
        files.callback(folder.close)
        files.shared[path] = (folder, folder.open(path))
    found: tuple[Folder, File] = files.shared[path]
    return found


def h5_keys(path: Path) -> list[str]:
    """Paths of the datasets that lie in the file itself."""
    found: list[str] = []

    def see(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset) and item.shape:
            found.append(f"/{name}")

    with Files() as files:
        _, file = folder_of(path, files)
        with hdf5(str(path)):
            file.handle.visititems(see)
    return found


def open_h5(path: Path, key: str, files: Files) -> Source:
    """Open a dataset of an HDF5 file."""
    folder, file = folder_of(path, files)
    wanted = key if key else choose(key, h5_keys(path), path, "datasets")
    place = _find(folder, file, wanted, path, h5_keys)
    if isinstance(place[1], h5g.GroupID):
        return _encoded(folder, place, path, wanted)
    return _dataset(folder, place, path, wanted)


def _find(
    folder: Folder, file: File, key: str, path: Path, keys: Callable[[Path], list[str]]
) -> Place:
    with hdf5(str(path), key), located(file=str(path), dataset=key):
        try:
            return folder.follow(file, h5g.open(file.handle.id, b"/"), key)
        except SchemaError as error:
            if "which does not exist" not in error.message:
                raise
    choose(key, keys(path), path, "datasets")
    raise InputError("expected a dataset, found none", file=str(path), dataset=key)


def _dataset(folder: Folder, place: Place, path: Path, key: str) -> Source:
    with hdf5(str(path), key), located(file=str(path), dataset=key):
        if not isinstance(place[1], h5d.DatasetID):
            raise SchemaError("expected a dataset, found a group")
        part = folder.part(place, key)
        if not part.shape:
            raise SchemaError("expected a row per sample, found one value")
        if part.dtype.kind == "O" and h5py.check_string_dtype(part.dtype) is None:
            raise SchemaError(f"expected numbers or text, found {part.dtype.metadata}")
        if part.dtype.names:
            raise SchemaError(
                f"expected numbers or text, found fields {', '.join(part.dtype.names)}"
            )
        name = h5py.h5i.get_name(place[1])
    stored = (place[0].path, name.decode("utf-8", "surrogateescape")) if name else None
    return Source(path, key, (part,), in_order=part.compressed, stored=stored)


def _encoded(folder: Folder, place: Place, path: Path, key: str) -> Source:
    """Open what anndata writes as a group: categories, values with a mask, sparse rows."""
    source, group = place
    with hdf5(str(path), key):
        attributes = h5py.Group(group).attrs
        kind = str(attributes.get("encoding-type", "group"))

    def member(name: str) -> Part:
        with hdf5(str(path), key), located(file=str(path), dataset=f"{key}/{name}"):
            part: Part = folder.part(folder.follow(source, group, name), key)
            return part

    if kind == "categorical":
        codes, names = member("codes"), member("categories")
        texts = (
            np.array([*_values(names), b""], object) if names.dtype.kind == "O" else _values(names)
        )
        part: Part = Converted(
            str(path), key, codes.shape, texts.dtype, codes, partial(_named, texts)
        )
        return Source(path, key, (part,))
    if kind.startswith("nullable-"):
        return Source(path, key, (_nullable(member("values"), member("mask"), path, key),))
    if kind == "csr_matrix":
        with hdf5(str(path), key):
            shape = tuple(int(size) for size in attributes["shape"])
        data, indices = member("data"), member("indices")
        starts = _values(member("indptr")).astype(np.int64)
        blocks = partial(_densified, (data, indices), starts, shape, (str(path), key))
        sparse = InOrder(str(path), key, shape, data.dtype, blocks)
        _check_sparse(starts, len(data), shape, path, key)
        return Source(path, key, (sparse,), in_order=True)
    expected = "expected a dataset, categories or a csr matrix"
    raise InputError(f"{expected}, found {kind}", file=str(path), dataset=key)


def _values(part: Part) -> NDArray[Any]:
    return part.read(0, len(part))


def _named(names: NDArray[Any], codes: NDArray[Any]) -> NDArray[Any]:
    """Categories of codes; -1 is missing: empty text, or nan."""
    if names.dtype.kind != "O" and (codes < 0).any():
        return np.where(codes < 0, np.nan, names[codes])
    found: NDArray[Any] = names[np.where(codes < 0, len(names) - 1, codes)]
    return found


def _nullable(values: Part, mask: Part, path: Path, key: str) -> Part:
    missing = _values(mask).astype(bool)
    if not missing.any():
        return values
    if values.dtype.kind == "O":
        texts = np.where(missing, b"", _values(values))
        return ArrayPart(str(path), key, texts.shape, texts.dtype, texts)
    numbers = np.where(missing, np.nan, _values(values).astype(np.float64))
    return ArrayPart(str(path), key, numbers.shape, numbers.dtype, numbers)


def _check_sparse(
    starts: NDArray[np.int64], count: int, shape: tuple[int, ...], path: Path, key: str
) -> None:
    """Refuse a csr matrix whose rows do not lie one after the other in its numbers."""
    whole = len(shape) == 2 and len(starts) == shape[0] + 1
    if not whole or starts[0] < 0 or starts[-1] > count or (np.diff(starts) < 0).any():
        raise InputError(
            "expected the rows of a csr matrix one after the other", file=str(path), dataset=key
        )


def _densified(
    stored: tuple[Part, Part],
    starts: NDArray[np.int64],
    shape: tuple[int, ...],
    where: tuple[str, str],
) -> Iterator[NDArray[Any]]:
    """Make dense rows of a csr matrix, block by block."""
    (data, indices), (file, key) = stored, where
    step = max(BLOCK // max(shape[1], 1), 1)
    for first in range(0, shape[0], step):
        last = min(first + step, shape[0])
        low, high = int(starts[first]), int(starts[last])
        block, columns = np.zeros((last - first, shape[1]), data.dtype), indices.read(low, high)
        if columns.size and not 0 <= columns.min() <= columns.max() < shape[1]:
            message = f"expected columns below {shape[1]:,} in a sparse matrix, found others"
            raise DataError(message, file=file, dataset=key)
        rows = np.repeat(np.arange(last - first), np.diff(starts[first : last + 1]))
        np.add.at(block, (rows, columns), data.read(low, high))
        yield block


def anndata_keys(path: Path) -> list[str]:
    """Keys of an h5ad file: its matrices, the columns of obs, and the names."""
    return _annotated(path, "")


def mudata_keys(path: Path) -> list[str]:
    """Keys of an h5mu file: those of each modality, and those of all."""
    with Files() as files:
        names = _members(folder_of(path, files)[1], "mod")
    return [f"{m}/{key}" for m in names for key in _annotated(path, f"mod/{m}/")] + _annotated(
        path, ""
    )


def _annotated(path: Path, under: str) -> list[str]:
    with Files() as files:
        _, file = folder_of(path, files)
        found = [
            f"{group}/{name}"
            for group in ("obsm", "obs")
            for name in _members(file, f"{under}{group}")
        ]
        with hdf5(str(path)):
            found += ["X"] if f"{under}X" in file.handle else []
        named = ["obs_names"] if _members(file, f"{under}obs") else []
    return [*(name for name in found if not name.startswith("obs/_")), *named]


def _members(file: File, group: str) -> list[str]:
    with hdf5(str(file.path)):
        found = file.handle.get(group, getlink=False) if group in file.handle else None
        return sorted(found) if isinstance(found, h5py.Group) else []


def open_anndata(path: Path, key: str, files: Files) -> Source:
    """Open a matrix, a column of obs, or the names of an h5ad file."""
    return _open_annotated(path, key, files, anndata_keys)


def open_mudata(path: Path, key: str, files: Files) -> Source:
    """Open the same of an h5mu file, of one of its modalities or of all."""
    return _open_annotated(path, key, files, mudata_keys)


def _open_annotated(
    path: Path, key: str, files: Files, keys: Callable[[Path], list[str]]
) -> Source:
    folder, file = folder_of(path, files)
    if not key or key not in (known := keys(path)):
        choose(key, known if key else keys(path), path)
    modality, _, rest = key.partition("/")
    inside = keys is mudata_keys and modality in _members(file, "mod")
    where = f"mod/{modality}/{rest}" if inside else key
    if where.endswith("obs_names"):
        under = where.removesuffix("_names")
        with hdf5(str(path), key):
            where = f"{under}/{file.handle[under].attrs.get('_index', '_index')}"
    place = _find(folder, file, where, path, keys)
    if isinstance(place[1], h5g.GroupID):
        return _encoded(folder, place, path, key)
    return _dataset(folder, place, path, key)
