"""Tables for people: columns that line up and fit the line, with words left whole.

A table with three columns or more begins with its head. One with two is names, and what is said of
each. One with a single column is prose.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from textwrap import wrap
from typing import Any, TypeAlias

from mmselect.errors import printable

LINE = 80
"""Columns of a line, in a file and through a pipe, so that these get the same bytes everywhere."""

FIRM = 24
"""A cell no wider than this stays on one line, as a number with its interval; heads may break."""

GAP = 2

WHOLE_WORDS: dict[str, Any] = {"break_long_words": False, "break_on_hyphens": False}

Paint: TypeAlias = Callable[[str, str], str]
"""Colour for text that plays one of the parts ``head``, ``name``, ``detail`` or ``leader``."""


class Leader(str):
    """The value of a table that leads, for which a terminal has a colour."""


def unpainted(text: str, _: str) -> str:
    """No colour, as in files and pipes."""
    return text


def percent(share: float, digits: int = 1) -> str:
    """Write a share as reports do.

    Examples
    --------
    >>> percent(0.342), percent(0.342, 0)
    ('34.2 %', '34 %')
    """
    return f"{100 * share:.{digits}f} %"


def aligned(
    rows: Sequence[Sequence[Any]], width: int = LINE, paint: Paint = unpainted
) -> list[bytes]:
    r"""Turn rows into lines with aligned columns that fit a width.

    The widest columns are wrapped between words. Where that is not enough, columns go on below,
    with the first one again. Only a word that is wider than the line, as a path may be, leaves it.

    Parameters
    ----------
    rows : sequence of sequence
        As many cells in each.
    width : int
        Columns of a line.
    paint : callable
        Gives a text the colour of its part in the table.

    Examples
    --------
    >>> aligned([("a", 1), ("bcd", 2)])
    [b'a    1\n', b'bcd  2\n']
    >>> rows = [("", "mean of all", "last"), ("one", "12 %", "13 %")]
    >>> print(b"".join(aligned(rows, 14)).decode())
         mean of
         all
    one  12 %
    <BLANKLINE>
         last
    one  13 %
    <BLANKLINE>
    """
    cells = [[printable(str(cell)) for cell in row] for row in rows]
    headed = len(cells[0]) > 2
    floors = [_floor(column, headed) for column in zip(*cells, strict=True)]
    if len(floors) == 2:  # a word that leaves the line takes nothing else along
        floors[1] = min(floors[1], max(width - GAP - floors[0], FIRM))
    lines: list[str] = []
    for columns in _bands(floors, width):
        lines += [""] if lines else []
        natural = [max(len(row[j]) for row in cells) for j in columns]
        room = width - GAP * (len(columns) - 1)
        narrow = _narrowed(natural, [floors[j] for j in columns], room)
        wrapped = [
            [_wrapped(row[j], most) for j, most in zip(columns, narrow, strict=True)]
            for row in cells
        ]
        widths = [max(map(len, chain(*pieces))) for pieces in zip(*wrapped, strict=True)]
        for i, pieces in enumerate(wrapped):
            parts = [_part(rows[i][j], j, headed and not i, len(cells[0])) for j in columns]
            lines += _row(pieces, widths, parts, paint)
    return [f"{line}\n".encode() for line in lines]


def _floor(column: Sequence[str], headed: bool) -> int:
    """Narrowest width of a column: of its longest word, and of cells that stay on one line."""
    return max(
        max(map(len, _joined(cell).split(" ")))
        if len(cell) > FIRM or (headed and not i)
        else len(cell)
        for i, cell in enumerate(column)
    )


def _bands(floors: Sequence[int], width: int) -> Iterator[list[int]]:
    """Which columns stand beside each other; names and what is said of them always do."""
    if len(floors) <= 2:
        yield [*range(len(floors))]
        return
    band, used = [0], floors[0]
    for j in range(1, len(floors)):
        if len(band) > 1 and used + GAP + floors[j] > width:
            yield band
            band, used = [0], floors[0]
        band.append(j)
        used += GAP + floors[j]
    yield band


def _narrowed(widths: Sequence[int], floors: Sequence[int], room: int) -> list[int]:
    """Take from the widest column until all fit, or none can be narrower."""
    found = [min(width, max(room, floor)) for width, floor in zip(widths, floors, strict=True)]
    while sum(found) > room:
        able = [j for j, floor in enumerate(floors) if found[j] > floor]
        if not able:
            break
        found[max(able, key=found.__getitem__)] -= 1
    return found


def _part(cell: Any, j: int, head: bool, columns: int) -> str:
    """Name the part that a cell plays; what is indented is a detail of what stands above it."""
    if isinstance(cell, Leader) or head:
        return "leader" if isinstance(cell, Leader) else "head"
    if j or columns != 2:
        return ""
    return "detail" if str(cell).startswith(" ") else "name"


def _row(
    wrapped: Sequence[Sequence[str]], widths: Sequence[int], parts: Sequence[str], paint: Paint
) -> Iterator[str]:
    """Lines of one row, of which each cell is wrapped in its column."""
    for k in range(max(map(len, wrapped))):
        line, missing = "", 0
        for pieces, width, part in zip(wrapped, widths, parts, strict=True):
            piece = pieces[k] if k < len(pieces) else ""
            if piece:
                line += " " * missing + (paint(piece, part) if part else piece)
                missing = 0
            missing += width - len(piece) + GAP
        yield line.rstrip()


def _wrapped(cell: str, width: int) -> list[str]:
    """Break a cell between words, but for a number and its percent sign."""
    if len(cell) <= width:
        return [cell]
    parts = wrap(_joined(cell), width, **WHOLE_WORDS)
    return [part.replace("\xa0%", " %") for part in parts] or [""]


def _joined(cell: str) -> str:
    return re.sub(r"(?<=\d) %", "\xa0%", cell)
