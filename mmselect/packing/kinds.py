"""Which file is read how: one row for each kind, found by its extension."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import NamedTuple

from mmselect.errors import InputError, few, suggestion
from mmselect.packing import arrays, hdf5, parquet, tables, tensors
from mmselect.packing.source import Files, Source

ID_NAMES = ("id", "ids")
"""What a column or an array of ids is called where nobody says otherwise."""


class Kind(NamedTuple):
    """How a kind of file is read, and what its arrays are called.

    Attributes
    ----------
    open : callable
        ``(path, key, files) -> Source``.
    keys : callable, optional
        Lists the keys of a file; None where a file is one array.
    """

    open: Callable[[Path, str, Files], Source]
    keys: Callable[[Path], list[str]] | None = None


_CSV = Kind(tables.open_table(""), tables.columns_of(""))
_H5 = Kind(hdf5.open_h5, hdf5.h5_keys)
_PARQUET = Kind(parquet.open_parquet, parquet.parquet_keys)
_TENSORS = Kind(tensors.open_tensor, tensors.tensor_keys)

KINDS = {
    ".npy": Kind(arrays.open_npy),
    ".npz": Kind(arrays.open_npz, arrays.npz_keys),
    ".safetensors": Kind(arrays.open_safetensors, arrays.safetensors_keys),
    ".pt": _TENSORS,
    ".pth": _TENSORS,
    ".csv": _CSV,
    ".tsv": _CSV,
    ".txt": Kind(tables.open_table(None)),
    ".parquet": _PARQUET,
    ".pq": _PARQUET,
    ".h5": _H5,
    ".hdf5": _H5,
    ".h5ad": Kind(hdf5.open_anndata, hdf5.anndata_keys),
    ".h5mu": Kind(hdf5.open_mudata, hdf5.mudata_keys),
}

OTHERS = {
    **dict.fromkeys(
        (".pkl", ".pickle", ".joblib"),
        "a pickle can run code, so none is read; save its arrays with np.save or np.savez",
    ),
    ".mat": "save its arrays with np.save or np.savez",
    ".json": "write it as CSV or parquet, with pandas.read_json for example",
    ".jsonl": "write it as CSV or parquet, with pandas.read_json(lines=True) for example",
    ".feather": "write it as parquet",
    ".arrow": "write it as parquet, with datasets' to_parquet for example",
    ".zarr": "write it as h5ad",
}
"""What to do with files that are not read."""


def kind_of(path: Path) -> Kind:
    """Find how a file or a folder is read.

    Raises
    ------
    InputError
        If nothing reads it.
    """
    if path.is_dir() and path.suffix.lower() not in OTHERS:
        suffixes = {p.suffix.lower() for p in path.iterdir() if p.suffix.lower() in FOLDERS}
        if len(suffixes) == 1:
            return FOLDERS[suffixes.pop()]
        found = f"found {' and '.join(sorted(suffixes)) or 'none'}"
        expected = f"expected a folder of one kind of {few([*FOLDERS])} files"
        raise InputError(f"{expected}, {found}", file=str(path))
    suffix = path.suffix.lower()
    if suffix not in KINDS:
        way = OTHERS.get(suffix) or f"expected one of {', '.join(KINDS)}"
        raise InputError(f"{way}; found {suffix or 'no extension'}", file=str(path))
    return KINDS[suffix]


FOLDERS = {".npy": Kind(arrays.open_folder), ".parquet": _PARQUET, ".pq": _PARQUET}


def open_source(said: str | os.PathLike[str], files: Files, table: Path | None = None) -> Source:
    """Open what a user means by ``FILE``, ``FILE:KEY`` or, with a table, one of its columns.

    Raises
    ------
    MmselectError
        Of the kind that fits, naming the file and the key.

    Examples
    --------
    >>> from mmselect.demo import EMOJI
    >>> with Files() as files:
    ...     open_source(f"{EMOJI}:/features/image", files).column.shape
    (3812, 64)
    """
    text = os.fspath(said)
    if table is not None and _names_column(text, table):
        return kind_of(table).open(table, text, files)
    path, key = split(text)
    if path is not None:
        return kind_of(path).open(path, key, files)
    if table is not None and text[:1] == ":":
        return kind_of(table).open(table, text[1:], files)
    if table is not None:
        names = keys_of(table)
        expected = f"expected one of its columns ({few(names)}) or a file"
        message = f"{expected}, found {text!r}{suggestion(text, names)}"
        raise InputError(message, file=str(table))
    raise InputError(f"no such file{suggestion(text, _beside(text))}", file=text)


def _beside(text: str) -> list[str]:
    """Names of what stands in the folder of a file that is not there."""
    folder = Path(text).parent
    return [str(path) for path in folder.iterdir()] if _there(str(folder)) else []


def _names_column(text: str, table: Path) -> bool:
    """Whether it is a column of a table, or a pattern that some of its columns fit."""
    names = keys_of(table)
    return text in names or ("*" in text and any(fnmatchcase(name, text) for name in names))


def keys_of(path: Path) -> list[str]:
    """Names of what a file holds; none where it is one array."""
    keys = kind_of(path).keys
    return [] if keys is None else keys(path)


def split(text: str) -> tuple[Path | None, str]:
    """Cut ``FILE:KEY`` behind the longest file that there is; keys and files may hold colons."""
    ends = [len(text), *(i for i in range(len(text) - 1, 0, -1) if text[i] == ":")]
    for end in ends:
        if _there(text[:end]):
            return Path(text[:end]), text[end + 1 :]
    return None, ""


def _there(name: str) -> bool:
    try:
        return os.path.exists(name)  # noqa: PTH110  a name that no path can have is not there
    except ValueError:
        return False


def ids_of(source: Source, files: Files, names: Sequence[str] = ()) -> Source | None:
    """Find the ids of a source's rows in the same file: of these names, or as they are called."""
    if source.path.suffix.lower() not in KINDS and not source.path.is_dir():
        return None
    kind = kind_of(source.path)
    if kind.keys is None:
        return None
    known = kind.keys(source.path)
    for key in _candidates(source, names):
        if key in known and key != source.key:
            return kind.open(source.path, key, files)
    return None


def _candidates(source: Source, names: Sequence[str]) -> Iterator[str]:
    wanted = [*names, *ID_NAMES]
    suffix = source.path.suffix.lower()
    if suffix in (".h5ad", ".h5mu"):
        modality, _, rest = source.key.partition("/")
        yield from (f"{modality}/obs_names",) if rest and suffix == ".h5mu" else ()
        yield "obs_names"
    if suffix in (".h5", ".hdf5"):
        group = source.key.rpartition("/")[0]
        yield from (f"{here}/{name.strip('/')}" for here in (group, "") for name in wanted)
    yield from wanted
