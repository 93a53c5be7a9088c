"""A line on the terminal that counts rows."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Progress = bool | Callable[[int, int | None], None]
"""True: count on the terminal; or a function of rows done and rows in all (None: unknown)."""

EVERY = 0.2
"""Seconds between two updates of the line."""


@contextmanager
def reporter(progress: Progress) -> Iterator[Callable[[int, int | None], None]]:
    """Yield the function that is told of every batch; the line ends when the block does.

    On anything but a terminal, True is as False: a log is no place for a line that moves.

    Examples
    --------
    >>> with reporter(lambda done, total: print(done, "of", total)) as report:
    ...     report(3, 10)
    3 of 10
    """
    if callable(progress):
        yield progress
    elif not progress or not sys.stderr.isatty():
        yield _silent
    else:
        with _line() as show:
            yield show


def _silent(_done: int, _total: int | None) -> None:
    """Tell nobody."""


@contextmanager
def _line() -> Iterator[Callable[[int, int | None], None]]:
    shown, unended = time.monotonic() - EVERY, False

    def show(done: int, total: int | None) -> None:
        nonlocal shown, unended
        if time.monotonic() - shown >= EVERY or done == total:
            shown, unended = time.monotonic(), done != total
            of = "" if total is None else f" of {total:,}"
            end = "" if unended else "\n"
            print(f"\r{done:,}{of} rows exported", end=end, file=sys.stderr, flush=True)

    try:
        yield show
    finally:
        if unended:
            print(file=sys.stderr, flush=True)
