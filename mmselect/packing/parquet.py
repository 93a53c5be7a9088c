"""Parquet: a column of a file, or of a folder of files, with its lists as rows of a matrix."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmselect.errors import DataError, InputError, MmselectError, needing
from mmselect.packing.arrays import gap, in_numeric_order
from mmselect.packing.source import Files, InOrder, Lacking, Source, beside, choose
from mmselect.pool.ids import as_stored

BLOCK = 1 << 21
"""Bytes of numbers that are decoded at a time: they stay in cache until they are written."""

INDEX = "__index_level_"
"""Begins the name of a column that is pandas' index."""

PAGES = 1 << 20
"""Bytes of a file that are read at a time, in place of a whole column of a row group."""


def parquet_keys(path: Path) -> list[str]:
    """Names of the columns."""
    with Files() as files:
        return list(_open(_shards(path)[0], files).schema_arrow.names)


def open_parquet(path: Path, key: str, files: Files) -> Source:
    """Open one column: of numbers, truth or text, or of lists that are all equally long."""
    shards = [(shard, _open(shard, files)) for shard in _shards(path)]
    names = shards[0][1].schema_arrow.names
    several = [n for n in names if fnmatchcase(n, key) and not n.startswith(INDEX)]
    if "*" in key and several:
        columns = [[_part(shard, file, name) for name in several] for shard, file in shards]
        return Source(path, key, tuple(beside(key, each) for each in columns), in_order=True)
    key = choose(key, names, path, "columns")
    nulls = (path, key) in files.lacking
    missed = None if nulls else (path, key)
    parts = tuple(_part(shard, file, key, missed) for shard, file in shards)
    absent = partial(_absent, [file for _, file in shards], key) if nulls else None
    notices = gap([shard for shard, _ in shards])
    return Source(path, key, parts, in_order=True, absent=absent, notices=notices)


def _shards(path: Path) -> list[Path]:
    return in_numeric_order(path, ".parquet", ".pq") if path.is_dir() else [path]


def _open(path: Path, files: Files) -> Any:
    with needing(str(path), "pyarrow", "parquet"):
        from pyarrow import ArrowException
        from pyarrow.parquet import ParquetFile
    if path in files.shared:
        return files.shared[path]
    if not path.is_file():
        raise InputError("expected a regular file, found none", file=str(path))
    try:
        found = ParquetFile(path, pre_buffer=False, buffer_size=PAGES)
    except (ArrowException, OSError, ValueError) as error:
        raise InputError(f"expected parquet: {_first_line(error)}", file=str(path)) from None
    files.callback(found.close)
    files.shared[path] = found
    return found


