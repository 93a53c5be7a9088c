"""Who is told how far the work is: by phases that have a name and are counted."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TypeAlias

Progress: TypeAlias = Callable[[int, int], None]
"""Told ``(done, total)`` of each phase now and then.

One with a method ``phase(what)``, a context manager that yields what is told of one phase, learns
what is done too, and when it begins and ends.
"""


def silent(_done: int, _total: int | None) -> None:
    """Stand in for a progress report that nobody asked for."""


@contextmanager
def phase(told: Progress | None, what: str) -> Iterator[Progress]:
    """Report of one phase of the work, which is what the block does.

    Examples
    --------
    >>> with phase(lambda done, total: print(done, "of", total), "reading rows") as report:
    ...     report(3, 10)
    3 of 10
    """
    begin = getattr(told, "phase", None)
    if begin is None:
        yield told or silent
        return
    with begin(what) as report:
        yield report


def counted(told: Progress | None, what: str) -> Progress:
    """Report of a phase that begins when it is first told of, and ends when all is done.

    Examples
    --------
    >>> counted(None, "picking")(1, 2)
    """
    if not hasattr(told, "phase"):
        return told or silent
    begun, reports = ExitStack(), list[Progress]()

    def report(done: int, total: int) -> None:
        if not reports:
            reports.append(begun.enter_context(phase(told, what)))
        reports[0](done, total)
        if total is not None and done >= total:
            reports.clear()
            begun.close()

    return report
