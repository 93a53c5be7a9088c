"""What is packed: an array in some file, read by rows, whatever the file is."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from mmselect.errors import InputError, SchemaError, suggestion
from mmselect.files import reason
from mmselect.pool.column import Column
from mmselect.pool.parts import ArrayPart, Part, Plain

Blocks = Callable[[], Iterator[NDArray[Any]]]
"""Starts to read from the first row on, in blocks of any size."""


class Files(ExitStack):
    """The files that are open, and what several sources share: a table is parsed once.

    Attributes
    ----------
    lacking : set of (Path, str)
        File and key of columns that turned out to have nothing for some samples.
    """

    def __init__(self, lacking: Iterable[tuple[Path, str]] = ()) -> None:
        super().__init__()
        self.shared: dict[Any, Any] = {}
        self.lacking = {*lacking}


class Lacking(Exception):
    """A column has nothing for a sample, which shows only where it is read."""

    def __init__(self, path: Path, key: str) -> None:
        super().__init__(path, key)
        self.column = (path, key)


@dataclass(frozen=True)
class Source:
    """An array in a file, or in several files one after the other.

    Attributes
    ----------
    path : Path
        The file, or the folder of files.
    key : str
        Which of the file's arrays it is; empty where it has one only.
    parts : tuple of Part
        What reads it: one for each file.
    in_order : bool
        Whether reading rows out of order would read much of the file again and again.
    pieces : tuple of (Path, int, int)
        Where its numbers lie as HDF5 would store them: file, first byte, bytes. Empty if they are
        compressed, converted, or text.
    stored : (Path, str), optional
        The HDF5 file and the dataset in it, where it is one.
    absent : callable, optional
        Reads which rows have nothing: a mask (n,).
    notices : tuple of str
        What the user should know.
    held : str
        What it is called where it is in no file.
    """

    path: Path
    key: str
    parts: tuple[Part, ...]
    in_order: bool = False
    pieces: tuple[tuple[Path, int, int], ...] = ()
    stored: tuple[Path, str] | None = None
    absent: Callable[[], NDArray[np.bool_]] | None = None
    notices: tuple[str, ...] = ()
    held: str = ""

    @property
    def name(self) -> str:
        """What a user would write for it."""
        if self.held:
            return self.held
        return f"{self.path}:{self.key}" if self.key else str(self.path)

    @cached_property
    def column(self) -> Column:
        """Its rows over all files.

        Raises
        ------
        SchemaError
            If the files differ in the shape of a row, or one holds text and another numbers.
        """
        first = self.parts[0]
        for part in self.parts[1:]:
            found, wanted = (_row(p) for p in (part, first))
            if found != wanted:
                message = f"expected {wanted}, as in {first.file}, found {found}"
                raise SchemaError(message, file=part.file, dataset=part.path or None)
        dtypes = {part.dtype for part in self.parts}
        dtype = first.dtype if len(dtypes) == 1 else np.result_type(*dtypes)
        shape = (sum(map(len, self.parts)), *first.shape[1:])
        return Column(self.key, self.parts, shape, dtype)

    def place(self, rows: Sequence[int]) -> tuple[str, list[int]]:
        """Name the file that holds the first of `rows`, and which of its own rows they are."""
        starts = [0, *accumulate(map(len, self.parts))]
        for part, start, stop in zip(self.parts, starts, starts[1:], strict=False):
            if start <= rows[0] < stop:
                return part.file, [row - start for row in rows if start <= row < stop]
        return str(self.path), list(rows)


def in_memory(path: str, values: NDArray[Any], held: str = "an array") -> Source:
    """Make a source of an array; `path` is the dataset that it becomes."""
    part = ArrayPart(held, path, values.shape, values.dtype, values)
    return Source(Path(held), path, (part,), held=held)


def _row(part: Part) -> str:
    kind = "text" if part.dtype.kind in "OSU" else "numbers"
    return f"rows of {' × '.join(map(str, part.shape[1:])) or '1'} {kind}"


@dataclass(frozen=True)
class Converted(Part):
    """Rows of another part, turned into something else on the way."""

    source: Part
    turn: Callable[[NDArray[Any]], NDArray[Any]]

    @property
    def plain(self) -> bool:
        """Whether those of the other part are."""
        return self.source.plain

    def read(self, start: int, stop: int, out: NDArray[Any] | None = None) -> NDArray[Any]:
        """Rows from `start` to `stop`."""
        return placed(self.turn(self.source.read(start, stop)), out)


def placed(block: NDArray[Any], out: NDArray[Any] | None) -> NDArray[Any]:
    """Put a block where it is wanted."""
    if out is None:
        return block
    out[...] = block
    return out


def widened(block: NDArray[Any]) -> NDArray[np.float32]:
    """Turn bfloat16, whose bits came as integers, into float32: the upper half of its bits.

    Examples
    --------
    >>> widened(np.array([0x3F80, 0xC000], "<u2")).tolist()
    [1.0, -2.0]
    """
    return (block.astype("<u4") << 16).view("<f4")


@dataclass(frozen=True)
class Beside(Part):
    """Columns of numbers side by side."""

    columns: tuple[Part, ...]

    @property
    def plain(self) -> bool:
        """Whether any thread may read all of them."""
        return all(column.plain for column in self.columns)

    def read(self, start: int, stop: int, out: NDArray[Any] | None = None) -> NDArray[Any]:
        """Rows from `start` to `stop`."""
        read = [column.read(start, stop) for column in self.columns]
        return placed(np.stack(read, axis=1).astype(self.dtype, copy=False), out)


def beside(key: str, columns: Sequence[Part]) -> Beside:
    """Put columns of one file side by side.

    Raises
    ------
    SchemaError
        If one of them is no column of numbers.
    """
    for part in columns:
        if len(part.shape) != 1 or part.dtype.kind not in "fiub":
            message = f"expected numbers in every column of {key}, found {_row(part)}"
            raise SchemaError(message, file=part.file, dataset=part.path)
    dtype = np.result_type(*(part.dtype for part in columns))
    shape = (len(columns[0]), len(columns))
    return Beside(columns[0].file, key, shape, dtype, tuple(columns))


@dataclass(frozen=True)
class InOrder(Part):
    """Rows that come one after the other; to go back is to start again."""

    blocks: Blocks
    cursor: Cursor = field(default_factory=lambda: Cursor())

    @property
    def plain(self) -> bool:
        """Whether any thread may read it."""
        return False

    def read(self, start: int, stop: int, out: NDArray[Any] | None = None) -> NDArray[Any]:
        """Rows from `start` to `stop`."""
        if start < self.cursor.row or self.cursor.rest is None:
            self.cursor.begin(self.blocks())
        pieces = list(self.cursor.advance(start, stop))
        if sum(map(len, pieces)) < stop - start:
            message = f"expected {len(self):,} rows, found {self.cursor.row:,}"
            raise InputError(message, file=self.file, dataset=self.path or None)
        if not pieces:
            return np.empty((0, *self.shape[1:]), self.dtype)
        return placed(pieces[0] if len(pieces) == 1 else np.concatenate(pieces), out)


class Cursor:
    """How far rows have been read: the next row, and what of the last block is left."""

    def __init__(self) -> None:
        self.row, self.rest = 0, None

    row: int
    rest: NDArray[Any] | None

    def begin(self, blocks: Iterator[NDArray[Any]]) -> None:
        """Start with the first row."""
        self.row, self._blocks = 0, blocks
        self.rest = next(blocks, np.empty(0))

    def advance(self, start: int, stop: int) -> Iterator[NDArray[Any]]:
        """Read on to `stop`, and yield what comes from `start` on."""
        while self.row < stop and self.rest is not None:
            if not len(self.rest):
                found = next(self._blocks, None)
                if found is None:
                    return
                self.rest = found
            step = min(len(self.rest), stop - self.row)
            if (skip := max(start - self.row, 0)) < step:
                yield self.rest[skip:step]
            self.row, self.rest = self.row + step, self.rest[step:]


def opened(path: Path, files: ExitStack, buffered: bool = True) -> BinaryIO:
    """Open a regular file to read.

    Raises
    ------
    InputError
        If it is none, or cannot be read.
    """
    try:
        if not path.is_file():
            there = "found none" if path.exists() else "it does not exist"
            raise InputError(f"expected a regular file, {there}", file=str(path))
        return files.enter_context(path.open("rb", buffering=-1 if buffered else 0))
    except (OSError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        why = reason(error) if isinstance(error, OSError) else str(error)
        raise InputError(f"cannot be read: {why}", file=str(path)) from None


def raw_part(
    path: Path,
    key: str,
    layout: tuple[tuple[int, ...], np.dtype[Any], int],
    files: ExitStack,
) -> Plain:
    """Make what reads numbers that lie in a row from some byte on: shape, type and first byte.

    Raises
    ------
    InputError
        If the file ends before they do.
    """
    (shape, dtype, offset), file = layout, opened(path, files, buffered=False)
    size, held = prod(shape) * dtype.itemsize, path.stat().st_size
    if offset + size > held:
        message = f"truncated: expected {offset + size:,} bytes, found {held:,}"
        raise InputError(message, file=str(path), dataset=key or None)
    return Plain(str(path), key, shape, dtype, ((file, offset, size),))


def choose(key: str, names: Sequence[str], path: Path, what: str = "arrays") -> str:
    """Take the key that was given, or the only one there is.

    Raises
    ------
    InputError
        Naming those that the file has.
    """
    if key in names or (not key and len(names) == 1):
        return key or names[0]
    found = f"found no {key!r}" if key else f"found {len(names):,}"
    shown = ", ".join(names[:10]) + (", …" if len(names) > 10 else "")
    known = f"it has {shown or 'none'}{suggestion(key, names)}"
    message = f"expected one of its {what} as {path.name}:KEY, {found}; {known}"
    raise InputError(message, file=str(path))
