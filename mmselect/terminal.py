"""One-line messages on stderr: the same words in a pipe, with colour on a terminal only.

What others wrote (names, ids, paths) may stand in any of them, so all are made printable here.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from mmselect.errors import printable


def fail(message: str, code: int) -> int:
    """Say on one line what went wrong; return the exit code."""
    line = printable(" ".join(message.split()))
    print(f"{_style('error:', '31;1')} {line}", file=sys.stderr)
    return code


def notices(lines: Sequence[str], quiet: bool, mark: str = "note") -> None:
    """Print notices to stderr, unless nobody wants them."""
    for line in () if quiet else lines:
        print(f"{_style(f'{mark}:', '36')} {printable(line)}", file=sys.stderr)


def _style(text: str, codes: str) -> str:
    """Colour for a terminal, nothing elsewhere."""
    plain = not sys.stderr.isatty() or "NO_COLOR" in os.environ
    return text if plain else f"\033[{codes}m{text}\033[0m"
