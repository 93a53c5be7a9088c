"""A Scores or a Selection as text or bytes, and where it goes.

Floats are printed with 9 significant digits. nan is an empty cell, or null.
"""

from __future__ import annotations

import csv
import io
import json
import math
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from mmselect.errors import SelectionError, UsageError
from mmselect.files import replacing, writing
from mmselect.pool.reading import Pool
from mmselect.selection import Neighbours, Scores, Selection

ROWS_AT_ONCE = 4096
"""Rows turned into text at a time, so that a long table needs little memory."""


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
    fields: Fields = {"id": found.ids, "nearest": found.nearest, "distance": found.distance}
    emit(as_csv(fields), target)


def to_stdout(chunks: Iterable[bytes]) -> None:
    """Write to standard output; when its reader has gone (``| head``), stop quietly.

    Raises
    ------
    OutputError
        If standard output cannot be written for another reason.
    """
    with writing("standard output"):
        try:
            sys.stdout.buffer.writelines(chunks)
            sys.stdout.buffer.flush()
        except BrokenPipeError:  # give Python's own flush at exit something that takes it
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def aligned(rows: Sequence[Sequence[Any]], indent: str = "") -> list[bytes]:
    r"""Turn rows into lines with aligned columns; the last one is as long as it likes.

    Examples
    --------
    >>> aligned([("a", 1), ("bcd", 2)])
    [b'a    1\n', b'bcd  2\n']
    """
    cells = [[str(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)][:-1]
    lines = []
    for row in cells:
        padded = [cell.ljust(width) for cell, width in zip(row, widths, strict=False)]
        lines.append(f"{indent}{'  '.join([*padded, row[-1]]).rstrip()}\n".encode())
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
    """Format a value as JSON, with 9 significant digits and text left readable."""
    return json.dumps(_rounded(value), ensure_ascii=False, allow_nan=False, indent=indent)


Fields = dict[str, Sequence[Any] | NDArray[Any]]


def _score_fields(result: Scores) -> Fields:
    return {"id": result.ids, "score": result.score, **result.components}


def _pick_fields(result: Selection) -> Fields:
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


def _jsonl(fields: Fields) -> Iterator[bytes]:
    for columns in _blocks(fields):
        for row in zip(*columns, strict=True):
            yield f"{as_json(dict(zip(fields, row, strict=True)))}\n".encode()


def _json(fields: Fields, provenance: dict[str, Any]) -> Iterator[bytes]:
    rows = [row for columns in _blocks(fields) for row in zip(*columns, strict=True)]
    picks = [dict(zip(fields, row, strict=True)) for row in rows]
    yield f"{as_json({'provenance': provenance, 'picks': picks}, indent=1)}\n".encode()


def _lines(values: Iterable[Any]) -> Iterator[bytes]:
    for value in values:
        yield f"{value}\n".encode()


def _npy(array: NDArray[Any]) -> Iterator[bytes]:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    yield buffer.getvalue()


def _as_records(result: Scores) -> NDArray[Any]:
    """Scores as a structured array; ids as fixed-width text, so that no pickle is needed."""
    columns = {"index": result.indices, **_score_fields(result)}
    arrays = {name: np.asarray(values) for name, values in columns.items()}
    records = np.empty(len(result.ids), [(name, a.dtype) for name, a in arrays.items()])
    for name, array in arrays.items():
        records[name] = array
    return records


def _h5(result: Scores) -> Iterator[bytes]:
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as handle:
        handle.attrs["provenance"] = as_json(result.provenance)
        handle.create_dataset("id", data=result.ids, dtype=h5py.string_dtype(), track_times=False)
        for name, values in {"index": result.indices, **_score_fields(result)}.items():
            if name != "id":
                handle.create_dataset(name, data=values, track_times=False)
    yield buffer.getvalue()


def _label_studio(result: Selection, pool: Pool) -> Iterator[bytes]:
    """Label Studio's import JSON: one task per pick, its data from the metadata columns."""
    columns = {name: pool.columns[f"/metadata/{name}"] for name in pool.names("/metadata")}
    data: Fields = {name: plain(column[result.indices]) for name, column in columns.items()}
    data = {"id": result.ids, **{k: v for k, v in data.items() if k != "id"}}
    if not columns:
        message = "label-studio: expected /metadata columns with what is to be shown, found none"
        raise SelectionError(message, file=pool.files[0])
    tasks = [
        {"data": dict(zip(data, row, strict=True)), "meta": {"rank": rank}}
        for rank, row in enumerate(zip(*data.values(), strict=True), start=1)
    ]
    yield f"{as_json(tasks, indent=1)}\n".encode()


def plain(values: NDArray[Any]) -> list[Any]:
    """Turn stored values into Python's own, text decoded."""
    return [v.decode("utf-8", "replace") if isinstance(v, bytes) else v for v in values.tolist()]


SCORE_FORMS: dict[str, Callable[[Any, Pool], Iterable[bytes]]] = {
    "csv": lambda result, _: as_csv(_score_fields(result)),
    "jsonl": lambda result, _: _jsonl(_score_fields(result)),
    "npy": lambda result, _: _npy(_as_records(result)),
    "h5": lambda result, _: _h5(result),
}

SELECT_FORMS: dict[str, Callable[[Any, Pool], Iterable[bytes]]] = {
    "ids": lambda result, _: _lines(result.ids),
    "indices": lambda result, _: _lines(result.indices.tolist()),
    "csv": lambda result, _: as_csv(_pick_fields(result)),
    "jsonl": lambda result, _: _jsonl(_pick_fields(result)),
    "json": lambda result, _: _json(_pick_fields(result), result.provenance),
    "label-studio": _label_studio,
    "npy": lambda result, _: _npy(result.indices),
}

BINARY = frozenset({"npy", "h5"})
