"""A Scores or a Selection as CSV, JSON lines, JSON, npy or HDF5.

Floats are printed with 9 significant digits. nan is an empty cell, or null.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterable, Iterator, Sequence
from textwrap import wrap
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from mmselect.errors import OutputError, printable
from mmselect.selection import Scores, Selection

MOST_PADDING = 1 << 22
"""Characters of padding in an npy of ids that nobody minds."""

LINE = 80
"""Columns at which text for people is wrapped."""

WHOLE_WORDS: dict[str, Any] = {"break_long_words": False, "break_on_hyphens": False}

ROWS_AT_ONCE = 4096
"""Rows turned into text at a time, so that a long table needs little memory."""


def aligned(rows: Sequence[Sequence[Any]]) -> list[bytes]:
    r"""Turn rows into lines with aligned columns; the last one is wrapped at 80 columns.

    Everywhere alike, so that a pipe gets the same bytes as a terminal of any width. Words are never
    cut, and where less than half a line is left nothing is wrapped.

    Examples
    --------
    >>> aligned([("a", 1), ("bcd", 2)])
    [b'a    1\n', b'bcd  2\n']
    """
    cells = [[printable(str(cell)) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)][:-1]
    room = LINE - sum(widths) - 2 * len(widths)
    lines = []
    for *first, last in cells:
        parts = wrap(last, room, **WHOLE_WORDS) if room >= LINE // 2 else [last]
        for i, part in enumerate(parts or [""]):
            padded = [("" if i else cell).ljust(w) for cell, w in zip(first, widths, strict=True)]
            lines.append(f"{'  '.join([*padded, part]).rstrip()}\n".encode())
    return lines


def number(value: float) -> str:
    """Format a number with 9 significant digits; nan as nothing.

    Examples
    --------
    >>> number(1 / 3), number(2.0), number(float("nan"))
    ('0.333333333', '2', '')
    """
    return "" if math.isnan(value) else f"{value:.9g}"


def _rounded(value: Any) -> Any:
    """Round floats inside JSON to 9 digits; nan and infinities become null."""
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(item) for item in value]
    if isinstance(value, float | np.floating):
        return float(number(float(value))) if math.isfinite(value) else None
    return value.item() if isinstance(value, np.generic) else value


def as_json(value: Any, indent: int | None = None) -> str:
    r"""Format a value as JSON, with 9 significant digits and text left readable.

    Characters that a terminal obeys are escaped, which is the same JSON.

    Examples
    --------
    >>> print(as_json(["é", "\x1b[31m", "\x9b31m", "\u202e", 1 / 3]))
    ["é", "\u001b[31m", "\u009b31m", "\u202e", 0.333333333]
    """
    text = json.dumps(_rounded(value), ensure_ascii=False, allow_nan=False, indent=indent)
    return "\n".join(printable(line, "\\u{:04x}") for line in text.split("\n"))


Fields = dict[str, Sequence[Any] | NDArray[Any]]


def score_fields(result: Scores) -> Fields:
    """Columns of a score's table."""
    return {"id": result.ids, "score": result.score, **result.components}


def pick_fields(result: Selection) -> Fields:
    """Columns of a selection's table."""
    ranks = np.arange(1, len(result.ids) + 1)
    return {"rank": ranks, "index": result.indices, "id": result.ids, "score": result.scores}


def _blocks(fields: Fields) -> Iterator[list[list[Any]]]:
    """Columns, a few thousand rows at a time, as plain Python values."""
    total = len(next(iter(fields.values())))
    for start in range(0, total, ROWS_AT_ONCE):
        cut = [column[start : start + ROWS_AT_ONCE] for column in fields.values()]
        yield [part.tolist() if isinstance(part, np.ndarray) else list(part) for part in cut]


def as_csv(fields: Fields) -> Iterator[bytes]:
    """Turn columns into CSV, piece by piece; nan is an empty cell."""
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(fields)
    for columns in _blocks(fields):
        text = [
            [number(v) for v in column] if isinstance(column[0], float) else column
            for column in columns
        ]
        writer.writerows(zip(*text, strict=True))
        yield buffer.getvalue().encode()
        buffer.seek(0)
        buffer.truncate()
    yield buffer.getvalue().encode()


def as_jsonl(fields: Fields) -> Iterator[bytes]:
    """Turn columns into JSON lines."""
    for columns in _blocks(fields):
        for row in zip(*columns, strict=True):
            yield f"{as_json(dict(zip(fields, row, strict=True)))}\n".encode()


def picks_json(fields: Fields, provenance: dict[str, Any]) -> Iterator[bytes]:
    """Turn picks into one JSON document, with what made them."""
    rows = (row for columns in _blocks(fields) for row in zip(*columns, strict=True))
    whole = as_json({"provenance": provenance, "picks": []}, indent=1)
    yield whole.removesuffix("[]\n}").encode()
    yield from json_list((dict(zip(fields, row, strict=True)) for row in rows), depth=1)
    yield b"\n}\n"


def json_list(entries: Iterable[Any], depth: int = 0) -> Iterator[bytes]:
    """Turn entries into a list as `as_json` indents it, so that a long one needs little memory.

    Examples
    --------
    >>> b"".join(json_list([1, {"id": "cat"}])).decode() == as_json([1, {"id": "cat"}], indent=1)
    True
    """
    before, inner = "[", "\n" + " " * (depth + 1)
    for entry in entries:
        text = as_json(entry, indent=1).replace("\n", inner)
        yield f"{before}{inner}{text}".encode()
        before = ","
    yield b"[]" if before == "[" else f"{inner[:-1]}]".encode()


def as_lines(values: Iterable[Any]) -> Iterator[bytes]:
    """Turn values into lines."""
    for value in values:
        yield f"{value}\n".encode()


def as_npy(array: NDArray[Any]) -> Iterator[bytes]:
    """Turn an array into an npy file."""
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    yield buffer.getvalue()


def as_records(result: Scores) -> NDArray[Any]:
    """Scores as a structured array; ids as fixed-width text, so that no pickle is needed.

    Raises
    ------
    OutputError
        If a few long ids would make the array far larger than all ids are.
    """
    widest, text = max(map(len, result.ids), default=0), sum(map(len, result.ids))
    if widest * len(result.ids) > MOST_PADDING + 16 * text:
        found = f"an id of {widest:,} characters among {len(result.ids):,}"
        raise OutputError(f"npy pads all ids to one length, found {found}; use h5, csv or jsonl")
    columns = {"index": result.indices, **score_fields(result)}
    arrays = {name: np.asarray(values) for name, values in columns.items()}
    records = np.empty(len(result.ids), [(name, a.dtype) for name, a in arrays.items()])
    for name, array in arrays.items():
        records[name] = array
    return records


def as_h5(result: Scores) -> Iterator[bytes]:
    """Turn scores into an HDF5 file: a dataset per column."""
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as handle:
        handle.attrs["provenance"] = as_json(result.provenance)
        handle.create_dataset("id", data=result.ids, dtype=h5py.string_dtype(), track_times=False)
        for name, values in {"index": result.indices, **score_fields(result)}.items():
            if name != "id":
                handle.create_dataset(name, data=values, track_times=False)
    yield buffer.getvalue()


def plain(values: NDArray[Any]) -> list[Any]:
    """Turn stored values into Python's own, text decoded."""
    return [v.decode("utf-8", "replace") if isinstance(v, bytes) else v for v in values.tolist()]
