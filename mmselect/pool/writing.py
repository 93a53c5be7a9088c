"""Write a pool, in row blocks, from NumPy arrays or anything that turns into them."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from math import prod
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from mmselect.engine import DEFAULT_MEMORY, compute_rows, ranges
from mmselect.errors import SchemaError, located
from mmselect.pool.blocks import Alike
from mmselect.pool.conversion import Tensor, arrays_of, as_array
from mmselect.pool.ids import Ids, check_ids, check_in_blocks
from mmselect.pool.linked import Link
from mmselect.pool.reading import PoolPath, open_pool
from mmselect.pool.schema import (
    FORMAT,
    VERSION,
    axes_of,
    in_schema_order,
    per_sample,
)
from mmselect.pool.storage import Storage, created, draft

Block = dict[str, NDArray[Any]]


class PoolWriter:
    """Write a pool in row blocks; it need not fit in memory. Use it in a ``with`` block.

    The file appears under its name when the block ends well; what ends it otherwise leaves
    nothing. Floats keep their type; storage is contiguous.

    Parameters
    ----------
    path : path
        The file to write; an existing one is replaced.
    constants : mapping of dataset path to array, optional
        The datasets without a row per sample.
    rows : int, optional
        Samples to come. Where nobody knows, they wait in a nameless file in the same folder, which
        takes their room once more.
    attributes : mapping, optional
        Attributes of the file besides those of the format.
    links : mapping of dataset path to Link, optional
        What lies in other files; where it is all there is, `rows` must be given.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "pool.h5"
    >>> with PoolWriter(path) as writer:
    ...     writer.append({"/id": ["a", "b"], "/features/image": np.zeros((2, 3))})
    ...     writer.append({"/id": ["c"], "/features/image": np.ones((1, 3))})
    >>> with open_pool(path) as pool:
    ...     pool.ids.text([2]), pool.columns["/features/image"][1:].tolist()
    (['c'], [[0.0, 0.0, 0.0], [1.0, 1.0, 1.0]])
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        constants: Mapping[str, Tensor] | None = None,
        *,
        rows: int | None = None,
        attributes: Mapping[str, Any] | None = None,
        links: Mapping[str, Link] | None = None,
    ) -> None:
        self.path, self.rows, self._expected = Path(path), 0, rows
        self._constants = {name: as_array(name, value) for name, value in (constants or {}).items()}
        self._attributes = {"format": FORMAT, "format_version": VERSION, **(attributes or {})}
        self._links = dict(links or {})
        self._alike = Alike(self._constants, self._links)

    def __enter__(self) -> Self:
        with ExitStack() as files:
            self._pool = self._draft = files.enter_context(created(self.path))
            if self._expected is None:
                self._draft = files.enter_context(draft(self.path.resolve().parent))
            self._files = files.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        with self._files:
            if error is not None:
                raise error
            with located(file=str(self.path)):
                self._finish()

    def append(self, arrays: Mapping[str, Tensor]) -> None:
        """Add a block of rows.

        Parameters
        ----------
        arrays : mapping of dataset path to array
            The same paths, types and shapes of a row as in the first block.

        Raises
        ------
        SchemaError
            If a name, shape or type is not what the format says, or not as in the first block.
        DataError
            If ids repeat or cannot be printed on a line, a label lies beyond the classes, a sample
            has no modality, or text cannot be stored. Rows are counted from the first block on.
        OutputError
            If the file cannot be written.
        """
        block = {name: as_array(name, values) for name, values in arrays.items()}
        with located(file=str(self.path), rows=range(self.rows, sys.maxsize)):
            first = not self._alike.first
            start, self.rows = self.rows, self.rows + self._alike.accept(block)
            if first:
                self._begin(block)
            if self._expected is not None and self.rows > self._expected:
                raise SchemaError(f"expected {self._expected:,} rows, found {self.rows:,}")
            for name, values in block.items():
                self._draft.write(name, start, values)

    def _begin(self, block: Mapping[str, NDArray[Any]]) -> None:
        misplaced = [name for name in block if not per_sample(name)]
        if misplaced := misplaced + [name for name in self._constants if per_sample(name)]:
            message = "expected rows of samples in append, and all else in constants"
            raise SchemaError(message, dataset=misplaced[0])
        self._pool.handle.attrs.update(self._attributes)
        for name, values in self._constants.items():
            self._pool.store(name, values)
        for name, link in self._links.items():
            link.store(self._pool.handle, name)
        for name, values in block.items():
            self._draft.reserve(name, values, self._expected)

    def _finish(self) -> None:
        if not self._alike.first:
            if not self._links:
                raise SchemaError("expected at least one array with a row per sample, found none")
            self._begin({})
            self.rows = self._expected or 0
        if self._expected not in (None, self.rows):
            raise SchemaError(f"expected {self._expected:,} rows, found {self.rows:,}")
        if self._draft is not self._pool:
            for name, like in self._alike.first.items():
                self._pool.reserve(name, like, self.rows)
                _copy(self._draft, self._pool, name, self.rows)
        if "/id" in self._alike.first:
            dataset, step = self._pool.handle["/id"], 1 << 15
            check_in_blocks(lambda: (dataset[a:b] for a, b in ranges(0, self.rows, step)))


def _copy(source: Storage, target: Storage, name: str, rows: int) -> None:
    dataset = source.handle[name]
    for start, stop in ranges(0, rows, 16 * compute_rows(prod(dataset.shape[1:]))):
        target.write(name, start, dataset[start:stop])


