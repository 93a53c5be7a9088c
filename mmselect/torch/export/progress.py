"""Told of rows: a function of the caller, or a bar on the terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from mmselect.terminal import bar

Report = Callable[[int, int | None], object]


@contextmanager
def reporter(progress: bool | Report) -> Iterator[Report]:
    """Yield the function that is told of every batch, rows done and rows in all (None: unknown).

    True is a bar on a terminal; a log is no place for a bar that moves.

    Examples
    --------
    >>> with reporter(lambda done, total: print(done, "of", total)) as report:
    ...     report(3, 10)
    3 of 10
    """
    if callable(progress):
        yield progress
    else:
        with bar("rows exported", hidden=not progress) as report:
            yield report or (lambda _done, _total: None)
