"""A pool that is being written: beside its target, kept when the export ends early.

Two files. ``NAME.partial`` is the pool, laid out for all rows. ``NAME.partial.journal`` has one
line of JSON per batch, with its number of rows, its ids and its text; text is added to the pool at
the end. The lines of some batches are written together, after their numbers have reached the disk:
rows that the journal counts are there, whatever killed the program, and be it the power supply.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from mmselect.errors import DataError, FormatError, OutputError, ParameterError, SchemaError
from mmselect.files import writing
from mmselect.torch import rawfile
from mmselect.torch.agreeing import agree
from mmselect.torch.rawfile import Spec

COMMIT_SECONDS = 10.0
"""How long written rows may wait to be counted: what a killed export loses."""

FIRST_ROWS, GROWTH = 4096, 4
"""Room for rows where nobody knows how many will come, and how it grows."""

Lists = Mapping[str, list[Any]]


class PartialPool:
    """The files of an export under way. Made by :func:`partial_pool`.

    Attributes
    ----------
    rows, batches : int
        Written so far.
    kept : int
        Rows of them that the journal counts.
    last : dict
        What the journal says of the last batch.
    specs : dict of path to Spec
        Datasets of numbers; empty until the first batch.
    text : list of paths
        Datasets of text.
    constants : dict of path to array
        Datasets without a row per sample, for whenever the file is laid out.
    """

    def __init__(self, target: Path, journal: Journal, settings: Mapping[str, Any]) -> None:
        self.target, self.journal, self.settings = target, journal, dict(settings)
        self.file = target.with_name(f"{target.name}.partial")
        self.new = target.with_name(f"{target.name}.partial.new")
        self.rows = self.batches = self.room = self.kept = 0
        self.last: dict[str, Any] = {}
        self.specs: dict[str, Spec] = {}
        self.text: list[str] = []
        self.places: dict[str, int] = {}
        self.constants: dict[str, NDArray[Any]] = {}
        self.handle: Any = None
        self._seen, self._waiting, self._committed = Seen(), list[str](), time.monotonic()

    def create(self, specs: Mapping[str, Spec], text: Sequence[str], n: int | None) -> None:
        """Lay out the pool, for `n` rows or, where that is None, for as many as come."""
        self.journal.clear()
        self.specs, self.text = dict(specs), list(text)
        self.room = FIRST_ROWS if n is None else n
        rawfile.lay_out(self.file, self.specs, self.room, self.constants)
        self._open()
        types = {path: [list(spec.tail), spec.dtype.str] for path, spec in self.specs.items()}
        header = {"settings": self.settings, "specs": types, "text": self.text}
        self.journal.append([json.dumps(header)])

    def write(self, arrays: Mapping[str, NDArray[Any]], lists: Lists) -> None:
        """Write the next batch: numbers to their places, ids and text to the journal.

        Raises
        ------
        DataError
            If an id was written before; `rows` counts within the batch.
        """
        rows = len(next(iter(arrays.values())))
        self._refuse_repeated(lists.get("/id", []))
        if self.rows + rows > self.room:
            self._lay_out_again(max(self.rows + rows, self.room * GROWTH))
        for path, spec in self.specs.items():
            place = self.places[path] + self.rows * spec.row_bytes
            data = np.ascontiguousarray(arrays[path], spec.dtype)
            rawfile.write_at(self.handle.fileno(), place, data.view(np.uint8).data)
        self._count({"rows": rows, "lists": dict(lists)})
        self._waiting.append(json.dumps(self.last))
        if time.monotonic() - self._committed >= COMMIT_SECONDS:
            self.commit()

    def commit(self) -> None:
        """Count the rows written so far, once they are on the disk."""
        if self._waiting:
            os.fsync(self.handle.fileno())
            # first taken, then written: whatever comes in between, no line is written twice
            lines, self._waiting = self._waiting, []
            self.journal.append(lines)
            self.kept = self.rows
        self._committed = time.monotonic()

    def _count(self, line: dict[str, Any]) -> None:
        self.rows, self.batches, self.last = self.rows + line["rows"], self.batches + 1, line

    def compare(self, arrays: Mapping[str, NDArray[Any]], lists: Lists) -> None:
        """Hold the last batch, computed again, against what is written.

        Raises
        ------
        SchemaError
            If it has other rows, text or numbers; `rows` counts within the batch.
        """
        rows = len(next(iter(arrays.values())))
        if rows != self.last["rows"]:
            expected = f"expected {self.last['rows']} rows in batch {self.batches}, as before"
            raise SchemaError(f"{expected}, found {rows}", file=str(self.file))
        self.check_lists(self.last, lists)
        for path, spec in self.specs.items():
            place = self.places[path] + (self.rows - rows) * spec.row_bytes
            shape = (rows, *spec.tail)
            old = rawfile.read_at(self.handle.fileno(), place, shape, spec.dtype)
            if not agree(old, arrays[path]):
                message = "expected the numbers written before, found others: is it the same model?"
                here = list(range(rows))
                raise SchemaError(message, file=str(self.file), dataset=path, rows=here)

    def check_lists(self, line: Mapping[str, Any], lists: Lists) -> None:
        """Hold ids and text of a batch against what the journal says of it.

        Raises
        ------
        SchemaError
            If they differ; `rows` counts within the batch.
        """
        for path in sorted(lists):
            old, new = line["lists"].get(path, []), lists[path]
            if old == new:
                continue
            pairs = zip(old, new, strict=False)
            row = next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(old), len(new)))
            names = [repr(each[row]) if row < len(each) else "nothing" for each in (old, new)]
            message = f"expected {names[0]}, as in the export to go on with, found {names[1]}"
            raise SchemaError(message, file=str(self.file), dataset=path, rows=[row])

    def lines(self) -> Iterator[dict[str, Any]]:
        """Read what the journal says of each batch, in order."""
        return (line for line in self.journal.lines() if "rows" in line)

    def finish(self) -> None:
        """Add the text, and give the pool its name."""
        if self.room != self.rows:
            self._lay_out_again(self.rows)
        self.commit()
        # While HDF5 adds the text, the file may be unreadable: these places are then the way back.
        number = os.fstat(self.handle.fileno()).st_ino
        self.journal.append([json.dumps({"finishing": self.places, "inode": number})])
        with rawfile.plain_errors(), h5py.File(self.file, "r+") as handle:
            self._add_text(handle)
        rawfile.sync(self.file)
        if self.target.exists():
            shutil.copymode(self.target, self.file)
        self.file.replace(self.target)
        self.new.unlink(missing_ok=True)  # of an export that was killed while its file grew
        self.journal.clear()

    def _add_text(self, handle: h5py.File) -> None:
        for path in self.text:
            handle.create_dataset(path, (self.rows,), h5py.string_dtype(), track_times=False)
        start = 0
        for line in self.lines():
            stop = start + line["rows"]
            for path in self.text:
                handle[path][start:stop] = line["lists"][path]
            start = stop

    def _refuse_repeated(self, ids: list[Any]) -> None:
        for row in self._seen.add(ids):
            self.commit()
            if (earlier := self._row_of(ids[row])) is not None:
                message = f"expected unique ids, found {str(ids[row])!r} again"
                raise DataError(f"{message}, as in row {earlier}", dataset="/id", rows=[row])

    def _row_of(self, name: Any) -> int | None:
        start = 0
        for line in self.lines():
            if name in line["lists"]["/id"]:
                return start + int(line["lists"]["/id"].index(name))
            start += line["rows"]
        return None

    def _lay_out_again(self, room: int) -> None:
        """Move the rows into a file with room for more, or with exactly as much as they need."""
        try:
            rawfile.lay_out(self.new, self.specs, room, self.constants)
            places = self.places, rawfile.offsets(self.new, self.specs)
            rawfile.copy_rows(self.file, self.new, self.specs, places, self.rows)
            self.new.replace(self.file)
        except BaseException:
            self.new.unlink(missing_ok=True)
            raise
        self.room = room
        self._open()

    def _open(self) -> None:
        self.close()
        self.handle = self.file.open("r+b", buffering=0)
        self.places = rawfile.offsets(self.file, self.specs)

    def close(self) -> None:
        """Close the pool's file."""
        if self.handle is not None:
            self.handle.close()

    def load(self, header: Mapping[str, Any]) -> None:
        """Take up a partial export where its journal ends.

        Raises
        ------
        ParameterError
            If it was made with other settings.
        """
        if not header.keys() >= {"settings", "specs", "text"}:
            raise unreadable(self.journal.path, "expected the settings of an export, found none")
        for name in sorted(self.settings.keys() | header["settings"].keys()):
            old, new = header["settings"].get(name), self.settings.get(name)
            if old != new:
                message = f"expected {name} = {old}, as in the export to go on with, found {new}"
                raise ParameterError(message, file=str(self.file))
        self.text, specs = header["text"], header["specs"].items()
        self.specs = {path: Spec(tuple(tail), np.dtype(kind)) for path, (tail, kind) in specs}
        ended: dict[str, Any] = {}
        for line in self.journal.lines():
            if "rows" in line:
                self._count(line)
                self._seen.add(line["lists"].get("/id", []))
            elif "finishing" in line:
                ended = line
        self.kept = self.rows
        self._restore(ended)

    def _restore(self, ended: Mapping[str, Any]) -> None:
        """Open the file; where the export ended while text was added, by the places it had."""
        if ended.get("inode") != self.file.stat().st_ino:
            try:
                self.room = rawfile.rows_laid_out(self.file, self.specs)
                self._open()
            except (OSError, KeyError) as error:
                raise unreadable(self.file, f"found no partial pool ({error})") from None
            return
        # HDF5 may not be able to read it; no room means that it is laid out again in the end
        self.places, self.room = ended["finishing"], 0
        self.handle = self.file.open("r+b", buffering=0)


