"""Told of rows: a function of the caller, or a bar on the terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Report = Callable[[int, int | None], object]
Progress = bool | Report
"""True: a bar on the terminal; or a function of rows done and rows in all (None: unknown)."""


@contextmanager
def reporter(progress: Progress) -> Iterator[Report]:
    """Yield the function that is told of every batch.

    On anything but a terminal, True is as False: a log is no place for a bar that moves.

    Examples
    --------
    >>> with reporter(lambda done, total: print(done, "of", total)) as report:
    ...     report(3, 10)
    3 of 10
    """
    if callable(progress):
        yield progress
    elif not progress or not sys.stderr.isatty():
        yield lambda _done, _total: None
    else:
        from rich.console import Console
        from rich.progress import MofNCompleteColumn
        from rich.progress import Progress as Bar

        columns = (*Bar.get_default_columns(), MofNCompleteColumn())
        with Bar(*columns, console=Console(stderr=True)) as bar:
            task = bar.add_task("rows exported", total=None)
            yield lambda done, total: bar.update(task, completed=done, total=total)