def write_pool(
    path: str | os.PathLike[str], **arrays: Tensor | Mapping[str, Tensor] | None
) -> None:
    """Write a pool file in format 1.1.

    The file appears under its name only when it is whole. Floats keep their type; storage is
    contiguous. The format's page says what each dataset means and which axes it has.

    Parameters
    ----------
    path : path
        The file to write; an existing one is replaced.
    ids : (n,) sequence of str or integers, optional
        Unique names.
    features, unimodal_logits : mapping of modality to (n, d) or (n, c) array, optional
    multimodal_logits : (n, c) array, optional
    coalition_logits : mapping of coalition (``a+b`` or ``none``) to (n, c) array, optional
    classifier_weight : mapping of modality to (c, d) array, optional
    classifier_bias : (c,) array, optional
    dropout_logits : (n, t, c) array, optional
    present : mapping of modality to (n,) boolean array, optional
        Which samples have it. Where they have not, its features, logits and coalitions may be nan.
    labels : (n,) integer array, optional
        Class index, -1 = unknown.
    label_share : (n, c) array, optional
        Soft labels in [0, 1].
    labeled : (n,) boolean array, or one of 0 and 1, optional
    class_names : (c,) sequence of str, optional
    metadata : mapping of column to (n,) array or sequence, optional
        None and nan in a column of text are stored as empty text.

    Arrays are NumPy arrays, columns of pandas, polars or pyarrow (of lists, too), sequences, or
    anything with ``__dlpack__`` or ``.cpu().numpy()``, such as torch tensors on any device.

    Raises
    ------
    SchemaError
        If a name, shape or type is not what the format says, or sizes differ.
    DataError
        If ids repeat or cannot be printed on a line, a label lies beyond the classes, a sample has
        no modality, or text cannot be stored.
    OutputError
        If the file cannot be written.

    Examples
    --------
    >>> import mmselect, numpy as np, tempfile, pathlib
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "pool.h5"
    >>> mmselect.write_pool(path, ids=["a", "b"], features={"image": np.zeros((2, 3))})
    >>> with mmselect.open_pool(path) as pool:
    ...     pool.n, pool.ids.text([1])
    (2, ['b'])
    """
    given = arrays_of(arrays)
    n = axes_of(given).sizes["n"]
    fixed = {name: array for name, array in given.items() if not per_sample(name)}
    with PoolWriter(path, fixed, rows=n) as writer:
        writer.append({name: array for name, array in given.items() if name not in fixed})


def join_shards(
    paths: Sequence[PoolPath], target: str | os.PathLike[str], memory: int = DEFAULT_MEMORY
) -> None:
    """Write several pool files as one, in row blocks; how rows were cut into shards is not seen.

    Parameters
    ----------
    paths : sequence of paths
        Shards, in order.
    target : path
    memory : int
        Bytes to read at a time.

    Raises
    ------
    MmselectError
        Of the kind that fits, for shards that are not one pool or a file that cannot be written.

    Examples
    --------
    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> for name, ids in (("a.h5", [1, 2]), ("b.h5", [3])):
    ...     write_pool(folder / name, ids=ids)
    >>> join_shards([folder / "a.h5", folder / "b.h5"], folder / "c.h5")
    >>> with open_pool(folder / "c.h5") as pool:
    ...     pool.n
    3
    """
    constants, rows, dtypes = check_shards(paths)
    with open_pool(paths[0], masks=False, ids=False) as first:
        step = compute_rows(sum(prod(column.shape[1:]) for column in first.columns.values()))
    with PoolWriter(target, constants, rows=rows) as writer:
        for block in _cut_anew(_shard_blocks(paths, step, memory), step):
            writer.append({name: x.astype(dtypes[name], copy=False) for name, x in block.items()})


def _shard_blocks(paths: Sequence[PoolPath], step: int, memory: int) -> Iterator[Block]:
    """Read shards one after the other, in blocks of up to `step` rows."""
    for path in paths:
        with open_pool(path, masks=False, ids=False) as shard:
            for _, block in shard.blocks(in_schema_order(shard.columns), step, memory):
                yield block


def _cut_anew(blocks: Iterable[Block], step: int) -> Iterator[Block]:
    """Cut rows into blocks of `step`, whatever blocks they come in: text is laid out by blocks."""
    rest: Block = {}
    for block in blocks:
        rest = {name: np.concatenate([rest[name], x]) if rest else x for name, x in block.items()}
        n = len(next(iter(rest.values())))
        for start in range(0, n - step + 1, step):
            yield {name: x[start : start + step] for name, x in rest.items()}
        rest = {name: x[n - n % step :] for name, x in rest.items()}
    if len(next(iter(rest.values()), ())):
        yield rest


def check_shards(
    paths: Sequence[PoolPath],
) -> tuple[dict[str, NDArray[Any]], int, dict[str, np.dtype[Any]]]:
    """Hold shards against the first one, of which there may be more than a program may open.

    Parameters
    ----------
    paths : sequence of paths
        Two of them are open at a time.

    Returns
    -------
    constants : dict of dataset path to array
    rows : int
        In all of them.
    dtypes : dict of dataset path to dtype
        The type that holds the numbers of all.

    Raises
    ------
    MmselectError
        Of the kind that fits, for shards that are not one pool.
    """
    if len({os.path.realpath(path) for path in paths}) < len(paths):
        raise SchemaError("expected every shard once, found one of them twice")
    with open_pool(paths[0], masks=False) as first:
        rows = first.n
        dtypes = {name: column.dtype for name, column in first.columns.items()}
        ids = [first.ids.values] if "/id" in dtypes else []
    for path in paths[1:]:
        with open_pool([paths[0], path], masks=False) as pair:
            rows += pair.n - first.n
            for name, column in pair.columns.items():
                dtypes[name] = np.result_type(dtypes[name], column.dtype)
            ids += [pair.ids.values[first.n :]] if ids else []
    if ids:
        check_ids(Ids(np.concatenate(ids)))
    return first.constants, rows, dtypes