def unreadable(file: Path, why: str) -> FormatError:
    """Say that an export cannot go on with a file, and what to do."""
    return FormatError(f"cannot be read: {why}; without resume, it starts again", file=str(file))


class Seen:
    """The ids so far, as sorted runs of 64-bit hashes: 8 bytes each.

    Examples
    --------
    >>> seen = Seen()
    >>> seen.add(["a", "b"]), seen.add(["c", "b"])
    ([], [1])
    """

    def __init__(self) -> None:
        self.runs: list[NDArray[np.int64]] = []

    def add(self, ids: Sequence[Any]) -> list[int]:
        """Positions of `ids` whose hash was there before; then remember them all."""
        new = np.fromiter(map(hash, ids), np.int64, len(ids))
        known = np.zeros(len(new), bool)
        for run in self.runs:
            known |= run[np.searchsorted(run, new).clip(max=len(run) - 1)] == new
        if len(new):
            self.runs.append(np.sort(new))
        # runs shrink at least by half from one to the next, so that there are few
        while len(self.runs) > 1 and len(self.runs[-2]) < 2 * len(self.runs[-1]):
            self.runs[-2:] = [np.sort(np.concatenate(self.runs[-2:]))]
        return [int(row) for row in np.flatnonzero(known)]


class Journal:
    """Lines of JSON that are added at the end, and of which only whole ones count."""

    def __init__(self, path: Path) -> None:
        self.path, self.handle = path, path.open("ab", buffering=0)

    def lines(self) -> Iterator[dict[str, Any]]:
        """Read the lines; one that was being written when a program ended is none."""
        with self.path.open("rb") as reader:
            for line in reader:
                if line.endswith(b"\n"):
                    yield self._read(line)

    def _read(self, line: bytes) -> dict[str, Any]:
        with suppress(ValueError):
            if isinstance(found := json.loads(line), dict):
                return found
        raise unreadable(self.path, "expected lines of JSON, found others")

    def append(self, lines: Sequence[str]) -> None:
        """Write lines, and wait until they are on the disk."""
        data = memoryview("".join(f"{line}\n" for line in lines).encode())
        while data:
            data = data[self.handle.write(data) :]
        os.fsync(self.handle.fileno())

    def cut(self) -> None:
        """Take away the end of a line that was never finished."""
        with self.path.open("rb") as reader:
            whole = sum(len(line) for line in reader if line.endswith(b"\n"))
        self.handle.truncate(whole)

    def clear(self) -> None:
        """Take away all lines."""
        self.handle.truncate(0)


