"""Batches from a loader, through a model, to the shards of a pool."""

from __future__ import annotations

import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import islice, zip_longest
from pathlib import Path
from typing import Any

from mmselect.errors import PoolError, SchemaError, few
from mmselect.pool.blocks import Alike
from mmselect.pool.checking import name_problems
from mmselect.pool.conversion import to_numpy
from mmselect.pool.values import probability_notices
from mmselect.torch.export.batches import column
from mmselect.torch.export.blocks import Block, arrived, leaving, stored
from mmselect.torch.export.classifier import constants
from mmselect.torch.export.running import Runs
from mmselect.torch.export.shards import Shards

Report = Callable[[int, int | None], object]


@dataclass
class Export:
    """One export under way.

    Attributes
    ----------
    runs, shards
        The model under hooks, and where its numbers go.
    target : Path
        The pool's name when it is whole.
    n : int or None
        Rows to expect.
    report : callable
        Told of rows done and rows to do.
    held : int
        Rows that the finished shards hold before this run.
    alike : Alike
        What all batches of this run have in common.
    """

    runs: Runs
    shards: Shards
    target: Path
    n: int | None
    report: Report
    held: int = 0
    alike: Alike = field(default_factory=lambda: Alike({}))

    def run(self, loader: Iterable[Any]) -> None:
        """Go through the loader. On CUDA, a batch is stored while the next one is computed."""
        waiting: deque[tuple[int, Block]] = deque()
        ahead = self.runs.plan.device.type == "cuda"
        last, row, known = self.shards.batches - 1, 0, self.shards.ids()
        self.held, begins = self.shards.rows, self.shards.rows - self.shards.last_rows
        for index, batch in enumerate(loader):
            if index < last:
                row += self._skip(batch, row, known)
                continue
            row = begins if index == last else row  # it is computed again, and compared
            block = self._computed(batch, row, first=index == max(last, 0))
            waiting.append((row, block))
            row += block.rows
            if len(waiting) > ahead:
                self._store(*waiting.popleft())
        while waiting:
            self._store(*waiting.popleft())
        expected = max(row, self.held, 1) if self.n is None else self.n
        if row < expected:
            message = f"expected {expected:,} rows from the loader, found {row:,}"
            hint = ": give n= if that is all, and look for drop_last and samplers"
            raise SchemaError(message + hint * (row > 0), file=str(self.target))
        if self.n is None:
            self.report(row, row)

    def _skip(self, batch: Any, row: int, known: Iterator[Any]) -> int:
        """Hold a batch against the finished shards by its ids, if it has some; count them."""
        if "/id" not in self.runs.plan.columns:
            return 0
        with self._placed(row, None):
            new = stored("/id", column(batch, "/id", self.runs.plan.columns["/id"])).tolist()
            for at, (a, b) in enumerate(zip_longest(islice(known, len(new)), new)):
                if a != b:
                    message = f"expected {_shown(a)}, as in the export under way, found {_shown(b)}"
                    raise SchemaError(message, dataset="/id", rows=[at])
        return len(new)

    def _computed(self, batch: Any, row: int, first: bool) -> Block:
        found = self.runs.compute(batch, row, first)
        block, plan = leaving(found), self.runs.plan
        with self._placed(row, block.values.get("/id")):
            if not block.rows:
                message = "expected samples in every batch, found an empty one: leave it out"
                raise SchemaError(message)
            if first:
                arrays = arrived(block, Alike({}), plan.ask.dtype)
                for problem in name_problems(arrays):
                    raise problem  # before hours of work
                for said in probability_notices(arrays):
                    warnings.warn(said, stacklevel=5)
                self.shards.constants = constants(plan, found)
                self.alike = Alike(self.shards.constants)
        return block

    def _store(self, row: int, block: Block) -> None:
        with self._placed(row, block.values.get("/id")):
            arrays = arrived(block, self.alike, self.runs.plan.ask.dtype)
            if row < self.held:
                self.shards.compare(arrays)
            if self.n is not None and row + block.rows > self.n:
                message = f"expected {self.n:,} rows from the loader, found more"
                raise SchemaError(f"{message}: give n=, or n=None where nobody knows")
        if row >= self.held:
            self.shards.append(arrays)
        self.report(row + block.rows, self.n)

    @contextmanager
    def _placed(self, row: int, ids: Any) -> Iterator[None]:
        """Add to errors the file, the rows counted in the pool, and the ids."""
        try:
            yield
        except PoolError as error:
            if error.rows and error.dataset != "/id":
                with suppress(IndexError):  # of ids that are none, or too few, is told later
                    error.message += f" (id {few([*map(str, to_numpy(ids)[error.rows])])})"
            error.rows = error.rows and [row + at for at in error.rows]
            error.file = error.file or str(self.target)
            raise


def _shown(stored: Any) -> str:
    """Show an id as it was given."""
    return repr(stored.decode("utf-8", "replace") if isinstance(stored, bytes) else stored)
