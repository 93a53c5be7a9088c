"""A line on the terminal that counts rows."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

Progress = bool | Callable[[int, int | None], None]
"""True: count on the terminal; or a function of rows done and rows in all (None: unknown)."""

EVERY = 0.2
"""Seconds between two updates of the line."""


def reporter(progress: Progress) -> Callable[[int, int | None], None]:
    """Make the function that is told of every batch.

    On anything but a terminal, True is as False: a log is no place for a line that moves.

    Examples
    --------
    >>> reporter(lambda done, total: print(done, "of", total))(3, 10)
    3 of 10
    """
    if callable(progress):
        return progress
    if not progress or not sys.stderr.isatty():
        return _silent
    return _line()


def _silent(_done: int, _total: int | None) -> None:
    """Tell nobody."""


def _line() -> Callable[[int, int | None], None]:
    shown = time.monotonic() - EVERY

    def show(done: int, total: int | None) -> None:
        nonlocal shown
        if time.monotonic() - shown >= EVERY or done == total:
            shown = time.monotonic()
            of = "" if total is None else f" of {total:,}"
            end = "\n" if done == total else ""
            print(f"\r{done:,}{of} rows exported", end=end, file=sys.stderr, flush=True)

    return show