def _part(path: Path, file: Any, key: str, missed: tuple[Path, str] | None = None) -> InOrder:
    """Make what reads the column of one file; `missed`: what to name if a list is not there."""
    from pyarrow import types

    if (found := file.schema_arrow.names.count(key)) != 1:
        message = f"expected one column {key!r}, found {found or 'none'}"
        raise InputError(message, file=str(path))
    rows, kind = file.metadata.num_rows, file.schema_arrow.field(key).type
    if rows < 0:
        raise InputError(f"expected a number of rows, found {rows}", file=str(path))
    shape: tuple[int, ...] = (rows,)
    if any(f(kind) for f in (types.is_list, types.is_large_list, types.is_fixed_size_list)):
        shape, kind = (rows, _width(path, file, key, kind)), kind.value_type
        if not (types.is_floating(kind) or types.is_integer(kind)):
            raise InputError(
                f"expected lists of numbers, found lists of {kind}", file=str(path), dataset=key
            )
    elif types.is_nested(kind):
        raise InputError(
            f"expected numbers, text or lists, found {kind}", file=str(path), dataset=key
        )
    nulls = missed is None if len(shape) > 1 else _has_nulls(path, file, key, kind)
    dtype = _dtype(kind, nulls)
    step = max(BLOCK // max(int(np.prod(shape[1:])) * 4, 64), 1)
    blocks = partial(_blocks, path, file, key, (shape, dtype, missed), step)
    return InOrder(str(path), key, shape, dtype, blocks)


def _dtype(kind: Any, nulls: bool) -> np.dtype[Any]:
    """NumPy's type for one of arrow; integers and truth with nulls are floats, which have nan."""
    from pyarrow import types

    if types.is_boolean(kind) or types.is_integer(kind) or types.is_floating(kind):
        found = np.dtype(kind.to_pandas_dtype())
        return np.dtype("f8") if nulls and found.kind != "f" else found
    return np.dtype(object)


def _has_nulls(path: Path, file: Any, key: str, kind: Any) -> bool:
    """Whether a value is missing of a column whose type has nothing that says so.

    The file's own count is not asked: some have none, and pyarrow ends the process over a damaged
    one.
    """
    from pyarrow import types

    if not (types.is_boolean(kind) or types.is_integer(kind)):
        return False
    return any(chunk.null_count for chunk in _chunks(path, file, key, BLOCK // 64))


def _width(path: Path, file: Any, key: str, kind: Any) -> int:
    """Length of the lists, or of the first that is there."""
    if hasattr(kind, "list_size"):
        return int(kind.list_size)
    for chunk in _chunks(path, file, key, 1024):
        if len(lengths := chunk.drop_null()):
            return len(lengths[0])
    return 0


def _chunks(path: Path, file: Any, key: str, step: int) -> Iterator[Any]:
    with _told(path, key):
        for batch in file.iter_batches(step, columns=[key], use_threads=False):
            yield batch.column(batch.schema.get_field_index(key))


@contextmanager
def _told(path: Path, key: str) -> Iterator[None]:
    """Turn what arrow raises over a column into one error."""
    from pyarrow import ArrowException

    try:
        yield
    except MmselectError:
        raise
    except (ArrowException, OSError, ValueError) as error:
        message = f"cannot be read: {_first_line(error)}"
        raise InputError(message, file=str(path), dataset=key) from None


def _blocks(
    path: Path,
    file: Any,
    key: str,
    about: tuple[tuple[int, ...], np.dtype[Any], tuple[Path, str] | None],
    step: int,
) -> Iterator[NDArray[Any]]:
    (shape, dtype, missed), row = about, 0
    for chunk in _chunks(path, file, key, step):
        with _told(path, key):
            if len(shape) > 1:
                if missed is not None and chunk.null_count:
                    raise Lacking(*missed)
                block = _lists(path, chunk, key, (shape[1], dtype, row))
            elif dtype.kind == "O":
                block = _texts(chunk)
            else:
                block = chunk.to_numpy(zero_copy_only=False).astype(dtype, copy=False)
        yield block
        row += len(chunk)


def _texts(chunk: Any) -> NDArray[Any]:
    """Text as it is; times and other scalars as text."""
    import pyarrow

    if pyarrow.types.is_dictionary(chunk.type):
        chunk = chunk.dictionary_decode()
    if not pyarrow.types.is_binary(chunk.type):
        chunk = chunk.cast(pyarrow.large_string())
    return as_stored(chunk.to_numpy(zero_copy_only=False))


def _lists(path: Path, chunk: Any, key: str, about: tuple[int, np.dtype[Any], int]) -> NDArray[Any]:
    """Make rows of a matrix of lists; nan where there is none."""
    width, dtype, row = about
    if chunk.null_count or not hasattr(chunk.type, "list_size"):
        lengths = chunk.value_lengths().to_numpy(zero_copy_only=False)
        wrong = np.flatnonzero(~np.isnan(lengths.astype("f8")) & (lengths != width))
        if wrong.size:
            message = f"expected lists of {width:,} numbers, found {int(lengths[wrong[0]]):,}"
            rows = (wrong + row).tolist()
            raise DataError(message, file=str(path), dataset=key, rows=rows)
    values = chunk.flatten()
    if values.null_count:
        message = "expected numbers in lists, found null in one"
        raise DataError(message, file=str(path), dataset=key)
    # to_numpy would import pandas
    numbers = np.frombuffer(values.buffers()[1], values.type.to_pandas_dtype())
    numbers = numbers[values.offset : values.offset + len(values)]
    if not chunk.null_count:
        return numbers.astype(dtype, copy=False).reshape(-1, width)
    block = np.full((len(chunk), width), np.nan, dtype)
    block[chunk.is_valid().to_numpy(zero_copy_only=False)] = numbers.reshape(-1, width)
    return block


def _absent(shards: list[Any], key: str) -> NDArray[np.bool_]:
    """Rows without a list."""
    found = [
        chunk.is_null().to_numpy(zero_copy_only=False)
        for file in shards
        for chunk in _chunks(Path(), file, key, 4096)
    ]
    return np.concatenate([np.empty(0, bool), *found])


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0][:200]
