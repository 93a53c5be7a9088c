"""How people are told: the same words in a pipe, colour and bars on a terminal only.

What others wrote (names, ids, paths) may stand in any of it, so all lines are made printable here.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import TextIO

from mmselect.errors import printable
from mmselect.output.layout import LINE, Paint, unpainted

COLOURS = {"head": "1", "name": "1", "detail": "2", "leader": "1;36"}
"""Bold, dim, and one colour: codes by the part that a text plays in a table."""


def fail(message: str, code: int) -> int:
    """Say on one line what went wrong; return the exit code."""
    line = printable(" ".join(message.split()))
    print(f"{_style('error:', '31;1')} {line}", file=sys.stderr)
    return code


def notices(lines: Sequence[str], quiet: bool, mark: str = "note") -> None:
    """Print notices to stderr, unless nobody wants them."""
    for line in () if quiet else lines:
        print(f"{_style(f'{mark}:', '36')} {printable(line)}", file=sys.stderr)


@contextlib.contextmanager
def bar(text: str = "", hidden: bool = False) -> Iterator[Callable[[int, int | None], None] | None]:
    """Yield a progress report that draws a bar, or None where there is no terminal."""
    if hidden or not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import MofNCompleteColumn, Progress

    columns = (*Progress.get_default_columns(), MofNCompleteColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as drawn:
        task = drawn.add_task(text, total=None)
        yield lambda done, total: drawn.update(task, completed=done, total=total)


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
