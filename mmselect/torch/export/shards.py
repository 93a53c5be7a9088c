"""An export under way: a folder of finished shards beside the target.

``NAME.partial`` holds pool files, each of some batches, called by the part of the export that wrote
them and the number of their first batch. A shard gets its name when it is on the disk, so that
whatever ends the program leaves whole shards, and going on means to count them. When every part is
done the shards are joined into one file, in order, or left as they are.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmselect.engine import DEFAULT_MEMORY
from mmselect.errors import (
    FormatError,
    MmselectError,
    ParameterError,
    SchemaError,
    located,
)
from mmselect.files import locked, make_folder, writing
from mmselect.pool.ids import Ids, check_ids, hashes_of
from mmselect.pool.reading import Pool, open_pool
from mmselect.pool.writing import PoolWriter, check_shards, join_shards
from mmselect.torch.export.blocks import Arrays, allclose_to_largest

SHARD_BYTES = DEFAULT_MEMORY
"""How much waits in memory, at most, before a shard is written."""

SHARD_SECONDS, SHARD_SHARE = 60.0, 16
"""A smaller shard is written when it took so long, and if it has a 16th of the rows before it: a
killed export loses a minute, or a 17th of its work, and a long one is not thousands of shards."""

POLL = 0.05
"""Seconds between two looks whether another process still joins the shards."""


class Shards:
    """The finished shards of one part of an export, and the batches that wait for the next one.

    Attributes
    ----------
    target, folder : Path
        The pool to be, links followed, and what it grows in.
    own : str
        What the names of this part's files begin with.
    rows, batches, last_rows : int
        What the finished shards hold, and the rows of the last batch in them.
    constants : dict of path to array
        The datasets without a row per sample.
    """

    def __init__(self, target: Path, settings: Mapping[str, Any], part: tuple[int, int]) -> None:
        self.target = Path(os.path.realpath(target))
        self.folder = self.target.with_name(f"{self.target.name}.partial")
        self.settings, self.parts, self.own = json.dumps(settings), part[1], f"{part[0]:04d}"
        self.rows = self.batches = self.last_rows = 0
        self.constants: Arrays = {}
        self.lock = self.folder / f"{self.own}.lock"
        self._waiting: list[Arrays] = []
        self._size, self._since = 0, time.monotonic()
        self._hashes = np.empty(0, np.int64)

    def finished(self, part: str) -> list[Path]:
        """Shards of a part, or of all (``"*"``), in order."""
        return sorted(self.folder.glob(f"{part}-*.h5"))

    def append(self, arrays: Arrays) -> None:
        """Take a batch, and write a shard if it is time.

        Raises
        ------
        DataError
            If an id was there before.
        OutputError
            If the shard cannot be written.
        """
        self._waiting.append(arrays)
        self._size += sum(array.nbytes for array in arrays.values())
        rows = sum(map(_rows, self._waiting))
        late = time.monotonic() - self._since >= SHARD_SECONDS
        if self._size >= SHARD_BYTES or (late and rows >= self.rows / SHARD_SHARE):
            self.flush()

    def flush(self) -> None:
        """Write what waits as a shard. What cannot be written is dropped, and not tried again."""
        blocks, self._waiting = self._waiting, []
        self._size, self._since = 0, time.monotonic()
        if not blocks:
            return
        sizes = list(map(_rows, blocks))
        about = {"batches": len(sizes), "last_batch": sizes[-1], "settings": self.settings}
        path = self.folder / f"{self.own}-{self.batches:08d}.h5"
        if "/id" in blocks[0]:
            self._check_ids(np.concatenate([block["/id"] for block in blocks]))
        if not self.batches:
            self._begin()
        with (
            located(rows=range(self.rows, sys.maxsize)),
            PoolWriter(path, self.constants, rows=sum(sizes), attributes=about) as writer,
        ):
            for block in blocks:
                writer.append(block)
        self.rows, self.last_rows = self.rows + sum(sizes), sizes[-1]
        self.batches += len(sizes)

    def _check_ids(self, ids: NDArray[Any]) -> None:
        """Refuse ids that were there before: where hashes are, look at the names of all."""
        hashes = hashes_of(ids)
        if np.isin(hashes, self._hashes).any():
            with located(file=str(self.target)):
                before = np.fromiter(self.ids(), ids.dtype, self.rows)
                check_ids(Ids(np.concatenate([before, ids])))
        self._hashes = np.concatenate([self._hashes, hashes])

    def ids(self) -> Iterator[Any]:
        """Go through the ids in the finished shards, as stored."""
        for path in self.finished(self.own):
            with open_pool(path, masks=False) as shard:
                yield from shard.ids.values.tolist()

    def _begin(self) -> None:
        """Take away what an export before has left of this part, and of parts beyond the last."""
        with writing(self.folder):
            for path in self.folder.glob("[0-9]" * 4 + "*"):
                stale = path.name.startswith(self.own) or int(path.name[:4]) >= self.parts
                if stale and path != self.lock:
                    path.unlink()

    def load(self) -> None:
        """Count the finished shards of an export that ended early.

        Raises
        ------
        ParameterError
            If it was made with other settings.
        FormatError
            If its files cannot be read, or one is missing.
        """
        for path in self.finished(self.own):
            with open_pool(path, masks=False) as shard:
                about = self._attributes(shard)
                if path.stem != f"{self.own}-{self.batches:08d}":
                    message = f"expected the shard of batch {self.batches + 1}, found another"
                    raise FormatError(f"{message}; without resume, it starts again", file=str(path))
                self.rows, self.last_rows = self.rows + shard.n, int(about["last_batch"])
                self.batches += int(about["batches"])
                if "/id" in shard.columns:
                    self._hashes = np.concatenate([self._hashes, hashes_of(shard.ids.values)])

    def _attributes(self, shard: Pool) -> Mapping[str, Any]:
        """Read what a shard says of its export, which has to have been told the same."""
        about = shard.layout.shards[0].source.handle.attrs
        old, new = (json.loads(each) for each in (about.get("settings", "{}"), self.settings))
        for name in sorted(old.keys() | new.keys()):
            if old.get(name) != new.get(name):
                message = f"expected {name} = {old.get(name)}, as in the export under way"
                raise ParameterError(f"{message}, found {new.get(name)}", file=shard.files[0])
        return about

    def compare(self, arrays: Arrays) -> None:
        """Hold the last batch of the finished shards, computed again, against what is written.

        Raises
        ------
        SchemaError
            If it has other rows, text or numbers; `rows` counts within the batch.
        """
        rows, path = _rows(arrays), self.finished(self.own)[-1]
        if rows != self.last_rows:
            expected = f"expected {self.last_rows} rows in batch {self.batches}, as before"
            hint = "is it the same batch size?"
            raise SchemaError(f"{expected}, found {rows}: {hint}", file=str(path))
        with open_pool(path, masks=False) as shard:
            start = shard.n - self.last_rows
            before = {name: column[start:] for name, column in shard.columns.items()}
        for name in {**arrays, **before}:
            old, new = (each.get(name, np.empty(0)) for each in (before, arrays))
            if not allclose_to_largest(old, new):
                message = "expected the numbers written before, found others: is it the same model?"
                every = list(range(rows))
                raise SchemaError(message, file=str(path), dataset=name, rows=every)

    def finish(self, join: bool) -> None:
        """Write what waits; where every part is done, make the pool of them."""
        self.flush()
        with writing(self.folder):
            (self.folder / f"{self.own}.done").touch()
        wait = partial(time.sleep, POLL)
        with suppress(FileNotFoundError), locked(self.folder / "lock", wait):
            if len(list(self.folder.glob("*.done"))) >= self.parts:
                self._make(join)

    def _make(self, join: bool) -> None:
        shards = self.finished("*")
        for path in shards:
            with open_pool(path, masks=False, ids=False) as shard:
                self._attributes(shard)
        if join:
            join_shards(shards, self.target)
            shutil.rmtree(self.folder)
            return
        check_shards(shards)
        with writing(self.target):
            for path in set(self.folder.iterdir()) - set(shards):
                path.unlink()
            self.folder.replace(self.target)


def _rows(arrays: Arrays) -> int:
    return len(next(iter(arrays.values())))


@contextmanager
def growing(
    target: Path, settings: Mapping[str, Any], part: tuple[int, int], resume: bool
) -> Iterator[Shards]:
    """Begin an export, or with `resume` take up one that ended early.

    Whatever ends the block, the batches that were taken are in a shard, and the shards stay.

    Raises
    ------
    OutputError
        If they cannot be written, or another process exports the same part.
    ParameterError
        If the finished shards were made with other settings.
    """
    shards = Shards(target, settings, part)
    make_folder(shards.folder)
    with locked(shards.lock):
        try:
            if resume:
                shards.load()
            yield shards
        except BaseException as error:
            with suppress(MmselectError, OSError):  # what ended the export is what to tell
                shards.flush()
            if shards.rows:
                note = f"{shards.folder} keeps {shards.rows:,} rows; resume=True goes on there"
                error.add_note(note)
            raise
        finally:
            with suppress(OSError):  # what ended the export is what to tell
                if not shards.finished(shards.own):
                    shards.lock.unlink()
                    shards.folder.rmdir()
