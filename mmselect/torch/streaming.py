"""Batches from a loader, through a model, to a partial pool."""

from __future__ import annotations

import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from mmselect.errors import PoolError, SchemaError, few
from mmselect.files import writing
from mmselect.pool.checking import like_probabilities, name_problems
from mmselect.pool.schema import match
from mmselect.pool.writing import to_numpy
from mmselect.torch.batches import column
from mmselect.torch.capture import Recorder
from mmselect.torch.partial import PartialPool
from mmselect.torch.rawfile import Spec
from mmselect.torch.running import Block, Plan, arrived, as_array, compute, constants, leaving


@dataclass
class Export:
    """One export under way.

    Attributes
    ----------
    plan, recorder, pool
        What runs, what its hooks see, and where it goes.
    target : Path
        The pool's name when it is whole.
    n : int or None
        Rows to expect.
    report : callable
        Told of rows done and rows to do.
    fixed : dict of path to array
        The datasets without a row per sample, from the first batch.
    """

    plan: Plan
    recorder: Recorder
    pool: PartialPool
    target: Path
    n: int | None
    report: Callable[[int, int | None], None]
    fixed: dict[str, NDArray[Any]] = field(default_factory=dict)

    def run(self, loader: Iterable[Any]) -> None:
        """Go through the loader. On CUDA, a batch is written while the next one is computed."""
        waiting: deque[tuple[int, Block]] = deque()
        done, row, lines = self.pool.batches, 0, self.pool.lines()
        for index, batch in enumerate(loader):
            if index < done:
                line = next(lines)
                self._check_skipped(batch, row, line)
                if index < done - 1:  # the last one is computed again and compared
                    row += line["rows"]
                    continue
            block = self._block(batch, row, first=index == max(done - 1, 0))
            waiting.append((row, block))
            row += block.rows
            if len(waiting) > (self.plan.device.type == "cuda"):
                self._store(*waiting.popleft())
        while waiting:
            self._store(*waiting.popleft())
        self._check_rows(row)
        with writing(self.target):
            self.pool.finish()
        if self.n is None:
            self.report(self.pool.rows, self.pool.rows)

    def _block(self, batch: Any, row: int, first: bool) -> Block:
        key = self.plan.columns.get("/id")
        ids = None if key is None else column(batch, "/id", key)
        with self._placed(row, ids):
            found = compute(self.plan, self.recorder, batch, row, first)
            block = leaving(self.plan, found)
            if not block.rows:
                message = "expected samples in every batch, found an empty one: leave it out"
                raise SchemaError(message)
            if first:
                arrays = arrived(block, {})
                _check_names(arrays)
                _warn_of_probabilities(arrays)
                self.fixed = self.pool.constants = constants(self.plan, found)
        return block

    def _store(self, row: int, block: Block) -> None:
        with self._placed(row, block.values.get("/id")):
            arrays = arrived(block, self.fixed)
            numbers = {path: a for path, a in arrays.items() if a.dtype.kind != "O"}
            lists = {p: a.tolist() for p, a in arrays.items() if p == "/id" or p not in numbers}
            if self.pool.specs:
                self._check_types(numbers, lists)
            if row < self.pool.rows:
                self.pool.compare(numbers, lists)
                return
            if self.n is not None and row + block.rows > self.n:
                message = f"expected {self.n:,} rows from the loader, found more"
                raise SchemaError(f"{message}: give n=, or n=None where nobody knows")
            with writing(self.target):
                if not self.pool.specs:
                    specs = {p: Spec(a.shape[1:], a.dtype) for p, a in numbers.items()}
                    text = [path for path in lists if path not in numbers]
                    self.pool.create(specs, text, self.n)
                self.pool.write(numbers, lists)
        self.report(self.pool.rows, self.n)

    def _check_types(
        self, numbers: Mapping[str, NDArray[Any]], lists: Mapping[str, list[Any]]
    ) -> None:
        """Hold a batch against the first one: the same datasets, shapes and types."""
        specs = self.pool.specs
        there, here = {*specs, *self.pool.text}, {*numbers, *lists}
        for path in sorted(there ^ here):
            words = ("", "no ") if path in here else ("no ", "")
            message = f"expected {words[1]}such dataset, as in the first batch, found {words[0]}one"
            raise SchemaError(message, dataset=path)
        for path in there:
            old = specs.get(path)
            array = numbers.get(path)
            new = None if array is None else Spec(array.shape[1:], array.dtype)
            if old != new:
                message = f"expected {_kind(old)}, as in the first batch, found {_kind(new)}"
                raise SchemaError(message, dataset=path)

    def _check_skipped(self, batch: Any, row: int, line: Mapping[str, Any]) -> None:
        if "/id" in self.plan.columns:
            with self._placed(row, None):
                ids = as_array("/id", column(batch, "/id", self.plan.columns["/id"]))
                self.pool.check_lists(line, {"/id": ids.tolist()})

    def _check_rows(self, row: int) -> None:
        expected = self.pool.rows if self.n is None else self.n
        if row < max(expected, 1):
            message = f"expected {max(expected, 1):,} rows from the loader, found {row:,}"
            hint = ": give n= if that is all, and look for drop_last and samplers"
            raise SchemaError(message + hint * (row > 0), file=str(self.target))

    @contextmanager
    def _placed(self, row: int, ids: Any) -> Iterator[None]:
        """Add to errors the file, the rows counted in the pool, and the ids."""
        try:
            yield
        except PoolError as error:
            if error.rows and ids is not None and error.dataset != "/id":
                every = to_numpy(ids)
                if every.ndim == 1 and max(error.rows) < len(every):
                    names = [str(name) for name in every[error.rows].tolist()]
                    error.message += f" (id {few(names)})"
            error.rows = error.rows and [row + at for at in error.rows]
            error.file = error.file or str(self.target)
            raise


def _kind(spec: Spec | None) -> str:
    if spec is None:
        return "text"
    return f"rows of {spec.dtype}, shape {spec.tail}" if spec.tail else str(spec.dtype)


def _check_names(arrays: Mapping[str, NDArray[Any]]) -> None:
    """Refuse sets of names that do not fit together, before hours of work."""
    for problem in name_problems(arrays):
        raise problem


def _warn_of_probabilities(arrays: Mapping[str, NDArray[Any]]) -> None:
    for path, array in arrays.items():
        place = match(path)
        is_logits = place is not None and place.dataset.is_logits and array.shape[-1] > 1
        if is_logits and like_probabilities(array):
            message = "every row of the first batch sums to 1: probabilities, not logits?"
            warnings.warn(f"{path}: {message}", stacklevel=5)
