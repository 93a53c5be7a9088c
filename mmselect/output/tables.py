"""A Scores or a Selection as CSV, JSON lines, JSON, npy or HDF5.

Floats are printed with the digits that hold on every processor, see :func:`number`. nan is an empty
cell, or null.
"""

from __future__ import annotations

import csv
import io
import json
import math
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from itertools import accumulate
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from mmselect.errors import OutputError, printable
from mmselect.pool.reading import Pool
from mmselect.selection import Scores, Selection

MOST_PADDING = 1 << 22
"""Characters of padding in an npy of ids that nobody minds."""

ROWS_AT_ONCE = 4096
"""Rows turned into text at a time, so that a long table needs little memory."""


class Whole(float):
    """A number that nobody computed: all its digits hold."""


def number(value: float) -> str:
    """Format a number with 6 significant digits, whole if 12 are enough for that; nan as nothing.

    More digits do not hold: processors differ in the last bits of an exponential and of a matrix
    product. Counts, costs and what people typed mostly need no more than 12.

    Examples
    --------
    >>> number(1 / 3), number(2.0), number(1700000001.25), number(float("nan"))
    ('0.333333', '2', '1700000001.25', '')
    >>> number(Whole(1 / 3))
    '0.3333333333333333'
    """
    if math.isnan(value):
        return ""
    if isinstance(value, Whole):
        return repr(value).removesuffix(".0")
    text = f"{value:.12g}"
    return text if float(text) == value else f"{value:.6g}"


def _jsonable(value: Any, whole: bool) -> Any:
    """Values that JSON has: floats as in tables, or whole; nan and infinities become null."""
    if isinstance(value, dict):
        return {key: _jsonable(item, whole) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_jsonable(item, whole) for item in value]
    if isinstance(value, float | np.floating):
        if not math.isfinite(value):
            return None
        return float(value) if whole or isinstance(value, Whole) else float(number(float(value)))
    return value.item() if isinstance(value, np.generic) else value


def as_json(value: Any, indent: int | None = None, *, whole: bool = False) -> str:
    r"""Format a value as JSON with text left readable.

    Floats are rounded as in tables, but `whole` where they are what somebody asked for. Characters
    that a terminal obeys are escaped, which is the same JSON.

    Examples
    --------
    >>> print(as_json(["é", "\x1b[31m", "\x9b31m", "\u202e", 1 / 3]))
    ["é", "\u001b[31m", "\u009b31m", "\u202e", 0.333333]
    """
    text = json.dumps(_jsonable(value, whole), ensure_ascii=False, allow_nan=False, indent=indent)
    return "\n".join(printable(line, "\\u{:04x}") for line in text.split("\n"))


Fields = dict[str, Sequence[Any] | NDArray[Any]]


@dataclass(frozen=True)
class How:
    """What goes along with a result.

    Attributes
    ----------
    columns : tuple of str, optional
        Columns of ``/metadata``; None: what the format takes where nothing is asked for.
    predict : (str, str), optional
        Names of the control and the object that a prediction is for.
    """

    columns: tuple[str, ...] | None = None
    predict: tuple[str, str] | None = None


def score_fields(result: Scores) -> Fields:
    """Columns of a score's table."""
    return {"id": result.ids, "score": result.score, **result.components}


def whole_fields(result: Scores) -> Fields:
    """Columns of a score's table with the row numbers, for formats that hold numbers whole."""
    return {"index": result.indices, **score_fields(result)}


def pick_fields(result: Selection) -> Fields:
    """Columns of a selection's table."""
    ranks = np.arange(1, len(result.ids) + 1)
    fields: Fields = {
        "rank": ranks,
        "index": result.indices,
        "id": result.ids,
        "score": result.scores,
    }
    if result.costs is None:
        return fields
    return {**fields, "cost": result.costs, "cost_sum": running_sum(result.costs)}


def running_sum(costs: Iterable[float]) -> NDArray[np.float64]:
    """Add costs up as the decimals that people wrote: 0.1 and 0.2 are 0.3.

    Examples
    --------
    >>> running_sum(np.array([0.1, 0.2, 0.4])).tolist()
    [0.1, 0.3, 0.7]
    """
    return np.array([*accumulate(Decimal(repr(float(cost))) for cost in costs)], np.float64)


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
    return json_lines(_rows(fields))


def _rows(fields: Fields) -> Iterator[dict[str, Any]]:
    for columns in _blocks(fields):
        for row in zip(*columns, strict=True):
            yield dict(zip(fields, row, strict=True))


def json_lines(entries: Iterable[Any]) -> Iterator[bytes]:
    """Turn entries into one line of JSON each."""
    for entry in entries:
        yield f"{as_json(entry)}\n".encode()


def picks_json(fields: Fields, provenance: dict[str, Any]) -> Iterator[bytes]:
    """Turn picks into one JSON document, with what made them."""
    whole = as_json({"provenance": provenance, "picks": []}, indent=1, whole=True)
    yield whole.removesuffix("[]\n}").encode()
    yield from json_list(_rows(fields), depth=1)
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
    with warnings.catch_warnings():  # a later format, for names that are long or not Latin
        warnings.simplefilter("ignore", UserWarning)
        np.save(buffer, array, allow_pickle=False)
    yield buffer.getvalue()


def as_records(fields: Fields) -> NDArray[Any]:
    """Columns as a structured array; ids as fixed-width text, so that no pickle is needed.

    Raises
    ------
    OutputError
        If a few long ids would make the array far larger than all ids are.
    """
    ids = fields["id"]
    widest, text = max(map(len, ids), default=0), sum(map(len, ids))
    if widest * len(ids) > MOST_PADDING + 16 * text:
        found = f"an id of {widest:,} characters among {len(ids):,}"
        raise OutputError(f"npy pads all ids to one length, found {found}; use h5, csv or jsonl")
    arrays = {name: np.asarray(values[:]) for name, values in fields.items()}
    records = np.empty(len(ids), [(name, a.dtype) for name, a in arrays.items()])
    for name, array in arrays.items():
        records[name] = array
    return records


def as_h5(fields: Fields, provenance: dict[str, Any]) -> Iterator[bytes]:
    """Turn columns into an HDF5 file: a dataset per column."""
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as handle:
        handle.attrs["provenance"] = as_json(provenance, whole=True)
        for name, values in fields.items():
            column = values[:]
            text = len(column) > 0 and isinstance(column[0], str)
            dtype = h5py.string_dtype() if text or name == "id" else None
            handle.create_dataset(name, data=column, dtype=dtype, track_times=False)
    yield buffer.getvalue()


def as_parquet(fields: Fields, provenance: dict[str, Any]) -> Iterator[bytes]:
    """Turn columns into a Parquet file; what made them stands in its metadata."""
    import pyarrow
    from pyarrow import parquet

    table = pyarrow.table({name: pyarrow.array(values[:]) for name, values in fields.items()})
    buffer = pyarrow.BufferOutputStream()
    made = {"provenance": as_json(provenance, whole=True)}
    parquet.write_table(table.replace_schema_metadata(made), buffer)
    yield buffer.getvalue().to_pybytes()


def class_names(pool: Pool, c: int) -> list[str]:
    """Names of `c` classes; numbers where the pool has no names."""
    stored = pool.constants.get("/class_names")
    names = [] if stored is None else plain(stored)
    return [*names[:c], *map(str, range(len(names), c))]


def plain(values: NDArray[Any] | Sequence[Any]) -> list[Any]:
    """Turn stored values into Python's own, text decoded."""
    listed = np.asarray(values).tolist()
    return [v.decode("utf-8", "replace") if isinstance(v, bytes) else v for v in listed]
