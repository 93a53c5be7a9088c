"""In which format a result is written, and where to."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from mmselect.errors import UsageError, printable
from mmselect.files import replacing, writing
from mmselect.output import tables, tools
from mmselect.pool.reading import Pool
from mmselect.selection import Neighbours, Scores, Selection

SCORE_FORMS: dict[str, Callable[[Any, Pool], Iterable[bytes]]] = {
    "csv": lambda result, _: tables.as_csv(tables.score_fields(result)),
    "jsonl": lambda result, _: tables.as_jsonl(tables.score_fields(result)),
    "npy": lambda result, _: tables.as_npy(tables.as_records(result)),
    "h5": lambda result, _: tables.as_h5(result),
}

SELECT_FORMS: dict[str, Callable[[Any, Pool], Iterable[bytes]]] = {
    "ids": lambda result, _: tables.as_lines(result.ids),
    "indices": lambda result, _: tables.as_lines(result.indices.tolist()),
    "csv": lambda result, _: tables.as_csv(tables.pick_fields(result)),
    "jsonl": lambda result, _: tables.as_jsonl(tables.pick_fields(result)),
    "json": lambda result, _: tables.picks_json(tables.pick_fields(result), result.provenance),
    "label-studio": tools.label_studio,
    "npy": lambda result, _: tables.as_npy(result.indices),
}

BINARY = frozenset({"npy", "h5"})
"""Formats that no terminal can show."""


def write(result: Scores | Selection, form: str, target: Path | None, pool: Pool) -> None:
    """Write a result in one of :data:`FORMS` to a file, or to standard output.

    Raises
    ------
    OutputError
        If it cannot be written; nothing is left under the target's name then.
    UsageError
        If the format is unknown, or needs a file.
    """
    table = SCORE_FORMS if isinstance(result, Scores) else SELECT_FORMS
    if form not in table:
        raise UsageError(f"format: expected one of {', '.join(table)}, found {form!r}")
    make = table[form]
    if target is None and form in BINARY and sys.stdout.isatty():
        raise UsageError(f"format: {form} is binary; give a file with -o, or a pipe")
    emit(make(result, pool), target)


def emit(chunks: Iterable[bytes], target: Path | None) -> None:
    """Write to a file, which appears when it is whole, or to standard output.

    Raises
    ------
    OutputError
        If it cannot be written; nothing is left under the target's name then.
    """
    if target is None:
        to_stdout(chunks)
        return
    with replacing(target) as file:
        file.writelines(chunks)


def write_neighbours(found: Neighbours, target: Path) -> None:
    """Write which pick stands for each candidate, as CSV.

    Raises
    ------
    OutputError
        If it cannot be written; nothing is left under the target's name then.
    """
    fields: tables.Fields = {"id": found.ids, "nearest": found.nearest, "distance": found.distance}
    emit(tables.as_csv(fields), target)


def to_stdout(chunks: Iterable[bytes]) -> None:
    """Write to standard output; when its reader has gone (``| head``), stop quietly.

    A file or a pipe gets every byte as it is; on a terminal what it would obey is written out.

    Raises
    ------
    OutputError
        If standard output cannot be written for another reason.
    """
    with writing("standard output"):
        try:
            shown = map(_harmless, chunks) if sys.stdout.isatty() else chunks
            sys.stdout.buffer.writelines(shown)
            sys.stdout.buffer.flush()
        except BrokenPipeError:  # give Python's own flush at exit something that takes it
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _harmless(chunk: bytes) -> bytes:
    r"""Write out what a terminal would obey in some lines, tabs and line breaks apart.

    Examples
    --------
    >>> _harmless(b"a\tb\n\x1b[31m")
    b'a\tb\n\\x1b[31m'
    """
    parts = re.split(r"([\n\t])", chunk.decode("utf-8", "surrogateescape"))
    return "".join(part if part in ("\n", "\t") else printable(part) for part in parts).encode()
