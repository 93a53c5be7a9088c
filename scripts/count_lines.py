"""Count the lines of the package that do something: no docstring, blank, comment or import.

    python scripts/count_lines.py            # per folder, and the longest files and functions
    python scripts/count_lines.py --check    # exit 1 and name files and functions that are too long

A file may have 400 lines of any kind, the body of a function 40 that do something.
"""

from __future__ import annotations

import ast
import io
import sys
import tokenize
from collections import Counter
from pathlib import Path
from typing import NamedTuple

PACKAGE = Path(__file__).parent.parent / "mmselect"
LONGEST_FILE, LONGEST_BODY = 400, 40
SHOWN = 5
SILENT = {
    *(tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT),
    *(tokenize.ENCODING, tokenize.ENDMARKER),
}


class Length(NamedTuple):
    """How long a file or the body of a function is, and which it is."""

    lines: int
    name: str


def working_lines(source: str) -> set[int]:
    """Numbers of the lines that hold neither docstring, blank, comment nor import alone.

    >>> working_lines('''# one
    ... import os
    ... def f():
    ...     "Say one."
    ...
    ...     return (1 +
    ...             1)
    ... ''')
    {3, 6, 7}
    """
    lines = {
        line
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type not in SILENT
        for line in range(token.start[0], token.end[0] + 1)
    }
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom) or is_docstring(node):
            lines -= set(range(node.lineno, (node.end_lineno or 0) + 1))
    return lines


def is_docstring(node: ast.AST) -> bool:
    """Whether a node is a text that stands alone, of a function or of an attribute."""
    alone = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    return alone and isinstance(node.value.value, str)


def bodies(source: str, lines: set[int], file: str) -> list[Length]:
    """Length of every function's body."""
    return [
        Length(
            len(lines & set(range(node.body[0].lineno, (node.end_lineno or 0) + 1))),
            f"{file}:{node.lineno} {node.name}",
        )
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]


def main() -> int:
    folders: Counter[str] = Counter()
    files, functions = [], []
    for path in sorted(PACKAGE.rglob("*.py")):
        source, file = path.read_text(), str(path.relative_to(PACKAGE.parent))
        lines = working_lines(source)
        folders["/".join(path.relative_to(PACKAGE.parent).parts[:-1][:2])] += len(lines)
        files.append(Length(source.count("\n"), file))
        functions += bodies(source, lines, file)
    long = [x for x in files if x.lines > LONGEST_FILE]
    long += [x for x in functions if x.lines > LONGEST_BODY]
    if "--check" in sys.argv:
        for length in long:
            print(f"{length.name}: too long, {length.lines} lines")
        return bool(long)
    for folder, count in [*folders.most_common(), ("in all", folders.total())]:
        print(f"{count:6,}  {folder}")
    for title, found in (("files", files), ("functions", functions)):
        print(f"\nlongest {title}")
        for length in sorted(found, reverse=True)[:SHOWN]:
            print(f"{length.lines:6,}  {length.name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