@contextmanager
def partial_pool(path: Path, settings: Mapping[str, Any], resume: bool) -> Iterator[PartialPool]:
    """Begin a pool, or with `resume` take up one that ended early.

    Whatever ends the block, rows that are written are counted and the files stay, unless the pool
    was finished.

    Raises
    ------
    OutputError
        If the files cannot be written, or another export is writing them.
    ParameterError
        If the partial pool was made with other settings.
    """
    target = Path(os.path.realpath(path))
    with _journal(target.with_name(f"{target.name}.partial.journal")) as journal:
        pool = PartialPool(target, journal, settings)
        header = next(journal.lines(), None) if resume and pool.file.exists() else None
        if header is not None:
            with writing(path):
                journal.cut()
                pool.load(header)
        try:
            yield pool
        except BaseException as error:
            with suppress(OSError, ValueError):  # what ended the export is what to tell
                pool.commit()
            if pool.kept:
                error.add_note(f"{pool.file} keeps {pool.kept:,} rows; resume=True goes on there")
            raise
        finally:
            pool.close()


@contextmanager
def _journal(path: Path) -> Iterator[Journal]:
    """Open the journal, alone; one without a line does not stay."""
    with writing(path):
        journal = Journal(path)
    with journal.handle:
        try:
            fcntl.flock(journal.handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            message = "expected no other export, found one at work"
            raise OutputError(message, file=str(path)) from None
        try:
            yield journal
        finally:
            with suppress(OSError):  # what ended the export is what to tell
                if os.fstat(journal.handle.fileno()).st_size == 0:
                    path.unlink()
