"""How people are told: the same words in a pipe, colour and bars on a terminal only.

What others wrote (names, ids, paths) may stand in any of it, so all lines are made printable here.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TextIO

from mmselect.errors import printable
from mmselect.output.layout import LINE, Paint, unpainted
from mmselect.progress import counted

LOOK, MOMENT, LOG = 0.1, 0.3, 60.0
"""Seconds between two drawings of a bar, before the first one, and between two lines of a log."""

COLOURS = {"head": "1", "name": "1", "detail": "2", "leader": "1;36"}
"""Bold, dim, and one colour: codes by the part that a text plays in a table."""


def fail(message: str, code: int) -> int:
    """Say on one line what went wrong; return the exit code."""
    _tell("error:", "31;1", " ".join(message.split()))
    return code


def notices(lines: Sequence[str], quiet: bool, mark: str = "note") -> None:
    """Print notices to stderr, unless nobody wants them."""
    for line in () if quiet else lines:
        _tell(f"{mark}:", "36", line)


def _tell(mark: str, codes: str, line: str) -> None:
    """Print one line, which a terminal that is narrower gets in several, cut between words."""
    lines = [printable(line)]
    if sys.stderr.isatty():
        width = shutil.get_terminal_size((LINE, 24)).columns - len(mark) - 1
        cut = textwrap.TextWrapper(
            max(width, 20), break_long_words=False, break_on_hyphens=False, tabsize=1
        )
        lines = cut.wrap(lines[0]) or lines
    print(_style(mark, codes), f"\n{' ' * (len(mark) + 1)}".join(lines), file=sys.stderr)


@dataclass
class Phase:
    """What is under way: since when, and how far it is; `total` None: nobody knows."""

    what: str
    began: float = field(default_factory=time.monotonic)
    done: int = 0
    total: int | None = None

    def line(self) -> str:
        """Say it in one line."""
        spent = time.monotonic() - self.began
        if not self.total:
            return f"{self.what}: {_duration(spent)} so far"
        share = self.done / self.total
        left = f", about {_duration(spent / share - spent)} left" if share else ""
        return f"{self.what}: {self.done:,} of {self.total:,} ({100 * share:.0f} %){left}"


def _duration(seconds: float) -> str:
    """Seconds for people, in the largest unit that holds them."""
    for size, unit in ((3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


class Board:
    """The phases under way, innermost last, shown by a thread that looks every now and then.

    Work that takes long between two reports is seen all the same, and short work costs nothing.

    Parameters
    ----------
    text : str
        What is under way where it is told without a phase.
    show : callable
        Takes the phases; with none it takes away what it has shown.
    every : float
        Seconds between two looks.
    """

    def __init__(self, text: str, show: Callable[[list[Phase]], None], every: float) -> None:
        self.phases: list[Phase] = []
        self.show, self.every = show, every
        self.report = counted(self, text)
        self.lock, self.closed = threading.Lock(), threading.Event()
        self.thread: threading.Thread | None = None

    def __call__(self, done: int, total: int | None) -> None:
        """Tell of work that has no phase of its own."""
        self.report(done, total)  # type: ignore[arg-type]

    @contextlib.contextmanager
    def phase(self, what: str) -> Iterator[Callable[[int, int], None]]:
        """Show a phase for the time of the block."""
        own = Phase(what)

        def report(done: int, total: int) -> None:
            own.done, own.total = done, total

        with self.lock:
            self.phases.append(own)
        if self.thread is None:
            self.thread = threading.Thread(target=self._look, daemon=True)
            self.thread.start()
        try:
            yield report
        finally:
            with self.lock:
                self.phases.remove(own)
                if not self.phases:
                    self.show([])  # before anything else is written to the terminal

    def _look(self) -> None:
        while not self.closed.wait(self.every):
            with self.lock:
                if self.phases:
                    self.show(self.phases)

    def close(self) -> None:
        """End the thread."""
        self.closed.set()
        if self.thread is not None:
            self.thread.join()


class Bars:
    """Shows each phase as a bar, once it takes longer than a moment."""

    def __init__(self) -> None:
        self.drawn: Any = None
        self.tasks: dict[int, Any] = {}

    def __call__(self, phases: list[Phase]) -> None:
        """Draw the phases, or take the bars away."""
        if not phases or time.monotonic() - phases[0].began < MOMENT:
            if self.drawn:
                self.drawn.stop()
            self.drawn, self.tasks = None, {}
            return
        if self.drawn is None:
            self._start()
        for gone in self.tasks.keys() - {*map(id, phases)}:
            self.drawn.remove_task(self.tasks.pop(gone))
        for each in phases:
            if id(each) not in self.tasks:
                self.tasks[id(each)] = self.drawn.add_task(printable(each.what), total=None)
            self.drawn.update(self.tasks[id(each)], completed=each.done, total=each.total)
        self.drawn.refresh()

    def _start(self) -> None:
        from rich.console import Console
        from rich.progress import MofNCompleteColumn, Progress

        columns = (*Progress.get_default_columns(), MofNCompleteColumn())
        self.drawn = Progress(
            *columns,
            console=Console(stderr=True),
            transient=True,
            auto_refresh=False,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self.drawn.start()


def _log(phases: list[Phase]) -> None:
    """Write a line of the innermost phase."""
    if phases:
        notices([phases[-1].line()], quiet=False)


@contextlib.contextmanager
def bar(text: str = "working", hidden: bool = False) -> Iterator[Board | None]:
    """Yield a progress report: bars on a terminal, elsewhere a line a minute; None where hidden."""
    if hidden:
        yield None
        return
    board = Board(text, Bars(), LOOK) if sys.stderr.isatty() else Board(text, _log, LOG)
    try:
        yield board
    finally:
        board.close()


def page() -> tuple[int, Paint]:
    """Columns of standard output and the colours it takes: 80 and none but on a terminal."""
    if not sys.stdout.isatty():
        return LINE, unpainted
    width = shutil.get_terminal_size((LINE, 24)).columns
    return width, _painted if _colourful(sys.stdout) else unpainted


def _painted(text: str, part: str) -> str:
    return f"\033[{COLOURS[part]}m{text}\033[0m"


def _style(text: str, codes: str) -> str:
    """Colour for a terminal, nothing elsewhere."""
    return f"\033[{codes}m{text}\033[0m" if _colourful(sys.stderr) else text


def _colourful(stream: TextIO) -> bool:
    """Whether a stream is a terminal that shows colours, and nobody has asked for none."""
    return stream.isatty() and "NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb"
