"""Text files: tables of comma-separated values, and files of lines.

A table has no types, so they are found in one pass over it. Cells are read again in blocks, and a
block once for all columns that are packed.
"""

from __future__ import annotations

import codecs
import csv
import io
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import cached_property, partial
from itertools import islice
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from numpy.typing import NDArray

from mmselect.errors import DataError, InputError
from mmselect.packing.source import Files, Source, choose, opened, placed
from mmselect.pool.parts import Part

DELIMITERS = ",;\t|"
LONGEST_CELL = 1 << 27
BLOCK = 4096
"""Rows whose types are looked at together."""

MISSING = frozenset(("", "nan", "NaN", "NAN", "NA", "N/A", "null", "NULL", "None", "<NA>"))
"""Cells of a column of numbers that hold none."""

TRUTH = {"True": True, "true": True, "TRUE": True, "False": False, "false": False, "FALSE": False}

Cells = Sequence[str]


@dataclass(frozen=True)
class Kind:
    """What the cells of a column are: ``truth``, ``whole``, ``number``, ``list`` or ``text``."""

    name: str
    missing: bool = False
    width: int = 0

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type of its rows; where whole numbers are missing, floats, which have nan."""
        if self.name in ("truth", "whole") and not self.missing:
            return np.dtype(bool if self.name == "truth" else np.int64)
        return np.dtype(object if self.name == "text" else "f4" if self.name == "list" else "f8")


def kind_of(cells: Cells) -> Kind:
    """Find what cells are; text where they are nothing else.

    Examples
    --------
    >>> [kind_of(c).name for c in (["1", "2"], ["1.5", ""], ["007"], ["[1, 2]"], ["True"])]
    ['whole', 'number', 'text', 'list', 'truth']
    """
    there = [cell for cell in cells if cell not in MISSING]
    missing = len(there) < len(cells)
    if not there:
        return Kind("", missing)
    if all(cell in TRUTH for cell in there):
        return Kind("truth", missing)
    if all(cell[:1] == "[" and cell[-1:] == "]" for cell in there):
        return Kind("list", missing, len(_list(there[0]) or ()))
    numbers = _numbers(there)
    if numbers is None or any(_padded(cell) for cell in there):
        return Kind("text")
    whole = all(cell.lstrip("-").isdecimal() for cell in there)
    return Kind("whole" if whole and np.abs(numbers).max() < 2**53 else "number", missing)


def _padded(cell: str) -> bool:
    """Whether zeros in front say that it is a name, not a number: ``007``."""
    digits = cell.lstrip("+-")
    return len(digits) > 1 and digits[0] == "0" and digits[1].isdigit()


def _numbers(cells: Cells) -> NDArray[np.float64] | None:
    try:
        return np.array([float(c) for c in cells]) if not any("_" in c for c in cells) else None
    except ValueError:
        return None


def _list(cell: str) -> list[float] | None:
    """Read a list of numbers as Python, JSON or NumPy write it."""
    try:
        return [float(item) for item in cell[1:-1].replace(",", " ").split()]
    except ValueError:
        return None


ORDER = ("", "truth", "whole", "number", "text")


def joined(a: Kind, b: Kind) -> Kind:
    """Find the kind of a column of which two blocks are of these kinds."""
    names, missing = {a.name, b.name} - {""}, a.missing or b.missing
    if len(names) < 2:
        return Kind(a.name or b.name, missing, a.width or b.width)
    if names == {"whole", "number"}:
        return Kind("number", missing)
    return Kind("text")


@dataclass(frozen=True)
class Table:
    """A file of cells: the names of its columns, what they are, and its rows, block by block."""

    path: Path
    delimiter: str | None = None
    last: dict[tuple[int, int], list[list[str]]] = field(default_factory=dict)
    reading: list[tuple[int, Iterator[list[str]]]] = field(default_factory=list)

    @cached_property
    def names(self) -> list[str]:
        """Names of the columns, from its first line."""
        with ExitStack() as files:
            return next(self._records(files), [])

    @cached_property
    def kinds(self) -> tuple[list[Kind], int]:
        """What each column is, and how many rows there are."""
        kinds, rows = [Kind("") for _ in self.names], 0
        with ExitStack() as files:
            records = self._rows(files)
            while block := list(islice(records, BLOCK)):
                columns = zip(*block, strict=True)
                kinds = [joined(k, kind_of(c)) for k, c in zip(kinds, columns, strict=True)]
                rows += len(block)
        return [kind if kind.name else Kind("text") for kind in kinds], rows

    def block(self, start: int, stop: int, files: Files) -> list[list[str]]:
        """Cells of some rows. The last block is kept: the next column wants it too."""
        if (start, stop) not in self.last:
            row, records = self.reading.pop() if self.reading else (0, self._rows(files))
            if row > start:
                row, records = 0, self._rows(files)
            cells = list(islice(records, start - row, stop - row))
            self.reading.append((stop, records))
            self.last.clear()
            self.last[start, stop] = cells
        return self.last[start, stop]

    def _rows(self, files: ExitStack) -> Iterator[list[str]]:
        """Rows below the names, each as long as these."""
        records, width = self._records(files), len(self.names)
        next(records, None)
        for row, cells in enumerate(records):
            if len(cells) != width:
                message = f"expected {width} cells, found {len(cells)}"
                raise InputError(message, file=str(self.path), rows=[row])
            yield cells

    def _records(self, files: ExitStack) -> Iterator[list[str]]:
        text = _text(self.path, files)
        csv.field_size_limit(LONGEST_CELL)
        try:
            if self.delimiter is None:  # lines
                yield [self.path.stem]
                yield from ([line.rstrip("\r\n")] for line in text if line.strip())
                return
            head = text.readline()
            text.seek(0)
            found = self.delimiter or max(DELIMITERS, key=head.count)
            reader = csv.reader(text, delimiter=found, strict=True)
            yield from filter(None, reader)
        except csv.Error as error:
            message = f"expected a table: line {reader.line_num:,}: {error}"
            raise InputError(message, file=str(self.path)) from None
        except UnicodeDecodeError as error:
            raise _no_text(self.path, error) from None


def _text(path: Path, files: ExitStack) -> TextIO:
    """Open text in UTF-8, or in UTF-16 with its mark."""
    raw = opened(path, files)
    head = raw.peek(2)[:2] if isinstance(raw, io.BufferedReader) else b""
    raw.seek(0)
    wide = head in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
    text = io.TextIOWrapper(raw, "utf-16" if wide else "utf-8-sig", newline="")
    files.callback(text.detach)
    return text


def _no_text(path: Path, error: UnicodeDecodeError) -> InputError:
    expected = "expected text in UTF-8, or in UTF-16 with a byte order mark"
    return InputError(f"{expected}, found byte 0x{error.object[error.start]:02x}", file=str(path))


@dataclass(frozen=True)
class CellPart(Part):
    """One column of a table, or several of numbers side by side."""

    table: Table
    columns: tuple[int, ...]
    kind: Kind
    files: Files

    @property
    def plain(self) -> bool:
        """Whether any thread may read it."""
        return False

    def read(self, start: int, stop: int, out: NDArray[Any] | None = None) -> NDArray[Any]:
        """Rows from `start` to `stop`."""
        block = self.table.block(start, stop, self.files)
        if len(block) < stop - start:
            raise InputError("the file has become shorter", file=self.file)
        if len(self.columns) > 1:
            return placed(self._side_by_side(block), out)
        return placed(self._turned([row[self.columns[0]] for row in block], start), out)

    def _side_by_side(self, block: list[list[str]]) -> NDArray[Any]:
        rows = [[row[column] for column in self.columns] for row in block]
        numbers = [[np.nan if c in MISSING else float(c) for c in cells] for cells in rows]
        return np.array(numbers, self.dtype).reshape(-1, len(self.columns))

    def _turned(self, cells: Cells, start: int) -> NDArray[Any]:
        if self.kind.name == "list":
            return self._lists(cells, start)
        if self.kind.name == "text":
            out = np.empty(len(cells), object)
            out[:] = [cell.encode("utf-8", "surrogatepass") for cell in cells]
            return out
        turn: Callable[[str], float] = TRUTH.__getitem__ if self.kind.name == "truth" else float
        if self.kind.name == "whole" and not self.kind.missing:
            turn = int
        return np.array([np.nan if c in MISSING else turn(c) for c in cells], self.dtype)

    def _lists(self, cells: Cells, start: int) -> NDArray[Any]:
        width, block = self.kind.width, np.full((len(cells), self.kind.width), np.nan, self.dtype)
        for row, cell in enumerate(cells):
            if cell in MISSING:
                continue
            if (items := _list(cell)) is None or len(items) != width:
                found = f"{cell:.40}…" if items is None else f"{len(items):,}"
                message = f"expected a list of {width:,} numbers, found {found}"
                raise DataError(message, file=self.file, dataset=self.path, rows=[start + row])
            block[row] = items
        return block


def open_column(path: Path, key: str, files: Files, table: Table) -> Source:
    """One column of a table; several of numbers, side by side, if the key has a ``*``."""
    names = table.names
    if repeated := [name for name in names if names.count(name) > 1]:
        raise InputError(
            f"expected columns of different names, found {repeated[0]!r} twice", file=str(path)
        )
    several = "*" in key and key not in names  # a column without a name is pandas' index
    chosen = [n for n in names if n and fnmatchcase(n, key)] if several else []
    chosen = chosen or [choose(key, names, path, "columns")]
    kinds, rows = table.kinds
    columns = tuple(names.index(name) for name in chosen)
    kind = kinds[columns[0]]
    if len(columns) > 1:
        for name, i in zip(chosen, columns, strict=True):
            if kinds[i].name not in ("whole", "number"):
                message = f"expected numbers in every column of {key}, found {kinds[i].name}"
                raise InputError(message, file=str(path), dataset=name)
        kind = Kind("list", any(kinds[i].missing for i in columns), len(columns))
    shape = (rows, kind.width) if kind.name == "list" else (rows,)
    part = CellPart(str(path), key or chosen[0], shape, kind.dtype, table, columns, kind, files)
    absent = partial(_absent, part) if kind.name == "list" and kind.missing else None
    notices = () if table.delimiter is None else _no_names(path, names)
    return Source(path, key or chosen[0], (part,), in_order=True, absent=absent, notices=notices)


def _no_names(path: Path, names: Sequence[str]) -> tuple[str, ...]:
    """Say that a first line of numbers is taken for names, unless it counts the columns."""
    counts = [[str(i + first) for i in range(len(names))] for first in (0, 1)]
    if [*names] in counts or not all(map(_is_number, names)):
        return ()
    found = ", ".join(names[:3])
    return (f"{path}: the first line, {found} …, is taken for the names of the columns",)


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _absent(part: CellPart) -> NDArray[np.bool_]:
    """Rows of lists with nothing in them."""
    found = np.zeros(len(part), bool)
    for start in range(0, len(part), BLOCK):
        stop = min(start + BLOCK, len(part))
        found[start:stop] = np.isnan(part.read(start, stop)).all(axis=1)
    return found


def open_table(delimiter: str | None) -> Callable[[Path, str, Files], Source]:
    """Make what opens a column of tables with this delimiter: empty finds it, None is lines."""

    def opener(path: Path, key: str, files: Files) -> Source:
        table = table_of(path, delimiter, files)
        return open_column(path, key, files, table)

    return opener


def table_of(path: Path, delimiter: str | None, files: Files) -> Table:
    """Make the table that a file is, once for all of its columns."""
    found: Table = files.shared.setdefault(path, Table(path, delimiter))
    return found


def columns_of(delimiter: str | None) -> Callable[[Path], list[str]]:
    """Make what lists the columns of such tables."""
    return lambda path: Table(path, delimiter).names
